//! Route of bundles: many blobs, in order, for one round trip.

use std::collections::HashSet;
use std::io::Read as _;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse as _, Response};
use sway_core::api::blobs::FRAMES_MEDIA_TYPE;
use sway_core::blob::Blob;
use sway_core::bundle::{BUNDLE_LEN_MAX, Bundle};
use sway_core::digest::Digest;
use sway_server::error::{Path, ServerError};

use super::blobs::{blob_not_found, etag, open, wants_verified};
use super::refs::{ref_name, ref_not_found};
use super::stripe::{self, StripeOf};
use super::{App, blocking};
use crate::blobs::{BlobStore, StoreError};

/// `GET /v1/bundles/{ref-or-digest}`
pub(super) async fn get(
    State(app): State<App>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ServerError> {
    let digest = match name.parse::<Digest>() {
        Ok(digest) => digest,
        Err(_) => {
            let name = ref_name(&name)?;
            app.refs.get(&name).ok_or_else(|| ref_not_found(&name))?.digest
        }
    };
    let verify = wants_verified(&headers);
    let store = Arc::clone(&app.blobs);
    let bundle = blocking(move || load(&*store, digest)).await?;
    let frames = [digest].into_iter().chain(bundle.members).collect();
    let body = stripe::frames(&app, frames, HashSet::new(), StripeOf::WHOLE, verify).await?;
    let headers = [
        (header::CONTENT_TYPE, header::HeaderValue::from_static(FRAMES_MEDIA_TYPE)),
        (header::ETAG, etag(digest)),
    ];
    Ok((headers, body).into_response())
}

/// What a bundle says.
pub(super) fn load(store: &dyn BlobStore, digest: Digest) -> Result<Bundle, ServerError> {
    let not_a_bundle = |message: String| ServerError::bad_request("not_a_bundle", message);
    let Some(mut stored) = open(store, digest, false)? else {
        return Err(blob_not_found(digest));
    };
    if stored.header.raw_len as usize > BUNDLE_LEN_MAX {
        return Err(not_a_bundle(format!("blob {digest} is too long for a bundle")));
    }
    let mut encoded = Vec::new();
    stored
        .encoded
        .read_to_end(&mut encoded)
        .map_err(StoreError::io(format!("read blob {digest}")))?;
    let blob = Blob::decode(digest, &encoded, BUNDLE_LEN_MAX).map_err(|error| {
        tracing::error!(blob.digest = %digest, %error, "stored blob is corrupt");
        ServerError::internal(format!("blob {digest} is corrupt"))
            .hint("ask for it with x-sway-verify: 1, then upload it again")
    })?;
    Bundle::decode(blob.as_ref()).map_err(|error| not_a_bundle(format!("blob {digest} is {error}")))
}
