//! `sway owner`: jobs go to the workers of their owners, and are found there.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::fake_worker::{Answer, FakeWorker, Request, error, job};
use crate::sway::{Home, NOBODY, text};

/// Job `id` for alice, submitted at `at`.
fn submitted(id: &str, at: &str) -> Value {
    let mut job = job();
    job["id"] = json!(id);
    job["state"] = json!("pending");
    job["created_at"] = json!(at);
    job["submission"] = json!({
        "owner": "alice", "queue": "nightly", "name": "Sums", "description": "", "tags": [],
        "digest": "0".repeat(64)
    });
    job
}

/// A worker with one job, at which ada has submitted `pending` ones.
fn worker_with(id: &'static str, at: &'static str, pending: u32) -> FakeWorker {
    FakeWorker::new(move |request: &Request| {
        let path = request.path.split('?').next().unwrap();
        let count = |pending: u32| {
            json!({"pending": pending, "approved": 0, "running": 0, "completed": 0, "failed": 0,
                "rejected": 0, "cancelled": 0})
        };
        match (request.method.as_str(), path) {
            ("GET", "/v1/me") => Answer::Json(
                200,
                json!({"user": "ada", "role": "submitter", "scopes": ["submit", "read"], "token": "1"}),
            ),
            ("POST", "/v1/submissions") => Answer::Json(202, submitted(id, at)),
            ("GET", "/v1/jobs") => Answer::Json(200, json!({"jobs": [submitted(id, at)]})),
            ("GET", "/v1/queue") => Answer::Json(
                200,
                json!({"owner": "ada", "settings": {}, "for_me": count(1), "by_me": count(pending)}),
            ),
            ("GET", path) if path == format!("/v1/jobs/{id}") => {
                Answer::Json(200, submitted(id, at))
            }
            _ => Answer::Json(404, error("job_not_found", "there is no such job", None)),
        }
    })
}

/// `sway` with a data directory below the home.
fn sway(home: &Home, worker: &str, args: &[&str]) -> std::process::Output {
    home.sway(worker, args).env("SWAY_DATA", home.path().join("data")).output().unwrap()
}

fn stdout(home: &Home, worker: &str, args: &[&str]) -> String {
    let output = sway(home, worker, args);
    assert!(output.status.success(), "{args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

#[test]
fn what_is_submitted_to_an_owner_goes_to_the_owners_worker_with_the_token_for_it() {
    let own = worker_with("own", "2026-01-02T03:04:05Z", 1);
    let alices = worker_with("far", "2026-01-03T03:04:05Z", 2);
    let home = Home::new();
    home.write("alice.token", "sway_for_alice\n");
    stdout(
        &home,
        &own.url,
        &[
            "owner",
            "add",
            "alice",
            &alices.url,
            "--queue",
            "nightly",
            "--token-file",
            "alice.token",
        ],
    );
    let list = home.path().join("data/owners.json");
    assert_eq!(std::fs::metadata(&list).unwrap().permissions().mode() & 0o777, 0o600);
    let asked = alices.request("GET", "/v1/me");
    assert!(asked.has_header("authorization: Bearer sway_for_alice"), "{asked:?}");

    let submit = ["submit", "--script", "app.py", "--name", "Sums", "--to"];
    assert_eq!(stdout(&home, &own.url, &[&submit[..], &["alice"]].concat()), "far\n");
    let request = alices.request("POST", "/v1/submissions");
    assert!(request.has_header("authorization: Bearer sway_for_alice"));
    assert_eq!(request.json()["queue"], "nightly");
    // Other owners decide at the worker of the settings, and its token goes there alone.
    assert_eq!(stdout(&home, &own.url, &[&submit[..], &["bob"]].concat()), "own\n");
    let request = own.request("POST", "/v1/submissions");
    assert!(request.has_header("authorization: Bearer secret"));
    assert_eq!(request.json()["queue"], "code-queue");
    // A worker that is named is everybody's.
    let named = [&submit[..], &["alice", "--worker", &own.url]].concat();
    assert_eq!(stdout(&home, NOBODY, &named), "own\n");

    let status = stdout(&home, &own.url, &["status", "far", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&status).unwrap()["id"], "far");
    let jobs = stdout(&home, &own.url, &["jobs", "--json"]);
    let jobs: Vec<Value> = serde_json::from_str(&jobs).unwrap();
    assert_eq!(jobs.iter().map(|job| &job["id"]).collect::<Vec<_>>(), ["far", "own"]);
    let counts = stdout(&home, &own.url, &["status", "--json"]);
    let counts: Value = serde_json::from_str(&counts).unwrap();
    assert_eq!((&counts["by_me"]["pending"], &counts["for_me"]["pending"]), (&json!(3), &json!(1)));
    // One that is away hides nothing of the other.
    let away = sway(&home, NOBODY, &["jobs", "--json"]);
    assert!(away.status.success() && text(&away.stderr).contains("are missing"), "{away:?}");
    assert!(text(&away.stdout).contains("\"far\""));
}

#[test]
fn owners_are_listed_without_their_tokens_and_forgotten_with_them() {
    let alices = worker_with("far", "2026-01-03T03:04:05Z", 0);
    let home = Home::new();
    let add = ["owner", "add", "alice", &alices.url, "--token-file", "-"];
    let added = home
        .sway(NOBODY, &add)
        .env("SWAY_DATA", home.path().join("data"))
        .write_stdin("sway_for_alice\n")
        .output()
        .unwrap();
    assert!(added.status.success(), "{}", text(&added.stderr));
    for args in [&["owner", "list"][..], &["owner", "list", "--json"]] {
        let listed = stdout(&home, NOBODY, args);
        assert!(listed.contains("alice") && listed.contains("code-queue"), "{listed}");
        assert!(!listed.contains("sway_for_alice"));
    }
    stdout(&home, NOBODY, &["owner", "remove", "alice"]);
    assert_eq!(std::fs::read_to_string(home.path().join("data/owners.json")).unwrap(), "{}");
    let again = sway(&home, NOBODY, &["owner", "remove", "alice"]);
    assert!(!again.status.success() && text(&again.stderr).contains("was not added"));
}

#[test]
fn a_token_goes_to_no_worker_that_it_is_not_for() {
    let home = Home::new();
    let other = worker_with("far", "2026-01-03T03:04:05Z", 0);
    let without = sway(&home, NOBODY, &["owner", "add", "alice", &other.url]);
    assert!(!without.status.success());
    assert!(text(&without.stderr).contains("--token-file"), "{}", text(&without.stderr));
    home.write("token", "sway_1");
    let plain = ["owner", "add", "alice", "http://alice.example.org", "--token-file", "token"];
    let plain = sway(&home, NOBODY, &plain);
    assert!(!plain.status.success());
    assert!(!home.path().join("data/owners.json").exists(), "{}", text(&plain.stderr));
    // The worker of the settings, with their token.
    stdout(&home, &other.url, &["owner", "add", "bob", &other.url, "--queue", "nightly"]);
    assert!(other.request("GET", "/v1/me").has_header("authorization: Bearer secret"));
    stdout(&home, &other.url, &["submit", "--script", "app.py", "--name", "x", "--to", "bob"]);
    assert_eq!(other.request("POST", "/v1/submissions").json()["queue"], "nightly");
}
