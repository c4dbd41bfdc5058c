//! `sway run`: what is sent, what comes back, how it ends.

use std::io::{Read, Write};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::fake_worker::{Answer, FakeWorker, end, error, job, output, run};
use crate::sway::{Home, last_line, text};

/// The course of a job that ends at once and well.
fn done() -> Vec<Value> {
    vec![end("completed", &run("exited", Some(0)))]
}

/// What the worker was asked for.
fn spec(args: &[&str]) -> Value {
    let worker = FakeWorker::with_job(done());
    Home::new().sway(&worker.url, args).env("COLOUR", "blue").assert().success();
    worker.request("POST", "/v1/jobs").json()
}

#[test]
fn output_comes_byte_for_byte_on_its_own_stream() {
    let worker = FakeWorker::with_job(vec![
        json!({"event": "state", "state": "running"}),
        output("stdout", b"one\n\xff\0"),
        output("stderr", b"warning\n"),
        output("stdout", b"two"),
        end("completed", &run("exited", Some(0))),
    ]);
    let output = Home::new().sway(&worker.url, &["run", "--image", "scipy", "app.py"]).output();
    let output = output.unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(output.stdout, b"one\n\xff\0two");
    assert_eq!(text(&output.stderr), "warning\n✓ Run completed in 412 ms (exited with code 0)\n");
}

#[test]
fn output_comes_while_the_job_runs() {
    let (events, worker) = FakeWorker::with_live_job();
    let home = Home::new();
    let mut sway = home.start(&worker.url, &["run", "--image", "scipy", "app.py"]);
    let mut stdout = sway.stdout.take().unwrap();
    for line in [b"one\n", b"two\n"] {
        events.send(output("stdout", line)).unwrap();
        let mut read = [0; 4];
        // Blocks for ever if the line is held back until the end.
        stdout.read_exact(&mut read).unwrap();
        assert_eq!(&read, line);
    }
    events.send(end("completed", &run("exited", Some(0)))).unwrap();
    assert!(sway.wait().unwrap().success());
}

#[test]
fn every_cause_has_its_exit_code_and_its_last_line() {
    for (cause, own, code, state) in [
        ("exited", Some(3), 3, "failed"),
        ("exited", Some(139), 139, "failed"),
        ("timeout", Some(137), 124, "failed"),
        ("memory_exceeded", Some(137), 137, "failed"),
        ("output_limit", Some(137), 137, "failed"),
        ("cancelled", Some(137), 130, "cancelled"),
        ("policy", None, 125, "failed"),
        ("infrastructure", None, 70, "failed"),
    ] {
        let worker = FakeWorker::with_job(vec![
            output("stderr", b"no newline"),
            end(state, &run(cause, own)),
        ]);
        let args = ["run", "--image", "scipy", "app.py", "--quiet"];
        let output = Home::new().sway(&worker.url, &args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{cause}");
        let last = last_line(&output.stderr);
        assert!(
            last.starts_with(&format!("✗ Container execution failed (exit code {code})")),
            "{last}"
        );
        assert!(last.contains(cause), "{last}");
    }
}

#[test]
fn a_job_that_never_ran_has_an_ending_too() {
    for (state, code) in [("cancelled", 130), ("rejected", 125), ("failed", 70)] {
        let worker = FakeWorker::with_job(vec![end(state, &Value::Null)]);
        let args = ["run", "--image", "scipy", "app.py"];
        let output = Home::new().sway(&worker.url, &args).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{state}");
        assert!(last_line(&output.stderr).contains(state));
    }
}

#[test]
fn a_job_that_needs_an_approval_says_whose_and_goes_on_when_it_has_it() {
    let submission = |decision: Value| {
        json!({"owner": "alice", "queue": "code-queue", "name": "app.py", "description": "",
            "tags": [], "digest": "0".repeat(64), "decision": decision})
    };
    let answers = move |decision: Value, events: Vec<Value>| {
        let (sender, told) = std::sync::mpsc::channel();
        events.into_iter().for_each(|event| sender.send(event).unwrap());
        let told = std::sync::Arc::new(std::sync::Mutex::new(told));
        FakeWorker::new(move |request| {
            let mut job = job();
            match (request.method.as_str(), request.path.as_str()) {
                ("POST", "/v1/jobs") => {
                    job["state"] = json!("pending");
                    job["submission"] = submission(Value::Null);
                    Answer::Json(202, job)
                }
                ("GET", "/v1/jobs/j1") => {
                    job["submission"] = submission(decision.clone());
                    Answer::Json(200, job)
                }
                ("GET", "/v1/jobs/j1/logs") => Answer::Events(std::sync::Arc::clone(&told)),
                _ => Answer::Json(404, error("not_found", "no such path", None)),
            }
        })
    };
    let state = |state: &str| json!({"event": "state", "state": state});
    let run = run("exited", Some(0));
    let approved = answers(
        Value::Null,
        vec![
            state("pending"),
            state("approved"),
            state("running"),
            output("stdout", b"done\n"),
            end("completed", &run),
        ],
    );
    let args = ["run", "--image", "scipy", "app.py"];
    let ran = Home::new().sway(&approved.url, &args).output().unwrap();
    assert_eq!((ran.status.code(), text(&ran.stdout)), (Some(0), "done\n".to_owned()));
    let told = text(&ran.stderr);
    assert!(told.contains("waits for the approval of alice"), "{told}");

    let decision = json!({"approved": false, "by": "alice", "at": "2026-01-02T03:04:05Z",
        "reason": "reads\u{1b}[2J too much"});
    let rejected = answers(decision, vec![state("pending"), end("rejected", &Value::Null)]);
    let ran = Home::new().sway(&rejected.url, &args).output().unwrap();
    assert_eq!(ran.status.code(), Some(125));
    let last = last_line(&ran.stderr);
    assert!(last.contains("rejected by alice: reads\\u{1b}[2J too much"), "{last}");
}

#[test]
fn options_may_stand_before_and_after_the_script() {
    let spec = spec(&[
        "run",
        "--image",
        "ada/scipy:1",
        "app.py",
        "in.txt",
        "--timeout",
        "60",
        "-3",
        "--memory",
        "1G",
        "--cpus=2",
        "--pids",
        "7",
        "--output-limit",
        "1M",
        "--network",
        "isolated",
        "-e",
        "A=b=c",
        "--env",
        "COLOUR",
        "--fail-on-output-limit",
        "--",
        "--timeout",
        "5",
    ]);
    assert_eq!(spec["image"], "ada/scipy:1");
    assert_eq!(spec["args"], json!(["in.txt", "-3", "--timeout", "5"]));
    assert_eq!(
        spec["limits"],
        json!({
            "timeout_ms": 60_000, "memory_bytes": 1 << 30, "cpus_milli": 2000, "pids": 7,
            "output_bytes": 1 << 20
        })
    );
    assert_eq!(spec["env"], json!({"A": "b=c", "COLOUR": "blue"}));
    assert_eq!(spec["network"], "isolated");
    assert_eq!(spec["fail_on_output_limit"], true);
    let file = &spec["program"]["file"];
    assert_eq!(
        (&file["path"], &file["content"]),
        (&json!("app.py"), &json!("cHJpbnQoJ2hlbGxvJykK"))
    );
}

#[test]
fn the_worker_is_told_who_asks() {
    let worker = FakeWorker::with_job(done());
    Home::new().sway(&worker.url, &["run", "--image", "scipy", "app.py"]).assert().success();
    let request = worker.request("POST", "/v1/jobs");
    assert!(request.has_header("authorization: Bearer secret"), "{request:?}");
    assert!(request.has_header("x-sway-user: ada"), "{request:?}");
}

#[test]
fn standard_input_is_passed_on() {
    let (events, worker) = FakeWorker::with_live_job();
    let home = Home::new();
    let mut sway = home.start(&worker.url, &["run", "--image", "scipy", "app.py"]);
    sway.stdin.take().unwrap().write_all(b"x\0y").unwrap();
    assert_eq!(worker.request("POST", "/v1/jobs").json()["stdin"], true);
    assert_eq!(worker.request("POST", "/v1/jobs/j1/stdin").body, b"x\0y");
    events.send(end("completed", &run("exited", Some(0)))).unwrap();
    assert!(sway.wait().unwrap().success());
}

#[test]
fn input_that_never_ends_does_not_keep_an_ended_job() {
    let worker = FakeWorker::with_job(done());
    let home = Home::new();
    let mut sway = home.start(&worker.url, &["run", "--image", "scipy", "app.py"]);
    let open = sway.stdin.take().unwrap();
    assert!(sway.wait().unwrap().success());
    drop(open);
}

#[test]
fn without_standard_input_none_is_announced() {
    let worker = FakeWorker::with_job(done());
    let mut command = std::process::Command::new("sh");
    let home = Home::new();
    let sway = assert_cmd::cargo::cargo_bin!("sway");
    command
        .arg("-c")
        .arg("\"$0\" run --image scipy app.py <&-")
        .arg(sway)
        .env("WORKER_URL", &worker.url)
        .env("SWAY_TOKEN", "secret")
        .current_dir(home.path());
    assert!(command.output().unwrap().status.success());
    assert_eq!(worker.request("POST", "/v1/jobs").json()["stdin"], false);
    // assert_cmd gives a pipe, Stdio::null() is /dev/null.
    let output = std::process::Command::new(sway)
        .args(["run", "--image", "scipy", "app.py"])
        .stdin(std::process::Stdio::null())
        .env("WORKER_URL", FakeWorker::with_job(done()).url)
        .env("SWAY_TOKEN", "secret")
        .current_dir(home.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
}

#[test]
fn an_interrupt_cancels_the_job() {
    let (events, worker) = FakeWorker::with_live_job();
    let home = Home::new();
    let mut sway = home.start(&worker.url, &["run", "--image", "scipy", "app.py"]);
    events.send(output("stdout", b"go\n")).unwrap();
    sway.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    let pid = Pid::from_child(&sway);
    kill_process(pid, Signal::INT).unwrap();
    worker.request("POST", "/v1/jobs/j1/cancel");
    events.send(end("cancelled", &run("cancelled", Some(137)))).unwrap();
    assert_eq!(sway.wait().unwrap().code(), Some(130));
    let mut stderr = Vec::new();
    sway.stderr.unwrap().read_to_end(&mut stderr).unwrap();
    assert!(last_line(&stderr).contains("cancelled"));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "signals that come close together are one")]
fn a_second_interrupt_leaves_at_once() {
    let (events, worker) = FakeWorker::with_live_job();
    let home = Home::new();
    let mut sway = home.start(&worker.url, &["run", "--image", "scipy", "app.py"]);
    events.send(output("stdout", b"go\n")).unwrap();
    sway.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
    kill_process(Pid::from_child(&sway), Signal::TERM).unwrap();
    worker.request("POST", "/v1/jobs/j1/cancel");
    // The job does not end.
    loop {
        kill_process(Pid::from_child(&sway), Signal::INT).unwrap();
        if let Some(status) = sway.try_wait().unwrap() {
            assert_eq!(status.code(), Some(130));
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(events);
}

#[test]
fn a_reader_that_goes_away_cancels_the_job() {
    let (events, worker) = FakeWorker::with_live_job();
    let home = Home::new();
    let mut sway = home.start(&worker.url, &["run", "--image", "scipy", "app.py"]);
    events.send(output("stdout", b"go\n")).unwrap();
    let mut stdout = sway.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 3]).unwrap();
    drop(stdout);
    events.send(output("stdout", b"more\n")).unwrap();
    worker.request("POST", "/v1/jobs/j1/cancel");
    assert_eq!(sway.wait().unwrap().code(), Some(130));
}

#[test]
fn json_is_one_object_instead_of_the_output() {
    let worker = FakeWorker::with_job(vec![
        output("stdout", b"hello\n"),
        end("completed", &run("exited", Some(0))),
    ]);
    let args = ["run", "--json", "--image", "scipy", "app.py"];
    let output = Home::new().sway(&worker.url, &args).output().unwrap();
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&json["id"], &json["cause"], &json["stdout"], &json["stderr"]),
        (&json!(7), &json!("exited"), &json!("hello\n"), &json!("careful"))
    );
}

#[test]
fn a_detached_job_tells_its_id() {
    let worker = FakeWorker::with_job(vec![]);
    let args = ["run", "--detach", "--image", "scipy", "app.py"];
    let output = Home::new().sway(&worker.url, &args).output().unwrap();
    assert_eq!((text(&output.stdout), text(&output.stderr)), ("j1\n".into(), String::new()));
    let spec = worker.request("POST", "/v1/jobs").json();
    assert_eq!((&spec["detach"], &spec["stdin"]), (&json!(true), &json!(false)));
}

#[test]
fn the_last_line_is_a_line_of_its_own_where_both_streams_are_one() {
    let worker = FakeWorker::with_job(vec![
        output("stdout", b"no newline"),
        end("completed", &run("exited", Some(0))),
    ]);
    let home = Home::new();
    let both = std::fs::File::create(home.path().join("both")).unwrap();
    let mut command = std::process::Command::new(assert_cmd::cargo::cargo_bin!("sway"));
    command
        .args(["run", "--image", "scipy", "app.py"])
        .env("WORKER_URL", &worker.url)
        .env("SWAY_TOKEN", "secret")
        .current_dir(home.path())
        .stdin(std::process::Stdio::null())
        .stdout(both.try_clone().unwrap())
        .stderr(both);
    assert!(command.status().unwrap().success());
    let both = std::fs::read_to_string(home.path().join("both")).unwrap();
    assert_eq!(both, "no newline\n✓ Run completed in 412 ms (exited with code 0)\n");
}

#[test]
fn with_verbose_each_step_is_told_on_stderr() {
    let worker = FakeWorker::with_job(done());
    let args = ["run", "-v", "--image", "scipy", "app.py"];
    let output = Home::new().sway(&worker.url, &args).output().unwrap();
    assert!(output.stdout.is_empty());
    insta::assert_snapshot!(text(&output.stderr).replace(&worker.url, "WORKER"), @r#"
    ✓ Initialized. Running app.py as ada
      ├─ Script: app.py
      ├─ User: ada
      └─ Image: scipy
    ✓ Container execution complete
      └─ 12 from memory, 3 from disk, 5 fetched (2.9 KiB)
    View run at WORKER/run/7
    ✓ Run completed in 412 ms (exited with code 0)
    "#);
}

#[test]
fn the_token_does_not_go_through_a_proxy_of_the_environment() {
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let worker = FakeWorker::with_job(done());
    Home::new()
        .sway(&worker.url, &["run", "--image", "scipy", "app.py"])
        .env("http_proxy", format!("http://{}", proxy.local_addr().unwrap()))
        .timeout(Duration::from_secs(60))
        .assert()
        .success();
    assert_eq!(proxy.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
}

/// The only folder of a job below `base`.
fn job_folder(base: &std::path::Path) -> std::path::PathBuf {
    let mut folders = std::fs::read_dir(base).unwrap().map(|entry| entry.unwrap().path());
    let folder = folders.next().unwrap();
    assert_eq!(folders.next(), None);
    folder
}

#[test]
fn with_an_output_folder_output_and_logs_come_here_and_the_panel_is_shown() {
    let mut with_files = run("exited", Some(0));
    with_files["output_files"] = json!(2);
    for json_too in [false, true] {
        let worker = FakeWorker::with_job(vec![
            output("stdout", b"one\n\xff"),
            output("stderr", b"careful"),
            end("completed", &with_files),
        ]);
        let home = Home::new();
        let mut args = vec!["run", "--image", "scipy", "./app.py", "--output-dir", "./here/"];
        args.extend(["--output-size", "1M", "--output-files", "7", "--output-file-size", "2K"]);
        args.extend(json_too.then_some("--json"));
        let ran = home.sway(&worker.url, &args).output().unwrap();
        assert_eq!(ran.status.code(), Some(0), "{}", text(&ran.stderr));
        let spec = worker.request("POST", "/v1/jobs").json();
        let limits = json!({"bytes": 1 << 20, "files": 7, "file_bytes": 2048});
        assert_eq!((&spec["output"], spec.get("datasets")), (&limits, None));

        let folder = job_folder(&home.path().join("here"));
        let read = |path: &str| std::fs::read(folder.join(path)).unwrap();
        assert_eq!(read("logs/stdout.log"), b"one\n\xff");
        assert_eq!(read("logs/stderr.log"), b"careful");
        assert_eq!((read("output/result.txt"), read("output/b.txt")), (b"42".into(), b"b".into()));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2);
        assert_eq!(ran.stdout == b"one\n\xff", !json_too);

        let stamp = folder.file_name().unwrap().to_str().unwrap();
        let shown = text(&ran.stderr).replace(stamp, "20250214_122758");
        let panel = "\
            ╭────────── Job Configuration ───────────╮\n\
            │ Starting job                           │\n\
            │ Function: app.py                       │\n\
            │ Output:   here/20250214_122758 → /output │\n";
        let lines = |text: &str| text.lines().map(|line| line.replace(' ', "")).collect::<Vec<_>>();
        let (shown, panel) = (lines(&shown), lines(panel));
        assert_eq!(shown[1..4], panel[1..4]);
        assert!(shown[4].contains("Timeout:10s"), "{shown:?}");
    }
}

#[test]
fn without_data_and_an_output_folder_none_is_asked_for() {
    let home = Home::new();
    let worker = FakeWorker::with_job(done());
    let args = ["run", "--image", "scipy", "app.py", "app.py"];
    home.sway(&worker.url, &args).assert().success();
    let spec = worker.request("POST", "/v1/jobs").json();
    assert_eq!((spec.get("output"), spec.get("datasets")), (None, None));
    assert_eq!(spec["args"], json!(["app.py"]), "a script's arguments are its own");
    assert!(!home.path().join("jobs").exists());
}

#[test]
fn data_that_can_not_be_sent_stops_the_job_before_anything_is_made() {
    let home = Home::new();
    std::fs::create_dir(home.path().join("code")).unwrap();
    std::fs::write(home.path().join("code/main.py"), "").unwrap();
    let worker = FakeWorker::with_job(done());
    for (args, reason, code) in [
        (&["--data", "nowhere.csv"][..], "no nowhere.csv", 125),
        (&["--data", "/dev/null"], "/dev/null is neither", 125),
        // The fileserver can't be reached: the path behind a folder is its dataset.
        (&["app.py"], "fileserver", 69),
    ] {
        let args = [&["run", "--image", "scipy", "code"], args].concat();
        let ran = home.sway(&worker.url, &args).output().unwrap();
        let stderr = text(&ran.stderr);
        assert_eq!(ran.status.code(), Some(code), "{stderr}");
        assert!(last_line(&ran.stderr).contains(reason), "{stderr}");
        assert!(!home.path().join("jobs").exists());
    }
}

#[test]
fn a_limit_of_the_output_is_told_apart_from_that_of_the_streams() {
    let mut full = run("output_limit", Some(1));
    full["message"] = json!("/output is full: its limit is 4096 bytes");
    let worker = FakeWorker::with_job(vec![end("failed", &full)]);
    let args = ["run", "--image", "scipy", "app.py"];
    let ran = Home::new().sway(&worker.url, &args).output().unwrap();
    assert_eq!(ran.status.code(), Some(137));
    let last = last_line(&ran.stderr);
    assert!(last.contains("--output-size") && last.contains("/output is full"), "{last}");
}
