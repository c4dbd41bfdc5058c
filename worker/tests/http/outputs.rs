//! What a job left in `/output`: listed, file by file, and as one archive.

use sway_core::job::{Dataset, DatasetKind, JobSpec, OutputRequest};

use crate::support::{PATIENCE, Worker, job_when, json, spec};

fn leaving(argv: &[&str]) -> JobSpec {
    JobSpec { output: Some(OutputRequest::default()), ..spec(argv) }
}

/// Runs it, and tells the job's id.
async fn ran(worker: &Worker, spec: &JobSpec) -> String {
    let job = worker.post("/v1/jobs?wait=true", json(spec)).send().await.json();
    job["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn files_are_listed_and_read_one_by_one_or_all_at_once() {
    let worker = Worker::start().await;
    let id = ran(&worker, &leaving(&["leave", "plots/a b.png", "png", "c.txt", "text"])).await;
    let list = worker.get(&format!("/v1/jobs/{id}/outputs")).send().await.json();
    let expected = serde_json::json!({"files": [
        {"path": "plots", "kind": "folder", "bytes": 0},
        {"path": "plots/a b.png", "kind": "file", "bytes": 3},
        {"path": "c.txt", "kind": "file", "bytes": 4},
    ]});
    assert_eq!(list, expected);
    let one = worker.get(&format!("/v1/jobs/{id}/outputs/plots/a%20b.png")).send().await;
    assert_eq!((one.status, one.body.as_str()), (200, "png"));
    assert_eq!(one.header("content-type"), Some("application/octet-stream"));
    assert_eq!(one.header("content-disposition"), Some("attachment"));
    assert_eq!(one.header("x-content-type-options"), Some("nosniff"));
    for path in ["plots", "nothing", "..%2f..%2fworker.db", "plots/../c.txt", "%00"] {
        let refused = worker.get(&format!("/v1/jobs/{id}/outputs/{path}")).send().await;
        assert_eq!((refused.status, refused.error().0.as_str()), (404, "output_not_found"));
    }
    let client = worker.client("operator");
    let mut download = client.jobs().output_archive(&id).await.unwrap();
    let mut archive = Vec::new();
    while let Some(piece) = tokio::time::timeout(PATIENCE, download.next()).await.unwrap().unwrap()
    {
        archive.extend_from_slice(&piece);
    }
    let mut archive = tar::Archive::new(&*archive);
    let paths = archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().into_owned());
    let paths: Vec<_> = paths.map(|path| path.to_str().unwrap().to_owned()).collect();
    assert_eq!(paths, ["plots/", "plots/a b.png", "c.txt"]);
    let run = worker.get(&format!("/v1/runs/{id}")).send().await.json();
    assert_eq!((&run["output_files"], &run["output_files_bytes"]), (&2.into(), &7.into()));
}

#[tokio::test]
async fn where_there_are_none_the_answer_says_why() {
    let worker = Worker::start().await;
    let client = worker.client("operator");
    let none = ran(&worker, &spec(&["say", "hi"])).await;
    let open = client.jobs().submit(&leaving(&["hang"])).await.unwrap().id;
    let kept = ran(&worker, &leaving(&["leave", "a", "b"])).await;
    for (id, reason) in [(&none, "without `output`"), (&open, "has not ended yet")] {
        let refused = worker.get(&format!("/v1/jobs/{id}/outputs")).send().await;
        let (code, message) = refused.error();
        assert_eq!((refused.status, code.as_str()), (404, "no_outputs"));
        assert!(message.contains(reason), "{message}");
    }
    let outputs = format!("/v1/jobs/{kept}/outputs");
    let bobs = worker.get(&outputs).header("x-sway-user", "bob").send().await;
    assert_eq!((bobs.status, bobs.error().0.as_str()), (404, "job_not_found"));
    let odd = worker.get(&format!("{outputs}?format=zip")).send().await;
    assert_eq!(odd.status, 400);
    client.jobs().cancel(&open).await.unwrap();
}

#[tokio::test]
async fn outputs_go_with_the_oldest_runs_and_the_message_says_so() {
    let worker = Worker::start_with(|config| config.keep_output_bytes = 6000).await;
    let long = "x".repeat(3000);
    let first = ran(&worker, &leaving(&["leave", "a", &long])).await;
    ran(&worker, &leaving(&["leave", "a", &long])).await;
    let client = worker.client("operator");
    job_when(&client, &first, |job| job.run.as_ref().unwrap().output_files.is_none()).await;
    let refused = worker.get(&format!("/v1/jobs/{first}/outputs")).send().await;
    assert_eq!(refused.error().0, "no_outputs");
    let run = worker.get(&format!("/v1/runs/{first}")).send().await.json();
    assert_eq!(run["message"], "its files in /output are no longer kept");
}

#[tokio::test]
async fn limits_of_output_and_names_of_datasets_are_checked_before_anything_runs() {
    let worker = Worker::start().await;
    let too_much = OutputRequest { files: Some(1_000_000), ..OutputRequest::default() };
    let too_much = JobSpec { output: Some(too_much), ..spec(&["say", "hi"]) };
    let refused = worker.post("/v1/jobs", json(&too_much)).send().await;
    let (code, message) = refused.error();
    assert_eq!((refused.status, code.as_str()), (400, "limit_exceeded"));
    assert!(message.contains("output.files = 1000000"), "{message}");
    let dataset = |name: &str| Dataset {
        name: Some("d".to_owned()),
        kind: DatasetKind::File,
        dataset: name.parse().unwrap(),
    };
    let twice = JobSpec { datasets: vec![dataset("a"), dataset("b")], ..spec(&["say"]) };
    let refused = worker.post("/v1/jobs", json(&twice)).send().await;
    assert_eq!((refused.status, refused.error().0.as_str()), (400, "bad_job"));
    let unknown = JobSpec { datasets: vec![dataset("a")], ..spec(&["say"]) };
    let refused = worker.post("/v1/jobs", json(&unknown)).send().await;
    assert_eq!((refused.status, refused.error().0.as_str()), (404, "dataset_not_found"));
    let odd = r#"{"image": "scipy", "program": {"kind": "command", "argv": ["say"]},
        "datasets": [{"name": "d", "kind": "file", "dataset": "../x"}]}"#;
    assert_eq!(worker.post("/v1/jobs", odd).send().await.status, 422);
}
