//! How a blob travels and rests: an encoding of its bytes, and frames of many blobs in one body.
//!
//! Encoded blob: one tag byte (0 raw, 1 zstd), then the payload. The encoder takes zstd only
//! where it is smaller. Frame, for bodies that carry many blobs: digest (20 bytes), raw length
//! (u32, little endian), encoded length (u32), encoded blob. `docs/format.md` has both byte for
//! byte. Decoding never trusts a length: a blob is at most [`BLOB_LEN_MAX`] bytes and its raw
//! bytes must hash to the digest that was asked for.

use std::io::{self, BufRead, Read};
use std::sync::Arc;

use zstd::zstd_safe::{CParameter, Strategy};

use crate::digest::{DIGEST_LEN, Digest};

/// The longest blob, in raw bytes. A manifest is the only kind that comes near it: 64 MiB hold
/// the tree of about 500,000 entries.
pub const BLOB_LEN_MAX: usize = 64 << 20;

/// Bytes of a frame before its encoded blob.
pub const FRAME_HEADER_LEN: usize = DIGEST_LEN + 8;

/// zstd level of blobs that are longer than a chunk, and what [`Encoder::for_chunks`] comes near
/// to. In pieces of 128 KiB, shared objects and Python come to 31.2 % of their length at 2, 30.5 % at
/// 3, 29.9 % at 4, 29.1 % at 5, which takes twice as long. A cold `import scipy.linalg` moves 20.5 MB
/// at 2.
pub const ZSTD_LEVEL: i32 = 4;

/// Entries of each of the two tables with which chunks are compressed, as a power of two: both fit
/// into a core's own cache. A level's own tables, of four times the size and more, take two fifths
/// more time and make an image's chunks 0.6 % shorter.
const CHUNK_TABLE_LOG: u32 = 14;

/// The largest zstd window that is accepted, as a power of two: 8 MiB, what zstd's own levels
/// up to 19 use. It bounds what a decoder allocates for foreign bytes.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;

/// First byte of an encoded blob whose payload is the raw bytes.
pub const TAG_RAW: u8 = 0;
/// First byte of an encoded blob whose payload is one zstd frame.
pub const TAG_ZSTD: u8 = 1;

/// Bytes that are not the blob that they should be.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The raw bytes hash to something else.
    #[error("blob {expected} has the digest {actual}: its bytes are corrupt")]
    Mismatch {
        /// What was asked for.
        expected: Digest,
        /// What the bytes are.
        actual: Digest,
    },
    /// Longer than a blob may be, or than its frame says.
    #[error("blob {digest} is longer than {limit} bytes")]
    TooLong {
        /// The blob.
        digest: Digest,
        /// The limit that it broke, in bytes.
        limit: usize,
    },
    /// Not a known encoding.
    #[error("blob {digest} has a malformed encoding: {reason}")]
    Malformed {
        /// The blob.
        digest: Digest,
        /// What is wrong.
        reason: String,
    },
}

/// A blob's raw bytes, known to hash to its digest. The only way to get one is to verify.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    digest: Digest,
    bytes: Arc<[u8]>,
}

impl Blob {
    /// Names `bytes` by hashing them.
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Self {
        let bytes = bytes.into();
        Self { digest: Digest::of(&bytes), bytes }
    }

    /// Takes `bytes` for the blob `expected`, if they are.
    pub fn verify(expected: Digest, bytes: impl Into<Arc<[u8]>>) -> Result<Self, BlobError> {
        let blob = Self::new(bytes);
        if blob.digest == expected {
            Ok(blob)
        } else {
            Err(BlobError::Mismatch { expected, actual: blob.digest })
        }
    }

    /// Decodes and verifies an encoded blob of at most `raw_len_max` raw bytes.
    pub fn decode(expected: Digest, encoded: &[u8], raw_len_max: usize) -> Result<Self, BlobError> {
        Self::verify(expected, decode(expected, encoded, raw_len_max)?)
    }

    /// The name.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The raw bytes.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.bytes
    }

    /// The raw bytes, given away.
    pub fn into_bytes(self) -> Arc<[u8]> {
        self.bytes
    }
}

impl AsRef<[u8]> for Blob {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Encodes raw bytes: zstd where that is smaller, else as they are. For many blobs, keep an
/// [`Encoder`].
pub fn encode(raw: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(raw.len() + 1);
    Encoder::new(ZSTD_LEVEL).encode(raw, &mut encoded);
    encoded
}

/// Encodes blobs one after the other: zstd's tables are made once, which is a fifth of the time
/// of a small blob.
pub struct Encoder {
    /// None where there was no memory for its tables: then blobs stay raw.
    zstd: Option<zstd::bulk::Compressor<'static>>,
    compressed: Vec<u8>,
}

impl Encoder {
    /// Compresses with a zstd level, such as [`ZSTD_LEVEL`].
    pub fn new(level: i32) -> Self {
        Self { zstd: zstd::bulk::Compressor::new(level).ok(), compressed: Vec::new() }
    }

    /// Compresses what is at most a chunk long, nearly as well as [`ZSTD_LEVEL`] and faster.
    pub fn for_chunks() -> Self {
        let mut encoder = Self::new(ZSTD_LEVEL);
        if let Some(zstd) = &mut encoder.zstd {
            let search = [
                CParameter::Strategy(Strategy::ZSTD_dfast),
                CParameter::MinMatch(4),
                CParameter::HashLog(CHUNK_TABLE_LOG),
                CParameter::ChainLog(CHUNK_TABLE_LOG),
            ];
            for parameter in search {
                zstd.set_parameter(parameter).expect("zstd knows its own parameters");
            }
        }
        encoder
    }

    /// The frame of a blob that has this name: its header and the encoded bytes.
    pub fn frame(&mut self, digest: Digest, raw: &[u8]) -> (FrameHeader, Vec<u8>) {
        let mut encoded = Vec::new();
        let len = self.encode(raw, &mut encoded);
        (FrameHeader::new(digest, raw.len(), len), encoded)
    }

    /// Appends the encoded form of `raw` to `out`; returns its length in bytes.
    pub fn encode(&mut self, raw: &[u8], out: &mut Vec<u8>) -> usize {
        self.compressed.clear();
        self.compressed.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        let compressed = self.zstd.as_mut().and_then(|zstd| {
            zstd.compress_to_buffer(raw, &mut self.compressed).ok().filter(|&len| len < raw.len())
        });
        let (tag, payload) = match compressed {
            Some(_) => (TAG_ZSTD, self.compressed.as_slice()),
            None => (TAG_RAW, raw),
        };
        out.push(tag);
        out.extend_from_slice(payload);
        1 + payload.len()
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Encoder")
    }
}

/// Encodes without compressing.
pub fn encode_raw(raw: &[u8]) -> Vec<u8> {
    let mut encoded = Vec::with_capacity(raw.len() + 1);
    encoded.push(TAG_RAW);
    encoded.extend_from_slice(raw);
    encoded
}

/// The raw bytes of an encoded blob, unverified: for [`Blob::decode`] and for a server that
/// hashes with collision detection. Stops reading at `raw_len_max`.
pub fn decode(digest: Digest, encoded: &[u8], raw_len_max: usize) -> Result<Vec<u8>, BlobError> {
    let limit = raw_len_max.min(BLOB_LEN_MAX);
    let mut raw = Vec::new();
    let mut reader = decoder(digest, encoded)?.take(limit as u64 + 1);
    reader
        .read_to_end(&mut raw)
        .map_err(|error| BlobError::Malformed { digest, reason: error.to_string() })?;
    if raw.len() > limit {
        return Err(BlobError::TooLong { digest, limit });
    }
    Ok(raw)
}

/// A reader of the raw bytes of an encoded blob, for callers that must not hold them all. For
/// many blobs, keep a [`Decoder`].
pub fn decoder<'a, R: Read + 'a>(
    digest: Digest,
    mut encoded: R,
) -> Result<Box<dyn Read + 'a>, BlobError> {
    match read_tag(digest, &mut encoded)? {
        Tag::Raw => Ok(Box::new(encoded)),
        Tag::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::new(encoded)
                .map_err(|error| malformed(digest, &error))?
                .single_frame();
            decoder
                .window_log_max(ZSTD_WINDOW_LOG_MAX)
                .map_err(|error| malformed(digest, &error))?;
            Ok(Box::new(SingleFrame(decoder)))
        }
    }
}

/// Decodes blobs one after the other: zstd's tables and window are made once.
#[derive(Default)]
pub struct Decoder {
    zstd: zstd::zstd_safe::DCtx<'static>,
}

impl Decoder {
    /// Like [`decoder`], which forgets whatever was left of the blob before.
    pub fn reader<'a, R: BufRead + 'a>(
        &'a mut self,
        digest: Digest,
        mut encoded: R,
    ) -> Result<Box<dyn Read + 'a>, BlobError> {
        match read_tag(digest, &mut encoded)? {
            Tag::Raw => Ok(Box::new(encoded)),
            Tag::Zstd => {
                let mut decoder =
                    zstd::stream::read::Decoder::with_context(encoded, &mut self.zstd)
                        .single_frame();
                decoder
                    .window_log_max(ZSTD_WINDOW_LOG_MAX)
                    .map_err(|error| malformed(digest, &error))?;
                Ok(Box::new(SingleFrame(decoder)))
            }
        }
    }
}

impl std::fmt::Debug for Decoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Decoder")
    }
}

enum Tag {
    Raw,
    Zstd,
}

fn read_tag(digest: Digest, encoded: &mut impl Read) -> Result<Tag, BlobError> {
    let mut tag = [0u8];
    encoded
        .read_exact(&mut tag)
        .map_err(|error| malformed(digest, &format_args!("no tag byte: {error}")))?;
    match tag[0] {
        TAG_RAW => Ok(Tag::Raw),
        TAG_ZSTD => Ok(Tag::Zstd),
        other => Err(malformed(digest, &format_args!("unknown tag byte {other}"))),
    }
}

fn malformed(digest: Digest, reason: &dyn std::fmt::Display) -> BlobError {
    BlobError::Malformed { digest, reason: reason.to_string() }
}

/// A zstd frame that must end where the input ends: trailing bytes would be stored and served
/// without ever being verified.
struct SingleFrame<'a, R: BufRead>(zstd::stream::read::Decoder<'a, R>);

impl<R: BufRead> Read for SingleFrame<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.0.read(out)?;
        if n == 0 && !out.is_empty() {
            let mut rest = [0u8];
            if self.0.get_mut().read(&mut rest)? != 0 {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "bytes follow the zstd frame",
                ));
            }
        }
        Ok(n)
    }
}

/// What stands before each blob in a body of many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    /// The blob's name.
    pub digest: Digest,
    /// Raw bytes.
    pub raw_len: u32,
    /// Bytes of the encoded blob that follow; 0 says that the sender does not have this blob.
    pub encoded_len: u32,
}

impl FrameHeader {
    /// The header of `encoded`, the encoded form of a blob of `raw_len` bytes.
    pub fn new(digest: Digest, raw_len: usize, encoded_len: usize) -> Self {
        let to_u32 = |len| u32::try_from(len).expect("a blob is at most 64 MiB");
        Self { digest, raw_len: to_u32(raw_len), encoded_len: to_u32(encoded_len) }
    }

    /// The header that says "not here".
    pub fn missing(digest: Digest) -> Self {
        Self { digest, raw_len: 0, encoded_len: 0 }
    }

    /// Whether the sender has the blob.
    pub fn is_missing(&self) -> bool {
        self.encoded_len == 0
    }

    /// The 28 bytes.
    pub fn to_bytes(&self) -> [u8; FRAME_HEADER_LEN] {
        let mut bytes = [0u8; FRAME_HEADER_LEN];
        bytes[..DIGEST_LEN].copy_from_slice(self.digest.as_bytes());
        bytes[DIGEST_LEN..DIGEST_LEN + 4].copy_from_slice(&self.raw_len.to_le_bytes());
        bytes[DIGEST_LEN + 4..].copy_from_slice(&self.encoded_len.to_le_bytes());
        bytes
    }

    /// Reads 28 bytes; refuses lengths that no blob has, before anything is allocated for them.
    pub fn from_bytes(bytes: &[u8; FRAME_HEADER_LEN]) -> Result<Self, BlobError> {
        let mut digest = [0u8; DIGEST_LEN];
        digest.copy_from_slice(&bytes[..DIGEST_LEN]);
        let digest = Digest::from_bytes(digest);
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let header =
            Self { digest, raw_len: u32_at(DIGEST_LEN), encoded_len: u32_at(DIGEST_LEN + 4) };
        // The encoder takes the smaller form, so an encoded blob is at most one byte longer.
        if header.raw_len as usize > BLOB_LEN_MAX || header.encoded_len > header.raw_len + 1 {
            return Err(BlobError::TooLong { digest, limit: BLOB_LEN_MAX });
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_chunk_is_hardly_longer_than_the_level_makes_it() {
        let text =
            concat!(include_str!("job.rs"), include_str!("blob.rs"), include_str!("name.rs"));
        for len in [4_000, 16_000, text.len()] {
            let raw = &text.as_bytes()[..len];
            let mut encoded = Vec::new();
            Encoder::for_chunks().encode(raw, &mut encoded);
            let at_level = encode(raw).len();
            assert!(encoded.len() * 100 <= at_level * 108, "{} for {at_level}", encoded.len());
            assert_eq!(Blob::decode(Digest::of(raw), &encoded, len).unwrap().as_ref(), raw);
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes_to_the_same_bytes(raw in prop::collection::vec(any::<u8>(), 0..4096)) {
            let mut as_chunk = Vec::new();
            Encoder::for_chunks().encode(&raw, &mut as_chunk);
            for encoded in [encode(&raw), encode_raw(&raw), as_chunk] {
                prop_assert!(encoded.len() <= raw.len() + 1);
                let blob = Blob::decode(Digest::of(&raw), &encoded, raw.len()).unwrap();
                prop_assert_eq!(blob.as_ref(), &raw[..]);
            }
        }

        #[test]
        fn an_encoder_remembers_nothing_of_the_blobs_before(
            raws in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..512), 0..8),
        ) {
            let mut encoder = Encoder::new(ZSTD_LEVEL);
            for raw in raws {
                let mut encoded = b"before".to_vec();
                let len = encoder.encode(&raw, &mut encoded);
                prop_assert_eq!(encoded.len(), 6 + len);
                prop_assert_eq!(&encoded[6..], &encode(&raw)[..]);
            }
        }

        #[test]
        fn a_decoder_remembers_nothing_of_the_blobs_before(
            raws in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..512), any::<bool>()), 0..8),
        ) {
            let mut decoder = Decoder::default();
            for (raw, breaks_off) in raws {
                let raw = raw.repeat(3);
                let digest = Digest::of(&raw);
                let encoded = encode(&raw);
                if breaks_off {
                    let half = &encoded[..encoded.len().div_ceil(2)];
                    let _ = decoder.reader(digest, half).unwrap().read(&mut [0; 100]);
                }
                let mut decoded = Vec::new();
                decoder.reader(digest, &encoded[..]).unwrap().read_to_end(&mut decoded).unwrap();
                prop_assert_eq!(decoded, raw);
            }
        }

        #[test]
        fn no_foreign_bytes_decode_to_another_blob(encoded in prop::collection::vec(any::<u8>(), 0..256)) {
            prop_assert!(Blob::decode(Digest::of(b"something"), &encoded, 1 << 20).is_err());
        }

        #[test]
        fn a_frame_header_reads_back(raw_len in 0u32..=(64u32 << 20), shrink in 0u32..100) {
            let header = FrameHeader {
                digest: Digest::of(b"x"),
                raw_len,
                encoded_len: (raw_len + 1).saturating_sub(shrink),
            };
            prop_assert_eq!(FrameHeader::from_bytes(&header.to_bytes()).unwrap(), header);
        }
    }

    #[test]
    fn a_flipped_byte_is_refused() {
        let raw = b"hello hello hello hello hello hello hello".repeat(10);
        let digest = Digest::of(&raw);
        let encoded = encode(&raw);
        assert_eq!(encoded[0], TAG_ZSTD);
        for at in 0..encoded.len() {
            let mut bad = encoded.clone();
            bad[at] ^= 0x40;
            // zstd has header bits that change nothing about the content; the digest decides.
            if let Ok(blob) = Blob::decode(digest, &bad, raw.len()) {
                assert_eq!(blob.as_ref(), &raw[..]);
            }
        }
    }

    #[test]
    fn a_bomb_is_cut_off_at_its_declared_length() {
        let zeros = vec![0u8; 1 << 20];
        let encoded = encode(&zeros);
        assert!(matches!(
            Blob::decode(Digest::of(&zeros), &encoded, 1000),
            Err(BlobError::TooLong { limit: 1000, .. })
        ));
    }

    #[test]
    fn bytes_after_the_frame_are_refused() {
        let raw = vec![7u8; 1000];
        let mut encoded = encode(&raw);
        encoded.extend_from_slice(b"smuggled");
        assert!(Blob::decode(Digest::of(&raw), &encoded, 1000).is_err());
    }
}
