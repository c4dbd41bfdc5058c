//! What an export will send: the blobs that the fileserver lacks, packed, in a file without a name.
//!
//! Nothing may be sent before the whole image is known to be sound, and layers are too large to be
//! held in memory and too slow to be read twice. So a chunk is packed while its layer is read, and
//! rests here until then. The spool remembers what the fileserver was asked, so that it is asked
//! about each blob once.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use sway_core::blob::{Encoder, FRAME_HEADER_LEN, FrameHeader, ZSTD_LEVEL};
use sway_core::chunk::CHUNK_LEN;
use sway_core::digest::Digest;

/// Blobs on their way to the fileserver.
#[derive(Debug)]
pub(crate) struct Spool {
    /// Frames, one after the other. The file goes when it is closed, however the export ends.
    file: File,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: HashMap<Digest, Known>,
    frames: Vec<Frame>,
    /// Bytes of the file.
    len: u64,
}

/// What is known of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    /// The fileserver has it.
    There,
    /// The fileserver lacks it.
    Lacking,
    /// The fileserver lacks it, and the spool has it, or will in a moment.
    Spooled,
}

/// A packed blob: where its frame is in the file, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    digest: Digest,
    position: u64,
    /// Bytes, the frame's header among them.
    pub(crate) len: usize,
}

impl Spool {
    /// An empty one. Its file is made in `directory`, which is made if need be, or among the
    /// machine's temporary files where that does not work.
    pub(crate) fn new(directory: &Path) -> io::Result<Self> {
        let file = fs_err::create_dir_all(directory)
            .and_then(|()| tempfile::tempfile_in(directory))
            .or_else(|_| tempfile::tempfile())?;
        Ok(Self { file, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those of `digests` about which the fileserver was not asked, each once.
    pub(crate) fn unknown(&self, digests: impl IntoIterator<Item = Digest>) -> Vec<Digest> {
        let state = self.state();
        let mut seen = HashSet::new();
        let is_new = |digest: &Digest| !state.known.contains_key(digest) && seen.insert(*digest);
        digests.into_iter().filter(is_new).collect()
    }

    /// The fileserver was asked about `asked` and lacks `missing` of them.
    pub(crate) fn learn(&self, asked: &[Digest], missing: &[Digest]) {
        let mut state = self.state();
        // Another batch may have asked meanwhile, and gone on.
        for digest in missing {
            state.known.entry(*digest).or_insert(Known::Lacking);
        }
        for digest in asked {
            state.known.entry(*digest).or_insert(Known::There);
        }
    }

    /// Whether the fileserver is known to lack the blob.
    pub(crate) fn is_missing(&self, digest: &Digest) -> bool {
        self.state().known.get(digest).is_some_and(|known| *known != Known::There)
    }

    /// Whether the fileserver is known to lack the blob, and the spool does not have it either.
    pub(crate) fn lacks(&self, digest: &Digest) -> bool {
        self.state().known.get(digest) == Some(&Known::Lacking)
    }

    /// Packs those of `blobs` that neither the fileserver nor the spool has.
    pub(crate) fn pack<'a>(
        &self,
        blobs: impl IntoIterator<Item = (Digest, &'a [u8])>,
    ) -> io::Result<()> {
        let mut encoder = Encoder::for_chunks();
        let mut packed = Vec::new();
        let mut frames = Vec::new();
        for (digest, raw) in blobs {
            if !self.claim(digest) {
                continue;
            }
            let start = packed.len();
            packed.extend_from_slice(&[0; FRAME_HEADER_LEN]);
            let encoded_len = match raw.len() <= CHUNK_LEN as usize {
                true => encoder.encode(raw, &mut packed),
                // A manifest, or what belongs to it.
                false => Encoder::new(ZSTD_LEVEL).encode(raw, &mut packed),
            };
            let header = FrameHeader::new(digest, raw.len(), encoded_len).to_bytes();
            packed[start..start + FRAME_HEADER_LEN].copy_from_slice(&header);
            frames.push((digest, start as u64, packed.len() - start));
        }
        let position = {
            let mut state = self.state();
            let position = state.len;
            state.len += packed.len() as u64;
            state.frames.extend(frames.into_iter().map(|(digest, start, len)| Frame {
                digest,
                position: position + start,
                len,
            }));
            position
        };
        self.file.write_all_at(&packed, position)
    }

    fn claim(&self, digest: Digest) -> bool {
        match self.state().known.get_mut(&digest) {
            Some(known @ Known::Lacking) => {
                *known = Known::Spooled;
                true
            }
            _ => false,
        }
    }

    /// Those frames whose blobs are `wanted`, in the order of the file.
    pub(crate) fn frames(&self, wanted: &HashSet<Digest>) -> Vec<Frame> {
        let mut frames = self.state().frames.clone();
        frames.retain(|frame| wanted.contains(&frame.digest));
        frames.sort_unstable_by_key(|frame| frame.position);
        frames
    }

    /// Frames of [`Spool::frames`], one after the other.
    pub(crate) fn read(&self, frames: &[Frame]) -> io::Result<Bytes> {
        let mut bytes = vec![0; frames.iter().map(|frame| frame.len).sum()];
        let mut rest = bytes.as_mut_slice();
        // Nearly all that was packed is wanted: frames that follow one another are read at once.
        for run in frames.chunk_by(|one, next| one.position + one.len as u64 == next.position) {
            let (place, after) = rest.split_at_mut(run.iter().map(|frame| frame.len).sum());
            self.file.read_exact_at(place, run[0].position)?;
            rest = after;
        }
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_fileserver_lacks_is_packed_once_and_read_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(&dir.path().join("cache")).unwrap();
        let raws = [&b"one"[..], b"two", b"three", b"four"];
        let digests = raws.map(Digest::of);
        let blobs = || digests.into_iter().zip(raws);
        assert_eq!(spool.unknown(digests.into_iter().chain(digests)), digests);
        spool.learn(&digests, &digests[1..]);
        assert!(spool.unknown(digests).is_empty());
        assert!(spool.lacks(&digests[1]) && !spool.lacks(&digests[0]));
        spool.pack(blobs().take(2)).unwrap();
        spool.pack(blobs()).unwrap();
        assert!(!spool.lacks(&digests[1]) && spool.is_missing(&digests[1]));

        let wanted = HashSet::from([digests[1], digests[3]]);
        let frames = spool.frames(&wanted);
        let bytes = spool.read(&frames).unwrap();
        let mut expected = Vec::new();
        for at in [1, 3] {
            let encoded = sway_core::blob::encode(raws[at]);
            let header = FrameHeader::new(digests[at], raws[at].len(), encoded.len());
            expected.extend(header.to_bytes());
            expected.extend(encoded);
        }
        assert_eq!(bytes, expected);
    }

    #[test]
    fn an_answer_that_comes_late_does_not_pack_a_blob_twice() {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::new(dir.path()).unwrap();
        let digest = Digest::of(b"one");
        spool.learn(&[digest], &[digest]);
        spool.pack([(digest, &b"one"[..])]).unwrap();
        spool.learn(&[digest], &[digest]);
        spool.pack([(digest, &b"one"[..])]).unwrap();
        assert_eq!(spool.frames(&HashSet::from([digest])).len(), 1);
    }
}
