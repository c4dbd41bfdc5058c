//! A server of blobs for tests that answers as it is told.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures::StreamExt as _;
use sway_core::blob::{FrameHeader, encode};
use sway_core::digest::Digest;
use tokio::sync::watch;

use super::{BlobSource, Frames, SourceError, Wanted};

/// What happens to one request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Act {
    /// It is answered.
    Answer,
    /// No connection.
    Unreachable,
    /// The server says no.
    Refuse,
    /// Every blob arrives with a flipped byte.
    Corrupt,
    /// The connection breaks after this many blobs.
    BreakAfter(usize),
    /// Nothing ever comes.
    Stall,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) digests: Vec<Digest>,
    pub(crate) suspects: Vec<Digest>,
}

/// The server.
#[derive(Debug, Default)]
pub(crate) struct Script {
    blobs: Mutex<HashMap<Digest, Vec<u8>>>,
    acts: Mutex<VecDeque<Act>>,
    last: Mutex<Option<Act>>,
    requests: Mutex<Vec<Request>>,
    held: watch::Sender<bool>,
}

impl Script {
    /// Plays `acts` for the first requests, and answers all others.
    pub(crate) fn of(acts: impl IntoIterator<Item = Act>) -> Arc<Self> {
        let script = Self::default();
        script.acts.lock().unwrap().extend(acts);
        Arc::new(script)
    }

    /// Does the same to all requests that no other act is for.
    pub(crate) fn always(&self, act: Act) {
        *self.last.lock().unwrap() = Some(act);
    }

    pub(crate) fn put(&self, raw: &[u8]) -> Digest {
        let digest = Digest::of(raw);
        self.blobs.lock().unwrap().insert(digest, raw.to_vec());
        digest
    }

    /// Answers nothing until it is let go.
    pub(crate) fn hold(&self, held: bool) {
        self.held.send_replace(held);
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    fn frame(&self, digest: Digest, flip: bool) -> (FrameHeader, Bytes) {
        match self.blobs.lock().unwrap().get(&digest) {
            None => (FrameHeader::missing(digest), Bytes::new()),
            Some(raw) => {
                let mut encoded = encode(raw);
                if flip {
                    let middle = encoded.len() / 2;
                    encoded[middle] ^= 0x10;
                }
                (FrameHeader::new(digest, raw.len(), encoded.len()), Bytes::from(encoded))
            }
        }
    }
}

/// A [`Script`] as a source.
#[derive(Debug)]
pub(crate) struct Scripted(pub(crate) Arc<Script>);

impl BlobSource for Scripted {
    fn fetch(&self, wanted: Vec<Wanted>, suspects: Vec<Digest>) -> Frames {
        let digests: Vec<_> = wanted.iter().map(|wanted| wanted.digest).collect();
        let script = Arc::clone(&self.0);
        script.requests.lock().unwrap().push(Request { digests: digests.clone(), suspects });
        let next = script.acts.lock().unwrap().pop_front();
        let act = next.or(*script.last.lock().unwrap()).unwrap_or(Act::Answer);
        let answer = async move {
            script.held.subscribe().wait_for(|held| !held).await.unwrap();
            let unreachable = || Err(SourceError::Unreachable("connection refused".to_owned()));
            let good = |digest: &Digest| Ok(script.frame(*digest, false));
            match act {
                Act::Answer => digests.iter().map(good).collect(),
                Act::Unreachable => vec![unreachable()],
                Act::Refuse => vec![Err(SourceError::Refused("no such token".to_owned()))],
                Act::Corrupt => {
                    digests.iter().map(|digest| Ok(script.frame(*digest, true))).collect()
                }
                Act::BreakAfter(count) => {
                    digests.iter().take(count).map(good).chain([unreachable()]).collect()
                }
                Act::Stall => std::future::pending::<Vec<_>>().await,
            }
        };
        futures::stream::once(answer).flat_map(futures::stream::iter).boxed()
    }
}
