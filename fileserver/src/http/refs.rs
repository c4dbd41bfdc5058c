//! Routes of refs.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use sway_core::api::blobs::{RefList, RefTarget};
use sway_core::name::RefName;
use sway_server::error::{Json, Path, Query, ServerError};
use sway_server::guard::Identity;

use super::blobs::{blob_not_found, etag};
use super::{App, blocking};
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
    Query(Listing { prefix }): Query<Listing>,
) -> Json<RefList> {
    Json(RefList { refs: app.refs.list(&prefix, LISTING_MAX) })
}

/// `GET /v1/refs/{name}`
pub(super) async fn get(
    State(app): State<App>,
    Path(name): Path<String>,
) -> Result<Response, ServerError> {
    let name = ref_name(&name)?;
    let digest = app.refs.get(&name).ok_or_else(|| ref_not_found(&name))?.digest;
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
    check_may_write(&identity, &name)?;
    let expected = expected(&headers)?;
    let is_new = blocking(move || {
        if !app.blobs.contains(digest)? {
            return Err(blob_not_found(digest).hint("upload the blob before the ref"));
        }
        let is_new = app.refs.put(&name, digest, expected)?;
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
    check_may_write(&identity, &name)?;
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

/// Users write their own images and datasets; the rest is the operator's.
fn check_may_write(identity: &Identity, name: &RefName) -> Result<(), ServerError> {
    let own = ["images", "data"].map(|kind| format!("{kind}/{}/", identity.user.to_ref_part()));
    if identity.is_operator() || own.iter().any(|own| name.as_ref().starts_with(own)) {
        Ok(())
    } else {
        let own = own.join(" and ");
        Err(ServerError::forbidden(format!("{} may write refs under {own} only", identity.user)))
    }
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

#[cfg(test)]
mod tests {
    use sway_core::access::Role;

    use super::*;

    #[test]
    fn users_write_their_own_images_and_datasets_and_no_traces() {
        let may = |user: &str, operator, name: &str| {
            let role = if operator { Role::Operator } else { Role::Owner };
            let identity =
                Identity { user: user.parse().unwrap(), scopes: role.scopes(), token: None };
            check_may_write(&identity, &name.parse().unwrap()).is_ok()
        };
        assert!(may("ada", false, "images/ada/x:1"));
        assert!(may("ada", false, "data/ada/x"));
        for name in [
            "images/bob/x:1",
            "images/library/x:1",
            "data/bob/x",
            "data/adamant/x",
            "traces/ada/x/_",
            "jobs/1",
        ] {
            assert!(!may("ada", false, name), "{name}");
            assert!(may("ada", true, name), "{name}");
        }
    }
}
