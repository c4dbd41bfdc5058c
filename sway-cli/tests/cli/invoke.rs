//! `sway invoke`: what is sent, what is printed, how it ends.

use serde_json::{Value, json};

use crate::fake_worker::{FakeWorker, end, run};
use crate::sway::{Home, text};

const INPUT: &str = r#"{"version": "v1", "context": {}, "event": {"a": 4, "b": 1}}"#;

/// A worker whose job ends as this run does, with this answer.
fn worker(cause: &str, exit_code: i32, answer: Option<Value>) -> FakeWorker {
    let run = run(cause, Some(exit_code));
    let (sender, worker) = FakeWorker::with_live_job_ending(with_answer(run.clone(), answer));
    sender.send(end("completed", &run)).unwrap();
    worker
}

fn with_answer(mut run: Value, answer: Option<Value>) -> Value {
    run["stdout"] = json!("a line\n");
    run["stderr"] = json!("");
    if let Some(answer) = answer {
        run["answer"] = answer;
    }
    run
}

fn home() -> Home {
    let home = Home::new();
    home.write("main.py", "def handler(event, context): ...\n");
    home.write("data.json", INPUT);
    home
}

const ARGS: [&str; 6] = ["invoke", "main.handler", "--code", "main.py", "--event", "data.json"];

#[test]
fn a_handler_is_sent_and_its_answer_printed() {
    let answer = json!({"result": "{\"quotient\": 4.0}", "error": null, "duration_ms": 3});
    let worker = worker("exited", 0, Some(answer));
    let sway = home().sway(&worker.url, &ARGS).output().unwrap();
    assert_eq!(sway.status.code(), Some(0), "{}", text(&sway.stderr));
    let printed: Value = serde_json::from_slice(&sway.stdout).unwrap();
    let told = json!({
        "result": {"quotient": 4.0}, "logs": "a line\n", "error": null, "duration_ms": 3
    });
    assert_eq!(printed, told);
    let sent = worker.request("POST", "/v1/jobs").json();
    let program = &sent["program"];
    assert_eq!(sent.get("image"), None, "the worker's default");
    assert_eq!((&program["kind"], &program["runtime"]), (&json!("handler"), &json!("python")));
    assert_eq!((&program["handler"], &program["input"]), (&json!("main.handler"), &json!(INPUT)));
    assert_eq!(program["files"][0]["path"], "main.py");
}

#[test]
fn a_handler_that_fails_ends_with_1_and_one_out_of_time_with_124() {
    let answer = json!({"result": null, "error": "ZeroDivisionError", "duration_ms": 3});
    let failing = worker("exited", 1, Some(answer));
    let sway = home().sway(&failing.url, &ARGS).output().unwrap();
    assert_eq!(sway.status.code(), Some(1), "{}", text(&sway.stderr));
    let printed: Value = serde_json::from_slice(&sway.stdout).unwrap();
    assert_eq!(
        (&printed["result"], &printed["error"]),
        (&Value::Null, &json!("ZeroDivisionError"))
    );
    let slow = worker("timeout", 137, None);
    let sway = home().sway(&slow.url, &ARGS).output().unwrap();
    assert_eq!(sway.status.code(), Some(124), "{}", text(&sway.stderr));
    let printed: Value = serde_json::from_slice(&sway.stdout).unwrap();
    assert_eq!(printed["error"], "timeout: it did not end within 10 s");
}

#[test]
fn a_folder_is_sent_whole_and_its_language_told_by_the_module() {
    let answer = json!({"result": "1", "error": null, "duration_ms": 3});
    let worker = worker("exited", 0, Some(answer));
    let home = home();
    home.write("app/src/main.js", "exports.run = () => 1;\n");
    home.write("app/notes.txt", "");
    let args =
        ["invoke", "src.main.run", "--code", "app", "--event", "data.json", "--memory", "1G"];
    let sway = home.sway(&worker.url, &args).output().unwrap();
    assert_eq!(sway.status.code(), Some(0), "{}", text(&sway.stderr));
    let sent = worker.request("POST", "/v1/jobs").json();
    assert_eq!(sent["program"]["runtime"], "nodejs");
    assert_eq!(sent["program"]["files"].as_array().unwrap().len(), 2);
    assert_eq!(sent["limits"]["memory_bytes"], 1 << 30);
}

#[test]
fn what_can_not_be_called_is_refused_before_anything_is_sent() {
    let home = home();
    home.write("bad.json", r#"{"version": "v2", "event": 1}"#);
    home.write("code.txt", "");
    for (args, told) in [
        (["invoke", "handler", "--code", "main.py", "--event", "data.json"], "module.function"),
        (["invoke", "main.handler", "--code", "main.py", "--event", "bad.json"], "version is"),
        (["invoke", "main.handler", "--code", "main.py", "--event", "none.json"], "none.json"),
        (["invoke", "main.handler", "--code", "none.py", "--event", "data.json"], "none.py"),
        (["invoke", "main.handler", "--code", "code.txt", "--event", "data.json"], "--runtime"),
    ] {
        let sway = home.sway(crate::sway::NOBODY, &args).output().unwrap();
        assert_eq!(sway.status.code(), Some(125), "{args:?}: {}", text(&sway.stderr));
        assert!(text(&sway.stderr).contains(told), "{args:?}: {}", text(&sway.stderr));
    }
}
