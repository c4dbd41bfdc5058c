//! Each error says what happened, to what, and what to do; nothing is changed and the exit code
//! is the table's.

use crate::fake_worker::{Answer, FakeWorker, error};
use crate::sway::{Home, NOBODY, text};

/// Code and stderr of a command that fails.
fn failure(home: &Home, worker: &str, args: &[&str]) -> (i32, String) {
    let output = home.sway(worker, args).output().unwrap();
    assert_eq!(text(&output.stdout), "", "{args:?}");
    let stderr = text(&output.stderr).replace(home.path().to_str().unwrap(), "HOME");
    (output.status.code().unwrap(), stderr.replace(worker, "WORKER"))
}

fn snapshot(home: &Home, worker: &str, args: &[&str]) -> String {
    let (code, stderr) = failure(home, worker, args);
    format!("exit code {code}\n{}", stderr.trim_end())
}

#[test]
fn an_unreachable_worker_is_named() {
    let home = Home::new();
    insta::assert_snapshot!(snapshot(&home, NOBODY, &["run", "--image", "scipy", "app.py"]), @r#"
    exit code 69
    error: WORKER can't be reached: Connection refused (os error 111) — is it running? `sway up` starts both servers; FILESERVER_URL and WORKER_URL say where others are
    "#);
    for args in [&["runs"][..], &["images"], &["logs", "7"], &["runs", "7", "--json"]] {
        let (code, stderr) = failure(&home, NOBODY, args);
        assert_eq!(code, 69, "{stderr}");
        assert!(stderr.contains("sway up"), "{stderr}");
    }
}

#[test]
fn a_missing_script_is_named() {
    let args = ["run", "--image", "scipy", "nope.py"];
    insta::assert_snapshot!(snapshot(&Home::new(), NOBODY, &args), @r#"
    exit code 125
    error: the job was not started: there is no nope.py on this machine
    "#);
}

#[test]
fn without_an_image_the_way_to_one_is_told() {
    insta::assert_snapshot!(snapshot(&Home::new(), NOBODY, &["run", "app.py"]), @r#"
    exit code 125
    error: no image was exported from the project of app.py — `sway export` makes one of its Dockerfile; --image takes one of `sway images`
    "#);
}

#[test]
fn an_unknown_image_is_refused_with_those_that_there_are() {
    let worker = FakeWorker::new(|_| {
        Answer::Json(404, error("image_not_found", "no image nope; there are: ada/scipy", None))
    });
    let args = ["run", "--image", "nope", "app.py"];
    insta::assert_snapshot!(snapshot(&Home::new(), &worker.url, &args), @r#"
    exit code 125
    error: the job was not started: no image nope; there are: ada/scipy
    "#);
}

#[test]
fn limits_beyond_the_maxima_are_refused() {
    let message = "limit memory_bytes = 1099511627776 is outside what this worker grants \
                   (16777216 to 4294967296)";
    let worker = FakeWorker::new(move |_| {
        Answer::Json(400, error("limit", message, Some("ask for less, or raise --max-memory")))
    });
    let args = ["run", "--image", "scipy", "--memory", "1T", "app.py"];
    insta::assert_snapshot!(snapshot(&Home::new(), &worker.url, &args), @r#"
    exit code 125
    error: the job was not started: limit memory_bytes = 1099511627776 is outside what this worker grants (16777216 to 4294967296) — ask for less, or raise --max-memory
    "#);
}

#[test]
fn a_worker_that_fails_is_told_apart_from_one_that_refuses() {
    let worker = FakeWorker::new(|_| Answer::Json(500, error("internal", "disk full", None)));
    let args = ["run", "--image", "scipy", "app.py"];
    insta::assert_snapshot!(snapshot(&Home::new(), &worker.url, &args), @r#"
    exit code 70
    error: disk full
    "#);
}

#[test]
fn a_token_that_is_not_taken_is_explained() {
    let worker =
        FakeWorker::new(|_| Answer::Json(401, error("unauthorized", "no valid token", None)));
    insta::assert_snapshot!(snapshot(&Home::new(), &worker.url, &["runs"]), @r#"
    exit code 1
    error: no valid token — the token is in the file `token` of the server's data directory: set SWAY_DATA to that directory, or SWAY_TOKEN to the token
    "#);
}

#[test]
fn malformed_options_are_refused_before_anything_is_sent() {
    let home = Home::new();
    for (option, value, word) in [
        ("--memory", "lots", "not a size"),
        ("--memory", "-1", "--memory"),
        ("--timeout", "0", "not a time"),
        ("--timeout", "soon", "not a time"),
        ("--cpus", "many", "not a number of CPUs"),
        ("--pids", "1.5", "--pids"),
        ("--image", "Not/An/Image", "not an image name"),
        ("--image", "../x", "not an image name"),
        ("--network", "host", "isolated"),
        ("--timout", "5", "--timeout"),
    ] {
        let (code, stderr) = failure(&home, NOBODY, &["run", option, value, "app.py"]);
        assert_eq!(code, 125, "{stderr}");
        assert!(stderr.contains(word), "{option} {value}: {stderr}");
    }
    let (code, _) = failure(&home, NOBODY, &["runs", "--limit", "0"]);
    assert_eq!(code, 2);
}

#[test]
fn bad_settings_are_told_with_their_origin() {
    let home = Home::new();
    let stderr = |variable: &str, value: &str| {
        let output = home.sway(NOBODY, &["runs"]).env(variable, value).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        text(&output.stderr)
    };
    insta::assert_snapshot!(stderr("SWAY_USERNAME", "a b"), @r#"error: SWAY_USERNAME can't be used: not a user name: "a b" (1 to 128 of letters, digits, and . _ - + @)"#);
    insta::assert_snapshot!(stderr("WORKER_URL", "localhost"), @r#"error: WORKER_URL is not a URL of a server: "localhost" (expected such as http://127.0.0.1:8444)"#);
    std::fs::create_dir_all(home.path().join(".config/sway")).unwrap();
    std::fs::write(home.path().join(".config/sway/config.toml"), "worker = 1\n").unwrap();
    let told = stderr("X", "");
    assert!(told.contains("config.toml") && told.contains("unknown field `worker`"), "{told}");
}

#[test]
fn folders_that_can_not_start_are_refused() {
    let home = Home::new();
    std::fs::create_dir(home.path().join("folder")).unwrap();
    std::fs::write(home.path().join("folder/other.py"), "").unwrap();
    let args = ["run", "--image", "scipy", "folder"];
    insta::assert_snapshot!(snapshot(&home, NOBODY, &args), @r#"
    exit code 125
    error: the job was not started: the folder folder has neither main.py nor run.sh: name the file to start by --entry
    "#);
}
