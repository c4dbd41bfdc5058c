//! Cutting a streamed body into frames, however the network cut it into pieces.

use bytes::{Bytes, BytesMut};
use sway_core::blob::{BlobError, FRAME_HEADER_LEN, FrameHeader};

/// Collects pieces of a body until they hold a frame. Holds at most one blob and one piece.
#[derive(Debug, Default)]
pub(crate) struct FrameDecoder {
    buffer: BytesMut,
    header: Option<FrameHeader>,
}

impl FrameDecoder {
    /// Adds the next piece of the body.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// The next whole frame; none until more pieces are there. A header that announces more than
    /// `raw_len_max` raw bytes is an error, before anything of its blob is waited for.
    pub(crate) fn next_frame(
        &mut self,
        raw_len_max: usize,
    ) -> Result<Option<(FrameHeader, Bytes)>, BlobError> {
        let header = match self.header {
            Some(header) => header,
            None if self.buffer.len() < FRAME_HEADER_LEN => return Ok(None),
            None => {
                let bytes = self.buffer.split_to(FRAME_HEADER_LEN);
                let bytes = bytes[..].try_into().expect("split at the header's length");
                // Which bounds the encoded length too.
                let header = FrameHeader::from_bytes(bytes)?;
                if header.raw_len as usize > raw_len_max {
                    let digest = header.digest;
                    return Err(BlobError::TooLong { digest, limit: raw_len_max });
                }
                *self.header.insert(header)
            }
        };
        let len = header.encoded_len as usize;
        if self.buffer.len() < len {
            self.buffer.reserve(len - self.buffer.len());
            return Ok(None);
        }
        self.header = None;
        Ok(Some((header, self.buffer.split_to(len).freeze())))
    }

    /// Whether the body may end here: between two frames.
    pub(crate) fn is_between_frames(&self) -> bool {
        self.header.is_none() && self.buffer.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sway_core::blob;
    use sway_core::digest::Digest;

    use super::*;

    proptest! {
        #[test]
        fn frames_survive_any_cutting_of_the_body(
            blobs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8),
            cuts in prop::collection::vec(1usize..200, 1..50),
        ) {
            let mut body = Vec::new();
            let mut sent = Vec::new();
            for raw in &blobs {
                let encoded = blob::encode(raw);
                let header = FrameHeader::new(Digest::of(raw), raw.len(), encoded.len());
                body.extend(header.to_bytes());
                body.extend(&encoded);
                sent.push((header, Bytes::from(encoded)));
            }
            let mut decoder = FrameDecoder::default();
            let mut received = Vec::new();
            let mut rest = &body[..];
            for cut in cuts.into_iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                rest = after;
                decoder.push(piece);
                while let Some(frame) = decoder.next_frame(blob::BLOB_LEN_MAX).unwrap() {
                    received.push(frame);
                }
            }
            prop_assert_eq!(received, sent);
            prop_assert!(decoder.is_between_frames());
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_never_panic_and_never_make_room_for_more_than_a_blob(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..20),
            small in any::<bool>(),
        ) {
            let mut decoder = FrameDecoder::default();
            for mut piece in pieces {
                // Lengths that a blob may have, so that what follows the header is reached.
                if small && piece.len() > FRAME_HEADER_LEN {
                    piece[21..24].fill(0);
                    piece[24] = piece[20];
                    piece[25..28].fill(0);
                }
                decoder.push(&piece);
                while let Ok(Some((header, encoded))) = decoder.next_frame(1000) {
                    prop_assert_eq!(encoded.len(), header.encoded_len as usize);
                }
                prop_assert!(decoder.buffer.capacity() < 8192);
            }
        }
    }

    #[test]
    fn a_frame_longer_than_was_asked_for_is_refused_at_its_header() {
        let header = FrameHeader::new(Digest::of(b"x"), 1000, 1001);
        let mut decoder = FrameDecoder::default();
        decoder.push(&header.to_bytes());
        let refused = decoder.next_frame(999);
        assert!(matches!(refused, Err(BlobError::TooLong { limit: 999, .. })));
        assert!(decoder.buffer.capacity() < 1000, "no room was made for it");
        let mut decoder = FrameDecoder::default();
        decoder.push(&header.to_bytes());
        assert!(decoder.next_frame(1000).unwrap().is_none(), "this one may go on");
    }
}
