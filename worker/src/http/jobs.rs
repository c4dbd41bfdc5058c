//! `/v1/jobs`: submit, list, follow, feed, cancel.

use std::convert::Infallible;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt as _};
use serde::Deserialize;
use sway_core::api::jobs::{Batch, BatchRequest, JobEvent, JobList, JobView};
use sway_core::job::{JobSpec, JobState};
use sway_core::name::{ImageName, UserName};
use sway_server::error::{Json, Path, Query, ServerError};
use sway_server::guard::Identity;
use utoipa::IntoParams;

use super::bodies::BodyPermit;
use super::openapi::{Guarded, Named, ServerSentEvent, Submitted};
use super::whole::with_outputs;
use super::{App, scope};
use crate::db::{Caller, JobFilter, LabelFilter};
use crate::queue::Events;

/// Rows in one listing, where the caller does not say and at most.
pub(super) const PAGE_LEN: u32 = 100;
pub(super) const PAGE_LEN_MAX: u32 = 1000;

/// Between comments that show a silent stream to be alive.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct SubmitQuery {
    /// Answer when the job has ended.
    #[serde(default)]
    wait: bool,
}

/// Takes a job: 202, or with `?wait=true` 200 with how it ended, its outputs included. Where the worker
/// has every job approved, 202 in any case: the job is `pending`.
#[utoipa::path(post, path = "/v1/jobs", tag = "jobs", request_body = JobSpec,
    params(SubmitQuery, ("idempotency-key" = Option<String>, Header, min_length = 1,
        max_length = 200, description = "The same request under the same key makes one job")),
    responses((status = 202, description = "It is on record.", body = JobView,
            headers(("location" = String, description = "The job"))),
        (status = 200, description = "It has ended.", body = JobView,
            headers(("location" = String, description = "The job"))),
        Guarded, Submitted))]
pub(super) async fn submit(
    State(app): State<App>,
    identity: Identity,
    caller: Caller,
    Query(query): Query<SubmitQuery>,
    headers: HeaderMap,
    Extension(permit): Extension<BodyPermit>,
    Json(spec): Json<JobSpec>,
) -> Result<Response, ServerError> {
    let job = app.queue.submit(&identity, spec, key(&headers), caller).await?;
    // The job is on record; waiting for its end holds no body.
    drop(permit);
    // Nobody waits for a person with a connection that is open.
    if !query.wait || job.state == JobState::Pending {
        return Ok(accepted(job));
    }
    let location = location(&job);
    let scope = scope(&identity, false)?;
    let job = app.queue.wait(&job.id, &scope).await?;
    let Some(run) = &job.run else { return Ok((location, Json(job)).into_response()) };
    let run = app.queue.run(&run.id.to_string(), &scope).await?;
    let answer = with_outputs(run, |run| JobView { run: Some(run), ..job });
    Ok((location, answer).into_response())
}

/// Where a job is to be asked for.
fn location(job: &JobView) -> [(HeaderName, String); 1] {
    [(header::LOCATION, format!("/v1/jobs/{}", job.id))]
}

/// A job that is on record and has not ended.
pub(super) fn accepted(job: JobView) -> Response {
    (StatusCode::ACCEPTED, location(&job), Json(job)).into_response()
}

/// Takes all of several jobs, or none. They run in their order, as places become free.
#[utoipa::path(post, path = "/v1/jobs/batch", tag = "jobs", request_body = BatchRequest,
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 200,
        description = "The same batch under the same key makes its jobs once")),
    responses((status = 202, description = "They are on record.", body = Batch),
        Guarded, Submitted))]
pub(super) async fn submit_batch(
    State(app): State<App>,
    identity: Identity,
    caller: Caller,
    headers: HeaderMap,
    Json(request): Json<BatchRequest>,
) -> Result<(StatusCode, Json<Batch>), ServerError> {
    let jobs = app.queue.submit_batch(&identity, request.jobs, key(&headers), &caller).await?;
    Ok((StatusCode::ACCEPTED, Json(Batch { jobs })))
}

/// A key that is no text is refused by the queue as an empty one is.
pub(super) fn key(headers: &HeaderMap) -> Option<String> {
    let key = headers.get("idempotency-key")?;
    Some(key.to_str().unwrap_or_default().to_owned())
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Everybody's: for the operator alone.
    #[serde(default)]
    all: bool,
    /// In this state.
    state: Option<JobState>,
    /// In the image that was asked for by this name.
    image: Option<ImageName>,
    /// With this label, `name=value`; of any value where it is `name` alone.
    label: Option<String>,
    /// What file name, user, image or id contain, or a submitted job's name, tags or description.
    q: Option<String>,
    /// Of this user.
    username: Option<UserName>,
    /// Submitted to this owner.
    owner: Option<UserName>,
    /// In the owners' queues of this name.
    queue: Option<String>,
    /// Only jobs that were submitted to an owner.
    #[serde(default)]
    submitted: bool,
    /// `next_before` of the page before.
    before: Option<i64>,
    /// At most so many, 100 by default; at most 1000.
    limit: Option<u32>,
}

/// Jobs, newest first: the caller's own, and those that were submitted to the caller.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", params(ListQuery),
    responses((status = 200, description = "A page of them.", body = JobList), Guarded))]
pub(super) async fn list(
    State(app): State<App>,
    identity: Identity,
    Query(query): Query<ListQuery>,
) -> Result<Json<JobList>, ServerError> {
    let filter = JobFilter {
        scope: scope(&identity, query.all)?,
        state: query.state,
        image: query.image,
        label: query.label.map(|label| match label.split_once('=') {
            Some((name, value)) => {
                LabelFilter { name: name.to_owned(), value: Some(value.to_owned()) }
            }
            None => LabelFilter { name: label, value: None },
        }),
        search: query.q.filter(|search| !search.is_empty()),
        username: query.username,
        owner: query.owner,
        queue: query.queue,
        submitted: query.submitted,
        before: query.before,
        limit: query.limit.unwrap_or(PAGE_LEN).clamp(1, PAGE_LEN_MAX),
    };
    Ok(Json(app.queue.jobs(filter).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AllQuery {
    /// Look among everybody's: for the operator alone.
    #[serde(default)]
    pub(super) all: bool,
}

/// One job, with its latest run.
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs",
    params(AllQuery, ("id" = String, Path, description = "The job's id, or the beginning of it")),
    responses((status = 200, description = "The job.", body = JobView), Guarded, Named))]
pub(super) async fn show(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
    Query(query): Query<AllQuery>,
) -> Result<Json<JobView>, ServerError> {
    Ok(Json(app.queue.job(&id, &scope(&identity, query.all)?).await?))
}

/// Ends a job, and tells what became of it.
#[utoipa::path(post, path = "/v1/jobs/{id}/cancel", tag = "jobs",
    params(AllQuery, ("id" = String, Path, description = "The job's id, or the beginning of it")),
    responses((status = 200, description = "It has ended.", body = JobView), Guarded, Named))]
pub(super) async fn cancel(
    State(app): State<App>,
    identity: Identity,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<AllQuery>,
) -> Result<Json<JobView>, ServerError> {
    Ok(Json(app.queue.cancel(&id, &scope(&identity, query.all)?, caller).await?))
}

/// The job's events from the one after `Last-Event-ID` on, each sent as soon as it happens.
#[utoipa::path(get, path = "/v1/jobs/{id}/logs", tag = "jobs",
    params(AllQuery, ("id" = String, Path, description = "The job's id, or the beginning of it"),
        ("last-event-id" = Option<u64>, Header, description = "The last event that was seen")),
    responses((status = 200, description = "Server-sent events until its end; each one's data is \
        a JobEvent.", body = ServerSentEvent, content_type = "text/event-stream"), Guarded, Named))]
pub(super) async fn logs(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
    Query(query): Query<AllQuery>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, ServerError> {
    let after = last_event_id(&headers)?;
    Ok(told(app.queue.events(&id, &scope(&identity, query.all)?, after).await?))
}

/// The number of the last event that the caller has.
pub(super) fn last_event_id(headers: &HeaderMap) -> Result<u64, ServerError> {
    let Some(value) = headers.get("last-event-id") else { return Ok(0) };
    value.to_str().ok().and_then(|id| id.parse().ok()).ok_or_else(|| {
        ServerError::bad_request("bad_last_event_id", "last-event-id is not a number")
    })
}

/// Events as server-sent ones.
pub(super) fn told(events: Events) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let events = events.map(|(number, event)| {
        let name = match &event {
            JobEvent::State { .. } => "state",
            JobEvent::Output { .. } => "output",
            JobEvent::Truncated { .. } => "truncated",
            JobEvent::Usage(_) => "usage",
            JobEvent::End { .. } => "end",
        };
        let head = match number {
            Some(number) => Event::default().id(number.to_string()),
            None => Event::default(),
        };
        Ok(head.event(name).json_data(&event).expect("events are plain data"))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

/// The body becomes the job's standard input as it arrives; its end is the input's end. Answers
/// when the job has taken it all, or takes no more.
#[utoipa::path(post, path = "/v1/jobs/{id}/stdin", tag = "jobs",
    params(AllQuery, ("id" = String, Path, description = "The job's id, or the beginning of it")),
    request_body(content = [u8], content_type = "application/octet-stream"),
    responses((status = 204, description = "The job has it all, or takes no more."),
        Guarded, Named))]
pub(super) async fn stdin(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
    Query(query): Query<AllQuery>,
    body: Body,
) -> Result<StatusCode, ServerError> {
    let input = app.queue.stdin(&id, &scope(&identity, query.all)?).await?;
    let mut pieces = body.into_data_stream();
    loop {
        let piece = tokio::select! {
            piece = pieces.next() => piece,
            // A sender that keeps its input open does not keep this request open with it.
            () = input.closed() => break,
        };
        let Some(piece) = piece else { break };
        let piece = piece.map_err(|error| {
            ServerError::bad_request("body_broken", format!("the input broke off: {error}"))
        })?;
        if input.send(piece).await.is_err() {
            break;
        }
    }
    Ok(StatusCode::NO_CONTENT)
}
