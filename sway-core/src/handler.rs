//! Handlers: functions that are called once, with an event and a context, and answer with JSON.
//!
//! Input and result stay JSON text from the caller to the handler and back, so that no number is
//! rounded on the way.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::job::{JobFile, SpecError, is_relative_path};

/// Bytes of JSON that a handler may be called with.
pub const INPUT_LEN_MAX: usize = 1 << 20;

/// Bytes of JSON that a handler may answer with.
pub const RESULT_LEN_MAX: usize = 1 << 20;

/// Bytes of an error with its stack trace that are kept; the rest of a longer one goes.
pub const ERROR_LEN_MAX: usize = 256 << 10;

/// The longest name of a handler, in bytes.
const NAME_LEN_MAX: usize = 255;

/// The only version of the input's form.
const INPUT_VERSION: &str = "v1";

/// A function to call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Handler {
    /// Who calls it.
    #[serde(default)]
    pub runtime: Runtime,
    /// Module and function, such as `main.handler`; a module in a folder is `folder.module`.
    pub handler: String,
    /// The module and what it needs: placed at `/code`.
    pub files: Vec<JobFile>,
    /// JSON text of the form `{"version": "v1", "context": {…}, "event": …}`.
    pub input: String,
}

/// Languages of handlers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Runtime {
    /// `def handler(event, context)`.
    #[default]
    Python,
    /// `exports.handler = async (event, context) => …`, or an exported function of a module.
    Nodejs,
}

impl Runtime {
    /// The name in JSON and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Python => "python",
            Self::Nodejs => "nodejs",
        }
    }

    /// The language of a source file, told by its extension.
    pub fn of_file(path: &str) -> Option<Self> {
        match path.rsplit_once('.')?.1 {
            "py" => Some(Self::Python),
            "js" | "mjs" | "cjs" => Some(Self::Nodejs),
            _ => None,
        }
    }

    /// Where a module may lie, the first that is there.
    fn files_of(self, module: &str) -> Vec<String> {
        let path = module.replace('.', "/");
        let ends: &[&str] = match self {
            Self::Python => &[".py", "/__init__.py"],
            Self::Nodejs => &[".js", ".mjs", ".cjs", "/index.js"],
        };
        ends.iter().map(|end| format!("{path}{end}")).collect()
    }

    fn is_name(self, name: &str) -> bool {
        let letter =
            |c: char| c.is_ascii_alphabetic() || c == '_' || (c == '$' && self == Self::Nodejs);
        name.starts_with(letter) && name.chars().all(|c| letter(c) || c.is_ascii_digit())
    }
}

/// Module and function of a handler's name.
fn split(handler: &str) -> Option<(&str, &str)> {
    handler.rsplit_once('.')
}

impl Handler {
    /// A handler whose module is one source file.
    pub fn of_source(runtime: Runtime, handler: String, source: String, input: String) -> Self {
        let path = match split(&handler) {
            Some((module, _)) => runtime.files_of(module).swap_remove(0),
            // Refused by `check`, which needs no file for that.
            None => String::new(),
        };
        let file = JobFile { path, content: source.into_bytes(), executable: false };
        Self { runtime, handler, files: vec![file], input }
    }

    /// The file of its module, if it is there.
    pub fn module_file(&self) -> Option<&JobFile> {
        let (module, _) = split(&self.handler)?;
        let places = self.runtime.files_of(module);
        places.iter().find_map(|place| self.files.iter().find(|file| file.path == *place))
    }

    /// Checks name, files and input.
    pub(crate) fn check(&self) -> Result<(), SpecError> {
        let bad = |field, reason| Err(SpecError { field, reason });
        let parts = || self.handler.split('.');
        let sound = (3..=NAME_LEN_MAX).contains(&self.handler.len())
            && parts().count() > 1
            && parts().all(|part| self.runtime.is_name(part));
        if !sound {
            let name: String = self.handler.chars().take(NAME_LEN_MAX).collect();
            let reason = format!("{name:?} is not module.function, such as main.handler");
            return bad("program.handler", reason);
        }
        if let Some(file) = self.files.iter().find(|file| !is_relative_path(&file.path)) {
            let reason = format!("{:?} is not a path within the folder", file.path);
            return bad("program.files", reason);
        }
        if self.module_file().is_none() {
            let (module, _) = split(&self.handler).unwrap_or_default();
            let places = self.runtime.files_of(module).join(" or ");
            let reason = format!("{} needs {places}, which is not among the files", self.handler);
            return bad("program.files", reason);
        }
        check_input(&self.input).map_err(|reason| SpecError { field: "program.input", reason })
    }
}

/// Checks the form of an input; the event may be anything.
fn check_input(text: &str) -> Result<(), String> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Input {
        version: Value,
        context: Option<serde_json::Map<String, Value>>,
        #[expect(dead_code, reason = "it has to be there")]
        event: Value,
    }
    if text.len() > INPUT_LEN_MAX {
        return Err(format!(
            "{} bytes of JSON are more than the {INPUT_LEN_MAX} that a handler takes",
            text.len()
        ));
    }
    if !text.trim_start().starts_with('{') {
        return Err("it is not an object with version, context and event".to_owned());
    }
    let input: Input = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if input.version != INPUT_VERSION {
        return Err(format!("version is {}, expected {INPUT_VERSION:?}", input.version));
    }
    let _ = input.context;
    Ok(())
}

/// How a handler answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// JSON text of what it returned; none where it failed.
    pub result: Option<String>,
    /// Stack trace, or why its result is none; none where it returned one.
    pub error: Option<String>,
    /// How long it took, its module's loading included.
    pub duration_ms: u64,
}

impl Answer {
    /// Reads what came back from a container: the last line is the answer, if it is one. Then
    /// the rest, which is somebody else's.
    pub fn read(bytes: &[u8]) -> (Option<Self>, &[u8]) {
        let text = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let (rest, line) = match text.iter().rposition(|&byte| byte == b'\n') {
            Some(end) => (&bytes[..=end], &text[end + 1..]),
            None => (&bytes[..0], text),
        };
        let answer = serde_json::from_slice::<Self>(line).ok().filter(Self::is_sound);
        match answer {
            Some(answer) => (Some(answer), if rest == b"\n" { &rest[..0] } else { rest }),
            None => (None, bytes),
        }
    }

    /// Whether it has a result that is JSON, or an error.
    fn is_sound(&self) -> bool {
        match (&self.result, &self.error) {
            (Some(result), None) => serde_json::from_str::<&RawValue>(result).is_ok(),
            (None, Some(_)) => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUT: &str = r#"{"version": "v1", "context": {}, "event": {"a": 4, "b": 1}}"#;

    fn handler(name: &str, input: &str) -> Handler {
        Handler::of_source(Runtime::Python, name.to_owned(), String::new(), input.to_owned())
    }

    #[test]
    fn a_handler_is_a_module_and_a_function() {
        for (name, path) in [("main.handler", "main.py"), ("a.b_1.run", "a/b_1.py")] {
            let handler = handler(name, INPUT);
            assert_eq!(handler.check(), Ok(()), "{name}");
            assert_eq!(handler.module_file().unwrap().path, path);
        }
        for name in
            ["", "handler", "main.", ".handler", "main..x", "../main.x", "1a.b", "a b.c", "a.$b"]
        {
            let refused = handler(name, INPUT).check().unwrap_err();
            assert_eq!(refused.field, "program.handler", "{name}");
        }
        let node = |name: &str| Handler { runtime: Runtime::Nodejs, ..handler(name, INPUT) };
        let missing = node("main.handler").check().unwrap_err();
        assert!(missing.to_string().contains("main.js or main.mjs"), "{missing}");
        let mut found = node("main.$handler");
        found.files[0].path = "main.mjs".to_owned();
        assert_eq!(found.check(), Ok(()));
        found.files[0].path = "../main.mjs".to_owned();
        assert_eq!(found.check().unwrap_err().field, "program.files");
    }

    #[test]
    fn an_input_has_version_v1_and_an_event_of_any_kind() {
        for good in [
            r#"{"version":"v1","event":null}"#,
            r#"{"version":"v1","context":{"request_id":"x"},"event":[1]}"#,
            r#"{"version":"v1","context":null,"event":123456789012345678901234567890}"#,
        ] {
            assert_eq!(handler("main.handler", good).check(), Ok(()), "{good}");
        }
        for (bad, told) in [
            ("", "object"),
            (r#"["v1", null, 1]"#, "object"),
            ("{", "EOF"),
            (r#"{"version":"v2","event":1}"#, r#"version is "v2", expected "v1""#),
            (r#"{"version":1,"event":1}"#, "version is 1"),
            (r#"{"event":1}"#, "version"),
            (r#"{"version":"v1"}"#, "event"),
            (r#"{"version":"v1","event":1,"context":3}"#, "expected a map"),
            (r#"{"version":"v1","event":1,"extra":3}"#, "extra"),
        ] {
            let refused = handler("main.handler", bad).check().unwrap_err();
            assert_eq!(refused.field, "program.input");
            assert!(refused.reason.contains(told), "{bad}: {refused}");
        }
        let long = format!(r#"{{"version":"v1","event":"{}"}}"#, "x".repeat(INPUT_LEN_MAX));
        assert!(handler("main.handler", &long).check().unwrap_err().reason.contains("bytes"));
    }

    #[test]
    fn the_answer_is_the_last_line_and_nothing_else() {
        let line = r#"{"result": "{\"a\": 1}", "error": null, "duration_ms": 3}"#;
        let answer = Answer { result: Some(r#"{"a": 1}"#.into()), error: None, duration_ms: 3 };
        assert_eq!(Answer::read(line.as_bytes()), (Some(answer.clone()), &b""[..]));
        let with_newlines = format!("\n{line}\n");
        assert_eq!(Answer::read(with_newlines.as_bytes()), (Some(answer.clone()), &b""[..]));
        let noise = format!("a warning\n{line}\n");
        assert_eq!(Answer::read(noise.as_bytes()), (Some(answer), &b"a warning\n"[..]));
        for bad in [
            "",
            "no JSON\n",
            r#"{"result": "not JSON", "error": null, "duration_ms": 3}"#,
            r#"{"result": null, "error": null, "duration_ms": 3}"#,
            r#"{"result": "1", "error": "x", "duration_ms": 3}"#,
        ] {
            assert_eq!(Answer::read(bad.as_bytes()), (None, bad.as_bytes()), "{bad}");
        }
    }
}
