//! `POST /execute`: a handler and its input in, its result, logs and error out.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa::openapi::schema::{AdditionalProperties, Object, SchemaType, Type};

use crate::api::jobs::RunView;
use crate::handler::{Handler, Runtime};
use crate::job::{JobFile, JobSpec, LimitsRequest, Network, Program, SpecError};
use crate::name::ImageName;

/// Body of `POST /execute`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecuteRequest {
    /// Module and function, such as `main.handler`.
    pub handler: String,
    /// Source of the module.
    #[serde(default)]
    pub code: Option<String>,
    /// Or its file and others.
    #[serde(default)]
    pub files: Vec<JobFile>,
    /// `{"version": "v1", "context": {…}, "event": …}`, at most 1 MiB.
    #[schema(schema_with = input_schema)]
    pub input: Box<RawValue>,
    /// Its language.
    #[serde(default)]
    pub runtime: Runtime,
    /// Where to run it; the worker's default image where absent.
    #[serde(default)]
    pub image: Option<ImageName>,
    /// What it may use.
    #[serde(default)]
    pub limits: LimitsRequest,
    /// What it can reach.
    #[serde(default)]
    pub network: Network,
    /// Added to the image's environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
}

/// The form of [`ExecuteRequest::input`].
fn input_schema() -> Object {
    let context = Object::builder().schema_type(SchemaType::Array(vec![Type::Object, Type::Null]));
    Object::builder()
        .schema_type(Type::Object)
        .property("version", Object::builder().schema_type(Type::String).enum_values(Some(["v1"])))
        .property("context", context)
        .property("event", Object::builder().schema_type(SchemaType::AnyValue))
        .required("version")
        .required("event")
        .additional_properties(Some(AdditionalProperties::FreeForm(false)))
        .build()
}

impl ExecuteRequest {
    /// The job that does it, or which of the fields is wrong.
    pub fn into_spec(self) -> Result<JobSpec, SpecError> {
        let Self { handler, code, files, input, runtime, image, limits, network, env } = self;
        let input = String::from(Box::<str>::from(input));
        let bad = |reason: &str| SpecError { field: "code", reason: reason.to_owned() };
        let handler = match (code, files.is_empty()) {
            (Some(code), true) => Handler::of_source(runtime, handler, code, input),
            (None, false) => Handler { runtime, handler, files, input },
            (Some(_), false) => return Err(bad("files are given too: one of them is enough")),
            (None, true) => return Err(bad("it is missing: the source of the handler's module")),
        };
        let program = Program::Handler(handler);
        let spec = JobSpec { limits, network, env, ..JobSpec::new(image, program) };
        // The handler's fields are the request's own here.
        spec.check().map_err(|error| {
            let field = error.field.strip_prefix("program.").unwrap_or(error.field);
            SpecError { field, ..error }
        })?;
        Ok(spec)
    }
}

/// Answer of `POST /execute`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Executed {
    /// What the handler returned; null where it failed.
    #[schema(value_type = Value)]
    pub result: Option<Box<RawValue>>,
    /// What it wrote to stdout and stderr, and logged, in order.
    pub logs: String,
    /// Its stack trace, or what ended it; null where it returned.
    pub error: Option<String>,
    /// How long it took, its module's loading included.
    pub duration_ms: u64,
}

impl Executed {
    /// How the run of a handler ended.
    pub fn of_run(run: RunView) -> Self {
        let interruption = run.interruption();
        let took = run.duration_ms.unwrap_or(0).unsigned_abs();
        let logs = run.stdout.unwrap_or_default();
        let failed = |error| (None, Some(error), took);
        let (result, error, duration_ms) = match (interruption, run.answer) {
            (Some(interruption), _) => failed(interruption),
            (None, Some(answer)) => match answer.result.map(RawValue::from_string).transpose() {
                Ok(result) => (result, answer.error, answer.duration_ms),
                Err(error) => failed(format!("the result is not JSON: {error}")),
            },
            (None, None) => {
                let code = run.exit_code.unwrap_or_default();
                let said = run.stderr.unwrap_or_default();
                let error = format!("the handler ended with exit code {code} and gave no answer");
                failed(if said.is_empty() { error } else { format!("{error}\n{said}") })
            }
        };
        Self { result, logs, error, duration_ms }
    }
}
