//! `SRaaS`'s envelope: a handler and its input in, its result, logs and error out.

use axum::Extension;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use sway_core::api::execute::{ExecuteRequest, Executed};
use sway_core::api::jobs::JobView;
use sway_server::error::{Json, ServerError};
use sway_server::guard::Identity;

use super::{App, Ended, accepted, answer, ended};
use crate::db::Caller;
use crate::http::bodies::BodyPermit;
use crate::http::openapi::{Guarded, Submitted};
use crate::queue::QueueError;

/// Calls a function once, in `SRaaS`'s envelope.
#[utoipa::path(post, path = "/execute", tag = "other systems", request_body = ExecuteRequest,
    responses((status = 200, description = "It has ended, however.", body = Executed,
        headers(("x-sway-run" = i64, description = "The run's number"))),
        (status = 202, description = "It waits for an approval, as every job here.", body = JobView,
            headers(("location" = String, description = "The job"))), Guarded, Submitted))]
pub(in crate::http) async fn execute(
    State(app): State<App>,
    identity: Identity,
    caller: Caller,
    Extension(permit): Extension<BodyPermit>,
    Json(request): Json<ExecuteRequest>,
) -> Result<Response, ServerError> {
    let spec = request.into_spec().map_err(QueueError::from)?;
    Ok(match ended(&app, &identity, caller, spec, permit).await? {
        Ended::Run(found) => answer(*found, Executed::of_run),
        Ended::Never(reason) => {
            let (logs, error) = (String::new(), Some(reason));
            Json(Executed { result: None, logs, error, duration_ms: 0 }).into_response()
        }
        Ended::Pending(job) => accepted(*job),
    })
}
