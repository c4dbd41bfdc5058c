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

/// Header with the digest of the bundle whose blobs, and whose manifest, were left out because the
/// caller has them; absent where nothing was left out for that.
pub const START_BASE_HEADER: &str = "x-sway-base";

/// The `ETag` of an answer: what it holds is immutable, so two digests say all.
pub fn start_etag(manifest: Digest, bundle: Option<Digest>) -> String {
    match bundle {
        Some(bundle) => format!("\"{manifest}.{bundle}\""),
        None => format!("\"{manifest}.none\""),
    }
}

/// What an `ETag` names: the manifest, and the bundle if there is one. None where it is none of
/// [`start_etag`].
pub fn parse_start_etag(etag: &str) -> Option<(Digest, Option<Digest>)> {
    let (manifest, bundle) = etag.strip_prefix('"')?.strip_suffix('"')?.split_once('.')?;
    let bundle = if bundle == "none" { None } else { Some(bundle.parse().ok()?) };
    Some((manifest.parse().ok()?, bundle))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_names_what_it_was_made_of() {
        let (manifest, bundle) = (Digest::of(b"manifest"), Digest::of(b"bundle"));
        for bundle in [None, Some(bundle)] {
            let etag = start_etag(manifest, bundle);
            assert_eq!(parse_start_etag(&etag), Some((manifest, bundle)));
            assert_eq!(parse_start_etag(etag.trim_matches('"')), None);
        }
        for other in ["", "\"\"", "\".\"", "\"none.none\"", "\"a.b\""] {
            assert_eq!(parse_start_etag(other), None, "{other}");
        }
    }
}
