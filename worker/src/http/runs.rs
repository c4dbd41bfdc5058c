//! The run log and the images: `/v1/runs`, `/v1/images`, `/stats`.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use sway_core::api::jobs::{ImageList, RunList, RunView};
use sway_core::job::{Cause, JobState};
use sway_server::error::{Json, Path, Query, ServerError};
use sway_server::guard::Identity;
use utoipa::IntoParams;

use super::jobs::{AllQuery, PAGE_LEN, PAGE_LEN_MAX};
use super::openapi::{FromFileserver, Guarded, Named};
use super::whole::with_outputs;
use super::{App, scope};
use crate::db::RunFilter;

/// Bytes of each output that `/stats` tells per run.
const STATS_OUTPUT_LEN: u32 = 64 << 10;

/// Bytes of all their standard outputs together, and of all their standard errors.
const STATS_OUTPUTS_LEN: u32 = 8 << 20;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Everybody's: for the operator alone.
    #[serde(default)]
    all: bool,
    /// `next_before` of the page before.
    before: Option<i64>,
    /// At most so many, 100 by default; at most 1000.
    limit: Option<u32>,
    /// What file name, user, image or job id contain.
    q: Option<String>,
    /// Of its job.
    state: Option<JobState>,
    /// Why it ended.
    cause: Option<Cause>,
    /// What the image's name contains.
    image: Option<String>,
}

impl ListQuery {
    fn filter(self, identity: &Identity, output_len: u32) -> Result<RunFilter, ServerError> {
        Ok(RunFilter {
            scope: scope(identity, self.all)?,
            before: self.before,
            limit: self.limit.unwrap_or(PAGE_LEN).clamp(1, PAGE_LEN_MAX),
            search: self.q.filter(|search| !search.is_empty()),
            state: self.state,
            cause: self.cause,
            image: self.image.filter(|image| !image.is_empty()),
            output_len,
        })
    }
}

/// Runs, newest first, without outputs.
#[utoipa::path(get, path = "/v1/runs", tag = "runs", params(ListQuery),
    responses((status = 200, description = "A page of them.", body = RunList), Guarded))]
pub(super) async fn list(
    State(app): State<App>,
    identity: Identity,
    Query(query): Query<ListQuery>,
) -> Result<Json<RunList>, ServerError> {
    Ok(Json(app.queue.runs(query.filter(&identity, 0)?).await?))
}

/// One run with its whole outputs.
#[utoipa::path(get, path = "/v1/runs/{id}", tag = "runs",
    params(AllQuery, ("id" = String, Path, description = "Its number, or its job's id")),
    responses((status = 200, description = "The run.", body = RunView), Guarded, Named))]
pub(super) async fn show(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
    Query(query): Query<AllQuery>,
) -> Result<Response, ServerError> {
    let found = app.queue.run(&id, &scope(&identity, query.all)?).await?;
    Ok(with_outputs(found, |run| run))
}

/// The runs as an array, newest first, with the beginnings of their outputs: the shape that
/// users of tinycontainerruntime read.
#[utoipa::path(get, path = "/stats", tag = "runs", params(ListQuery),
    responses((status = 200, description = "Runs.", body = Vec<RunView>), Guarded))]
pub(super) async fn stats(
    State(app): State<App>,
    identity: Identity,
    Query(query): Query<ListQuery>,
) -> Result<Json<Vec<RunView>>, ServerError> {
    let mut filter = query.filter(&identity, 0)?;
    filter.output_len = STATS_OUTPUT_LEN.min(STATS_OUTPUTS_LEN / filter.limit);
    Ok(Json(app.queue.runs(filter).await?.runs))
}

/// The images that the caller can run.
#[utoipa::path(get, path = "/v1/images", tag = "images",
    responses((status = 200, description = "Sorted by name.", body = ImageList), Guarded,
        FromFileserver))]
pub(super) async fn images(
    State(app): State<App>,
    identity: Identity,
) -> Result<Json<ImageList>, ServerError> {
    Ok(Json(ImageList { images: app.queue.images(&identity).await? }))
}
