//! What is refused below, as statuses: the only place where this is decided.

use axum::http::StatusCode;
use sway_client::ClientError;
use sway_server::error::ServerError;

use crate::db::DbError;
use crate::queue::QueueError;
use crate::users::UsersError;

impl From<QueueError> for ServerError {
    fn from(error: QueueError) -> Self {
        let message = error.to_string();
        match error {
            QueueError::Spec(error) => Self::bad_request("bad_job", message).field(error.field),
            QueueError::Limit(error) => Self::bad_request("limit_exceeded", message)
                .field(limit_field(error.field))
                .hint("ask for less, or have the worker started with higher maxima"),
            QueueError::Policy { .. } => Self::bad_request("policy", message)
                .field("program.files")
                .hint("this worker runs only Python that keeps to its policy"),
            QueueError::NoImage { .. } => Self::not_found("image_not_found", message)
                .field("image")
                .hint("see `sway images`; `sway export` makes an image available"),
            QueueError::NoDataset(_) => Self::not_found("dataset_not_found", message)
                .field("datasets")
                .hint("`sway run --data PATH` stores one, and runs a job on it"),
            QueueError::NoOutputs { .. } => Self::not_found("no_outputs", message),
            QueueError::NoOutput { .. } => Self::not_found("output_not_found", message),
            QueueError::ImageMoved { .. } => Self::conflict("image_moved", message)
                .field("image")
                .hint("leave the digest out to run the image as it is now"),
            QueueError::Fileserver { source, .. } => of_fileserver(&message, &source),
            QueueError::BatchLen { .. } => Self::bad_request("bad_batch", message),
            QueueError::InBatch { at, source } => {
                let refused = Self::from(*source);
                let field = refused.field.as_ref().map(|field| format!("jobs.{at}.{field}"));
                Self { message, field, ..refused }
            }
            QueueError::BadKey => Self::bad_request("bad_idempotency_key", message),
            QueueError::NotGranted(_) => Self::bad_request("not_granted", message)
                .hint("ask for less, or ask the owner, who can change it with `sway queue set`"),
            QueueError::Full { retry_after, .. }
            | QueueError::Pending { retry_after, .. }
            | QueueError::Share { retry_after, .. } => Self::too_many(message, retry_after),
            QueueError::Stopping => Self::unavailable("stopping", message),
            QueueError::Ended { .. } => Self::conflict("job_ended", message),
            QueueError::NoStdin { .. } => Self::conflict("no_stdin", message),
            QueueError::Output { .. } | QueueError::Outputs(_) => internal(&error),
            QueueError::Db(error) => of_db(message, &error),
        }
    }
}

impl From<UsersError> for ServerError {
    fn from(error: UsersError) -> Self {
        let message = error.to_string();
        match error {
            UsersError::NoUser(_) => Self::not_found("user_not_found", message)
                .hint("`sway user list` tells which there are; `sway user add` adds one"),
            UsersError::NoOwner(_) => Self::new(StatusCode::FORBIDDEN, "not_an_owner", message)
                .field("owner")
                .hint("the operator makes somebody an owner: `sway user add NAME --role owner`"),
            UsersError::NoToken(_) => Self::not_found("token_not_found", message)
                .hint("`sway token list` tells which there are"),
            UsersError::Exists(_) => Self::conflict("user_exists", message),
            UsersError::TooMany(_) => {
                Self::conflict("too_many", message).hint("revoke what is not needed")
            }
            UsersError::Reserved(_) => Self::bad_request("reserved_name", message).field("name"),
            UsersError::Scopes { .. } => Self::bad_request("bad_scopes", message).field("scopes"),
            UsersError::Label => Self::bad_request("bad_label", message).field("label"),
            UsersError::Expiry => Self::bad_request("bad_expiry", message).field("expires_in_s"),
            UsersError::Db(error) => of_db(message, &error),
        }
    }
}

/// Where a job's request has a limit: those of `/output` are named with their object.
fn limit_field(name: &str) -> String {
    if name.contains('.') { name.to_owned() } else { format!("limits.{name}") }
}

fn of_db(message: String, error: &DbError) -> ServerError {
    match error {
        DbError::NoJob(_) => ServerError::not_found("job_not_found", message),
        DbError::NoRun(_) => ServerError::not_found("run_not_found", message),
        DbError::AmbiguousJob(_) => {
            ServerError::conflict("ambiguous_id", message).hint("give more letters of the id")
        }
        DbError::KeyReused => ServerError::conflict("idempotency_key_reused", message),
        DbError::IllegalMove { .. } => ServerError::conflict("job_ended", message),
        DbError::NotSubmitted(_) => ServerError::conflict("not_submitted", message),
        DbError::NotOwner { .. } => ServerError::forbidden(message),
        DbError::Decided { .. } => ServerError::conflict("decided", message),
        DbError::Preparing(_) => {
            ServerError::conflict("preparing", message).hint("`sway status ID` tells when they are")
        }
        DbError::NotReviewed(_) => {
            ServerError::conflict("not_reviewed", message).hint("review it again before you decide")
        }
        DbError::Private { .. }
        | DbError::Open { .. }
        | DbError::Newer { .. }
        | DbError::Sql(_)
        | DbError::Row { .. }
        | DbError::Closed => internal(error),
    }
}

/// A pass that names no fileserver would open nothing.
pub(super) fn no_pass(error: &ClientError) -> ServerError {
    of_fileserver("no pass can be made", error)
}

fn of_fileserver(message: &str, source: &ClientError) -> ServerError {
    let told = format!("{message}: {source}");
    match source {
        ClientError::Unreachable { .. } | ClientError::Timeout { .. } => {
            ServerError::unavailable("fileserver_unreachable", told)
                .hint("is the fileserver running, and --fileserver right?")
        }
        ClientError::Untrusted { .. }
        | ClientError::Refused { .. }
        | ClientError::Missing(_)
        | ClientError::Corrupt(_)
        | ClientError::Protocol { .. }
        | ClientError::Config(_) => {
            ServerError::new(StatusCode::BAD_GATEWAY, "fileserver_failed", told)
        }
    }
}

/// The caller learns that it is not its fault; the log learns why.
fn internal(error: &(dyn std::error::Error + 'static)) -> ServerError {
    tracing::error!(error, "request failed");
    ServerError::internal("the worker failed; its log says why")
}
