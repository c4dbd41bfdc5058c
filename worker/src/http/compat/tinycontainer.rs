//! tinycontainerruntime's form: a script is uploaded, then run by its name.

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sway_core::api::jobs::RunView;
use sway_core::job::{JobFile, JobSpec, Limits, LimitsRequest, Program, base64_bytes};
use sway_core::name::{ImageName, UserName};
use sway_server::error::{Json, ServerError};
use sway_server::guard::{ANONYMOUS, Identity, OPERATOR};
use utoipa::ToSchema;
use utoipa::openapi::schema::{AdditionalProperties, Type};
use utoipa::openapi::{Object, Ref};

use super::fields::Fields;
use super::{App, Ended, accepted, answer, ended};
use crate::db::Caller;
use crate::http::bodies::BodyPermit;
use crate::http::openapi::{Guarded, Submitted};
use crate::queue::QueueError;

/// Bytes of a script's name.
const NAME_LEN_MAX: usize = 255;

/// One file of an upload; what else its client says of it does not matter to a script.
#[derive(Deserialize, ToSchema)]
pub(in crate::http) struct Entry {
    /// `app/` and the script's name.
    key: String,
    /// Its bytes.
    #[serde(with = "base64_bytes")]
    #[schema(value_type = String, content_encoding = "base64")]
    value: Vec<u8>,
}

/// The body of a request.
pub(super) fn request() -> Object {
    let name = Object::builder().schema_type(Type::String).min_length(Some(1));
    Object::builder()
        .schema_type(Type::Object)
        .property("FileName", name.description(Some("The script, as it was uploaded.")))
        .property("Username", Ref::from_schema_name(UserName::name()))
        .property("image", Ref::from_schema_name(ImageName::name()))
        .required("FileName")
        .additional_properties(Some(AdditionalProperties::FreeForm(false)))
        .build()
}

/// How it ended.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct Script {
    stdout: String,
    stderr: String,
    exit_code: i32,
    /// What ended it other than itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// The run's number.
    run_id: i64,
}

/// Takes scripts (under `app/`) for later requests of their uploader.
#[utoipa::path(put, path = "/batch-upload", tag = "other systems", request_body = Vec<Entry>,
    responses((status = 200, description = "They are stored.", body = String),
        Guarded, Submitted))]
pub(in crate::http) async fn upload(
    State(app): State<App>,
    identity: Identity,
    body: Bytes,
) -> Result<String, ServerError> {
    let entries: Vec<Entry> = serde_json::from_slice(&body).map_err(|error| {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        ServerError::new(status, "malformed_json", format!("not an array of files: {error}"))
    })?;
    let mut scripts = Vec::with_capacity(entries.len());
    for Entry { key, value } in entries {
        let name = key.strip_prefix("app/").filter(|name| is_script_name(name));
        let name = name.ok_or_else(|| {
            let key: String = key.chars().take(NAME_LEN_MAX).collect();
            ServerError::bad_request(
                "bad_key",
                format!("key {key:?} is not app/ and a script's name"),
            )
            .hint("images come by `sway export`")
        })?;
        scripts.push((name.to_owned(), value));
    }
    let count = scripts.len();
    for (name, content) in scripts {
        if !app.uploads.put(&identity.user, name.clone(), content.into()) {
            return Err(ServerError::too_large(format!("app/{name} is too large to be kept")));
        }
    }
    Ok(format!("Received request {count} files\nStored {count} files\n"))
}

fn is_script_name(name: &str) -> bool {
    (1..=NAME_LEN_MAX).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        && name != "."
        && name != ".."
}

pub(super) async fn run(
    app: App,
    identity: Identity,
    caller: Caller,
    permit: BodyPermit,
    fields: Map<String, Value>,
) -> Result<Response, ServerError> {
    let mut fields = Fields::new(fields);
    let name = fields.text("FileName", 1..=NAME_LEN_MAX);
    let user: Option<UserName> = fields.parsed("Username");
    let image: Option<ImageName> = fields.parsed("image");
    if let Err(invalid) = fields.end() {
        return Ok(invalid.into_response());
    }
    let content = app.uploads.get(&identity.user, &name).ok_or_else(|| {
        ServerError::not_found("script_not_found", format!("there is no script app/{name}"))
            .hint("send it by PUT /batch-upload; `sway run` sends it with the job")
    })?;
    let identity = speaking_for(identity, user)?;
    let file = JobFile { path: name, content: content.into(), executable: false };
    let limits = Limits::grant(&LimitsRequest::default(), &Limits::TINYCONTAINER, &app.maxima);
    let limits = limits.map_err(QueueError::from)?.into();
    let spec = JobSpec { limits, ..JobSpec::new(image, Program::Script { file }) };
    Ok(match ended(&app, &identity, caller, spec, permit).await? {
        Ended::Run(found) => answer(*found, shape),
        Ended::Never(reason) => {
            let error = Some(reason);
            Json(Script { exit_code: 125, error, ..Script::default() }).into_response()
        }
        Ended::Pending(job) => accepted(*job),
    })
}

/// A caller that the token does not name may name itself.
fn speaking_for(identity: Identity, user: Option<UserName>) -> Result<Identity, ServerError> {
    let is_nobody = [OPERATOR, ANONYMOUS].contains(&identity.user.as_ref());
    match user {
        None => Ok(identity),
        Some(user) if user == identity.user => Ok(identity),
        Some(user) if is_nobody => Ok(Identity { user, ..identity }),
        Some(user) => {
            let own = identity.user;
            Err(ServerError::forbidden(format!("Username is {user}, and the caller is {own}")))
        }
    }
}

fn shape(run: RunView) -> Script {
    let exit_code = match (run.cause, run.exit_code) {
        (Some(cause), code) => cause.exit_code(code),
        (None, code) => code.unwrap_or(70),
    };
    Script {
        error: run.interruption(),
        stdout: run.stdout.unwrap_or_default(),
        stderr: run.stderr.unwrap_or_default(),
        exit_code,
        run_id: run.id,
    }
}
