//! How a handler is called: by a few lines of its own language, given to the interpreter.
//!
//! They need nothing of the image but the interpreter, and leave no file in it. The container's
//! stdout carries the handler's logs, stdout and stderr in the order in which they were written;
//! its stderr is put aside before any of the user's code runs and carries the answer alone, so
//! that no print is taken for it.

use std::sync::LazyLock;

use sway_core::handler::{ERROR_LEN_MAX, Handler, RESULT_LEN_MAX, Runtime};

/// Bytes that may come back: a result can double when it is quoted within the answer.
pub(crate) const ANSWER_LEN_MAX: usize = 2 * (RESULT_LEN_MAX + ERROR_LEN_MAX) + 4096;

static PYTHON: LazyLock<String> = LazyLock::new(|| filled(include_str!("call.py")));
static NODE: LazyLock<String> = LazyLock::new(|| filled(include_str!("call.js")));

/// The shell gives Node its answer's descriptor, which it can't make itself.
const NODE_SHELL: &str = r#"exec "$0" -e "$1" "$2" 3>&2 2>&1"#;

fn filled(text: &str) -> String {
    text.replace("{RESULT_LEN_MAX}", &RESULT_LEN_MAX.to_string())
        .replace("{ERROR_LEN_MAX}", &ERROR_LEN_MAX.to_string())
}

/// The interpreters of a runtime, the first that the image has.
pub(crate) fn interpreters(runtime: Runtime) -> &'static [&'static str] {
    match runtime {
        Runtime::Python => &["python3", "python"],
        Runtime::Nodejs => &["node", "nodejs"],
    }
}

/// The arguments that call `handler` by `interpreter`, and `shell` where the runtime needs one.
pub(crate) fn argv(handler: &Handler, interpreter: String, shell: String) -> Vec<String> {
    let name = handler.handler.clone();
    match handler.runtime {
        Runtime::Python => {
            vec![interpreter, "-u".to_owned(), "-c".to_owned(), PYTHON.clone(), name]
        }
        Runtime::Nodejs => {
            let command = NODE_SHELL.to_owned();
            vec![shell, "-c".to_owned(), command, interpreter, NODE.clone(), name]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_filled_in_and_no_name_is_left() {
        for text in [PYTHON.as_str(), NODE.as_str()] {
            assert!(text.contains(&RESULT_LEN_MAX.to_string()));
            assert!(text.contains(&ERROR_LEN_MAX.to_string()));
            assert!(!text.contains("LEN_MAX"));
        }
    }
}
