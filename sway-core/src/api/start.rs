//! The fileserver's answer with all that a cold start needs.

use crate::digest::Digest;

/// An answer in stripes is cut in pieces of so many bytes; the last one is shorter. Stripe `i` of
/// `n` has the pieces whose number is `i` modulo `n`.
pub const START_PIECE_LEN: usize = 16 << 10;

/// Most stripes of an answer.
pub const STRIPES_MAX: u8 = 8;

/// Most images, and most keys, that are looked for.
pub const START_NAMES_MAX: usize = 16;

/// Most blobs that a caller may say it has.
pub const START_HAVE_MAX: usize = 1000;

/// Header with the ref of the image that was found; absent where a manifest was asked for.
pub const START_IMAGE_HEADER: &str = "x-sway-image";

/// Header with the digest of the manifest.
pub const START_MANIFEST_HEADER: &str = "x-sway-manifest";

/// Header with the digest of the trace's bundle; absent where there is no trace.
pub const START_BUNDLE_HEADER: &str = "x-sway-bundle";

/// The `ETag` of an answer: what it holds is immutable, so two digests say all.
pub fn start_etag(manifest: Digest, bundle: Option<Digest>) -> String {
    match bundle {
        Some(bundle) => format!("\"{manifest}.{bundle}\""),
        None => format!("\"{manifest}.none\""),
    }
}
