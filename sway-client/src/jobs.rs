//! The worker's jobs: submit, follow, cancel; runs and images.

use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::Stream;
use futures::stream::BoxStream;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Body, Method, Response};
use sway_core::api::jobs::{
    Batch, BatchRequest, ImageList, ImageView, JobEvent, JobView, OutputFile, OutputFiles, RunList,
    RunView, TraceAnswer, TraceRequest,
};
use sway_core::job::JobSpec;

use crate::client::Client;
use crate::error::ClientError;
use crate::refs::encoded;
use crate::sse::EventDecoder;

/// Events of a job with their ids; one without has that of the event before. Ends after [`JobEvent::End`], or after an error.
pub type EventStream = BoxStream<'static, Result<(u64, JobEvent), ClientError>>;

/// How long to try to get back to a job's events after the connection broke.
const RECONNECT_DEADLINE: Duration = Duration::from_secs(30);

/// Pause before each try.
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

/// A connection that held for so long is progress, even without an event.
const HELD_MIN: Duration = Duration::from_secs(2);

/// Which page of the run log.
#[derive(Clone, Copy, Debug, Default)]
pub struct RunPage {
    /// Runs older than this one.
    pub before: Option<i64>,
    /// At most so many; the worker decides where this is absent.
    pub limit: Option<u32>,
}

/// See [`Client::jobs`].
#[derive(Clone, Copy, Debug)]
pub struct Jobs<'a>(pub(crate) &'a Client);

impl Jobs<'_> {
    /// Asks for a job. May be repeated on the way, but makes one job.
    pub async fn submit(&self, spec: &JobSpec) -> Result<JobView, ClientError> {
        let key = uuid::Uuid::new_v4().to_string();
        let body = Bytes::from(serde_json::to_vec(spec).expect("a job's fields always serialise"));
        self.0
            .call(|| {
                self.0
                    .request(Method::POST, "/v1/jobs")
                    .header("idempotency-key", &key)
                    .header(CONTENT_TYPE, "application/json")
                    .body(body.clone())
            })
            .await
    }

    /// Submits several jobs: all are taken, in their order, or none.
    pub async fn submit_batch(&self, jobs: Vec<JobSpec>) -> Result<Vec<JobView>, ClientError> {
        let key = uuid::Uuid::new_v4().to_string();
        let request = serde_json::to_vec(&BatchRequest { jobs });
        let body = Bytes::from(request.expect("a job's fields always serialise"));
        let submitting = self.0.call(|| {
            self.0
                .request(Method::POST, "/v1/jobs/batch")
                .header("idempotency-key", &key)
                .header(CONTENT_TYPE, "application/json")
                .body(body.clone())
        });
        let batch: Batch = submitting.await?;
        Ok(batch.jobs)
    }

    /// Has an image prepared for cold starts: its traces derived, and one recorded. Answers before
    /// that is done.
    pub async fn prepare(&self, request: &TraceRequest) -> Result<TraceAnswer, ClientError> {
        self.0.call(|| self.0.request(Method::POST, "/v1/traces").json(request)).await
    }

    /// A job, by its id or a unique prefix of it.
    pub async fn job(&self, id: &str) -> Result<JobView, ClientError> {
        let path = format!("/v1/jobs/{}", encoded(id));
        self.0.call(|| self.0.request(Method::GET, &path)).await
    }

    /// Ends a job that has not ended; tells what became of it.
    pub async fn cancel(&self, id: &str) -> Result<JobView, ClientError> {
        let path = format!("/v1/jobs/{}/cancel", encoded(id));
        self.0.call(|| self.0.request(Method::POST, &path)).await
    }

    /// A page of the run log, newest first.
    pub async fn runs(&self, page: RunPage) -> Result<RunList, ClientError> {
        let mut path = "/v1/runs?".to_owned();
        for (name, value) in [("before", page.before), ("limit", page.limit.map(i64::from))] {
            if let Some(value) = value {
                path.push_str(&format!("{name}={value}&"));
            }
        }
        let path = path.trim_end_matches(['?', '&']);
        self.0.call(|| self.0.request(Method::GET, path)).await
    }

    /// A run with its outputs, by its number or its job's id.
    pub async fn run(&self, id: &str) -> Result<RunView, ClientError> {
        let path = format!("/v1/runs/{}", encoded(id));
        self.0.call(|| self.0.request(Method::GET, &path)).await
    }

    /// What a job left in `/output`, folders before what they hold.
    pub async fn output_files(&self, id: &str) -> Result<Vec<OutputFile>, ClientError> {
        let path = format!("/v1/jobs/{}/outputs", encoded(id));
        let list: OutputFiles = self.0.call(|| self.0.request(Method::GET, &path)).await?;
        Ok(list.files)
    }

    /// All that a job left in `/output`, as a tar archive.
    pub async fn output_archive(&self, id: &str) -> Result<Download, ClientError> {
        let path = format!("/v1/jobs/{}/outputs?format=tar", encoded(id));
        self.download(&path).await
    }

    /// One file that a job left in `/output`.
    pub async fn output(&self, id: &str, path: &str) -> Result<Download, ClientError> {
        let path = utf8_percent_encode(path, NON_ALPHANUMERIC);
        self.download(&format!("/v1/jobs/{}/outputs/{path}", encoded(id))).await
    }

    async fn download(&self, path: &str) -> Result<Download, ClientError> {
        let request = || self.0.request(Method::GET, path);
        let response = self.0.retry(|| self.0.streamed(request())).await?;
        Ok(Download { client: self.0.clone(), response })
    }

    /// The images that the caller can run.
    pub async fn images(&self) -> Result<Vec<ImageView>, ClientError> {
        let list: ImageList = self.0.call(|| self.0.request(Method::GET, "/v1/images")).await?;
        Ok(list.images)
    }

    /// Sends a job's standard input as it comes; returns when the job has it all, or has ended.
    pub async fn send_stdin<S>(&self, id: &str, input: S) -> Result<(), ClientError>
    where
        S: Stream<Item = std::io::Result<Bytes>> + Send + 'static,
    {
        let request = self
            .0
            .request(Method::POST, &format!("/v1/jobs/{}/stdin", encoded(id)))
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(Body::wrap_stream(input));
        // No deadline: a person may be typing, and the job may be slow to read.
        let response = self.0.send(request).await?;
        self.0.accepted(response).await.map(|_| ())
    }

    /// Follows a job from the event after `last_event_id`, from the start where that is none.
    /// Where the connection breaks, it is made again, for at most half a minute.
    pub fn events(&self, id: &str, last_event_id: Option<u64>) -> EventStream {
        let client = self.0.clone();
        let path = format!("/v1/jobs/{}/logs", encoded(id));
        Box::pin(async_stream::try_stream! {
            let mut last = last_event_id;
            let mut progress = Instant::now();
            loop {
                let asked = Instant::now();
                let broken = match follow(&client, &path, last).await {
                    Ok(mut events) => loop {
                        match events.next().await {
                            Ok((id, event)) => {
                                last = Some(id);
                                progress = Instant::now();
                                let is_end = matches!(event, JobEvent::End { .. });
                                yield (id, event);
                                if is_end {
                                    return;
                                }
                            }
                            Err(error) => {
                                // The worker was there, however little the job had to say.
                                if asked.elapsed() > HELD_MIN {
                                    progress = Instant::now();
                                }
                                break error;
                            }
                        }
                    },
                    Err(error) => error,
                };
                if !broken.is_transient() || progress.elapsed() > RECONNECT_DEADLINE {
                    Err(broken)?;
                }
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
        })
    }
}

/// An answer that comes in pieces.
#[derive(Debug)]
pub struct Download {
    client: Client,
    response: Response,
}

impl Download {
    /// The next piece; none at the end. An answer that breaks off is an error.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        let piece = self.client.within_idle(self.response.chunk()).await?;
        piece.map_err(|error| self.client.failed(error))
    }
}

async fn follow(client: &Client, path: &str, last: Option<u64>) -> Result<Events, ClientError> {
    let mut request = client.request(Method::GET, path).header(ACCEPT, "text/event-stream");
    if let Some(last) = last {
        request = request.header("last-event-id", last.to_string());
    }
    let response = client.streamed(request).await?;
    let last = last.unwrap_or(0);
    Ok(Events { client: client.clone(), response, decoder: EventDecoder::default(), last })
}

/// The events of one connection.
struct Events {
    client: Client,
    response: Response,
    decoder: EventDecoder,
    /// The id of the last event that had one.
    last: u64,
}

impl Events {
    async fn next(&mut self) -> Result<(u64, JobEvent), ClientError> {
        let protocol = |message: String| ClientError::Protocol {
            url: self.client.base().to_owned(),
            message: format!("a job's events: {message}"),
        };
        loop {
            if let Some(event) = self.decoder.next_event().map_err(|e| protocol(e.to_owned()))? {
                if let Some(id) = event.id {
                    let malformed = || protocol(format!("the id {id:?} is no number"));
                    self.last = id.parse().map_err(|_| malformed())?;
                }
                let event = serde_json::from_str(&event.data);
                return Ok((self.last, event.map_err(|error| protocol(error.to_string()))?));
            }
            // The worker sends a comment every few seconds, so silence is a broken connection.
            let piece = self.client.within_idle(self.response.chunk()).await?;
            match piece.map_err(|error| self.client.failed(error))? {
                Some(piece) => self.decoder.push(&piece),
                None => {
                    return Err(ClientError::Unreachable {
                        url: self.client.base().to_owned(),
                        source: "the events ended before the job did".into(),
                    });
                }
            }
        }
    }
}
