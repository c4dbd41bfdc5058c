//! Routes of refs.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use sway_core::api::blobs::{RefList, RefTarget};
use sway_core::digest::Digest;
use sway_core::name::RefName;
use sway_server::error::{Json, Path, Query, ServerError};
use sway_server::guard::Identity;

use super::blobs::{blob_not_found, etag};
use super::{App, access, blocking};
use crate::refs::Expected;

/// Most refs in one listing.
const LISTING_MAX: usize = 100_000;

/// Which refs to list.
#[derive(Debug, Deserialize)]
pub(super) struct Listing {
    /// Their names start with this.
    #[serde(default)]
    prefix: String,
}

/// `GET /v1/refs?prefix=`
pub(super) async fn list(
    State(app): State<App>,
    identity: Identity,
    Query(Listing { prefix }): Query<Listing>,
) -> Json<RefList> {
    Json(RefList { refs: access::refs(&app, &identity, &prefix, LISTING_MAX) })
}

/// `GET /v1/refs/{name}`
pub(super) async fn get(
    State(app): State<App>,
    identity: Identity,
    Path(name): Path<String>,
) -> Result<Response, ServerError> {
    let name = ref_name(&name)?;
    let found = if access::may_read(&identity, &name) { app.refs.get(&name) } else { None };
    let digest = found.ok_or_else(|| ref_not_found(&name))?.digest;
    Ok(([(header::ETAG, etag(digest))], Json(RefTarget { digest })).into_response())
}

/// `PUT /v1/refs/{name}`
pub(super) async fn put(
    State(app): State<App>,
    identity: Identity,
    Path(name): Path<String>,
    headers: HeaderMap,
    Json(RefTarget { digest }): Json<RefTarget>,
) -> Result<Response, ServerError> {
    let name = ref_name(&name)?;
    access::check_may_write(&identity, &name, Some(digest))?;
    let expected = expected(&headers)?;
    let reached = access::check_target(&app, &identity, digest).await?;
    let is_new = blocking(move || {
        if !app.blobs.contains(digest)? {
            return Err(no_target(digest));
        }
        let is_new = app.refs.put(&name, digest, expected)?;
        app.holdings.release(&identity.user, &reached);
        tracing::info!(ref.name = %name, blob.digest = %digest, user = %identity.user, "ref moved");
        Ok(is_new)
    })
    .await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, [(header::ETAG, etag(digest))], Json(RefTarget { digest })).into_response())
}

/// `DELETE /v1/refs/{name}`
pub(super) async fn delete(
    State(app): State<App>,
    identity: Identity,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, ServerError> {
    let name = ref_name(&name)?;
    access::check_may_write(&identity, &name, None)?;
    let expected = expected(&headers)?;
    let refs = Arc::clone(&app.refs);
    blocking(move || {
        refs.delete(&name, expected)?;
        tracing::info!(ref.name = %name, user = %identity.user, "ref removed");
        Ok::<_, ServerError>(StatusCode::NO_CONTENT)
    })
    .await
}

pub(super) fn ref_name(text: &str) -> Result<RefName, ServerError> {
    text.parse().map_err(|error| ServerError::bad_request("malformed_ref", format!("{error}")))
}

pub(super) fn ref_not_found(name: &RefName) -> ServerError {
    ServerError::not_found("ref_not_found", format!("there is no ref {name}"))
}

/// The refusal of a ref to a blob that is not there, or not for its caller.
pub(super) fn no_target(digest: Digest) -> ServerError {
    blob_not_found(digest).hint("upload the blob before the ref")
}

/// What `If-Match` and `If-None-Match` say (RFC 9110, 13.1), as far as moves need it.
fn expected(headers: &HeaderMap) -> Result<Expected, ServerError> {
    let one = |name: HeaderName| match headers.get(&name) {
        None => Ok(None),
        Some(value) => value.to_str().map(Some).map_err(|_| malformed(&name)),
    };
    match (one(header::IF_MATCH)?, one(header::IF_NONE_MATCH)?) {
        (None, None) => Ok(Expected::Any),
        (None, Some("*")) => Ok(Expected::Absent),
        (Some("*"), None) => Ok(Expected::Present),
        (Some(tag), None) => tag
            .strip_prefix('"')
            .and_then(|tag| tag.strip_suffix('"'))
            .and_then(|digest| digest.parse().ok())
            .map(Expected::Is)
            .ok_or_else(|| malformed(&header::IF_MATCH)),
        (_, Some(_)) => Err(malformed(&header::IF_NONE_MATCH)),
    }
}

fn malformed(name: &HeaderName) -> ServerError {
    ServerError::bad_request("malformed_precondition", format!("header {name} is malformed"))
        .hint("send if-match: \"<digest>\", if-match: * or if-none-match: *")
}
