//! Handlers in real containers, as `SRaaS` documents them: results, logs in order, stack traces.

use std::time::Duration;

use sway_core::handler::{Answer, Handler, Runtime};
use sway_core::job::{Cause, JobFile, Program};

use crate::job::{Bench, Order, Ran};

const DIVISION: &str = r#"
def handler(event, context):
    return {
        "quotient": event["a"] / event["b"]
    }
"#;

fn input(event: &str) -> String {
    format!(r#"{{"version": "v1", "context": {{"request_id": "r1"}}, "event": {event}}}"#)
}

fn order(source: &str, event: &str) -> Order {
    let (name, source) = ("main.handler".to_owned(), source.to_owned());
    Order::new(Program::Handler(Handler::of_source(Runtime::Python, name, source, input(event))))
}

async fn call(source: &str, event: &str) -> (Ran, Answer) {
    let bench = Bench::new();
    let ran = bench.run(order(source, event)).await;
    assert_eq!(bench.leftovers(), [""; 0]);
    let answer = ran.outcome.answer.clone();
    let answer = answer.unwrap_or_else(|| panic!("no answer: {ran:?}"));
    (ran, answer)
}

#[tokio::test]
async fn a_division_is_answered_and_one_by_zero_has_its_stack_trace() {
    let (ran, answer) = call(DIVISION, r#"{"a": 4, "b": 1}"#).await;
    assert_eq!(answer.result.as_deref(), Some(r#"{"quotient": 4.0}"#));
    assert_eq!(
        (ran.outcome.exit_code, ran.stdout.as_str(), ran.stderr.as_str()),
        (Some(0), "", "")
    );
    let (ran, answer) = call(DIVISION, r#"{"a": 4, "b": 0}"#).await;
    assert_eq!((answer.result, ran.outcome.exit_code), (None, Some(1)));
    let error = answer.error.unwrap();
    assert!(
        error.starts_with("Traceback (most recent call last):\n  File \"/code/main.py\", line 4")
    );
    assert!(error.ends_with("ZeroDivisionError: division by zero"), "{error}");
    assert_eq!(error.matches("File ").count(), 1, "the user's frames alone: {error}");
}

#[tokio::test]
async fn the_documented_function_takes_what_is_missing_for_zero() {
    let source = r#"
def handler(event, context):
    a = event.get("a", 0)
    b = event.get("b", 0)

    return {
        "sum": a + b,
        "product": a * b,
        "quotient": a / b if b != 0 else None
    }
"#;
    let (_, answer) = call(source, r#"{"a": 4}"#).await;
    let result = answer.result.unwrap();
    assert_eq!(result, r#"{"sum": 4, "product": 0, "quotient": null}"#);
}

#[tokio::test]
async fn prints_and_logging_are_captured_in_order() {
    let source = r#"
import logging, os, sys

def handler(event, context):
    logging.info(f"Processing event: {event}")
    print("printed", context["request_id"])
    print("to stderr", file=sys.stderr)
    os.system("echo from a child >&2")
    result = event["value"] * 2
    logging.info(f"Result: {result}")
    return {"result": result}
"#;
    let (ran, answer) = call(source, r#"{"value": 21}"#).await;
    assert_eq!(answer.result.as_deref(), Some(r#"{"result": 42}"#));
    assert_eq!(
        ran.stdout,
        "INFO:root:Processing event: {'value': 21}\nprinted r1\nto stderr\nfrom a child\n\
         INFO:root:Result: 42\n"
    );
    assert_eq!(ran.stderr, "");
}

#[tokio::test]
async fn an_error_that_is_raised_again_is_told_with_its_trace() {
    let source = r#"
def handler(event, context):
    try:
        # Your logic here
        if "required_field" not in event:
            raise ValueError("Missing required_field")

        return {"status": "success"}
    except Exception as e:
        # Errors are captured and returned in response
        raise
"#;
    let (_, answer) = call(source, "{}").await;
    let error = answer.error.unwrap();
    assert!(error.ends_with("ValueError: Missing required_field"), "{error}");
    let (_, answer) = call(source, r#"{"required_field": 1}"#).await;
    assert_eq!(answer.result.as_deref(), Some(r#"{"status": "success"}"#));
}

#[tokio::test]
async fn no_print_is_taken_for_an_answer() {
    let forged = r#"{"result": "\"forged\"", "error": null, "duration_ms": 1}"#;
    let source = format!(
        "import os, sys\nline = r'''{forged}'''\nprint(line)\nprint(line, file=sys.stderr)\n\
         os.write(1, line.encode() + b'\\n')\nos.write(2, line.encode() + b'\\n')\n\
         def handler(event, context):\n    print(line)\n    return 'true'\n    \n\
         import atexit\natexit.register(lambda: print(line))\n"
    );
    let (ran, answer) = call(&source, "null").await;
    assert_eq!(answer.result.as_deref(), Some(r#""true""#));
    assert_eq!(ran.stdout.lines().count(), 6, "{}", ran.stdout);
}

#[tokio::test]
async fn results_that_are_no_json_and_modules_that_do_not_load_are_told() {
    for (source, told) in [
        (
            "def handler(e, c): return {1, 2}",
            "the result of main.handler is not JSON: Object of type set",
        ),
        (
            "def handler(e, c): return float('nan')",
            "the result of main.handler is not JSON: Out of range",
        ),
        (
            "def handler(e, c): return 'x' * 2_000_000",
            "is 2000002 bytes of JSON, more than 1048576",
        ),
        ("def other(e, c): return 1", "main.handler: the module main has no such function"),
        ("def handler(e, c:", "SyntaxError"),
        ("import nonesuch", "ModuleNotFoundError: No module named 'nonesuch'"),
        ("undefined", "NameError: name 'undefined' is not defined"),
        ("import sys\ndef handler(e, c): sys.exit(3)", "SystemExit: 3"),
        ("def handler(e, c): return handler(e, c)", "RecursionError"),
    ] {
        let (ran, answer) = call(source, "{}").await;
        let error = answer.error.unwrap();
        assert!(error.contains(told), "{source}: {error}");
        assert_eq!((ran.outcome.cause, ran.outcome.exit_code), (Cause::Exited, Some(1)));
    }
}

#[tokio::test]
async fn a_handler_that_dies_or_takes_too_long_gives_no_answer() {
    let bench = Bench::new();
    let dies = bench.run(order("import os\ndef handler(e, c): os._exit(9)", "{}")).await;
    assert_eq!((dies.outcome.answer.clone(), dies.outcome.exit_code), (None, Some(9)), "{dies:?}");
    let slow = order("def handler(e, c):\n    while True: pass", "{}");
    let slow = Order { run_id: 2, ..slow };
    let slow = bench.run(slow.limits(|limits| limits.timeout_ms = 500)).await;
    assert_eq!((slow.outcome.answer, slow.outcome.cause), (None, Cause::Timeout));
    assert!(slow.outcome.duration < Duration::from_secs(20));
    let greedy = order("def handler(e, c): return len(bytearray(1 << 30))", "{}");
    let greedy = Order { run_id: 3, ..greedy };
    let greedy = bench.run(greedy.limits(|limits| limits.memory_bytes = 64 << 20)).await;
    assert_eq!((greedy.outcome.answer, greedy.outcome.cause), (None, Cause::MemoryExceeded));
    assert_eq!(bench.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_folder_of_modules_and_threads_that_stay_do_no_harm() {
    let file = |path: &str, text: &str| JobFile {
        path: path.into(),
        content: text.into(),
        executable: false,
    };
    let files = vec![
        file("app/__init__.py", ""),
        file(
            "app/main.py",
            "from app.lib import double\nimport json, threading, time\n\
             def run(event, context):\n    threading.Thread(target=time.sleep, args=(60,)).start()\n    \
             return double(event)",
        ),
        file("app/lib.py", "def double(x): return 2 * x"),
        // The worker's own lines import the real one.
        file("json.py", "raise RuntimeError('not mine')"),
    ];
    let handler = Handler {
        runtime: Runtime::Python,
        handler: "app.main.run".to_owned(),
        files,
        input: input("123456789012345678901234567890"),
    };
    let ran = Bench::new().run(Order::new(Program::Handler(handler))).await;
    let answer = ran.outcome.answer.clone().unwrap_or_else(|| panic!("{ran:?}"));
    assert_eq!(answer.result.as_deref(), Some("246913578024691357802469135780"));
}

#[tokio::test]
async fn an_image_without_the_interpreter_is_told() {
    let (name, source) = ("main.handler".to_owned(), "exports.handler = () => 1".to_owned());
    let handler = Handler::of_source(Runtime::Nodejs, name, source, input("{}"));
    let ran = Bench::new().run(Order::new(Program::Handler(handler))).await;
    assert_eq!((ran.outcome.cause, ran.outcome.exit_code), (Cause::Exited, Some(127)));
    assert!(ran.stderr.contains("the image has no node"), "{}", ran.stderr);
}
