//! The run log, images, statistics, health and metrics.

use serde_json::json;
use sway_core::api::jobs::JobEvent;

use crate::support::{PATIENCE, Worker, events, json, spec, stdout};

#[tokio::test]
async fn the_run_log_pages_from_new_to_old_and_leaves_outputs_to_single_runs() {
    let worker = Worker::start().await;
    for n in 0..5 {
        let text = n.to_string();
        worker.post("/v1/jobs?wait=true", json(&spec(&["say", &text]))).send().await;
    }
    let first = worker.get("/v1/runs?limit=3").send().await.json();
    let ids = |page: &serde_json::Value| {
        let runs = page["runs"].as_array().unwrap();
        runs.iter().map(|run| run["id"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&first), [5, 4, 3]);
    let next = format!("/v1/runs?limit=3&before={}", first["next_before"]);
    let second = worker.get(&next).send().await.json();
    assert_eq!(ids(&second), [2, 1]);
    assert_eq!(second.get("next_before"), None);
    assert_eq!(first["runs"][0].get("stdout"), None);
    assert_eq!(worker.get("/v1/runs/4").send().await.json()["stdout"], "3");
    for (path, code) in [
        ("/v1/runs/99", "run_not_found"),
        ("/v1/runs/-1", "run_not_found"),
        ("/v1/runs/..%2f1", "run_not_found"),
        ("/v1/jobs/%00", "job_not_found"),
        ("/v1/runs?limit=x", "malformed_query"),
        ("/v1/runs?nonsense=1", "malformed_query"),
        ("/nowhere", "no_such_route"),
    ] {
        assert_eq!(worker.get(path).send().await.error().0, code, "{path}");
    }
}

#[tokio::test]
async fn stats_are_an_array_with_the_names_that_old_clients_know() {
    let worker = Worker::start().await;
    worker.post("/v1/jobs?wait=true", json(&spec(&["say", "hi"]))).send().await;
    let stats = worker.get("/stats").send().await.json();
    let run = &stats.as_array().unwrap()[0];
    for field in [
        "id",
        "filename",
        "started_at",
        "duration_ms",
        "stdout",
        "stderr",
        "exit_code",
        "memory_cache_hits",
        "disk_cache_hits",
        "server_fetches",
        "username",
        "bytes_fetched",
        "cause",
        "image",
    ] {
        assert!(!run[field].is_null(), "{field}: {run}");
    }
    assert_eq!(run["stdout"], "hi");
}

#[tokio::test]
async fn images_are_the_users_own_and_the_librarys() {
    let worker = Worker::start().await;
    let images = worker.client("ada").jobs().images().await.unwrap();
    let names: Vec<String> = images.iter().map(|image| image.name.to_string()).collect();
    assert_eq!(
        names,
        ["ada/own:1", "library/node:latest", "library/science:latest", "library/scipy:latest"]
    );
}

#[tokio::test]
async fn metrics_count_runs_by_cause() {
    let worker = Worker::start().await;
    worker.post("/v1/jobs?wait=true", json(&spec(&["exit", "1"]))).send().await;
    let metrics = worker.get("/metrics").send().await.body;
    for name in [
        "sway_runs_total{cause=\"exited\"}",
        "sway_run_duration_seconds",
        "sway_run_chunks_total{tier=\"memory\"}",
        "sway_jobs_waiting",
        "sway_unattributed_chunks_total{tier=\"server\"}",
    ] {
        assert!(metrics.contains(name), "{name} is missing in\n{metrics}");
    }
    let health = worker.get("/healthz").send().await.json();
    assert_eq!((&health["status"], &health["jobs"]["waiting"]), (&json!("ok"), &json!(0)));
}

#[tokio::test]
async fn a_long_output_is_told_whole_and_its_page_shows_the_beginning() {
    const LEN: usize = 5 << 20;
    let worker = Worker::start().await;
    let client = worker.client("operator");
    let len = LEN.to_string();
    let waited = worker.post("/v1/jobs?wait=true", json(&spec(&["big", &len]))).send().await;
    assert_eq!((waited.status, waited.header("content-type")), (200, Some("application/json")));
    let letters = waited.body.bytes().filter(|&byte| byte == b'x').count();
    assert!(letters >= LEN, "{letters}");
    let run = client.jobs().run("1").await.unwrap();
    assert_eq!(run.stdout.unwrap(), "x".repeat(LEN));
    assert_eq!(run.stderr.as_deref(), Some(""));
    assert!(!run.stdout_truncated);
    let page = worker.get("/run/1").header("accept", "text/html").send().await;
    assert_eq!(page.body.matches("first MiB").count(), 1, "only stdout is long");
    assert!((1 << 20..2 << 20).contains(&page.body.len()), "{}", page.body.len());
}

#[tokio::test]
async fn the_outputs_of_many_runs_share_a_bound() {
    let worker = Worker::start().await;
    worker.post("/v1/jobs?wait=true", json(&spec(&["big", "100000"]))).send().await;
    for (path, len) in [("/stats", 64 << 10), ("/stats?limit=1000", (8 << 20) / 1000)] {
        let stats = worker.get(path).send().await.json();
        assert_eq!(stats[0]["stdout"].as_str().unwrap().len(), len, "{path}");
    }
}

#[tokio::test]
async fn old_outputs_make_room_and_their_runs_say_so() {
    const LEN: usize = 3 << 20;
    let worker = Worker::start_with(|config| config.keep_output_bytes = 4 << 20).await;
    let client = worker.client("operator");
    for argv in [&["say", "old"][..], &["big", "3145728"], &["big", "3145728"]] {
        let job = worker.post("/v1/jobs?wait=true", json(&spec(argv))).send().await;
        assert_eq!(job.status, 200);
    }
    let outputs = worker.data.path().join("outputs");
    let begun = std::time::Instant::now();
    while outputs.join("2").exists() {
        assert!(begun.elapsed() < PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let newest = client.jobs().run("3").await.unwrap();
    assert_eq!((newest.stdout.unwrap().len(), newest.stdout_truncated), (LEN, false));
    let older = client.jobs().run("2").await.unwrap();
    assert_eq!((older.stdout.unwrap().len(), older.stdout_truncated), (1 << 20, true));
    assert!(older.message.unwrap().contains("no longer kept"));
    let told = events(&client, &older.job_id, None).await;
    assert_eq!(stdout(&told).len(), 1 << 20);
    let marks = told.iter().filter(|(_, event)| matches!(event, JobEvent::Truncated { .. }));
    assert_eq!(marks.count(), 1);
    // A short output needs no file, neither here nor in its job's events.
    let oldest = client.jobs().run("1").await.unwrap();
    assert!(!outputs.join("1").exists());
    assert_eq!((oldest.stdout.as_deref(), oldest.stdout_truncated), (Some("old"), false));
    assert_eq!(stdout(&events(&client, &oldest.job_id, None).await), "old");
    let last = told.last().unwrap().0;
    assert_eq!(events(&client, &older.job_id, Some(last - 1)).await.len(), 1);
}
