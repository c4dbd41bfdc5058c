//! The fileserver's answer with all that a cold start needs, over several connections at once.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use futures::future::try_join_all;
use reqwest::header::{ETAG, HeaderMap, IF_NONE_MATCH};
use reqwest::{Method, Response, StatusCode};
use sway_core::api::start::{
    START_BASE_HEADER, START_BUNDLE_HEADER, START_HAVE_MAX, START_IMAGE_HEADER,
    START_MANIFEST_HEADER, STRIPES_MAX,
};
use sway_core::digest::Digest;
use sway_core::name::{RefName, UserName};
use sway_core::trace::TraceKey;

use crate::blobs::FrameStream;
use crate::client::{Client, POOL_IDLE_TIMEOUT};
use crate::error::ClientError;
use crate::stripes::reassembled;

/// Code of the refusal where the stripes of an answer tell of different states: a ref moved while
/// they were asked for. Ask again.
pub const START_MOVED: &str = "start_moved";

/// Pause between two uses of connections that are kept open: well within what they outlive.
const WARM_INTERVAL: Duration = Duration::from_secs(POOL_IDLE_TIMEOUT.as_secs() / 2);

/// What to start, and what of it is here already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartQuery {
    /// The image: the first of these refs that the server has.
    pub images: Vec<RefName>,
    /// Or the manifest itself.
    pub manifest: Option<Digest>,
    /// Whose traces.
    pub user: UserName,
    /// The trace: the first of these keys that has one. Without keys none is sent.
    pub keys: Vec<TraceKey>,
    /// Blobs that are left out, because they are here; the first [`START_HAVE_MAX`] of them.
    pub have: Vec<Digest>,
    /// Of the state that is here already, as an earlier answer gave it.
    pub etag: Option<String>,
    /// Whether the blobs of that state are here too: those are left out, as far as the manifest is
    /// the same ([`StartHead::base`]).
    pub changes: bool,
    /// Connections, 1 to [`STRIPES_MAX`].
    pub stripes: u8,
}

impl StartQuery {
    fn path(&self, stripe: u8, stripes: u8) -> String {
        let mut query = url::form_urlencoded::Serializer::new("/v1/start?".to_owned());
        for image in &self.images {
            query.append_pair("image", image.as_ref());
        }
        if let Some(manifest) = self.manifest {
            query.append_pair("manifest", &manifest.to_hex());
        }
        query.append_pair("user", &self.user.to_ref_part());
        for key in &self.keys {
            query.append_pair("key", key.as_ref());
        }
        for have in self.have.iter().take(START_HAVE_MAX) {
            query.append_pair("have", &have.to_hex());
        }
        if self.changes {
            query.append_pair("changes", "true");
        }
        if stripes > 1 {
            query.append_pair("stripe", &stripe.to_string());
            query.append_pair("stripes", &stripes.to_string());
        }
        query.finish()
    }
}

/// What an answer is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartHead {
    /// The image that was found; none where the manifest was asked for.
    pub image: Option<RefName>,
    /// Its manifest.
    pub manifest: Digest,
    /// The bundle of its trace; none if it has no trace.
    pub bundle: Option<Digest>,
    /// The bundle whose blobs the answer leaves out, and the manifest with them.
    pub base: Option<Digest>,
    /// Names this state in a later question.
    pub etag: String,
}

/// What the server says.
pub enum StartAnswer {
    /// None of the images is there.
    NoImage,
    /// Everything is as [`StartQuery::etag`] says.
    Unchanged(StartHead),
    /// The manifest, then the members of the trace's bundle in its order: frames, not verified.
    /// A blob that the server lacks is a frame that says so. Nothing is read ahead of whoever
    /// polls the stream but what the sockets hold; the server gives a stream up that nobody
    /// reads from for 30 s. Dropping it ends the transfer.
    Stream(StartHead, FrameStream),
}

impl std::fmt::Debug for StartAnswer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoImage => f.write_str("NoImage"),
            Self::Unchanged(head) => f.debug_tuple("Unchanged").field(head).finish(),
            Self::Stream(head, _) => f.debug_tuple("Stream").field(head).finish_non_exhaustive(),
        }
    }
}

impl Client {
    /// Asks for what a start needs: `GET /v1/start`, once, on as many connections at the same
    /// time as the query says. All of them must tell of the same state; else the error is
    /// transient ([`START_MOVED`]).
    pub async fn start(&self, query: StartQuery) -> Result<StartAnswer, ClientError> {
        let stripes = query.stripes.clamp(1, STRIPES_MAX);
        let (path, etag) = (|stripe| query.path(stripe, stripes), query.etag.as_deref());
        let asked = (0..stripes).map(|stripe| self.ask(path(stripe), etag));
        let answers = try_join_all(asked).await?;
        let (mut heads, mut bodies) = (VecDeque::new(), Vec::new());
        for Answer { head, body } in answers {
            heads.push_back(head);
            bodies.extend(body);
        }
        let first = heads.pop_front().expect("there is at least one stripe");
        let all_or_none = bodies.is_empty() || bodies.len() == heads.len() + 1;
        if heads.iter().any(|head| *head != first) || !all_or_none {
            return Err(ClientError::Refused {
                status: 503,
                code: START_MOVED.to_owned(),
                message: "an image or its trace moved while it was asked for".to_owned(),
                hint: Some("ask again".to_owned()),
            });
        }
        Ok(match first {
            None => StartAnswer::NoImage,
            Some(head) if bodies.is_empty() => StartAnswer::Unchanged(head),
            Some(head) => StartAnswer::Stream(head, reassembled(self, bodies)),
        })
    }

    /// Opens connections ahead of time, so that `count` stripes pay no handshake. They are kept
    /// for [`POOL_IDLE_TIMEOUT`] without use.
    pub async fn warm(&self, count: u8) -> Result<(), ClientError> {
        let asked = (0..count.clamp(1, STRIPES_MAX)).map(|_| {
            let request = self.stripe_request(Method::GET, "/healthz");
            async { self.within_idle(self.send(request?)).await? }
        });
        // An answer that nobody has read yet keeps its connection busy, so each has its own.
        let answers = try_join_all(asked).await?;
        for answer in answers {
            self.within_idle(answer.bytes()).await?.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// Keeps `count` connections open for as long as this is polled: a start after a pause then
    /// begins a round trip earlier. A server that is away is asked again after the same pause.
    pub async fn keep_warm(&self, count: u8) -> Infallible {
        loop {
            if let Err(error) = self.warm(count).await {
                tracing::debug!(%error, "no connections ahead of time");
            }
            tokio::time::sleep(WARM_INTERVAL).await;
        }
    }

    async fn ask(&self, path: String, etag: Option<&str>) -> Result<Answer, ClientError> {
        let mut request = self.stripe_request(Method::GET, &path)?;
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let response = self.within_idle(self.send(request)).await??;
        if response.status() == StatusCode::NOT_MODIFIED {
            return Ok(Answer { head: Some(self.head(response.headers())?), body: None });
        }
        match self.accepted(response).await {
            Ok(response) => {
                Ok(Answer { head: Some(self.head(response.headers())?), body: Some(response) })
            }
            Err(ClientError::Refused { status: 404, code, .. }) if code == "ref_not_found" => {
                Ok(Answer { head: None, body: None })
            }
            Err(error) => Err(error),
        }
    }

    fn head(&self, headers: &HeaderMap) -> Result<StartHead, ClientError> {
        let bad = |name: &str| ClientError::Protocol {
            url: self.base().to_owned(),
            message: format!("header {name} is missing or malformed"),
        };
        let text = |name: &str| match headers.get(name) {
            None => Ok(None),
            Some(value) => value.to_str().map(Some).map_err(|_| bad(name)),
        };
        fn parsed<T: std::str::FromStr>(text: Option<&str>) -> Result<Option<T>, T::Err> {
            text.map(str::parse).transpose()
        }
        let digest = |name: &str| parsed(text(name)?).map_err(|_| bad(name));
        Ok(StartHead {
            image: parsed(text(START_IMAGE_HEADER)?).map_err(|_| bad(START_IMAGE_HEADER))?,
            manifest: digest(START_MANIFEST_HEADER)?.ok_or_else(|| bad(START_MANIFEST_HEADER))?,
            bundle: digest(START_BUNDLE_HEADER)?,
            base: digest(START_BASE_HEADER)?,
            etag: text(ETAG.as_str())?.ok_or_else(|| bad(ETAG.as_str()))?.to_owned(),
        })
    }
}

/// The answer to one stripe's request.
struct Answer {
    /// None: no such image.
    head: Option<StartHead>,
    /// None: unchanged, or no such image.
    body: Option<Response>,
}
