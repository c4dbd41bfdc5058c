//! The fileserver's blobs: which are missing, send many, fetch many.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::future::try_join_all;
use futures::stream::{self, BoxStream};
use futures::{Stream, StreamExt as _, TryStreamExt as _};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Body, Method, Response};
use sway_core::api::blobs::{DIGESTS_MAX, DigestList, FRAMES_MEDIA_TYPE, UploadSummary};
use sway_core::api::start::STRIPES_MAX;
use sway_core::blob::{self, BLOB_LEN_MAX, Blob, FrameHeader};
use sway_core::digest::Digest;

use crate::client::Client;
use crate::error::ClientError;
use crate::frames::FrameDecoder;
use crate::stripes::reassembled;

/// Blobs in the order in which they were asked for, encoded and not yet verified: pass each to
/// [`Blob::decode`]. One that the server does not have is a header that says so
/// ([`FrameHeader::is_missing`]) and no bytes. Ends after the first error.
pub type FrameStream = BoxStream<'static, Result<(FrameHeader, Bytes), ClientError>>;

/// See [`Client::blobs`].
#[derive(Clone, Copy, Debug)]
pub struct Blobs<'a>(pub(crate) &'a Client);

impl Blobs<'_> {
    /// Those of `digests` that the server does not have.
    pub async fn missing(&self, digests: &[Digest]) -> Result<Vec<Digest>, ClientError> {
        let mut missing = Vec::new();
        for some in digests.chunks(DIGESTS_MAX) {
            let list = DigestList { digests: some.to_vec() };
            let request = || self.0.request(Method::POST, "/v1/blobs/missing").json(&list);
            let answer: DigestList = self.0.call(request).await?;
            missing.extend(answer.digests);
        }
        Ok(missing)
    }

    /// Sends blobs as they come; once this returns, all are stored for good. A stream can't be
    /// sent again, so this is tried once: [`Blobs::upload_batch`] repeats.
    pub async fn upload<S>(&self, frames: S) -> Result<UploadSummary, ClientError>
    where
        S: Stream<Item = (FrameHeader, Bytes)> + Send + 'static,
    {
        self.upload_pieces(frames.flat_map(|(header, encoded)| {
            stream::iter([Ok(Bytes::copy_from_slice(&header.to_bytes())), Ok(encoded)])
        }))
        .await
    }

    /// Sends what `pieces` are together: frames of blobs, as `docs/format.md` has them.
    async fn upload_pieces<S>(&self, pieces: S) -> Result<UploadSummary, ClientError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        let progress = Progress::default();
        let body = Watched { pieces: pieces.boxed(), progress: progress.clone() };
        let request = self
            .0
            .request(Method::POST, "/v1/blobs")
            .header(CONTENT_TYPE, FRAMES_MEDIA_TYPE)
            .body(Body::wrap_stream(body));
        let sending = async {
            let response = self.0.send(request).await?;
            let response = self.0.accepted(response).await?;
            self.0.within_idle(response.json()).await?.map_err(|error| self.0.failed(error))
        };
        let idle = self.0.idle_timeout();
        tokio::select! {
            sent = sending => sent,
            () = progress.stalled(idle) => {
                Err(ClientError::Timeout { url: self.0.base().to_owned(), after: idle })
            }
        }
    }

    /// Sends `frames`, again where the server was out of reach. The bytes are shared, not copied.
    pub async fn upload_batch(
        &self,
        frames: &[(FrameHeader, Bytes)],
    ) -> Result<UploadSummary, ClientError> {
        self.0.retry(|| self.upload(stream::iter(frames.to_vec()))).await
    }

    /// Sends blobs whose frames, one after the other, are what `pieces` yields, again where the
    /// server was out of reach. A piece is what the transport is handed at a time: it should be
    /// short enough for progress to be seen.
    pub async fn upload_frames<S>(
        &self,
        pieces: impl Fn() -> S,
    ) -> Result<UploadSummary, ClientError>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + 'static,
    {
        self.0.retry(|| self.upload_pieces(pieces())).await
    }

    /// Encodes `raw` and sends it; returns its name.
    pub async fn put(&self, raw: &[u8]) -> Result<Digest, ClientError> {
        let digest = Digest::of(raw);
        let encoded = Bytes::from(blob::encode(raw));
        let header = FrameHeader::new(digest, raw.len(), encoded.len());
        self.upload_batch(&[(header, encoded)]).await?;
        Ok(digest)
    }

    /// Streams blobs; lists of any length are asked for in parts. Tried once: the caller knows
    /// what has arrived and asks for the rest.
    pub fn fetch(&self, digests: &[Digest]) -> FrameStream {
        self.fetch_within(digests.iter().map(|digest| (*digest, BLOB_LEN_MAX)).collect())
    }

    /// Like [`Blobs::fetch`], of blobs with the most raw bytes that each may have. A longer one is
    /// [`BlobError::TooLong`](blob::BlobError::TooLong) once it is announced: nothing is held of
    /// it.
    pub fn fetch_within(&self, wanted: Vec<(Digest, usize)>) -> FrameStream {
        let client = self.0.clone();
        Box::pin(async_stream::try_stream! {
            for some in wanted.chunks(DIGESTS_MAX) {
                let list = DigestList { digests: some.iter().map(|(digest, _)| *digest).collect() };
                let request = client.request(Method::POST, "/v1/blobs/fetch").json(&list);
                let mut frames = Frames::new(client.clone(), client.streamed(request).await?);
                for (asked, raw_len_max) in some {
                    let Some((header, encoded)) = frames.next(*raw_len_max).await? else {
                        Err(frames.broken("it ended early"))?
                    };
                    if header.digest != *asked {
                        Err(frames.broken("it holds another blob than was asked for"))?;
                    }
                    yield (header, encoded);
                }
            }
        })
    }

    /// Like [`Blobs::fetch`], over as many connections at once, 1 to [`STRIPES_MAX`]: their slow
    /// starts add up.
    pub fn fetch_striped(&self, digests: &[Digest], stripes: u8) -> FrameStream {
        let (client, wanted) = (self.0.clone(), digests.to_vec());
        let stripes = stripes.clamp(1, STRIPES_MAX);
        Box::pin(async_stream::try_stream! {
            for some in wanted.chunks(DIGESTS_MAX) {
                let list = DigestList { digests: some.to_vec() };
                let asked = (0..stripes).map(|stripe| {
                    let path = format!("/v1/blobs/fetch?stripe={stripe}&stripes={stripes}");
                    let request = client.stripe_request(Method::POST, &path);
                    async { client.streamed(request?.json(&list)).await }
                });
                let mut frames = reassembled(&client, try_join_all(asked).await?);
                for asked in some {
                    let Some((header, encoded)) = frames.try_next().await? else {
                        Err(broken(&client, "it ended early"))?
                    };
                    if header.digest != *asked {
                        Err(broken(&client, "it holds another blob than was asked for"))?;
                    }
                    yield (header, encoded);
                }
            }
        })
    }

    /// Streams a bundle, named by a ref or a digest: first the bundle's own blob, then its
    /// members in its order.
    pub fn bundle(&self, ref_or_digest: &str) -> FrameStream {
        let client = self.0.clone();
        let path = format!("/v1/bundles/{}", crate::refs::encoded(ref_or_digest));
        Box::pin(async_stream::try_stream! {
            let response = client.streamed(client.request(Method::GET, &path)).await?;
            let mut frames = Frames::new(client, response);
            while let Some(frame) = frames.next(BLOB_LEN_MAX).await? {
                yield frame;
            }
        })
    }

    /// One blob, verified; again where the server was out of reach or sent other bytes.
    pub async fn get(&self, digest: Digest) -> Result<Blob, ClientError> {
        let fetch = || async move {
            let mut frames = self.fetch(&[digest]);
            let Some((header, encoded)) = frames.next().await.transpose()? else {
                return Err(ClientError::Missing(digest));
            };
            if header.is_missing() {
                return Err(ClientError::Missing(digest));
            }
            Ok(Blob::decode(digest, &encoded, BLOB_LEN_MAX)?)
        };
        self.0.retry(fetch).await
    }

    /// Asks the server to check its stored copy of a blob. A corrupt one is put aside, so that
    /// [`Blobs::missing`] tells it and an upload heals it. Tells whether a good copy is there.
    pub async fn verify(&self, digest: Digest) -> Result<bool, ClientError> {
        let path = format!("/v1/blobs/{digest}");
        let request = || self.0.request(Method::HEAD, &path).header(VERIFY_HEADER, "1");
        match self.0.retry(|| self.0.answer_once(request())).await {
            Ok(_) => Ok(true),
            Err(ClientError::Refused { status: 404, .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Header that asks the fileserver to check a blob before it answers (`docs/http-api.md`).
pub const VERIFY_HEADER: &str = "x-sway-verify";

/// The frames of one answer.
struct Frames {
    client: Client,
    response: Response,
    decoder: FrameDecoder,
}

impl Frames {
    fn new(client: Client, response: Response) -> Self {
        Self { client, response, decoder: FrameDecoder::default() }
    }

    async fn next(
        &mut self,
        raw_len_max: usize,
    ) -> Result<Option<(FrameHeader, Bytes)>, ClientError> {
        loop {
            if let Some(frame) = self.decoder.next_frame(raw_len_max)? {
                return Ok(Some(frame));
            }
            let piece = self.client.within_idle(self.response.chunk()).await?;
            match piece.map_err(|error| self.client.failed(error))? {
                Some(piece) => self.decoder.push(&piece),
                None if self.decoder.is_between_frames() => return Ok(None),
                None => return Err(self.broken("it ends within a frame")),
            }
        }
    }

    fn broken(&self, message: &str) -> ClientError {
        broken(&self.client, message)
    }
}

/// The error of a stream that is not what it should be.
pub(crate) fn broken(client: &Client, message: &str) -> ClientError {
    ClientError::Protocol {
        url: client.base().to_owned(),
        message: format!("a stream of frames is broken: {message}"),
    }
}

/// When the transport last took bytes that it has not come back from; none while it waits for
/// the caller's stream, whose slowness is not the server's.
#[derive(Clone, Debug, Default)]
struct Progress(Arc<Mutex<Option<Instant>>>);

impl Progress {
    fn set(&self, sending_since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = sending_since;
    }

    /// Returns once the transport has taken nothing for `idle`.
    async fn stalled(&self, idle: Duration) {
        loop {
            let since = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let waited = since.map_or(Duration::ZERO, |since| since.elapsed());
            if waited >= idle {
                return;
            }
            tokio::time::sleep(idle - waited).await;
        }
    }
}

/// A body that notes when it is read.
struct Watched {
    pieces: BoxStream<'static, io::Result<Bytes>>,
    progress: Progress,
}

impl Stream for Watched {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let polled = self.pieces.as_mut().poll_next(context);
        self.progress.set(polled.is_ready().then(Instant::now));
        polled
    }
}
