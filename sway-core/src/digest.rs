//! Names of content: the SHA-1 of uncompressed bytes.
//!
//! A [`Digest`] is always 20 bytes; a malformed one can't be held. SHA-1 is the project's key by
//! choice. Its known collisions are refused where bytes enter the store (the fileserver checks
//! uploads with collision detection), so that everywhere else the fast hash is enough.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha1::{Digest as _, Sha1};

/// Length of a digest in bytes.
pub const DIGEST_LEN: usize = 20;

/// The SHA-1 of some uncompressed content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; DIGEST_LEN]);

/// A text that is not the 40 hex digits of a digest.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not a digest (expected 40 lower-case hex digits): {0:?}")]
pub struct DigestError(String);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha1::digest(bytes).into())
    }

    /// A digest from its 20 bytes.
    pub const fn from_bytes(bytes: [u8; DIGEST_LEN]) -> Self {
        Self(bytes)
    }

    /// The 20 bytes.
    pub const fn as_bytes(&self) -> &[u8; DIGEST_LEN] {
        &self.0
    }

    /// The 40 lower-case hex digits.
    pub fn to_hex(&self) -> String {
        self.to_string()
    }
}

crate::name::text_schema!(
    Digest,
    "^[0-9a-f]{40}$",
    "2c26b46b68ffc68ff99b453c1d30413413422d70",
    "SHA-1 of the uncompressed content."
);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut hex = [0u8; DIGEST_LEN * 2];
        for (i, byte) in self.0.iter().enumerate() {
            hex[2 * i] = DIGITS[usize::from(byte >> 4)];
            hex[2 * i + 1] = DIGITS[usize::from(byte & 15)];
        }
        f.pad(std::str::from_utf8(&hex).expect("hex digits are ASCII"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    /// Reads exactly 40 lower-case hex digits: one spelling for one digest, since it names files.
    fn from_str(text: &str) -> Result<Self, DigestError> {
        let malformed = || DigestError(text.chars().take(64).collect());
        let hex: &[u8; DIGEST_LEN * 2] = text.as_bytes().try_into().map_err(|_| malformed())?;
        let nibble = |digit: u8| match digit {
            b'0'..=b'9' => Ok(digit - b'0'),
            b'a'..=b'f' => Ok(digit - b'a' + 10),
            _ => Err(malformed()),
        };
        let mut bytes = [0u8; DIGEST_LEN];
        for (byte, pair) in bytes.iter_mut().zip(hex.chunks_exact(2)) {
            *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Hashes what is written to it; keeps nothing else.
#[derive(Clone, Default)]
pub struct Hasher(Sha1);

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

impl Hasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all that was added.
    pub fn finish(self) -> Digest {
        Digest(self.0.finalize().into())
    }
}

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_the_sha1_of_the_bytes() {
        // FIPS 180-4's example.
        assert_eq!(Digest::of(b"abc").to_string(), "a9993e364706816aba3e25717850c26c9cd0d89d");
        let mut hasher = Hasher::new();
        hasher.update(b"a");
        hasher.update(b"bc");
        assert_eq!(hasher.finish(), Digest::of(b"abc"));
    }

    #[test]
    fn hex_reads_back() {
        let digest = Digest::of(b"abc");
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }

    #[test]
    fn a_malformed_digest_is_refused() {
        let good = Digest::of(b"abc").to_string();
        for bad in ["", "abc", &good[1..], &good.to_uppercase(), &good.replace('a', "g")] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
        let multibyte = "é".repeat(20);
        assert!(multibyte.parse::<Digest>().is_err());
    }
}
