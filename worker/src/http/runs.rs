//! The run log and the images: `/v1/runs`, `/v1/images`, `/stats`.

use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use sway_core::api::jobs::{ImageList, RunList, RunView};
use sway_server::error::{Json, Path, Query, ServerError};
use sway_server::guard::Identity;

use super::jobs::{AllQuery, PAGE_LEN, PAGE_LEN_MAX};
use super::whole::with_outputs;
use super::{App, scope};
use crate::db::RunFilter;

/// Bytes of each output that `/stats` tells per run.
const STATS_OUTPUT_LEN: u32 = 64 << 10;

/// Bytes of all their standard outputs together, and of all their standard errors.
const STATS_OUTPUTS_LEN: u32 = 8 << 20;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    #[serde(default)]
    all: bool,
    before: Option<i64>,
    limit: Option<u32>,
    q: Option<String>,
}

impl ListQuery {
    fn filter(self, identity: &Identity, output_len: u32) -> Result<RunFilter, ServerError> {
        Ok(RunFilter {
            scope: scope(identity, self.all)?,
            before: self.before,
            limit: self.limit.unwrap_or(PAGE_LEN).clamp(1, PAGE_LEN_MAX),
            search: self.q.filter(|search| !search.is_empty()),
            output_len,
        })
    }
}

pub(super) async fn list(
    State(app): State<App>,
    identity: Identity,
    Query(query): Query<ListQuery>,
) -> Result<Json<RunList>, ServerError> {
    Ok(Json(app.queue.runs(query.filter(&identity, 0)?).await?))
}

/// One run with its whole outputs.
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
pub(super) async fn stats(
    State(app): State<App>,
    identity: Identity,
    Query(query): Query<ListQuery>,
) -> Result<Json<Vec<RunView>>, ServerError> {
    let mut filter = query.filter(&identity, 0)?;
    filter.output_len = STATS_OUTPUT_LEN.min(STATS_OUTPUTS_LEN / filter.limit);
    Ok(Json(app.queue.runs(filter).await?.runs))
}

pub(super) async fn images(
    State(app): State<App>,
    identity: Identity,
) -> Result<Json<ImageList>, ServerError> {
    Ok(Json(ImageList { images: app.queue.images(&identity).await? }))
}
