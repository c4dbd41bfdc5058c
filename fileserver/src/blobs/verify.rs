//! Verifies blobs while they are copied.

use std::io::{self, BufRead, Read, Write};

use sha1_checked::{Digest as _, Sha1};
use sway_core::blob::{self, BLOB_LEN_MAX, BlobError, FrameHeader};
use sway_core::digest::Digest;

use super::{Claim, StoreError, UploadError};

/// Bytes that are read at a time.
const PIECE_LEN: usize = 64 << 10;

/// Verifies blobs one after the other, in constant memory that is allocated once.
#[derive(Debug, Default)]
pub(super) struct Verifier {
    decoder: blob::Decoder,
    piece: Vec<u8>,
}

impl Verifier {
    /// Copies an encoded blob from `encoded` to `out` and verifies it on the way. `encoded` must
    /// end where the blob does. Returns its header; it is as claimed.
    pub(super) fn copy(
        &mut self,
        claim: Claim,
        encoded: &mut dyn Read,
        out: &mut dyn Write,
    ) -> Result<FrameHeader, UploadError> {
        let Claim { digest, lens } = claim;
        let raw_len_max = lens.map_or(BLOB_LEN_MAX, |(raw_len, _)| raw_len as usize);
        self.piece.resize(PIECE_LEN, 0);
        let mut tee = Tee::new(encoded, out, &mut self.piece);
        let mut hasher = Sha1::builder().safe_hash(false).build();
        let copied = (|| {
            // One byte more tells a blob that is too long from one that just fits.
            let mut raw = self.decoder.reader(digest, &mut tee)?.take(raw_len_max as u64 + 1);
            let raw_len = io::copy(&mut raw, &mut HashInto(&mut hasher))
                .map_err(|error| BlobError::Malformed { digest, reason: error.to_string() })?;
            if raw_len > raw_len_max as u64 {
                return Err(BlobError::TooLong { digest, limit: raw_len_max });
            }
            Ok(u32::try_from(raw_len).expect("a blob is at most 64 MiB"))
        })();
        if let Some(error) = tee.write {
            return Err(StoreError::io(format!("write blob {digest}"))(error).into());
        }
        if let Some(error) = tee.read {
            return Err(UploadError::Broken(error));
        }
        let encoded_len = tee.copied;
        let raw_len = copied?;
        let result = hasher.try_finalize();
        let mut actual = [0u8; 20];
        actual.copy_from_slice(result.hash());
        let actual = Digest::from_bytes(actual);
        if result.has_collision() {
            return Err(UploadError::Collision(digest));
        }
        if actual != digest {
            return Err(BlobError::Mismatch { expected: digest, actual }.into());
        }
        if let Some((raw_declared, encoded_declared)) = lens {
            for (form, declared, actual) in [
                ("raw", u64::from(raw_declared), u64::from(raw_len)),
                ("encoded", u64::from(encoded_declared), encoded_len),
            ] {
                if declared != actual {
                    return Err(UploadError::Length { digest, form, declared, actual });
                }
            }
        }
        match u32::try_from(encoded_len) {
            Ok(encoded_len) if encoded_len <= raw_len + 1 => {
                Ok(FrameHeader { digest, raw_len, encoded_len })
            }
            _ => Err(UploadError::Inflated(digest)),
        }
    }
}

/// Hands on what it reads, with a copy for someone else; remembers whose fault an error was.
struct Tee<'a> {
    from: &'a mut dyn Read,
    to: &'a mut dyn Write,
    piece: &'a mut [u8],
    /// The part of the piece that was read and not taken yet.
    rest: std::ops::Range<usize>,
    copied: u64,
    read: Option<io::Error>,
    write: Option<io::Error>,
}

impl<'a> Tee<'a> {
    fn new(from: &'a mut dyn Read, to: &'a mut dyn Write, piece: &'a mut [u8]) -> Self {
        Self { from, to, piece, rest: 0..0, copied: 0, read: None, write: None }
    }
}

impl BufRead for Tee<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.rest.is_empty() {
            let n = match self.from.read(self.piece) {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
                Err(error) => {
                    let again = io::Error::new(error.kind(), error.to_string());
                    self.read = Some(error);
                    return Err(again);
                }
            };
            if let Err(error) = self.to.write_all(&self.piece[..n]) {
                let again = io::Error::new(error.kind(), error.to_string());
                self.write = Some(error);
                return Err(again);
            }
            self.copied += n as u64;
            self.rest = 0..n;
        }
        Ok(&self.piece[self.rest.clone()])
    }

    fn consume(&mut self, count: usize) {
        self.rest.start += count;
    }
}

impl Read for Tee<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(out)?;
        self.consume(n);
        Ok(n)
    }
}

struct HashInto<'a>(&'a mut Sha1);

impl Write for HashInto<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
