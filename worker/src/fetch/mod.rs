//! Gets blobs from the fileserver: limited, retried until a deadline, verified.
//!
//! A [`Fetcher`] takes a list of blobs and yields each one as it arrives, verified against its
//! digest; one list is one request. What fails for the moment (no connection, a stalled stream,
//! corrupt bytes) is asked for again with growing pauses until the deadline; what can't succeed
//! (the server does not have it, or refuses) fails at once. Who shares a request is `flight`'s
//! subject, where the bytes are kept `cache`'s.

mod flight;
mod source;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use sway_core::blob::{Blob, BlobError, FrameHeader};
use sway_core::digest::Digest;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout_at};

pub use flight::{Boarding, Flight, Flights, Ticket};
pub use source::{BlobSource, Frames, SourceError};

/// Limits of a [`Fetcher`].
#[derive(Clone, Debug)]
pub struct FetchConfig {
    /// How long one blob is asked for, retries and all.
    pub deadline: Duration,
    /// How long a request may bring nothing before it is given up and made again.
    pub stall: Duration,
    /// Requests at once that readers wait for.
    pub requests_max: usize,
    /// Requests at once that only read ahead.
    pub prefetches_max: usize,
    /// The first pause between two tries; each further one is twice as long.
    pub backoff_min: Duration,
    /// The longest pause.
    pub backoff_max: Duration,
}

impl Default for FetchConfig {
    fn default() -> Self {
        Self {
            deadline: Duration::from_secs(30),
            stall: Duration::from_secs(10),
            requests_max: 16,
            prefetches_max: 12,
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
        }
    }
}

/// Tries that may bring corrupt bytes before the server's copy is believed to be the corrupt one.
const CORRUPT_TRIES_MAX: u32 = 4;

/// Why a blob could not be had.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    /// The server does not have it.
    #[error("the fileserver does not have blob {digest}")]
    Missing {
        /// The blob.
        digest: Digest,
    },
    /// The server does not answer this worker.
    #[error("the fileserver refused blob {digest}: {reason}")]
    Refused {
        /// The blob.
        digest: Digest,
        /// Its words.
        reason: String,
    },
    /// The server's bytes are not the blob, again and again.
    #[error("the fileserver's bytes of blob {digest} are corrupt: {reason}")]
    Corrupt {
        /// The blob.
        digest: Digest,
        /// What was wrong the last time.
        reason: String,
    },
    /// The deadline passed.
    #[error("blob {digest} did not arrive within {:.1} s: {reason}", .waited.as_secs_f32())]
    Deadline {
        /// The blob.
        digest: Digest,
        /// The time it was waited for.
        waited: Duration,
        /// What went wrong the last time.
        reason: String,
    },
    /// The worker stopped before it arrived.
    #[error("blob {digest} was given up: the worker is stopping")]
    Abandoned {
        /// The blob.
        digest: Digest,
    },
}

impl FetchError {
    /// Its kind, for metrics.
    fn kind(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing",
            Self::Refused { .. } => "refused",
            Self::Corrupt { .. } => "corrupt",
            Self::Deadline { .. } => "deadline",
            Self::Abandoned { .. } => "abandoned",
        }
    }
}

/// A blob that is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The blob.
    pub digest: Digest,
    /// The most raw bytes that it may have.
    pub raw_len_max: usize,
}

/// A blob that arrived.
#[derive(Clone, Debug)]
pub struct Fetched {
    /// The verified bytes.
    pub blob: Blob,
    /// Bytes of its encoded form.
    pub bytes_on_wire: u64,
}

/// Whether somebody waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// A read waits for it.
    Now,
    /// It is only read ahead.
    Ahead,
}

/// Fetches blobs from one fileserver.
#[derive(Debug)]
pub struct Fetcher {
    source: Arc<dyn BlobSource>,
    config: FetchConfig,
    /// Two limits, so that reading ahead never delays a reader.
    requests: Semaphore,
    prefetches: Semaphore,
}

impl Fetcher {
    /// A fetcher over `source`.
    pub fn new(source: Arc<dyn BlobSource>, config: FetchConfig) -> Self {
        Self {
            source,
            requests: Semaphore::new(config.requests_max),
            prefetches: Semaphore::new(config.prefetches_max),
            config,
        }
    }

    /// The limits.
    pub fn config(&self) -> &FetchConfig {
        &self.config
    }

    /// Whether a request to read ahead would start at once.
    pub fn may_prefetch(&self) -> bool {
        self.prefetches.available_permits() > 0
    }

    /// Asks for `wanted` and yields each blob once, with its outcome, in the order of arrival.
    pub fn fetch(
        &self,
        wanted: Vec<Wanted>,
        urgency: Urgency,
    ) -> impl Stream<Item = (Digest, Result<Fetched, FetchError>)> + Send + '_ {
        self.outcomes(wanted, urgency).inspect(|(_, outcome)| {
            if let Err(error) = outcome {
                metrics::counter!("sway_fetch_errors_total", "kind" => error.kind()).increment(1);
            }
        })
    }

    fn outcomes(
        &self,
        wanted: Vec<Wanted>,
        urgency: Urgency,
    ) -> impl Stream<Item = (Digest, Result<Fetched, FetchError>)> + Send + '_ {
        async_stream::stream! {
            let started = Instant::now();
            let deadline = started + self.config.deadline;
            let mut pending = Pending::new(&wanted);
            let mut pause = self.config.backoff_min;
            loop {
                let before = pending.len();
                let mut attempt = std::pin::pin!(self.attempt(&pending, urgency, deadline));
                while let Some(arrival) = attempt.next().await {
                    match arrival {
                        Ok((header, encoded)) => {
                            if let Some(outcome) = pending.take(header, encoded).await {
                                yield outcome;
                            }
                        }
                        Err(SourceError::Refused(reason)) => {
                            for digest in pending.take_all() {
                                let reason = reason.clone();
                                yield (digest, Err(FetchError::Refused { digest, reason }));
                            }
                        }
                        Err(SourceError::Corrupt { digest, reason }) => {
                            if let Some(outcome) = pending.take_corrupt(digest, reason) {
                                yield outcome;
                            }
                        }
                        Err(SourceError::Unreachable(reason)) => {
                            metrics::counter!("sway_fetch_retries_total", "kind" => "unreachable")
                                .increment(1);
                            tracing::debug!(%reason, "fetch failed; trying again");
                            pending.reason = reason;
                        }
                    }
                }
                if pending.is_empty() {
                    return;
                }
                if pending.len() < before {
                    // The server is there; it only does not last.
                    pause = self.config.backoff_min;
                }
                if Instant::now() + pause >= deadline {
                    break;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(self.config.backoff_max);
            }
            let (waited, reason) = (started.elapsed(), pending.reason.clone());
            for digest in pending.take_all() {
                let reason = reason.clone();
                yield (digest, Err(FetchError::Deadline { digest, waited, reason }));
            }
        }
    }

    /// One request for all that is pending; the first error ends it.
    fn attempt(
        &self,
        pending: &Pending,
        urgency: Urgency,
        deadline: Instant,
    ) -> impl Stream<Item = Result<(FrameHeader, Bytes), SourceError>> + Send + use<'_> {
        let wanted = pending.wanted();
        let suspects = pending.suspects();
        let limit = match urgency {
            Urgency::Now => &self.requests,
            Urgency::Ahead => &self.prefetches,
        };
        async_stream::stream! {
            let unreachable = |reason: &str| Err(SourceError::Unreachable(reason.to_owned()));
            let Ok(permit) = timeout_at(deadline, limit.acquire()).await else {
                yield unreachable("too many requests are waiting for the fileserver");
                return;
            };
            let _permit = permit.expect("the semaphore is never closed");
            let mut frames = self.source.fetch(wanted, suspects);
            loop {
                let stall = Instant::now() + self.config.stall;
                match timeout_at(stall.min(deadline), frames.next()).await {
                    Ok(Some(Ok(frame))) => yield Ok(frame),
                    Ok(Some(Err(error))) => {
                        yield Err(error);
                        return;
                    }
                    Ok(None) => return,
                    Err(_) => {
                        yield unreachable("the fileserver does not answer");
                        return;
                    }
                }
            }
        }
    }
}

/// Decompresses and hashes off the runtime's threads.
async fn decode(wanted: Wanted, encoded: Bytes) -> Result<Fetched, BlobError> {
    let bytes_on_wire = encoded.len() as u64;
    let decoded = tokio::task::spawn_blocking(move || {
        Blob::decode(wanted.digest, &encoded, wanted.raw_len_max)
    });
    match decoded.await {
        Ok(blob) => Ok(Fetched { blob: blob?, bytes_on_wire }),
        Err(error) => Err(BlobError::Malformed {
            digest: wanted.digest,
            reason: format!("decoding ended early: {error}"),
        }),
    }
}

/// What was asked for and did not come yet.
#[derive(Debug)]
struct Pending {
    /// In the order in which they were asked for.
    order: Vec<Digest>,
    /// With the number of times that corrupt bytes came.
    open: HashMap<Digest, (Wanted, u32)>,
    /// What went wrong last.
    reason: String,
}

impl Pending {
    fn new(wanted: &[Wanted]) -> Self {
        Self {
            order: wanted.iter().map(|wanted| wanted.digest).collect(),
            open: wanted.iter().map(|wanted| (wanted.digest, (*wanted, 0))).collect(),
            reason: "the fileserver left it out of its answer".to_owned(),
        }
    }

    fn len(&self) -> usize {
        self.open.len()
    }

    fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    fn digests(&self) -> Vec<Digest> {
        self.order.iter().copied().filter(|digest| self.open.contains_key(digest)).collect()
    }

    fn wanted(&self) -> Vec<Wanted> {
        let open = self.order.iter().filter_map(|digest| self.open.get(digest));
        open.map(|(wanted, _)| *wanted).collect()
    }

    /// Those whose bytes were corrupt.
    fn suspects(&self) -> Vec<Digest> {
        let corrupt = self.open.iter().filter(|(_, (_, corrupt_tries))| *corrupt_tries > 0);
        corrupt.map(|(digest, _)| *digest).collect()
    }

    fn take_all(&mut self) -> Vec<Digest> {
        let digests = self.digests();
        self.open.clear();
        digests
    }

    /// Judges a frame. None where it decides nothing: nobody asked for it, or it was corrupt and
    /// may be better the next time.
    async fn take(
        &mut self,
        header: FrameHeader,
        encoded: Bytes,
    ) -> Option<(Digest, Result<Fetched, FetchError>)> {
        let digest = header.digest;
        let (wanted, _) = *self.open.get(&digest)?;
        let outcome = if header.is_missing() {
            Err(FetchError::Missing { digest })
        } else {
            match decode(wanted, encoded).await {
                Ok(fetched) => Ok(fetched),
                Err(error) => return self.take_corrupt(digest, error.to_string()),
            }
        };
        self.open.remove(&digest);
        Some((digest, outcome))
    }

    /// Notes that a blob was corrupt. None while it may be better the next time.
    fn take_corrupt(
        &mut self,
        digest: Digest,
        reason: String,
    ) -> Option<(Digest, Result<Fetched, FetchError>)> {
        tracing::warn!(blob.digest = %digest, reason, "refused the fileserver's bytes");
        self.reason.clone_from(&reason);
        metrics::counter!("sway_fetch_retries_total", "kind" => "corrupt").increment(1);
        let (_, corrupt_tries) = self.open.get_mut(&digest)?;
        *corrupt_tries += 1;
        if *corrupt_tries < CORRUPT_TRIES_MAX {
            return None;
        }
        self.open.remove(&digest);
        Some((digest, Err(FetchError::Corrupt { digest, reason })))
    }
}

#[cfg(test)]
pub(crate) mod script;
#[cfg(test)]
mod tests;
