//! The fileserver's API.

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::name::RefName;

/// Most digests in one list: bounds the work of one request.
pub const DIGESTS_MAX: usize = 10_000;

/// Media type of a body of frames (`docs/format.md`).
pub const FRAMES_MEDIA_TYPE: &str = "application/vnd.sway.frames";

/// Body of `POST /v1/blobs/missing` and `POST /v1/blobs/fetch`, and answer of the former.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DigestList {
    /// At most [`DIGESTS_MAX`].
    pub digests: Vec<Digest>,
}

/// Answer of `POST /v1/blobs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadSummary {
    /// Blobs that were new.
    pub stored: u64,
    /// Blobs that were there already.
    pub known: u64,
}

/// Body of `PUT /v1/refs/{name}`, and a ref wherever one is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefTarget {
    /// The blob that the ref points to.
    pub digest: Digest,
}

/// One ref of a listing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefEntry {
    /// Name.
    pub name: RefName,
    /// The blob that it points to.
    pub digest: Digest,
    /// When it was moved last, RFC 3339.
    pub updated_at: String,
}

/// Answer of `GET /v1/refs?prefix=`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefList {
    /// Sorted by name.
    pub refs: Vec<RefEntry>,
}
