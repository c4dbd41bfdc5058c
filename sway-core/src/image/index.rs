//! The bytes of a layer that was read: what the exporter keeps between two exports.
//!
//! Private to one machine and one version: whatever can't be read is read again from the layer
//! itself, so there is a version to tell old bytes and a digest to tell damaged ones, and nothing
//! is converted. Integers are little endian; lengths are u32.

use std::collections::BTreeMap;

use super::layer::{Action, Change, Layer, Special};
use crate::chunk::{CHUNK_LEN, ChunkRef, CutChunk};
use crate::digest::{DIGEST_LEN, Digest};
use crate::manifest::{FileContent, FilePiece, Metadata, Timestamp};

/// Changes with the bytes, and with what reading a layer means.
pub const INDEX_VERSION: u8 = 2;

const MAGIC: &[u8; 7] = b"SWAYLYR";

const DIRECTORY: u8 = 0;
const REGULAR: u8 = 1;
const SYMLINK: u8 = 2;
const CHAR_DEVICE: u8 = 3;
const BLOCK_DEVICE: u8 = 4;
const FIFO: u8 = 5;
const HARD_LINK: u8 = 6;
const WHITEOUT: u8 = 7;
const OPAQUE: u8 = 8;

impl Layer {
    /// The bytes to keep.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Writer(Vec::new());
        out.0.extend_from_slice(MAGIC);
        out.0.push(INDEX_VERSION);
        out.u32(CHUNK_LEN);
        out.len(self.changes.len());
        for change in &self.changes {
            out.bytes(&change.path);
            out.action(&change.action);
        }
        let digest = Digest::of(&out.0);
        out.0.extend_from_slice(digest.as_bytes());
        out.0
    }

    /// Reads them back; none where they are of another version, or damaged.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (bytes, digest) = bytes.split_last_chunk::<DIGEST_LEN>()?;
        if Digest::of(bytes) != Digest::from_bytes(*digest) {
            return None;
        }
        let mut input = Reader(bytes);
        if input.take(MAGIC.len())? != MAGIC
            || input.u8()? != INDEX_VERSION
            || input.u32()? != CHUNK_LEN
        {
            return None;
        }
        let count = input.u32()?;
        let changes = (0..count).map(|_| input.change()).collect::<Option<_>>()?;
        input.0.is_empty().then_some(Self { changes })
    }
}

struct Writer(Vec<u8>);

impl Writer {
    fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    fn len(&mut self, len: usize) {
        self.u32(u32::try_from(len).expect("a layer has fewer than 2^32 entries and pieces"));
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.len(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    fn action(&mut self, action: &Action<FileContent>) {
        match action {
            Action::Directory(metadata) => self.tagged(DIRECTORY, metadata),
            Action::Regular(metadata, content) => {
                self.tagged(REGULAR, metadata);
                self.content(content);
            }
            Action::Special(metadata, special) => match special {
                Special::Symlink(target) => {
                    self.tagged(SYMLINK, metadata);
                    self.bytes(target);
                }
                Special::CharDevice(device) => {
                    self.tagged(CHAR_DEVICE, metadata);
                    self.u64(*device);
                }
                Special::BlockDevice(device) => {
                    self.tagged(BLOCK_DEVICE, metadata);
                    self.u64(*device);
                }
                Special::Fifo => self.tagged(FIFO, metadata),
            },
            Action::HardLink(target) => {
                self.0.push(HARD_LINK);
                self.bytes(target);
            }
            Action::Whiteout => self.0.push(WHITEOUT),
            Action::Opaque => self.0.push(OPAQUE),
        }
    }

    fn tagged(&mut self, tag: u8, metadata: &Metadata) {
        self.0.push(tag);
        self.u32(metadata.permissions);
        self.u32(metadata.uid);
        self.u32(metadata.gid);
        self.u64(metadata.mtime.seconds.cast_unsigned());
        self.u32(metadata.mtime.nanoseconds);
        self.len(metadata.xattrs.len());
        for (name, value) in &metadata.xattrs {
            self.bytes(name);
            self.bytes(value);
        }
    }

    /// Pieces: 0 and a count for holes, else the chunk's length, its digest and its page root if it
    /// has one.
    fn content(&mut self, content: &FileContent) {
        self.len(content.pieces().len());
        for piece in content.pieces() {
            match piece {
                FilePiece::Hole(count) => {
                    self.u32(0);
                    self.u32(*count);
                }
                FilePiece::Chunk(cut) => {
                    self.u32(cut.chunk.len);
                    self.0.extend_from_slice(cut.chunk.digest.as_bytes());
                    if let Some(root) = cut.page_root {
                        self.0.extend_from_slice(root.as_bytes());
                    }
                }
            }
        }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn digest(&mut self) -> Option<Digest> {
        self.array().map(Digest::from_bytes)
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let len = self.u32()?;
        self.take(usize::try_from(len).ok()?).map(<[u8]>::to_vec)
    }

    fn change(&mut self) -> Option<Change<FileContent>> {
        let path = self.bytes()?;
        let action = match self.u8()? {
            DIRECTORY => Action::Directory(self.metadata()?),
            REGULAR => Action::Regular(self.metadata()?, self.content()?),
            SYMLINK => Action::Special(self.metadata()?, Special::Symlink(self.bytes()?)),
            CHAR_DEVICE => Action::Special(self.metadata()?, Special::CharDevice(self.u64()?)),
            BLOCK_DEVICE => Action::Special(self.metadata()?, Special::BlockDevice(self.u64()?)),
            FIFO => Action::Special(self.metadata()?, Special::Fifo),
            HARD_LINK => Action::HardLink(self.bytes()?),
            WHITEOUT => Action::Whiteout,
            OPAQUE => Action::Opaque,
            _ => return None,
        };
        Some(Change { path, action })
    }

    fn metadata(&mut self) -> Option<Metadata> {
        Some(Metadata {
            permissions: self.u32()?,
            uid: self.u32()?,
            gid: self.u32()?,
            mtime: Timestamp { seconds: self.u64()?.cast_signed(), nanoseconds: self.u32()? },
            xattrs: {
                let count = self.u32()?;
                let pairs = (0..count).map(|_| Some((self.bytes()?, self.bytes()?)));
                pairs.collect::<Option<BTreeMap<_, _>>>()?
            },
        })
    }

    fn content(&mut self) -> Option<FileContent> {
        let mut content = FileContent::new();
        for _ in 0..self.u32()? {
            match self.u32()? {
                0 => content.push_holes(self.u32()?),
                len if len <= CHUNK_LEN => {
                    let chunk = ChunkRef { digest: self.digest()?, len };
                    let page_root = match chunk.has_page_root() {
                        true => Some(self.digest()?),
                        false => None,
                    };
                    content.push_chunk(CutChunk { chunk, page_root });
                }
                _ => return None,
            }
        }
        Some(content)
    }
}
