//! A bundle: a blob that lists blobs in an order, so that the fileserver can stream them all in
//! one answer. `docs/format.md` has the bytes.

use crate::digest::{DIGEST_LEN, Digest};

/// The version that is written. Version N reads N and N−1; this is the first.
pub const BUNDLE_VERSION: u8 = 1;

/// Most members of a bundle: at 128 KiB each they are 128 GB.
pub const BUNDLE_MEMBERS_MAX: usize = 1_000_000;

const MAGIC: &[u8; 8] = b"SWAYBDL\0";
const HEADER_LEN: usize = MAGIC.len() + 8;

/// The longest bundle, in bytes.
pub const BUNDLE_LEN_MAX: usize = HEADER_LEN + BUNDLE_MEMBERS_MAX * DIGEST_LEN;

/// Bytes that are not a bundle.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BundleError {
    /// Something else, or cut short.
    #[error("not a bundle: {0}")]
    Invalid(&'static str),
    /// From a newer Sway.
    #[error("bundle version {0} is newer than this program knows ({BUNDLE_VERSION}): update sway")]
    Newer(u8),
    /// More members than a bundle may have.
    #[error("a bundle of {0} members; at most {BUNDLE_MEMBERS_MAX} are possible")]
    TooMany(usize),
}

/// Blobs in an order; the same one may come twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    /// In the order in which they are streamed.
    pub members: Vec<Digest>,
}

impl Bundle {
    /// The bytes.
    pub fn encode(&self) -> Result<Vec<u8>, BundleError> {
        let too_many = || BundleError::TooMany(self.members.len());
        if self.members.len() > BUNDLE_MEMBERS_MAX {
            return Err(too_many());
        }
        let count = u32::try_from(self.members.len()).map_err(|_| too_many())?;
        let mut bytes = Vec::with_capacity(HEADER_LEN + self.members.len() * DIGEST_LEN);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&[BUNDLE_VERSION, 0, 0, 0]);
        bytes.extend_from_slice(&count.to_le_bytes());
        for member in &self.members {
            bytes.extend_from_slice(member.as_bytes());
        }
        Ok(bytes)
    }

    /// Reads and checks a bundle.
    pub fn decode(bytes: &[u8]) -> Result<Self, BundleError> {
        let rest = bytes.strip_prefix(MAGIC).ok_or(BundleError::Invalid("other first bytes"))?;
        let (version, rest) =
            rest.split_first_chunk::<4>().ok_or(BundleError::Invalid("it is cut short"))?;
        match *version {
            [BUNDLE_VERSION, 0, 0, 0] => {}
            [version, ..] if version > BUNDLE_VERSION => return Err(BundleError::Newer(version)),
            _ => return Err(BundleError::Invalid("unknown version bytes")),
        }
        let (count, rest) =
            rest.split_first_chunk::<4>().ok_or(BundleError::Invalid("it is cut short"))?;
        let count = u32::from_le_bytes(*count) as usize;
        if count > BUNDLE_MEMBERS_MAX {
            return Err(BundleError::TooMany(count));
        }
        let (members, tail) = rest.as_chunks::<DIGEST_LEN>();
        if members.len() != count || !tail.is_empty() {
            return Err(BundleError::Invalid("its length does not fit the number of members"));
        }
        Ok(Self { members: members.iter().map(|bytes| Digest::from_bytes(*bytes)).collect() })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_bundle_has_these_bytes() {
        let bundle = Bundle { members: vec![Digest::of(b"abc")] };
        let mut bytes = b"SWAYBDL\0\x01\0\0\0\x01\0\0\0".to_vec();
        bytes.extend(Digest::of(b"abc").as_bytes());
        assert_eq!(bundle.encode().unwrap(), bytes);
    }

    #[test]
    fn a_newer_version_is_refused_by_name() {
        let mut bytes = Bundle::default().encode().unwrap();
        bytes[8] = 2;
        assert_eq!(Bundle::decode(&bytes), Err(BundleError::Newer(2)));
    }

    proptest! {
        #[test]
        fn a_bundle_reads_back_and_nothing_else_does(count in 0usize..20, extra in 1usize..30) {
            let members: Vec<_> = (0..count).map(|i| Digest::of(&i.to_le_bytes())).collect();
            let bundle = Bundle { members };
            let mut bytes = bundle.encode().unwrap();
            prop_assert_eq!(Bundle::decode(&bytes).unwrap(), bundle);
            prop_assert!(Bundle::decode(&bytes[..bytes.len().saturating_sub(extra)]).is_err());
            bytes.resize(bytes.len() + extra, 0);
            prop_assert!(Bundle::decode(&bytes).is_err());
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = Bundle::decode(&bytes);
        }
    }
}
