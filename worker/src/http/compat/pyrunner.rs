//! `PyRunner`'s form: code in, outputs and a status out.

use std::ops::RangeInclusive;
use std::sync::Arc;

use axum::response::{IntoResponse as _, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use sway_core::api::jobs::{OutputStream, RunView};
use sway_core::job::{Cause, JobFile, JobSpec, Limits, LimitsRequest, Program};
use sway_core::name::ImageName;
use sway_server::error::{Json, ServerError};
use sway_server::guard::Identity;
use utoipa::ToSchema;
use utoipa::openapi::schema::{AdditionalProperties, SchemaType, Type};
use utoipa::openapi::{Object, Ref};

use super::fields::{Fields, InvalidFields};
use super::traceback::summary;
use super::{App, Ended, accepted, answer, ended};
use crate::db::Caller;
use crate::http::bodies::BodyPermit;
use crate::queue::FoundRun;

/// The name under which code runs; tracebacks show it.
const FILE: &str = "main.py";

const CODE_LEN_MAX: usize = 1 << 20;

/// `PyRunner`'s maxima, which its clients know.
pub(in crate::http) const TIMEOUT_S_MAX: u64 = 300;
pub(in crate::http) const MEMORY_MIB_MAX: u64 = 2048;
const MEMORY_MIB_MIN: u64 = 64;

/// The body of a request.
pub(super) fn request() -> Object {
    let whole = |range: RangeInclusive<u64>, default: u64, what: &str| {
        Object::builder()
            .schema_type(SchemaType::Array(vec![Type::Integer, Type::Null]))
            .minimum(Some(*range.start()))
            .maximum(Some(*range.end()))
            .default(Some(default.into()))
            .description(Some(what))
    };
    let code = Object::builder().schema_type(Type::String).min_length(Some(1));
    let (timeout, memory) =
        (Limits::PYRUNNER.timeout_ms / 1000, Limits::PYRUNNER.memory_bytes >> 20);
    Object::builder()
        .schema_type(Type::Object)
        .property("code", code.max_length(Some(CODE_LEN_MAX)).description(Some("Python.")))
        .property("timeout", whole(1..=TIMEOUT_S_MAX, timeout, "Seconds."))
        .property("memory_limit", whole(MEMORY_MIB_MIN..=MEMORY_MIB_MAX, memory, "MiB."))
        .property("image", Ref::from_schema_name(ImageName::name()))
        .required("code")
        .additional_properties(Some(AdditionalProperties::FreeForm(false)))
        .build()
}

/// How it ended.
#[derive(Debug, Default, Serialize, ToSchema)]
pub(super) struct Snippet {
    /// `success`, `error`, `timeout` or `memory_exceeded`.
    status: &'static str,
    stdout: String,
    stderr: String,
    /// Seconds.
    execution_time: f64,
    /// MiB.
    memory_used: f64,
    /// What went wrong, in a few words.
    error: Option<String>,
}

pub(super) async fn run(
    app: App,
    identity: Identity,
    caller: Caller,
    permit: BodyPermit,
    fields: Map<String, Value>,
) -> Result<Response, ServerError> {
    let spec = match spec(fields, &app.maxima) {
        Ok(spec) => spec,
        Err(invalid) => return Ok(invalid.into_response()),
    };
    match ended(&app, &identity, caller, spec, permit).await? {
        Ended::Run(found) => {
            let error = error(&found).await;
            Ok(answer(*found, |run| shape(run, error)))
        }
        Ended::Never(reason) => {
            let error = Some(reason);
            Ok(Json(Snippet { status: "error", error, ..Snippet::default() }).into_response())
        }
        Ended::Pending(job) => Ok(accepted(*job)),
    }
}

/// What the fields ask for.
fn spec(fields: Map<String, Value>, maxima: &Limits) -> Result<JobSpec, InvalidFields> {
    let mut fields = Fields::new(fields);
    let code = fields.text("code", 1..=CODE_LEN_MAX);
    let timeouts = 1..=TIMEOUT_S_MAX.min(maxima.timeout_ms / 1000);
    let timeout_s = fields.number("timeout", timeouts);
    let memories = MEMORY_MIB_MIN..=MEMORY_MIB_MAX.min(maxima.memory_bytes >> 20);
    let memory_mib = fields.number("memory_limit", memories);
    let image: Option<ImageName> = fields.parsed("image");
    fields.end()?;
    let request = LimitsRequest {
        timeout_ms: timeout_s.map(|seconds| seconds * 1000),
        memory_bytes: memory_mib.map(|mib| mib << 20),
        ..LimitsRequest::default()
    };
    let limits = Limits::grant(&request, &Limits::PYRUNNER, maxima);
    let limits = limits.expect("the fields' bounds are within the worker's").into();
    let file = JobFile { path: FILE.to_owned(), content: code.into_bytes(), executable: false };
    Ok(JobSpec { limits, ..JobSpec::new(image, Program::Script { file }) })
}

/// Why it failed, in a few words.
async fn error(found: &FoundRun) -> Option<String> {
    let run = &found.run;
    if let Some(interruption) = run.interruption() {
        return Some(interruption);
    }
    let code = run.exit_code.filter(|&code| code != 0)?;
    // The traceback is at the end.
    let whole = match &found.whole {
        None => None,
        Some(output) => Arc::clone(output).read_all(OutputStream::Stderr, u64::MAX).await.ok(),
    };
    let whole = whole.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let stderr = whole.as_deref().or(run.stderr.as_deref()).unwrap_or_default();
    let exit = || match code {
        129.. => format!("killed by signal {}", code - 128),
        _ => format!("exit status {code}"),
    };
    // A program that a signal ended said nothing about it.
    let told = if code == 1 { summary(stderr, FILE) } else { None };
    Some(told.unwrap_or_else(exit))
}

fn shape(run: RunView, error: Option<String>) -> Snippet {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let figure = |number: i64, unit: f64| number as f64 / unit;
    let status = match run.cause {
        Some(Cause::Exited) if run.exit_code == Some(0) => "success",
        Some(Cause::Timeout) => "timeout",
        Some(Cause::MemoryExceeded) => "memory_exceeded",
        Some(
            Cause::Exited
            | Cause::OutputLimit
            | Cause::Cancelled
            | Cause::Policy
            | Cause::Infrastructure,
        )
        | None => "error",
    };
    let memory_mib = figure(run.memory_peak_bytes.unwrap_or(0), 1024.0 * 1024.0);
    Snippet {
        status,
        stdout: run.stdout.unwrap_or_default(),
        stderr: run.stderr.unwrap_or_default(),
        execution_time: figure(run.duration_ms.unwrap_or(0), 1000.0),
        memory_used: (memory_mib * 10.0).round() / 10.0,
        error,
    }
}
