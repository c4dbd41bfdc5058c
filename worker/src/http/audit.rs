//! `/v1/audit`: who did what to which job.

use axum::extract::State;
use serde::Deserialize;
use sway_core::api::submissions::{AuditPage, AuditVerdict};
use sway_core::audit::Head;
use sway_server::error::{Json, Query, ServerError};
use sway_server::guard::Identity;
use utoipa::IntoParams;

use super::jobs::{PAGE_LEN, PAGE_LEN_MAX};
use super::openapi::{Guarded, Named};
use super::{App, scope};

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct AuditQuery {
    /// About one job of the caller's, by its id or the beginning of it. All entries are for the
    /// operator alone.
    job: Option<String>,
    /// `next_after` of the page before.
    #[serde(default)]
    after: i64,
    /// At most so many, 100 by default; at most 1000.
    limit: Option<u32>,
}

/// Entries, oldest first. Each has the hash of the one before, so that whoever has all of them
/// can check them.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(AuditQuery),
    responses((status = 200, description = "A page of them.", body = AuditPage), Guarded, Named))]
pub(super) async fn list(
    State(app): State<App>,
    identity: Identity,
    Query(query): Query<AuditQuery>,
) -> Result<Json<AuditPage>, ServerError> {
    let limit = query.limit.unwrap_or(PAGE_LEN).clamp(1, PAGE_LEN_MAX);
    let page = match &query.job {
        Some(job) => {
            let scope = scope(&identity, false)?;
            app.queue.audit(Some((job, &scope)), query.after, limit).await?
        }
        None => {
            scope(&identity, true)?;
            app.queue.audit(None, query.after, limit).await?
        }
    };
    Ok(Json(page))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct VerifyQuery {
    /// `SEQ:HASH`: an entry that was noted, and must still be there.
    head: Option<String>,
}

/// Follows the whole chain on the server; for the operator alone.
#[utoipa::path(get, path = "/v1/audit/verify", tag = "audit", params(VerifyQuery),
    responses((status = 200, description = "Where it ends, or is broken.", body = AuditVerdict),
        Guarded))]
pub(super) async fn verify(
    State(app): State<App>,
    identity: Identity,
    Query(query): Query<VerifyQuery>,
) -> Result<Json<AuditVerdict>, ServerError> {
    scope(&identity, true)?;
    let parsed = query.head.map(|head| head.parse::<Head>()).transpose();
    let noted = parsed.map_err(|error| {
        ServerError::bad_request("malformed_head", error.to_string()).field("head")
    })?;
    Ok(Json(app.queue.verify_audit(noted).await?))
}
