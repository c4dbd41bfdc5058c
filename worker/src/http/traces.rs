//! `/v1/traces`: prepare an image for cold starts.

use axum::extract::State;
use axum::http::StatusCode;
use sway_core::api::jobs::{TraceAnswer, TraceRequest};
use sway_server::error::{Json, ServerError};
use sway_server::guard::Identity;

use super::App;
use super::openapi::{Guarded, Submitted};
use crate::db::Caller;
use crate::trace::{Deferred, PrepareError};

/// With a single CPU, numeric libraries start no threads, whose code the trace would lack.
const RECORDING_CPUS_MILLI: u32 = 2000;

/// Prepares an image for its first start: 202 as soon as the image is found; the work follows.
#[utoipa::path(post, path = "/v1/traces", tag = "images", request_body = TraceRequest,
    responses((status = 202, description = "The image is found.", body = TraceAnswer),
        Guarded, Submitted))]
pub(super) async fn prepare(
    State(app): State<App>,
    identity: Identity,
    caller: Caller,
    Json(request): Json<TraceRequest>,
) -> Result<(StatusCode, Json<TraceAnswer>), ServerError> {
    let Some(traces) = app.traces.clone() else {
        return Err(ServerError::conflict("traces_off", "this worker records no traces")
            .hint("it was started with --trace off"));
    };
    if app.queue.has_all_approved() {
        let message = "every job here needs an approval, and so would one that records a trace";
        return Err(ServerError::conflict("approval_required", message)
            .hint("runs that are approved record what they touch"));
    }
    let place = traces.place().map_err(|Deferred { retry_after }| {
        ServerError::too_many("too many images are being prepared at once", retry_after)
    })?;
    let manifest = traces.find(&identity, &request.image).await?;
    let queue = app.queue.clone();
    let cpus_milli = RECORDING_CPUS_MILLI.min(app.maxima.cpus_milli);
    traces.tasks().clone().spawn("prepare traces", async move {
        let image = request.image.to_string();
        match traces.prepare(&identity.user, manifest, request).await {
            Ok(mut spec) => {
                spec.limits.cpus_milli = Some(cpus_milli);
                match queue.submit(&identity, spec, None, caller).await {
                    Ok(job) => tracing::info!(job.id = job.id, "a job records a trace"),
                    Err(error) => {
                        tracing::warn!(image.name = image, %error, "no trace is recorded");
                    }
                }
            }
            Err(error @ PrepareError::NoCommand) => {
                tracing::info!(image.name = image, "no trace is recorded: {error}");
            }
            Err(error @ PrepareError::Failed(_)) => {
                tracing::warn!(image.name = image, %error, "no trace is recorded");
            }
        }
        drop(place);
    });
    Ok((StatusCode::ACCEPTED, Json(TraceAnswer { manifest })))
}
