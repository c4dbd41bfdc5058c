//! Streams of frames in stripes.
//!
//! A stream is cut into pieces that are dealt out to the stripes, so that several connections carry
//! it at once and their slow starts add up. Each stripe walks over all frames, and seeks over what
//! is not its own.

use std::collections::HashSet;
use std::io::{self, Cursor, Read as _};

use axum::body::Body;
use serde::Deserialize;
use sway_core::api::start::{START_PIECE_LEN, STRIPES_MAX};
use sway_core::blob::FrameHeader;
use sway_core::digest::Digest;
use sway_server::error::ServerError;

use super::App;
use super::blobs::{open, pieces};
use super::body::{BodyWriter, Bytes};
use crate::blobs::{BlobStore, ReadSeek};

/// Which stripe, of how many.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct StripeOf {
    #[serde(rename = "stripe")]
    pub(super) number: u8,
    #[serde(rename = "stripes")]
    pub(super) of: u8,
}

impl Default for StripeOf {
    fn default() -> Self {
        Self::WHOLE
    }
}

impl StripeOf {
    /// All of a stream.
    pub(super) const WHOLE: Self = Self { number: 0, of: 1 };

    /// Whether there is such a stripe; what to tell the caller if not.
    pub(super) fn check(self) -> Result<(), String> {
        if (1..=STRIPES_MAX).contains(&self.of) && self.number < self.of {
            Ok(())
        } else {
            Err(format!("stripe I is of stripes N, which is 1 to {STRIPES_MAX}"))
        }
    }
}

/// A stripe of the stream of these blobs' frames, in this order. What is `hidden` from the caller
/// is told as what is not there.
pub(super) async fn frames(
    app: &App,
    blobs: Vec<Digest>,
    hidden: HashSet<Digest>,
    stripe: StripeOf,
    verify: bool,
) -> Result<Body, ServerError> {
    pieces(app, move |store, out| {
        let mut stripe = Stripe::new(out, stripe);
        blobs.into_iter().try_for_each(|digest| match hidden.contains(&digest) {
            true => stripe.send_header(FrameHeader::missing(digest)),
            false => stripe.send_frame(store, digest, verify),
        })?;
        stripe.finish()
    })
    .await
}

/// Writes those pieces of a stream that are one stripe's.
struct Stripe<'a> {
    out: &'a BodyWriter,
    number: u64,
    of: u64,
    /// Bytes of the stream so far, whosesoever.
    position: u64,
    /// What is there of a piece of ours.
    piece: Vec<u8>,
}

impl<'a> Stripe<'a> {
    fn new(out: &'a BodyWriter, StripeOf { number, of }: StripeOf) -> Self {
        Self { out, number: number.into(), of: of.into(), position: 0, piece: Vec::new() }
    }

    /// A blob's frame, or the frame that says that it is not here.
    fn send_frame(
        &mut self,
        store: &dyn BlobStore,
        digest: Digest,
        verify: bool,
    ) -> io::Result<()> {
        let Some(mut stored) = open(store, digest, verify).map_err(io::Error::other)? else {
            return self.send_header(FrameHeader::missing(digest));
        };
        self.send_header(stored.header)?;
        self.send(&mut *stored.encoded, stored.header.encoded_len.into())
    }

    fn send_header(&mut self, header: FrameHeader) -> io::Result<()> {
        let bytes = header.to_bytes();
        self.send(&mut Cursor::new(&bytes), bytes.len() as u64)
    }

    /// The next `len` bytes of the stream. Each piece leaves as soon as it is whole: the first
    /// ones are what the other side waits for.
    fn send(&mut self, from: &mut dyn ReadSeek, len: u64) -> io::Result<()> {
        const PIECE: u64 = START_PIECE_LEN as u64;
        let (mut left, mut skipped) = (len, 0);
        while left > 0 {
            let here = left.min(PIECE - self.position % PIECE);
            if self.position / PIECE % self.of == self.number {
                if skipped > 0 {
                    from.seek_relative(skipped)?;
                    skipped = 0;
                }
                self.piece.reserve_exact(START_PIECE_LEN - self.piece.len());
                let copied = from.take(here).read_to_end(&mut self.piece)?;
                if copied as u64 != here {
                    return Err(io::Error::other("a blob changed while it was sent"));
                }
            } else {
                skipped += here.cast_signed();
            }
            self.position += here;
            left -= here;
            if self.position.is_multiple_of(PIECE) {
                self.flush()?;
            }
        }
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        self.out.send_piece(Bytes::from(std::mem::take(&mut self.piece)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sway_core::blob;

    use super::super::body;
    use super::*;
    use crate::blobs::memory::MemoryStore;

    /// What a stripe writes of the frames of `blobs`.
    fn stripe_of(store: &MemoryStore, blobs: &[Digest], number: u8, of: u8) -> Vec<u8> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_time().build().unwrap();
        let (body, writer) = runtime.block_on(async { body::channel() });
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut stripe = Stripe::new(&writer, StripeOf { number, of });
                blobs
                    .iter()
                    .try_for_each(|digest| stripe.send_frame(store, *digest, false))
                    .unwrap();
                stripe.finish().unwrap();
            });
            runtime.block_on(axum::body::to_bytes(body, usize::MAX)).unwrap().to_vec()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_stripes_are_the_stream(
            lens in prop::collection::vec(prop_oneof![0usize..80, 0usize..60_000, Just(START_PIECE_LEN - 29)], 0..9),
            absent in any::<prop::sample::Index>(),
            of in 1..=STRIPES_MAX,
        ) {
            let store = MemoryStore::default();
            let mut batch = store.batch().unwrap();
            let (mut blobs, mut stream) = (Vec::new(), Vec::new());
            for (at, len) in lens.iter().enumerate() {
                let raw: Vec<u8> = (0..*len).map(|i| (i * 31 + at * 7).to_le_bytes()[0]).collect();
                let (digest, encoded) = (Digest::of(&raw), blob::encode_raw(&raw));
                let header = FrameHeader::new(digest, raw.len(), encoded.len());
                blobs.push(digest);
                if absent.index(lens.len()) == at {
                    stream.extend(FrameHeader::missing(digest).to_bytes());
                } else {
                    batch.add(header.into(), &mut &encoded[..]).unwrap();
                    stream.extend([&header.to_bytes()[..], &encoded].concat());
                }
            }
            // A blob that comes twice is there both times.
            prop_assume!(blobs.iter().collect::<std::collections::HashSet<_>>().len() == blobs.len());
            batch.commit().unwrap();
            let mut due = vec![Vec::<u8>::new(); of.into()];
            for (number, piece) in stream.chunks(START_PIECE_LEN).enumerate() {
                due[number % usize::from(of)].extend(piece);
            }
            for (number, due) in (0..).zip(due) {
                prop_assert_eq!(stripe_of(&store, &blobs, number, of), due);
            }
        }
    }
}
