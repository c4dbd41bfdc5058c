//! A worker where every job needs an approval, however it comes.

use std::time::Duration;

use serde_json::{Value, json};
use sway_client::submissions::{AuditQuery, JobQuery};
use sway_core::api::submissions::DecisionRequest;
use sway_core::job::{JobSpec, JobState};

use crate::support::{Answer, Request, TOKEN, Worker, events, job_when, spec, stdout};

/// One where alice decides.
async fn worker() -> Worker {
    Worker::start_with(|config| config.approver = Some("alice".parse().unwrap())).await
}

/// What a program of ada's sends.
async fn post(worker: &Worker, path: &str, body: &Value) -> Answer {
    Request::new(worker.addr, "POST", path)
        .header("authorization", &format!("Bearer {TOKEN}"))
        .header("x-sway-user", "ada")
        .header("content-type", "application/json")
        .body(body.to_string().into_bytes())
        .send()
        .await
}

fn because(reason: &str) -> DecisionRequest {
    DecisionRequest { reason: reason.to_owned(), digest: None }
}

#[tokio::test]
async fn where_every_job_needs_an_approval_none_runs_before_it_however_it_comes() {
    let worker = worker().await;
    let [alice, ada] = ["alice", "ada"].map(|user| worker.client(user));
    let job: Value = serde_json::to_value(spec(&["say", "4", "2"])).unwrap();
    let input = json!({ "version": "v1", "context": {}, "event": {} });
    let handler = json!({ "handler": "a.b", "code": "answer 1", "input": input });
    let mut ids = Vec::new();
    for (path, body) in [
        ("/v1/jobs", &job),
        ("/v1/jobs?wait=true", &job),
        ("/run", &json!({ "code": "say hi" })),
        ("/execute", &handler),
    ] {
        let answer = post(&worker, path, body).await;
        assert_eq!(answer.status, 202, "{path}: {}", answer.body);
        let told = answer.json();
        let id = told["id"].as_str().unwrap();
        assert_eq!(answer.header("location"), Some(&*format!("/v1/jobs/{id}")), "{path}");
        assert_eq!((&told["state"], &told["username"]), (&json!("pending"), &json!("ada")));
        assert_eq!(told["submission"]["owner"], "alice", "{path}");
        ids.push(id.to_owned());
    }
    let batch = post(&worker, "/v1/jobs/batch", &json!({ "jobs": [job, job] })).await;
    assert_eq!(batch.status, 202, "{}", batch.body);
    for told in batch.json()["jobs"].as_array().unwrap() {
        assert_eq!(told["state"], "pending");
        ids.push(told["id"].as_str().unwrap().to_owned());
    }
    // Its limits are those of a direct job, and alice sees all of it.
    let waiting = JobQuery { owner: Some("alice".parse().unwrap()), ..JobQuery::default() };
    assert_eq!(alice.submissions().jobs(&waiting).await.unwrap().jobs.len(), ids.len());
    let review = alice.submissions().review(&ids[0]).await.unwrap();
    assert_eq!(review.spec.unwrap().program, spec(&["say", "4", "2"]).program);
    assert_eq!((review.job.limits.timeout_ms, review.job.limits.pids), (10_000, 64));
    assert_eq!(review.job.submission.unwrap().name, "say");
    assert!(ada.jobs().runs(Default::default()).await.unwrap().runs.is_empty());

    alice.submissions().approve(&ids[0], &because("fine")).await.unwrap();
    alice.submissions().approve(&ids[4], &because("fine")).await.unwrap();
    alice.submissions().reject(&ids[2], &because("no")).await.unwrap();
    for id in [&ids[0], &ids[4]] {
        assert_eq!(stdout(&events(&ada, id, None).await), "42");
        assert_eq!(ada.jobs().job(id).await.unwrap().state, JobState::Completed);
    }
    assert_eq!(ada.jobs().job(&ids[2]).await.unwrap().state, JobState::Rejected);
    assert_eq!(ada.jobs().runs(Default::default()).await.unwrap().runs.len(), 2);
    let query = AuditQuery { job: Some(ids[0].clone()), ..AuditQuery::default() };
    let entries = ada.submissions().audit(&query).await.unwrap().entries;
    let actions: Vec<&str> = entries.iter().map(|entry| entry.action.as_str()).collect();
    assert_eq!(actions, ["submitted", "approved", "started", "ended"]);
    assert_eq!((&*entries[0].actor, &*entries[0].peer), ("ada", "127.0.0.1"));
}

#[tokio::test]
async fn a_job_that_waits_for_an_approval_waits_without_its_caller_and_over_a_restart() {
    let worker = worker().await;
    let job = worker.client("ada").jobs().submit(&spec(&["say", "late"])).await.unwrap();
    let other = worker.client("ada").jobs().submit(&spec(&["say", "other"])).await.unwrap();
    {
        let watched = worker.get(&format!("/v1/jobs/{}/logs", job.id)).send();
        assert!(tokio::time::timeout(Duration::from_millis(300), watched).await.is_err());
    }
    // Twice what a job goes on that nobody follows any more.
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(worker.client("ada").jobs().job(&job.id).await.unwrap().state, JobState::Pending);
    // What waited for a decision still does where the next worker asks for none.
    let data = worker.stop().await;
    let worker = Worker::start_on(data, |_| {}).await;
    let [alice, ada] = ["alice", "ada"].map(|user| worker.client(user));
    assert_eq!(ada.jobs().job(&job.id).await.unwrap().state, JobState::Pending);
    alice.submissions().approve(&job.id, &because("")).await.unwrap();
    assert_eq!(stdout(&events(&ada, &job.id, None).await), "late");
    assert_eq!(ada.jobs().cancel(&other.id).await.unwrap().state, JobState::Cancelled);
    let direct = ada.jobs().submit(&spec(&["say", "at once"])).await.unwrap();
    job_when(&ada, &direct.id, |job| job.state == JobState::Completed).await;
}

#[tokio::test]
async fn what_nobody_could_approve_is_refused_where_every_job_needs_that() {
    let worker = worker().await;
    let mut asking = serde_json::to_value(JobSpec { stdin: true, ..spec(&["cat"]) }).unwrap();
    let refusal = post(&worker, "/v1/jobs", &asking).await;
    assert_eq!((refusal.status, refusal.error().0.as_str()), (400, "bad_job"), "{}", refusal.body);
    assert_eq!(refusal.json()["error"]["field"], "stdin");
    let refusal = post(&worker, "/v1/jobs/batch", &json!({ "jobs": [asking] })).await;
    assert_eq!((refusal.status, refusal.error().0.as_str()), (400, "bad_job"), "{}", refusal.body);
    // It would run a command of the image.
    let refusal = post(&worker, "/v1/traces", &json!({ "image": "scipy" })).await;
    assert_eq!((refusal.status, refusal.error().0.as_str()), (409, "approval_required"));
    // The same request under the same key waits once.
    asking["stdin"] = json!(false);
    let mut ids = Vec::new();
    for _ in 0..2 {
        let request = worker
            .post("/v1/jobs", asking.to_string())
            .header("x-sway-user", "ada")
            .header("idempotency-key", "once");
        ids.push(request.send().await.json()["id"].clone());
    }
    assert_eq!(ids[0], ids[1]);
    // No more wait than may of submitted ones.
    let jobs = vec![asking; 99];
    assert_eq!(post(&worker, "/v1/jobs/batch", &json!({ "jobs": jobs })).await.status, 202);
    let full = post(&worker, "/run", &json!({ "code": "say hi" })).await;
    assert_eq!(full.status, 429, "{}", full.body);
}
