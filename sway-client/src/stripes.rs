//! Putting the stripes of an answer in order (`sway_core::api::start`).

use std::collections::VecDeque;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use reqwest::Response;
use sway_core::api::start::START_PIECE_LEN;
use sway_core::blob::BLOB_LEN_MAX;

use crate::blobs::{FrameStream, broken};
use crate::client::Client;
use crate::error::ClientError;
use crate::frames::FrameDecoder;

/// The frames of a stream that comes in stripes: these answers, in order.
pub(crate) fn reassembled(client: &Client, answers: Vec<Response>) -> FrameStream {
    let body = |answer: Response| {
        let client = client.clone();
        answer.bytes_stream().map_err(move |error| client.failed(error)).boxed()
    };
    let bodies: Vec<_> = answers.into_iter().map(body).collect();
    let mut stripes = Stripes::new(client.clone(), bodies.into_iter());
    Box::pin(async_stream::try_stream! {
        let mut decoder = FrameDecoder::default();
        loop {
            while let Some(frame) = decoder.next_frame(BLOB_LEN_MAX)? {
                yield frame;
            }
            match stripes.next().await? {
                Some(bytes) => decoder.push(&bytes),
                None => break,
            }
        }
        if !decoder.is_between_frames() {
            Err(stripes.broken("it ends within a frame"))?;
        }
    })
}

/// The bodies of all stripes. Polls the one whose turn it is, so that what the others bring
/// waits in their sockets.
pub(crate) struct Stripes {
    client: Client,
    /// The one whose turn it is stands first.
    bodies: VecDeque<Body>,
    /// Bytes that are left of the piece whose turn it is.
    left: usize,
}

struct Body {
    pieces: BoxStream<'static, Result<Bytes, ClientError>>,
    /// What has come and was not given on.
    rest: Bytes,
}

impl Stripes {
    /// Of at least one stripe, in order.
    pub(crate) fn new(
        client: Client,
        bodies: impl Iterator<Item = BoxStream<'static, Result<Bytes, ClientError>>>,
    ) -> Self {
        let bodies = bodies.map(|pieces| Body { pieces, rest: Bytes::new() }).collect();
        Self { client, bodies, left: START_PIECE_LEN }
    }

    /// The next bytes of the whole; none at its end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        if self.left == 0 {
            self.bodies.rotate_left(1);
            self.left = START_PIECE_LEN;
        }
        let body = &mut self.bodies[0];
        if !body.fill(&self.client).await? {
            return self.end().await;
        }
        let bytes = body.rest.split_to(self.left.min(body.rest.len()));
        self.left -= bytes.len();
        Ok(Some(bytes))
    }

    /// The whole ends where the stripe ends whose turn it is, so no other one has more.
    async fn end(&mut self) -> Result<Option<Bytes>, ClientError> {
        for body in &mut self.bodies {
            if body.fill(&self.client).await? {
                return Err(self.broken("its stripes don't fit together"));
            }
        }
        Ok(None)
    }

    fn broken(&self, message: &str) -> ClientError {
        broken(&self.client, message)
    }
}

impl Body {
    /// Waits until there are bytes; false at the end of the body.
    async fn fill(&mut self, client: &Client) -> Result<bool, ClientError> {
        while self.rest.is_empty() {
            match client.within_idle(self.pieces.try_next()).await?? {
                Some(piece) => self.rest = piece,
                None => return Ok(false),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use futures::{StreamExt as _, stream};
    use proptest::prelude::*;

    use super::*;
    use crate::client::ClientConfig;

    /// What is read from these stripes, each of which the network cuts at `cuts`.
    fn read(stripes: &[Vec<u8>], cuts: &[usize]) -> Result<Vec<u8>, ClientError> {
        let client = Client::new(&ClientConfig::new("http://127.0.0.1:1".parse().unwrap()));
        let bodies = stripes.iter().map(|stripe| {
            let (mut pieces, mut rest) = (Vec::new(), &stripe[..]);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                pieces.push(Ok(Bytes::copy_from_slice(piece)));
                rest = after;
            }
            stream::iter(pieces).boxed()
        });
        let mut stripes = Stripes::new(client.unwrap(), bodies);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let mut whole = Vec::new();
            while let Some(bytes) = stripes.next().await? {
                whole.extend_from_slice(&bytes);
            }
            Ok(whole)
        })
    }

    fn dealt(whole: &[u8], of: usize) -> Vec<Vec<u8>> {
        let mut stripes = vec![Vec::new(); of];
        for (number, piece) in whole.chunks(START_PIECE_LEN).enumerate() {
            stripes[number % of].extend_from_slice(piece);
        }
        stripes
    }

    fn bytes(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i / 7).to_le_bytes()[0]).collect()
    }

    fn lens() -> impl Strategy<Value = usize> {
        let pieces = (0usize..20, 0usize..3)
            .prop_map(|(n, off)| (n * START_PIECE_LEN + off).saturating_sub(1));
        prop_oneof![0usize..300_000, pieces]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn stripes_are_put_together_to_the_same_bytes(
            len in lens(),
            of in 1usize..=8,
            cuts in prop::collection::vec(1usize..50_000, 1..10),
        ) {
            let whole = bytes(len);
            prop_assert_eq!(read(&dealt(&whole, of), &cuts).unwrap(), whole);
        }

        #[test]
        fn stripes_that_don_t_fit_never_pass_for_the_whole(
            len in 1usize..300_000,
            of in 2usize..=8,
            which in any::<prop::sample::Index>(),
            change in prop_oneof![Just(1isize), Just(-1), Just(START_PIECE_LEN.cast_signed())],
        ) {
            let whole = bytes(len);
            let mut stripes = dealt(&whole, of);
            let stripe = &mut stripes[which.index(of)];
            let len = stripe.len().saturating_add_signed(change);
            prop_assume!(len != stripe.len());
            stripe.resize(len, 0);
            // A part of the whole, or another end, is for the frames to find.
            if let Ok(read) = read(&stripes, &[30_000]) {
                prop_assert_ne!(read, whole);
            }
        }
    }
}
