//! `GET /openapi.json`: what this worker answers, in `OpenAPI` 3.1, from the routes' own code.

use std::collections::BTreeMap;

use axum::Extension;
use axum::http::header;
use axum::response::IntoResponse;
use bytes::Bytes;
use sway_core::access::Scope;
use sway_core::api::error::ErrorBody;
use sway_core::api::jobs::JobEvent;
use sway_core::handler::Handler;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{Object, Schema, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, Info, License, OpenApi, PathItem, Ref, RefOr, Response};
use utoipa::{IntoResponses, PartialSchema, ToSchema};

/// The bearer token's name in the document.
const TOKEN: &str = "token";

/// The document.
#[derive(Clone, Debug)]
pub(super) struct Document(Bytes);

impl Document {
    /// Of routes as they are described; `open` paths need no token on this worker.
    pub(super) fn new(mut routes: OpenApi, open: &[&str]) -> Self {
        routes.info = Info::new("Sway worker", env!("CARGO_PKG_VERSION"));
        routes.info.description = Some(
            "Runs jobs in container images that arrive while they run. The token lies in the \
             worker's data directory (`DATA/token`)."
                .to_owned(),
        );
        routes.info.license = Some(License::new("Apache-2.0 OR MIT"));
        let mut http = Http::new(HttpAuthScheme::Bearer);
        http.description = Some(
            "With one of the scopes that the operation names. With admin, header x-sway-user may \
             name another user"
                .to_owned(),
        );
        let components = routes.components.get_or_insert_default();
        components.add_security_scheme(TOKEN, SecurityScheme::Http(http));
        let (name, schema) = (ErrorBody::name().into_owned(), ErrorBody::schema());
        components.schemas.insert(name, schema);
        let mut more = Vec::new();
        ErrorBody::schemas(&mut more);
        components.schemas.extend(more);
        // In a program it comes with its kind, which a closed object would not admit.
        if let Some(RefOr::T(Schema::Object(handler))) =
            components.schemas.get_mut(&*Handler::name())
        {
            handler.additional_properties = None;
        }
        let needed = || SecurityRequirement::new(TOKEN, [] as [&str; 0]);
        routes.security = Some(vec![needed()]);
        // OpenAPI has no parameters that go over several parts of a path.
        let paths = std::mem::take(&mut routes.paths.paths).into_iter();
        routes.paths.paths = paths.map(|(path, item)| (path.replace("{*", "{"), item)).collect();
        for path in open {
            let item = routes.paths.paths.get_mut(*path);
            for operation in item.into_iter().flat_map(operations) {
                let needed = operation.security.get_or_insert_with(|| vec![needed()]);
                needed.insert(0, SecurityRequirement::default());
            }
        }
        Self(routes.to_json().expect("a description is plain data").into())
    }
}

/// What a path answers, one for each method.
pub(super) fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    [&mut item.get, &mut item.put, &mut item.post, &mut item.delete].into_iter().flatten()
}

/// A token of this scope.
pub(super) fn token_for(scope: Scope) -> SecurityRequirement {
    SecurityRequirement::new(TOKEN, [scope.as_str()])
}

/// What this worker answers: this very document.
#[utoipa::path(get, path = "/openapi.json", tag = "worker",
    responses((status = 200, description = "OpenAPI 3.1", body = Object), Guarded))]
pub(super) async fn show(Extension(document): Extension<Document>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], document.0)
}

/// One event of a stream, as its fields are told apart.
pub(super) struct ServerSentEvent;

impl PartialSchema for ServerSentEvent {
    fn schema() -> RefOr<Schema> {
        let text = || Object::builder().schema_type(Type::String);
        let data = text().content_media_type("application/json");
        Object::builder()
            .schema_type(Type::Object)
            .property("id", text().description(Some("For `Last-Event-ID`; `usage` has none.")))
            .property("event", text())
            .property("data", data.description(Some("A JobEvent.")))
            .required("event")
            .required("data")
            .into()
    }
}

impl ToSchema for ServerSentEvent {
    fn schemas(all: &mut Vec<(String, RefOr<Schema>)>) {
        all.push((JobEvent::name().into_owned(), JobEvent::schema()));
        JobEvent::schemas(all);
    }
}

/// Refusals of every route that needs a token.
pub(super) struct Guarded;

/// Refusals of routes that name a job or a run.
pub(super) struct Named;

/// Refusals of routes that change users and tokens.
pub(super) struct Changed;

/// What may fail where the fileserver is asked.
pub(super) struct FromFileserver;

/// Refusals of routes with a body that makes a job.
pub(super) struct Submitted;

impl IntoResponses for Guarded {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        refusals(&[
            (400, "The request is malformed."),
            (401, "A bearer token is needed, or it is wrong."),
            (
                403,
                "It comes from another page, lacks a scope, or asks for what is not the caller's.",
            ),
            (415, "The body is of another type."),
        ])
    }
}

impl IntoResponses for Named {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        refusals(&[
            (404, "There is none of this name for this caller."),
            (409, "Not as things stand: it has ended, or the id stands for several."),
        ])
    }
}

impl IntoResponses for Submitted {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        refusals(&[
            (404, "The image, or something else that it names, is not there."),
            (408, "The body did not arrive in time."),
            (409, "Not as things stand, such as an idempotency key of another request."),
            (413, "The body is too long."),
            (422, "The body is not what is described here."),
            (429, "Too many jobs wait; `Retry-After` says when to try again."),
        ])
        .into_iter()
        .chain(FromFileserver::responses())
        .collect()
    }
}

impl IntoResponses for Changed {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        refusals(&[
            (409, "There is one already, or no place for one more."),
            (413, "The body is too long."),
            (422, "The body is not what is described here."),
        ])
    }
}

impl IntoResponses for FromFileserver {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        refusals(&[
            (502, "The fileserver failed."),
            (503, "The fileserver can't be reached, or the worker stops."),
        ])
    }
}

fn refusals(all: &[(u16, &str)]) -> BTreeMap<String, RefOr<Response>> {
    let schema = Ref::from_schema_name(ErrorBody::name());
    let of = |(status, what): &(u16, &str)| {
        let content = Content::new(Some(schema.clone()));
        let response = Response::builder().description(*what).content("application/json", content);
        (status.to_string(), response.build().into())
    };
    all.iter().map(of).collect()
}
