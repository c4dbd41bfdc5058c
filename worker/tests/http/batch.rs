//! Several jobs in one request, and finding them again.

use serde_json::{Value, json};
use sway_core::job::{JobSpec, JobState};

use crate::support::{Answer, Worker, events, job_when, spec, stdout};

fn batch(jobs: &[JobSpec]) -> Vec<u8> {
    serde_json::to_vec(&json!({ "jobs": jobs })).unwrap()
}

fn ids(answer: &Answer) -> Vec<String> {
    let jobs = answer.json()["jobs"].clone();
    let id = |job: &Value| job["id"].as_str().unwrap().to_owned();
    jobs.as_array().unwrap().iter().map(id).collect()
}

fn named(name: &str, value: &str, argv: &[&str]) -> JobSpec {
    JobSpec { labels: [(name.to_owned(), value.to_owned())].into(), ..spec(argv) }
}

#[tokio::test]
async fn a_batch_is_taken_whole_and_answered_in_its_order() {
    let worker = Worker::start().await;
    let client = worker.client("operator");
    let words = ["a", "b", "c", "d", "e", "f"];
    let specs = words.map(|word| spec(&["say", word]));
    let answer = worker.post("/v1/jobs/batch", batch(&specs)).send().await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    let ids = ids(&answer);
    assert_eq!(ids.len(), words.len());
    for (id, word) in ids.iter().zip(words) {
        assert_eq!(stdout(&events(&client, id, None).await), word);
    }
}

#[tokio::test]
async fn a_batch_with_one_bad_job_makes_none() {
    let worker = Worker::start().await;
    let good = spec(&["say", "a"]);
    let unknown = JobSpec { image: Some("nowhere".parse().unwrap()), ..good.clone() };
    let mut greedy = good.clone();
    greedy.limits.timeout_ms = Some(u64::MAX);
    for (bad, status, code) in [(unknown, 404, "image_not_found"), (greedy, 400, "limit_exceeded")]
    {
        let specs = [good.clone(), bad, good.clone()];
        let refusal = worker.post("/v1/jobs/batch", batch(&specs)).send().await;
        let (found, message) = refusal.error();
        assert_eq!((refusal.status, found.as_str()), (status, code));
        assert!(message.starts_with("jobs[1]: "), "{message}");
    }
    for specs in [vec![], vec![good; 101]] {
        let refusal = worker.post("/v1/jobs/batch", batch(&specs)).send().await;
        assert_eq!((refusal.status, refusal.error().0.as_str()), (400, "bad_batch"));
    }
    assert_eq!(ids(&worker.get("/v1/jobs").send().await), Vec::<String>::new());
}

#[tokio::test]
async fn a_key_stands_for_the_whole_batch() {
    let worker = Worker::start().await;
    let submit = async |path: &str, body: Vec<u8>, key: &str| {
        worker.post(path, body).header("idempotency-key", key).send().await
    };
    let specs = ["a", "b", "c"].map(|word| spec(&["say", word]));
    let first = submit("/v1/jobs/batch", batch(&specs), "k").await;
    let again = submit("/v1/jobs/batch", batch(&specs), "k").await;
    assert_eq!((first.status, again.status), (202, 202));
    assert_eq!(ids(&first), ids(&again));
    let single = serde_json::to_vec(&specs[0]).unwrap();
    assert_eq!(submit("/v1/jobs", single.clone(), "j").await.status, 202);
    for (path, body, key) in [
        ("/v1/jobs/batch", batch(&specs[..2]), "k"),
        ("/v1/jobs/batch", batch(&specs[..1]), "j"),
        ("/v1/jobs", single, "k"),
    ] {
        let refusal = submit(path, body, key).await;
        assert_eq!((refusal.status, refusal.error().0.as_str()), (409, "idempotency_key_reused"));
    }
    assert_eq!(ids(&worker.get("/v1/jobs").send().await).len(), 4);
}

#[tokio::test]
async fn a_batch_that_has_no_room_says_when_to_come_back() {
    let worker = Worker::start_with(|config| {
        config.running_max = 1;
        config.waiting_max = 8;
    })
    .await;
    let client = worker.client("operator");
    let hangs = client.jobs().submit(&spec(&["hang"])).await.unwrap();
    job_when(&client, &hangs.id, |job| job.state == JobState::Running).await;
    let three = vec![spec(&["say", "x"]); 3];
    assert_eq!(worker.post("/v1/jobs/batch", batch(&three)).send().await.status, 202);
    // Half of the places are one user's: one is left.
    let refusal = worker.post("/v1/jobs/batch", batch(&three[..2])).send().await;
    assert_eq!(refusal.status, 429, "{}", refusal.body);
    assert!(refusal.header("retry-after").is_some());
    assert_eq!(worker.post("/v1/jobs/batch", batch(&three[..1])).send().await.status, 202);
    // More than ever fit are not asked to come back.
    let refusal = worker.post("/v1/jobs/batch", batch(&vec![spec(&["say"]); 5])).send().await;
    assert_eq!((refusal.status, refusal.error().0.as_str()), (400, "bad_batch"));
    assert_eq!(ids(&worker.get("/v1/jobs").send().await).len(), 5);
    client.jobs().cancel(&hangs.id).await.unwrap();
}

#[tokio::test]
async fn jobs_are_found_by_state_image_label_and_text() {
    let worker = Worker::start().await;
    let client = worker.client("operator");
    let other = JobSpec { image: Some("science".parse().unwrap()), ..spec(&["exit", "3"]) };
    let specs = [named("team", "red", &["say", "a"]), named("team", "blue", &["say", "b"]), other];
    let made = ids(&worker.post("/v1/jobs/batch", batch(&specs)).send().await);
    for id in &made {
        job_when(&client, id, |job| job.state.is_final()).await;
    }
    for (query, expected) in [
        ("", &[2, 1, 0][..]),
        ("?state=failed", &[2]),
        ("?image=scipy", &[1, 0]),
        ("?label=team", &[1, 0]),
        ("?label=team=red", &[0]),
        ("?label=tea", &[]),
        ("?label=team=", &[]),
        ("?q=SAY", &[1, 0]),
        ("?q=science", &[2]),
        ("?q=100%25", &[]),
        ("?image=scipy&label=team=blue&q=say&state=completed&limit=1", &[1]),
        ("?image=scipy&state=failed", &[]),
    ] {
        let found = worker.get(&format!("/v1/jobs{query}")).send().await;
        let expected: Vec<_> = expected.iter().map(|&at: &usize| made[at].clone()).collect();
        assert_eq!(ids(&found), expected, "{query}");
    }
    let of_id = worker.get(&format!("/v1/jobs?q={}", made[1])).send().await;
    assert_eq!(of_id.json()["jobs"][0]["labels"], json!({ "team": "blue" }));
    assert_eq!(worker.get("/v1/jobs?image=No").send().await.status, 400);
}
