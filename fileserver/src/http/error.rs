//! The one table from this server's errors to statuses.

use std::error::Error as StdError;

use axum::http::StatusCode;
use sway_core::blob::BlobError;
use sway_server::error::ServerError;

use crate::blobs::{StoreError, UploadError};
use crate::refs::RefError;

impl From<UploadError> for ServerError {
    #[deny(clippy::wildcard_enum_match_arm)]
    fn from(error: UploadError) -> Self {
        let message = error.to_string();
        match error {
            UploadError::Blob(BlobError::Mismatch { .. }) => {
                Self::bad_request("digest_mismatch", message)
                    .hint("the name of a blob is the SHA-1 of its uncompressed bytes")
            }
            UploadError::Blob(BlobError::TooLong { .. }) => Self::too_large(message),
            UploadError::Blob(BlobError::Malformed { .. }) => {
                Self::bad_request("malformed_blob", message)
            }
            UploadError::Collision(_) => Self::bad_request("sha1_collision", message),
            UploadError::Length { .. } => Self::bad_request("length_mismatch", message),
            UploadError::Inflated(_) => {
                Self::bad_request("inflated_blob", message).hint("send it without content-encoding")
            }
            UploadError::Broken(reason) => {
                Self::bad_request("upload_broken", format!("{message}: {reason}"))
            }
            UploadError::Store(error) => error.into(),
        }
    }
}

impl From<StoreError> for ServerError {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = &error as &dyn StdError, "the blob store failed");
        if error.is_full() {
            let status = StatusCode::INSUFFICIENT_STORAGE;
            Self::new(status, "storage_full", "the fileserver's disk is full")
        } else {
            Self::internal(error.to_string())
        }
    }
}

impl From<RefError> for ServerError {
    #[deny(clippy::wildcard_enum_match_arm)]
    fn from(error: RefError) -> Self {
        let message = error.to_string();
        match &error {
            RefError::Conflict { .. } => Self::precondition_failed("ref_conflict", message)
                .hint("read the ref again, then decide"),
            RefError::Missing(_) => Self::not_found("ref_not_found", message),
            RefError::TooMany => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "too_many_refs", message)
            }
            RefError::Malformed { .. } | RefError::Io { .. } => {
                tracing::error!(error = &error as &dyn StdError, "refs failed");
                Self::internal("the fileserver can't keep refs; its log says why")
            }
        }
    }
}

pub(super) fn method_not_allowed() -> ServerError {
    let status = StatusCode::METHOD_NOT_ALLOWED;
    ServerError::new(status, "method_not_allowed", "this route has no such method")
}
