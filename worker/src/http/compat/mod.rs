//! The requests that users of other systems already send: `POST /run` in the forms of `PyRunner`
//! and of tinycontainerruntime, `POST /execute` with the envelope of `SRaaS`.
//!
//! Each is a job like any other; what differs is what it asks for where the caller says nothing,
//! and the shape of the answer. Code that fails is an answer with status 200.

mod fields;
mod handler;
mod pyrunner;
mod tinycontainer;
mod traceback;
mod uploads;

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use sway_core::api::jobs::{JobView, RunView};
use sway_core::job::{JobSpec, JobState};
use sway_server::error::{Json, ServerError};
use sway_server::guard::Identity;
use utoipa::openapi::{OneOf, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

pub(super) use self::handler::{__path_execute, execute};
pub(super) use self::pyrunner::{MEMORY_MIB_MAX, TIMEOUT_S_MAX};
pub(super) use self::tinycontainer::{__path_upload, upload};
pub use self::uploads::Uploads;
use super::bodies::BodyPermit;
use super::jobs::accepted;
use super::openapi::{Guarded, Submitted};
use super::whole::with_outputs;
use super::{App, scope};
use crate::db::Caller;
use crate::queue::{FoundRun, QueueError};

/// The run's number, in every answer that tells of one.
const RUN_HEADER: &str = "x-sway-run";

/// Runs code (`code`, as `PyRunner` does) or a script that was sent by `PUT /batch-upload` (`FileName`,
/// as tinycontainerruntime does).
#[utoipa::path(post, path = "/run", tag = "other systems", request_body = RunRequest,
    responses((status = 200, description = "It has ended, however.", body = RunAnswer,
        headers(("x-sway-run" = i64, description = "The run's number"))),
        (status = 202, description = "It waits for an approval, as every job here.", body = JobView,
            headers(("location" = String, description = "The job"))), Guarded, Submitted))]
pub(super) async fn run(
    State(app): State<App>,
    identity: Identity,
    caller: Caller,
    Extension(permit): Extension<BodyPermit>,
    Json(fields): Json<Map<String, Value>>,
) -> Result<Response, ServerError> {
    match (fields.contains_key("code"), fields.contains_key("FileName")) {
        (true, false) => pyrunner::run(app, identity, caller, permit, fields).await,
        (false, true) => tinycontainer::run(app, identity, caller, permit, fields).await,
        (true, true) => Err(form_unknown("both code and FileName are given")),
        (false, false) => Err(form_unknown("neither code nor FileName is given")),
    }
}

/// The body of `POST /run`. Its fields are checked one by one, so that there is no type of it.
struct RunRequest;

impl PartialSchema for RunRequest {
    fn schema() -> RefOr<Schema> {
        OneOf::builder().item(pyrunner::request()).item(tinycontainer::request()).into()
    }
}

impl ToSchema for RunRequest {}

/// And its answer.
struct RunAnswer;

impl PartialSchema for RunAnswer {
    fn schema() -> RefOr<Schema> {
        OneOf::builder()
            .item(pyrunner::Snippet::schema())
            .item(tinycontainer::Script::schema())
            .into()
    }
}

impl ToSchema for RunAnswer {}

fn form_unknown(message: &str) -> ServerError {
    ServerError::bad_request("bad_form", message).hint(
        "send code (with timeout, memory_limit, image) to run it, \
         or FileName (with Username) to run what PUT /batch-upload stored",
    )
}

/// How a job ended.
enum Ended {
    /// With a run.
    Run(Box<FoundRun>),
    /// Without one, and why.
    Never(String),
    /// Not yet: somebody has to approve it, and no connection waits for that.
    Pending(Box<JobView>),
}

/// Has a job run to its end. What a policy objects to is an answer like any other.
async fn ended(
    app: &App,
    identity: &Identity,
    caller: Caller,
    spec: JobSpec,
    permit: BodyPermit,
) -> Result<Ended, ServerError> {
    let job = match app.queue.submit(identity, spec, None, caller).await {
        Err(error @ QueueError::Policy { .. }) => return Ok(Ended::Never(error.to_string())),
        submitted => submitted?,
    };
    drop(permit);
    if job.state == JobState::Pending {
        return Ok(Ended::Pending(Box::new(job)));
    }
    let scope = scope(identity, false)?;
    Ok(match app.queue.ended(&job.id, &scope).await? {
        Ok(run) => Ended::Run(Box::new(run)),
        Err(state) => Ended::Never(state.as_str().to_owned()),
    })
}

/// The answer that `shape` makes of a run, its outputs whole.
fn answer<T: Serialize>(found: FoundRun, shape: impl FnOnce(RunView) -> T) -> Response {
    let number = found.run.id;
    ([(RUN_HEADER, number.to_string())], with_outputs(found, shape)).into_response()
}
