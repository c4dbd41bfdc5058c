//! Jobs that an owner decides on: submit, review, approve, reject; an owner's queue and datasets.

use axum::Extension;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use sway_core::api::jobs::JobView;
use sway_core::api::submissions::{
    DatasetList, Decided, DecisionRequest, QueueSettings, QueueView, Review, Submission,
};
use sway_core::name::UserName;
use sway_server::error::{Json, Path, Query, ServerError};
use sway_server::guard::Identity;
use utoipa::IntoParams;

use super::bodies::BodyPermit;
use super::jobs::{AllQuery, accepted, key};
use super::openapi::{FromFileserver, Guarded, Named, Submitted};
use super::{App, scope};
use crate::db::Caller;

/// Takes a job for its owner to decide on. It is pending until then.
#[utoipa::path(post, path = "/v1/submissions", tag = "submissions", request_body = Submission,
    params(("idempotency-key" = Option<String>, Header, min_length = 1, max_length = 200,
        description = "The same submission under the same key makes one job")),
    responses((status = 202, description = "It is on record, and pending.", body = JobView,
            headers(("location" = String, description = "The job"))),
        Guarded, Submitted))]
pub(super) async fn submit(
    State(app): State<App>,
    identity: Identity,
    caller: Caller,
    headers: HeaderMap,
    Extension(_permit): Extension<BodyPermit>,
    Json(submission): Json<Submission>,
) -> Result<Response, ServerError> {
    app.users.check_owner(&identity, &submission.owner)?;
    let key = key(&headers);
    let job = app.queue.submit_to_owner(&identity.user, submission, key, caller).await?;
    Ok(accepted(job))
}

/// All that a decision on a job needs: every file, what the policy finds in them, and what the
/// submitter's last approved job ran.
#[utoipa::path(get, path = "/v1/jobs/{id}/review", tag = "submissions",
    params(AllQuery, ("id" = String, Path, description = "The job's id, or the beginning of it")),
    responses((status = 200, description = "The job and its code.", body = Review),
        Guarded, Named))]
pub(super) async fn review(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
    Query(query): Query<AllQuery>,
) -> Result<Json<Review>, ServerError> {
    Ok(Json(app.queue.review(&id, &scope(&identity, query.all)?).await?))
}

/// Lets a pending job run. Once more changes nothing; a job that was rejected stays so.
#[utoipa::path(post, path = "/v1/jobs/{id}/approve", tag = "submissions",
    request_body = DecisionRequest,
    params(AllQuery, ("id" = String, Path, description = "The job's id, or the beginning of it")),
    responses((status = 200, description = "It is approved.", body = Decided),
        Guarded, Named, Submitted))]
pub(super) async fn approve(
    State(app): State<App>,
    identity: Identity,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<AllQuery>,
    Json(request): Json<DecisionRequest>,
) -> Result<Json<Decided>, ServerError> {
    let scope = scope(&identity, query.all)?;
    Ok(Json(app.queue.decide(&id, &scope, true, request, caller).await?))
}

/// Ends a pending job before it runs. Once more changes nothing; a job that was approved stays so.
#[utoipa::path(post, path = "/v1/jobs/{id}/reject", tag = "submissions",
    request_body = DecisionRequest,
    params(AllQuery, ("id" = String, Path, description = "The job's id, or the beginning of it")),
    responses((status = 200, description = "It is rejected.", body = Decided),
        Guarded, Named, Submitted))]
pub(super) async fn reject(
    State(app): State<App>,
    identity: Identity,
    caller: Caller,
    Path(id): Path<String>,
    Query(query): Query<AllQuery>,
    Json(request): Json<DecisionRequest>,
) -> Result<Json<Decided>, ServerError> {
    let scope = scope(&identity, query.all)?;
    Ok(Json(app.queue.decide(&id, &scope, false, request, caller).await?))
}

/// The caller's own queue: what it grants, and how many jobs there are.
#[utoipa::path(get, path = "/v1/queue", tag = "submissions",
    responses((status = 200, description = "The queue.", body = QueueView), Guarded))]
pub(super) async fn queue(
    State(app): State<App>,
    identity: Identity,
) -> Result<Json<QueueView>, ServerError> {
    Ok(Json(app.queue.queue_of(&identity.user).await?))
}

/// Changes what the caller's own queue grants. What was submitted before stays as it is.
#[utoipa::path(put, path = "/v1/queue", tag = "submissions", request_body = QueueSettings,
    responses((status = 200, description = "The queue.", body = QueueView), Guarded, Submitted))]
pub(super) async fn set_queue(
    State(app): State<App>,
    identity: Identity,
    caller: Caller,
    Json(settings): Json<QueueSettings>,
) -> Result<Json<QueueView>, ServerError> {
    Ok(Json(app.queue.set_queue(&identity.user, settings, caller).await?))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct DatasetsQuery {
    /// Whose; the caller's own where absent.
    owner: Option<UserName>,
}

/// An owner's datasets that have names, and that jobs submitted to the owner may ask for.
#[utoipa::path(get, path = "/v1/datasets", tag = "submissions", params(DatasetsQuery),
    responses((status = 200, description = "All of them.", body = DatasetList),
        Guarded, FromFileserver))]
pub(super) async fn datasets(
    State(app): State<App>,
    identity: Identity,
    Query(query): Query<DatasetsQuery>,
) -> Result<Json<DatasetList>, ServerError> {
    let owner = query.owner.unwrap_or_else(|| identity.user.clone());
    let datasets = app.queue.named_datasets(&identity.user, &owner).await?;
    Ok(Json(DatasetList { datasets }))
}
