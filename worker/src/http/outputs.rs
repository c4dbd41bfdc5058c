//! `/v1/jobs/{id}/outputs`: what a job left in `/output`, listed, one file, or all as one archive.

use std::io::SeekFrom;

use axum::body::Body;
use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use sway_core::api::jobs::OutputFiles;
use sway_server::error::{Json, Path, Query, ServerError};
use sway_server::guard::Identity;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;
use utoipa::{IntoParams, ToSchema};

use super::jobs::AllQuery;
use super::openapi::{Guarded, Named};
use super::{App, scope};
use crate::queue::OutputBytes;

/// Bytes of an answer that are read at a time.
const PIECE_LEN: usize = 128 << 10;

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct OutputsQuery {
    /// Look among everybody's: for the operator alone.
    #[serde(default)]
    all: bool,
    /// The listing, or everything.
    #[serde(default)]
    #[param(inline)]
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Format {
    #[default]
    Json,
    Tar,
}

/// What a job left in `/output`: the listing, or with `?format=tar` everything.
#[utoipa::path(get, path = "/v1/jobs/{id}/outputs", tag = "jobs",
    params(OutputsQuery, ("id" = String, Path, description = "The job's id, or the beginning of it")),
    responses((status = 200, description = "What there is.",
        content((OutputFiles = "application/json"), (String = "application/x-tar"))),
        Guarded, Named))]
pub(super) async fn list(
    State(app): State<App>,
    identity: Identity,
    Path(id): Path<String>,
    Query(query): Query<OutputsQuery>,
) -> Result<Response, ServerError> {
    let outputs = app.queue.outputs(&id, &scope(&identity, query.all)?).await?;
    match query.format {
        Format::Json => Ok(Json(OutputFiles { files: outputs.list().await? }).into_response()),
        Format::Tar => answer(outputs.whole().await?, "application/x-tar").await,
    }
}

/// One file that a job left in `/output`.
#[utoipa::path(get, path = "/v1/jobs/{id}/outputs/{*path}", tag = "jobs",
    params(AllQuery, ("id" = String, Path, description = "The job's id, or the beginning of it"), ("path" = String, Path, description = "From `/output`; with slashes")),
    responses((status = 200, description = "Its bytes.", body = [u8],
        content_type = "application/octet-stream"), Guarded, Named))]
pub(super) async fn show(
    State(app): State<App>,
    identity: Identity,
    Path((id, path)): Path<(String, String)>,
    Query(query): Query<AllQuery>,
) -> Result<Response, ServerError> {
    let outputs = app.queue.outputs(&id, &scope(&identity, query.all)?).await?;
    answer(outputs.file(&path).await?, "application/octet-stream").await
}

/// A job chose the bytes: no browser is to take them for a page of ours.
pub(super) async fn answer(
    bytes: OutputBytes,
    content_type: &str,
) -> Result<Response, ServerError> {
    let OutputBytes { file, offset, len } = bytes;
    let mut file = tokio::fs::File::from_std(file);
    file.seek(SeekFrom::Start(offset)).await.map_err(|error| {
        tracing::error!(%error, "an output can't be read");
        ServerError::internal("the worker failed; its log says why")
    })?;
    let pieces = ReaderStream::with_capacity(file.take(len), PIECE_LEN);
    let headers = [
        (header::CONTENT_TYPE, content_type.to_owned()),
        (header::CONTENT_LENGTH, len.to_string()),
        (header::CONTENT_DISPOSITION, "attachment".to_owned()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".to_owned()),
    ];
    Ok((headers, Body::from_stream(pieces)).into_response())
}
