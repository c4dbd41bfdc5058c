//! What a worker remembers, and what it makes of an interrupted past.

use std::sync::Arc;

use sway_core::api::jobs::JobEvent;
use sway_core::job::{Cause, JobState};

use crate::support::{Worker, database, events, job_when, spec, stdout};

#[tokio::test]
async fn a_killed_worker_puts_its_running_jobs_on_record_as_interrupted() {
    let worker = Worker::start_with(|config| config.running_max = 1).await;
    let client = worker.client("ada");
    let running = client.jobs().submit(&spec(&["hang"])).await.unwrap();
    job_when(&client, &running.id, |job| job.state == JobState::Running).await;
    let waiting = client.jobs().submit(&spec(&["say", "at last"])).await.unwrap();
    let data = worker.kill().await;

    let worker = Worker::start_on(data, |_| {}).await;
    let client = worker.client("ada");
    let job = client.jobs().job(&running.id).await.unwrap();
    assert_eq!(job.state, JobState::Failed);
    let run = client.jobs().run(&running.id).await.unwrap();
    assert_eq!(run.cause, Some(Cause::Infrastructure));
    assert_eq!(run.exit_code, None);
    assert_eq!(run.stdout.as_deref(), Some("hanging\n"), "what it wrote is kept");
    let told = events(&client, &running.id, None).await;
    assert!(matches!(told.last(), Some((_, JobEvent::End { state: JobState::Failed, .. }))));
    // What waited waits no longer than before.
    assert_eq!(stdout(&events(&client, &waiting.id, None).await), "at last");
}

#[tokio::test]
async fn a_job_that_was_only_being_prepared_runs_again() {
    let worker = Worker::start().await;
    let client = worker.client("ada");
    let job = client.jobs().submit(&spec(&["wait"])).await.unwrap();
    job_when(&client, &job.id, |job| job.run.is_some()).await;
    let data = worker.kill().await;
    let worker = Worker::start_on(data, |_| {}).await;
    let client = worker.client("ada");
    let again = job_when(&client, &job.id, |job| job.run.is_some()).await;
    assert_eq!(again.state, JobState::Approved);
    let runs = client.jobs().runs(Default::default()).await.unwrap().runs;
    assert_eq!(runs.len(), 1, "the run that never started is forgotten");
}

#[tokio::test]
async fn a_job_whose_program_may_have_started_never_runs_again() {
    let worker = Worker::start().await;
    let client = worker.client("ada");
    let job = client.jobs().submit(&spec(&["be started"])).await.unwrap();
    job_when(&client, &job.id, |job| job.state == JobState::Running).await;
    let data = worker.kill().await;
    let worker = Worker::start_on(data, |_| {}).await;
    let client = worker.client("ada");
    assert_eq!(client.jobs().job(&job.id).await.unwrap().state, JobState::Failed);
    let runs = client.jobs().runs(Default::default()).await.unwrap().runs;
    let causes: Vec<_> = runs.iter().map(|run| run.cause).collect();
    assert_eq!(causes, [Some(Cause::Infrastructure)]);
}

#[tokio::test]
async fn a_worker_that_is_stopped_ends_its_jobs_and_says_so() {
    let worker = Worker::start_with(|config| config.running_max = 1).await;
    let client = worker.client("ada");
    let job = client.jobs().submit(&spec(&["hang"])).await.unwrap();
    job_when(&client, &job.id, |job| job.state == JobState::Running).await;
    // One that waits does not hold the worker up, nor does its follower; it stays on record.
    let follower = client.clone();
    let waiting = client.jobs().submit(&spec(&["wait"])).await.unwrap();
    let mut events = follower.jobs().events(&waiting.id, None);
    assert!(futures::StreamExt::next(&mut events).await.unwrap().is_ok());
    let begun = std::time::Instant::now();
    let data = worker.stop().await;
    assert!(begun.elapsed() < sway_server::listen::DRAIN_DEADLINE);
    let states: i64 = database(data.path())
        .query_row("SELECT count(*) FROM jobs WHERE state = 'approved'", [], |row| row.get(0))
        .unwrap();
    assert_eq!(states, 1);
    let cause: (String, String) = database(data.path())
        .query_row("SELECT cause, message FROM runs", [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap();
    assert_eq!(cause, ("infrastructure".to_owned(), "the worker was stopped".to_owned()));
}

#[tokio::test]
async fn a_newer_database_is_refused_with_a_hint() {
    let worker = Worker::start().await;
    assert_eq!(worker.get("/healthz").send().await.status, 200);
    let data = worker.stop().await;
    database(data.path()).pragma_update(None, "user_version", 1000).unwrap();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = "http://127.0.0.1:9".parse().unwrap();
    let config = sway_worker::config::Config::new(data.path().to_owned(), url);
    let actor = Arc::new(crate::support::Actor);
    let error = sway_worker::run_with(config, actor, listener, Default::default()).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("start the newer worker again"), "{error}");
}

#[tokio::test]
async fn outputs_that_an_earlier_worker_left_open_are_closed_to_others() {
    use std::os::unix::fs::PermissionsExt as _;
    let data = tempfile::tempdir().unwrap();
    let outputs = data.path().join("outputs");
    std::fs::create_dir(&outputs).unwrap();
    for dir in [data.path(), &outputs] {
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let worker = Worker::start_on(Arc::new(data), |_| {}).await;
    assert_eq!(worker.get("/healthz").send().await.status, 200);
    assert_eq!(std::fs::metadata(&outputs).unwrap().permissions().mode() & 0o777, 0o700);
}
