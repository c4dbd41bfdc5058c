//! `sway runs`, `sway logs`, `sway images`.

use serde_json::{Value, json};

use crate::fake_worker::{Answer, FakeWorker, end, error, output, run, with_outputs};
use crate::sway::{Home, text};

fn worker() -> FakeWorker {
    FakeWorker::new(|request| match request.path.as_str() {
        "/v1/runs?limit=20" => Answer::Json(
            200,
            json!({"runs": [run("timeout", Some(137)), run("exited", Some(3))], "next_before": 5}),
        ),
        "/v1/runs?before=5&limit=18" => {
            Answer::Json(200, json!({"runs": [run("exited", Some(0))]}))
        }
        "/v1/runs/7" => Answer::Json(200, with_outputs(run("exited", Some(3)))),
        "/v1/runs/none" => Answer::Json(404, error("run_not_found", "no run none", None)),
        "/v1/images" => Answer::Json(
            200,
            json!({"images": [{
                "name": "ada/scipy:latest", "updated_at": "2026-01-02T03:04:05Z",
                "manifest": "da39a3ee5e6b4b0d3255bfef95601890afd80709"
            }]}),
        ),
        _ => Answer::Json(404, error("not_found", "no such path", None)),
    })
}

fn stdout(worker: &FakeWorker, args: &[&str]) -> String {
    let output = Home::new()
        .sway(&worker.url, args)
        .env("TZ", "UTC")
        .assert()
        .success()
        .get_output()
        .clone();
    text(&output.stdout)
}

#[test]
fn runs_are_listed_page_by_page() {
    insta::assert_snapshot!(stdout(&worker(), &["runs"]), @r#"
    RUN  JOB  FILE    USER  IMAGE  STARTED                TIME  ENDED    FETCHED  TRACE
      7  j1   app.py  ada   scipy  2026-01-02 03:04:05  412 ms  timeout  2.9 KiB
      7  j1   app.py  ada   scipy  2026-01-02 03:04:05  412 ms  exit 3   2.9 KiB
      7  j1   app.py  ada   scipy  2026-01-02 03:04:05  412 ms  exit 0   2.9 KiB
    "#);
}

#[test]
fn a_run_is_shown_with_its_output() {
    insta::assert_snapshot!(stdout(&worker(), &["runs", "7"]), @r#"
    run        7 (job j1)
    file       app.py
    user       ada
    image      scipy (da39a3ee5e6b4b0d3255bfef95601890afd80709)
    started    2026-01-02 03:04:05
    took       412 ms; before it 1 ms queued, 20 ms mounting, 30 ms starting
    ended      exit 3
    limits     10 s, 256 MiB memory, 0.5 CPUs, 64 processes
    chunks     12 from memory, 3 from disk, 5 fetched (2.9 KiB)
    trace      none, 0 B missed
    memory     1 MiB at most

    stdout
      hello

    stderr
      careful
    "#);
}

#[test]
fn runs_as_json_have_all_fields() {
    let one: Value = serde_json::from_str(&stdout(&worker(), &["runs", "7", "--json"])).unwrap();
    for field in [
        "id",
        "filename",
        "username",
        "image",
        "started_at",
        "duration_ms",
        "exit_code",
        "cause",
        "memory_cache_hits",
        "disk_cache_hits",
        "server_fetches",
        "bytes_fetched",
        "stdout",
        "stderr",
    ] {
        assert!(!one[field].is_null(), "{field} in {one}");
    }
    let all: Value = serde_json::from_str(&stdout(&worker(), &["runs", "--json"])).unwrap();
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 3);
    assert!(all.iter().all(|run| run["stdout"] == "hello\n" && run["stderr"] == "careful"));
}

#[test]
fn images_are_listed() {
    insta::assert_snapshot!(stdout(&worker(), &["images"]), @r#"
    IMAGE             MANIFEST      EXPORTED
    ada/scipy:latest  da39a3ee5e6b  2026-01-02 03:04:05
    "#);
    let json: Value = serde_json::from_str(&stdout(&worker(), &["images", "--json"])).unwrap();
    assert_eq!(json[0]["name"], "ada/scipy:latest");
}

#[test]
fn logs_are_printed_on_the_streams_that_they_were_written_to() {
    let worker = worker();
    let output = Home::new().sway(&worker.url, &["logs", "7"]).output().unwrap();
    assert_eq!(text(&output.stdout), "hello\n");
    assert_eq!(text(&output.stderr), "careful\n");
}

#[test]
fn a_run_that_is_not_there_is_an_error() {
    let worker = worker();
    let output = Home::new().sway(&worker.url, &["logs", "none"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "error: no run none\n");
}

#[test]
fn logs_follow_a_job_to_its_end() {
    let worker = FakeWorker::with_job(vec![
        output("stdout", b"one\n"),
        output("stderr", b"two"),
        end("completed", &run("exited", Some(0))),
    ]);
    let output = Home::new().sway(&worker.url, &["logs", "-f", "j1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("one\n".into(), "two\n".into()));
}
