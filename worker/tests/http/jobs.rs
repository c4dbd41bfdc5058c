//! Submitting, waiting, feeding, cancelling; and every way to be refused.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::json;
use sway_client::ClientError;
use sway_core::job::{Cause, JobState};

use crate::support::{PATIENCE, TOKEN, Worker, events, job_when, json, spec, stdout};

#[tokio::test]
async fn a_job_runs_and_its_answer_says_how_it_ended() {
    let worker = Worker::start().await;
    let answer = worker.post("/v1/jobs?wait=true", json(&spec(&["say", "hello\n"]))).send().await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    let job = answer.json();
    assert_eq!(job["state"], "completed");
    assert_eq!(job["username"], "operator");
    assert_eq!(job["run"]["stdout"], "hello\n");
    assert_eq!(job["run"]["exit_code"], 0);
    assert_eq!(job["run"]["memory_cache_hits"], 3);
    assert!(answer.header("location").unwrap().starts_with("/v1/jobs/"));
}

#[tokio::test]
async fn a_submitted_job_has_a_place_where_it_can_be_found() {
    let worker = Worker::start().await;
    let answer = worker.post("/v1/jobs", json(&spec(&["exit", "3"]))).send().await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    let location = answer.header("location").unwrap().to_owned();
    let client = worker.client("operator");
    let id = location.strip_prefix("/v1/jobs/").unwrap();
    let job = job_when(&client, id, |job| job.state.is_final()).await;
    assert_eq!(job.state, JobState::Failed);
    let run = job.run.unwrap();
    assert_eq!((run.exit_code, run.cause), (Some(3), Some(Cause::Exited)));
    // The beginning of an id will do.
    assert_eq!(client.jobs().job(&id[..6]).await.unwrap().id, id);
    assert_eq!(client.jobs().run(&run.id.to_string()).await.unwrap().job_id, id);
}

#[tokio::test]
async fn many_jobs_of_one_user_run_side_by_side_and_do_not_mix() {
    let worker = Worker::start().await;
    let client = worker.client("ada");
    let one = async |n: i32| {
        let texts: Vec<String> = (0..20).map(|line| format!("{n}.{line}\n")).collect();
        let argv: Vec<&str> =
            std::iter::once("say").chain(texts.iter().map(String::as_str)).collect();
        let job = client.jobs().submit(&spec(&argv)).await.unwrap();
        assert_eq!(stdout(&events(&client, &job.id, None).await), texts.concat());
    };
    futures::future::join_all((0..8).map(one)).await;
}

#[tokio::test]
async fn standard_input_reaches_the_job_and_ends() {
    let worker = Worker::start().await;
    let client = worker.client("ada");
    let mut asked = spec(&["cat"]);
    asked.stdin = true;
    let job = client.jobs().submit(&asked).await.unwrap();
    let pieces = ["one\n", "two\n"].map(|text| Ok(Bytes::from(text)));
    client.jobs().send_stdin(&job.id, futures::stream::iter(pieces)).await.unwrap();
    assert_eq!(stdout(&events(&client, &job.id, None).await), "one\ntwo\n");
    let refusal = worker.post(&format!("/v1/jobs/{}/stdin?all=true", job.id), "more").send().await;
    assert_eq!((refusal.status, refusal.error().0.as_str()), (409, "job_ended"));
}

#[tokio::test]
async fn an_input_that_stays_open_ends_with_its_job() {
    let worker = Worker::start().await;
    let client = worker.client("ada");
    let mut asked = spec(&["hang"]);
    asked.stdin = true;
    let job = client.jobs().submit(&asked).await.unwrap();
    job_when(&client, &job.id, |job| job.state == JobState::Running).await;
    let silent = futures::stream::pending::<std::io::Result<Bytes>>();
    let jobs = client.jobs();
    let sending = jobs.send_stdin(&job.id, silent);
    let ending = async {
        // So that the input is on its way; it is refused where it is not, which is an end too.
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.jobs().cancel(&job.id).await.unwrap();
    };
    let both = async { tokio::join!(sending, ending) };
    let _ = tokio::time::timeout(PATIENCE, both).await.unwrap();
}

#[tokio::test]
async fn standard_input_has_one_sender_and_must_have_been_asked_for() {
    let worker = Worker::start().await;
    let client = worker.client("operator");
    let deaf = client.jobs().submit(&spec(&["hang"])).await.unwrap();
    let refusal = worker.post(&format!("/v1/jobs/{}/stdin", deaf.id), "x").send().await;
    assert_eq!((refusal.status, refusal.error().0.as_str()), (409, "no_stdin"));
    let mut asked = spec(&["hang"]);
    asked.stdin = true;
    let job = client.jobs().submit(&asked).await.unwrap();
    let path = format!("/v1/jobs/{}/stdin", job.id);
    assert_eq!(worker.post(&path, "x").send().await.status, 204);
    assert_eq!(worker.post(&path, "x").send().await.error().0, "no_stdin");
}

#[tokio::test]
async fn a_running_job_is_cancelled_and_stays_so() {
    let worker = Worker::start().await;
    let client = worker.client("ada");
    for part in ["hang", "wait"] {
        let job = client.jobs().submit(&spec(&[part])).await.unwrap();
        if part == "hang" {
            job_when(&client, &job.id, |job| job.state == JobState::Running).await;
        }
        let job = client.jobs().cancel(&job.id).await.unwrap();
        assert_eq!(job.state, JobState::Cancelled, "{part}");
        let refusal = client.jobs().cancel(&job.id).await.unwrap_err();
        assert!(matches!(refusal, ClientError::Refused { status: 409, .. }), "{refusal:?}");
    }
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_without_a_run() {
    let worker = Worker::start_with(|config| config.running_max = 1).await;
    let client = worker.client("ada");
    let first = client.jobs().submit(&spec(&["hang"])).await.unwrap();
    job_when(&client, &first.id, |job| job.state == JobState::Running).await;
    let second = client.jobs().submit(&spec(&["say", "x"])).await.unwrap();
    let second = client.jobs().cancel(&second.id).await.unwrap();
    assert_eq!((second.state, second.run), (JobState::Cancelled, None));
}

#[tokio::test]
async fn a_full_queue_says_when_to_come_back() {
    let adjust = |config: &mut sway_worker::config::Config| {
        config.running_max = 1;
        config.waiting_max = 1;
    };
    let worker = Worker::start_with(adjust).await;
    let client = worker.client("operator");
    let first = client.jobs().submit(&spec(&["hang"])).await.unwrap();
    job_when(&client, &first.id, |job| job.state == JobState::Running).await;
    let second = client.jobs().submit(&spec(&["say", "later"])).await.unwrap();
    let refusal = worker.post("/v1/jobs", json(&spec(&["say", "x"]))).send().await;
    assert_eq!(refusal.status, 429);
    assert!(refusal.header("retry-after").is_some());
    client.jobs().cancel(&first.id).await.unwrap();
    assert_eq!(stdout(&events(&client, &second.id, None).await), "later");
}

#[tokio::test]
async fn one_user_leaves_places_in_the_queue_to_others() {
    let adjust = |config: &mut sway_worker::config::Config| {
        config.running_max = 1;
        config.waiting_max = 4;
    };
    let worker = Worker::start_with(adjust).await;
    let (ada, bob) = (worker.client("ada"), worker.client("bob"));
    let first = ada.jobs().submit(&spec(&["hang"])).await.unwrap();
    job_when(&ada, &first.id, |job| job.state == JobState::Running).await;
    for _ in 0..2 {
        ada.jobs().submit(&spec(&["say", "ada"])).await.unwrap();
    }
    let body = json(&spec(&["say", "x"]));
    let refusal = worker.post("/v1/jobs", body).header("x-sway-user", "ada").send().await;
    assert_eq!(refusal.status, 429, "{}", refusal.body);
    assert!(refusal.header("retry-after").is_some());
    assert!(refusal.error().1.contains("2 of your jobs"), "{}", refusal.body);
    let other = bob.jobs().submit(&spec(&["say", "bob"])).await.unwrap();
    ada.jobs().cancel(&first.id).await.unwrap();
    assert_eq!(stdout(&events(&bob, &other.id, None).await), "bob");
}

#[tokio::test]
async fn a_user_whose_bodies_do_not_arrive_keeps_nobody_else_out() {
    use tokio::io::AsyncWriteExt as _;
    let worker = Worker::start().await;
    let mut stalled = Vec::new();
    for _ in 0..12 {
        let mut stream = tokio::net::TcpStream::connect(worker.addr).await.unwrap();
        let head = format!(
            "POST /v1/jobs HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {TOKEN}\r\n\
             x-sway-user: ada\r\nexpect: 100-continue\r\n\
             content-type: application/json\r\ncontent-length: 1000\r\n\r\n",
            worker.addr,
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stalled.push(stream);
    }
    // The worker asks for a body when the request has its place.
    let asked =
        futures::future::select_all(stalled.iter().map(|stream| Box::pin(stream.readable())));
    tokio::time::timeout(PATIENCE, asked).await.unwrap().0.unwrap();
    let begun = Instant::now();
    let job = worker.client("bob").jobs().submit(&spec(&["say", "hi"])).await.unwrap();
    assert_eq!(stdout(&events(&worker.client("bob"), &job.id, None).await), "hi");
    assert!(begun.elapsed() < Duration::from_secs(20), "less than any place's deadline");
}

#[tokio::test]
async fn a_repeated_submission_under_one_key_makes_one_job() {
    let worker = Worker::start().await;
    let submit = async |argv: &[&str], key: &str| {
        worker.post("/v1/jobs", json(&spec(argv))).header("idempotency-key", key).send().await
    };
    let first = submit(&["say", "a"], "k1").await;
    let again = submit(&["say", "a"], "k1").await;
    assert_eq!((first.status, again.status), (202, 202));
    assert_eq!(first.json()["id"], again.json()["id"]);
    let other = submit(&["say", "b"], "k1").await;
    assert_eq!((other.status, other.error().0.as_str()), (409, "idempotency_key_reused"));
    assert_eq!(submit(&["say", "a"], &"k".repeat(201)).await.error().0, "bad_idempotency_key");
    assert_eq!(worker.get("/v1/jobs").send().await.json()["jobs"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_job_is_cancelled_when_its_only_follower_has_gone() {
    let worker = Worker::start().await;
    let client = worker.client("ada");
    let followed = client.jobs().submit(&spec(&["hang"])).await.unwrap();
    let mut asked = spec(&["hang"]);
    asked.detach = true;
    let detached = client.jobs().submit(&asked).await.unwrap();
    for job in [&followed, &detached] {
        let mut events = client.jobs().events(&job.id, None);
        futures::StreamExt::next(&mut events).await.unwrap().unwrap();
    }
    let job = job_when(&client, &followed.id, |job| job.state.is_final()).await;
    assert_eq!(job.state, JobState::Cancelled);
    assert_eq!(job.run.unwrap().message.as_deref(), Some("its client went away"));
    let job = client.jobs().job(&detached.id).await.unwrap();
    assert_eq!(job.state, JobState::Running);
}

#[tokio::test]
async fn many_that_wait_for_their_jobs_keep_nobody_out() {
    let worker = Worker::start_with(|config| config.running_max = 1).await;
    let body = json(&spec(&["say", "x"]));
    let one = || worker.post("/v1/jobs?wait=true", body.clone()).send();
    let first = json(&spec(&["hang"]));
    let client = worker.client("operator");
    let hanging = worker.post("/v1/jobs", first).send().await.json();
    let waiting = futures::future::join_all((0..20).map(|_| one()));
    let release = async {
        loop {
            let jobs = worker.get("/v1/jobs?state=approved").send().await.json();
            if jobs["jobs"].as_array().unwrap().len() == 20 {
                break;
            }
        }
        client.jobs().cancel(hanging["id"].as_str().unwrap()).await.unwrap();
    };
    let (answers, ()) = futures::join!(waiting, release);
    assert!(answers.iter().all(|answer| answer.json()["state"] == "completed"));
}

#[tokio::test]
async fn a_job_is_cancelled_when_who_waits_for_it_hangs_up() {
    use tokio::io::AsyncWriteExt as _;
    let worker = Worker::start().await;
    let body = json(&spec(&["hang"]));
    let mut stream = tokio::net::TcpStream::connect(worker.addr).await.unwrap();
    let head = format!(
        "POST /v1/jobs?wait=true HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {TOKEN}\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n",
        worker.addr,
        body.len(),
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    let begun = Instant::now();
    let id = loop {
        let jobs = worker.get("/v1/jobs?state=running").send().await.json();
        if let Some(id) = jobs["jobs"][0]["id"].as_str() {
            break id.to_owned();
        }
        assert!(begun.elapsed() < PATIENCE);
    };
    drop(stream);
    let job = job_when(&worker.client("operator"), &id, |job| job.state.is_final()).await;
    assert_eq!(job.state, JobState::Cancelled);
}

#[tokio::test]
async fn a_failure_of_the_machine_is_not_the_jobs() {
    let worker = Worker::start().await;
    let answer = worker.post("/v1/jobs?wait=true", json(&spec(&["broken"]))).send().await;
    let job = answer.json();
    assert_eq!((&job["state"], &job["run"]["cause"]), (&json!("failed"), &json!("infrastructure")));
    assert_eq!(job["run"]["message"], "no runc");
}

#[tokio::test]
async fn malformed_requests_are_refused_with_the_reason_and_change_nothing() {
    let worker = Worker::start().await;
    let program = json!({"kind": "command", "argv": ["say", "x"]});
    let script = |path: &str| {
        let file = json!({"path": path, "content": ""});
        json!({"image": "scipy", "program": {"kind": "script", "file": file}})
    };
    let with = |field: &str, value: serde_json::Value| {
        let mut body = json!({"image": "scipy", "program": program});
        body[field] = value;
        body
    };
    let cases = [
        (json!({}).to_string(), "malformed_json", "program"),
        ("{\"image\": ".to_owned(), "malformed_json", "EOF"),
        ("\u{0}".to_owned(), "malformed_json", "expected value"),
        (with("cpu", json!(1)).to_string(), "malformed_json", "cpu"),
        (with("image", json!("../etc")).to_string(), "malformed_json", "not an image name"),
        (with("image", json!("a\u{0}b")).to_string(), "malformed_json", "not an image name"),
        (with("image", json!("a\nb")).to_string(), "malformed_json", "not an image name"),
        (script("../app.py").to_string(), "bad_job", "program.file.path"),
        (script("..").to_string(), "bad_job", "program.file.path"),
        (script("a\u{0}").to_string(), "bad_job", "program.file.path"),
        (script("a\u{7}").to_string(), "bad_job", "program.file.path"),
        (with("args", json!(["a\u{0}"])).to_string(), "bad_job", "args"),
        (with("env", json!({"A=B": "x"})).to_string(), "bad_job", "env"),
        (
            with("limits", json!({"timeout_ms": 3_600_001})).to_string(),
            "limit_exceeded",
            "timeout_ms = 3600001 is outside what this worker grants (1 to 3600000)",
        ),
        (
            with("limits", json!({"memory_bytes": 1u64 << 40})).to_string(),
            "limit_exceeded",
            "memory_bytes",
        ),
        (with("limits", json!({"pids": 0})).to_string(), "limit_exceeded", "pids"),
        (with("limits", json!({"pids": -1})).to_string(), "malformed_json", "-1"),
    ];
    for (body, code, part) in cases {
        let answer = worker.post("/v1/jobs", body.clone()).send().await;
        let (found, message) = answer.error();
        assert_eq!(found, code, "{body}: {message}");
        assert!((400..500).contains(&answer.status), "{body}: {}", answer.status);
        assert!(message.contains(part), "{body}: {message}");
    }
    assert_eq!(worker.get("/v1/jobs?all=true").send().await.json()["jobs"], json!([]));
}

#[tokio::test]
async fn an_unknown_image_is_answered_with_those_there_are() {
    let worker = Worker::start().await;
    for (user, image, known) in [
        (
            "ada",
            "scippy",
            "ada/own:1, library/node:latest, library/science:latest, library/scipy:latest",
        ),
        (
            "ada",
            "own:2",
            "ada/own:1, library/node:latest, library/science:latest, library/scipy:latest",
        ),
        // Not hers to know about.
        (
            "bob",
            "ada/nothing",
            "bob/secret:latest, library/node:latest, library/science:latest, library/scipy:latest",
        ),
    ] {
        let mut asked = spec(&["say"]);
        asked.image = Some(image.parse().unwrap());
        let refusal = worker.client(user).jobs().submit(&asked).await.unwrap_err();
        let ClientError::Refused { status, code, message, .. } = refusal else {
            panic!("{refusal:?}")
        };
        assert_eq!((status, code.as_str()), (404, "image_not_found"));
        assert_eq!(message, format!("no image {image}; there are: {known}"));
    }
}

#[tokio::test]
async fn a_digest_in_the_name_must_be_the_images() {
    let worker = Worker::start().await;
    let client = worker.client("ada");
    let mut asked = spec(&["say", "x"]);
    let with_digest = |of: &[u8]| {
        let name = format!("scipy@{}", sway_core::digest::Digest::of(of));
        Some(name.parse().unwrap())
    };
    asked.image = with_digest(b"scipy");
    let job = client.jobs().submit(&asked).await.unwrap();
    assert_eq!(job.manifest, sway_core::digest::Digest::of(b"scipy"));
    asked.image = with_digest(b"other");
    let refusal = client.jobs().submit(&asked).await.unwrap_err();
    assert!(refusal.to_string().contains("has moved"), "{refusal}");
}

#[tokio::test]
async fn without_a_fileserver_submitting_fails_soon_and_says_why() {
    let adjust = |config: &mut sway_worker::config::Config| {
        config.fileserver = "http://127.0.0.1:9".parse().unwrap();
    };
    let worker = Worker::start_with(adjust).await;
    let begun = Instant::now();
    let answer = worker.post("/v1/jobs", json(&spec(&["say"]))).send().await;
    assert_eq!((answer.status, answer.error().0.as_str()), (503, "fileserver_unreachable"));
    assert!(begun.elapsed() < PATIENCE);
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused() {
    let worker = Worker::start().await;
    let body = vec![b' '; sway_core::api::jobs::JOB_BODY_LEN_MAX + 1];
    let answer = worker.post("/v1/jobs", body).send().await;
    // Refused before the body was read: the answer may be lost to the reset that follows.
    assert!([413, 0].contains(&answer.status), "{}", answer.status);
    let healthy = worker.get("/healthz").send();
    assert_eq!(tokio::time::timeout(Duration::from_secs(30), healthy).await.unwrap().status, 200);
}
