//! The record: what is written down, who sees it, and which files are accepted.

use std::time::Duration;

use sway_core::api::jobs::TraceUse;
use sway_core::digest::Digest;
use sway_core::handler::Answer;
use sway_core::job::{Cause, JobSpec, JobState, Limits, Program};

use super::*;
use crate::account::CacheFigures;
use crate::job::Used;

fn spec(program: &str) -> JobSpec {
    let argv = vec![program.to_owned()];
    JobSpec::new(Some("scipy".parse().unwrap()), Program::Command { argv })
}

fn job(user: &str, program: &str, key: Option<&str>) -> NewJob {
    NewJob {
        id: new_id(),
        username: user.parse().unwrap(),
        image: "scipy".parse().unwrap(),
        spec: spec(program),
        manifest: Digest::of(b"manifest"),
        datasets: vec![],
        limits: Limits::DIRECT,
        state: JobState::Approved,
        submission: None,
        idempotency_key: key.map(str::to_owned),
    }
}

fn answer() -> Answer {
    Answer { result: Some("[1]".to_owned()), error: None, duration_ms: 3 }
}

fn end(state: JobState, cause: Cause) -> RunEnd {
    RunEnd {
        state,
        cause,
        exit_code: Some(0),
        message: None,
        started_at: Some(now()),
        duration_ms: Some(12),
        stdout: b"out\xff".to_vec(),
        stderr: b"err".to_vec(),
        stdout_truncated: true,
        stderr_truncated: false,
        figures: CacheFigures {
            memory_hits: 1,
            memory_bytes: 2,
            disk_hits: 3,
            disk_bytes: 4,
            fetches: 5,
            fetched_bytes: 6,
            missed_bytes: 11,
        },
        trace: TraceUse::Pushed,
        trace_pushed_bytes: 12,
        output_files: Some((3, 12)),
        used: Used {
            memory_peak_bytes: Some(7),
            cpu: Some(Duration::from_millis(13)),
            cpus_peak_milli: Some(500),
        },
        answer: Some(answer()),
        mount_ms: 8,
        start_ms: 9,
        first_output_ms: Some(10),
        pooled: true,
    }
}

fn open() -> (tempfile::TempDir, Db) {
    let dir = tempfile::tempdir().unwrap();
    let db = Db::open(&dir.path().join("worker.db")).unwrap();
    (dir, db)
}

async fn inserted(db: &Db, job: NewJob) -> String {
    match db.insert_job(job).await.unwrap() {
        Accepted::New(id) => id,
        Accepted::Known(id) => panic!("job {id} was there already"),
    }
}

fn of(user: &str) -> Scope {
    Scope::User(user.parse().unwrap())
}

#[tokio::test]
async fn a_run_is_on_record_with_all_its_figures() {
    let (_dir, db) = open();
    let id = inserted(&db, job("ada", "/bin/true", None)).await;
    let run = db
        .begin_run(NewRun { job_id: id.clone(), queued_ms: 11, records_trace: false })
        .await
        .unwrap();
    db.move_job(&id, JobState::Running).await.unwrap();
    db.end_run(run, end(JobState::Completed, Cause::Exited)).await.unwrap();

    let run = db.run(&id[..4], &of("ada"), 100).await.unwrap();
    assert_eq!((run.username.as_str(), run.filename.as_str()), ("ada", "true"));
    assert_eq!(run.stdout.as_deref(), Some("out\u{fffd}"));
    assert_eq!(run.stderr.as_deref(), Some("err"));
    assert_eq!((run.memory_cache_hits, run.disk_cache_hits, run.server_fetches), (1, 3, 5));
    assert_eq!((run.memory_cache_bytes, run.disk_cache_bytes, run.bytes_fetched), (2, 4, 6));
    assert_eq!((run.queued_ms, run.mount_ms, run.start_ms), (11, 8, 9));
    assert_eq!((run.first_output_ms, run.memory_peak_bytes), (Some(10), Some(7)));
    assert_eq!((run.cpu_ms, run.cpus_peak_milli), (Some(13), Some(500)));
    assert!(run.pooled);
    assert_eq!(run.answer, None, "it goes with whole outputs");
    let whole = db.run(&id, &of("ada"), 1 << 20).await.unwrap();
    assert_eq!(whole.answer, Some(answer()));
    assert_eq!((run.output_files, run.output_files_bytes), (Some(3), Some(12)));
    assert!(run.stdout_truncated && !run.stderr_truncated);
    let job = db.job(&id, &of("ada")).await.unwrap().view;
    assert_eq!(job.state, JobState::Completed);
    assert_eq!(job.run.unwrap().stdout, None, "listings leave the outputs out");
    assert_eq!(db.job_spec(&id).await.unwrap(), None, "the spec is forgotten");
}

#[tokio::test]
async fn users_see_their_own_and_the_operator_sees_all() {
    let (_dir, db) = open();
    let id = inserted(&db, job("ada", "a", None)).await;
    let run = db
        .begin_run(NewRun { job_id: id.clone(), queued_ms: 0, records_trace: false })
        .await
        .unwrap();
    for (scope, seen) in [(of("ada"), true), (of("bob"), false), (Scope::All, true)] {
        assert_eq!(db.job(&id, &scope).await.is_ok(), seen);
        assert_eq!(db.run(&run.to_string(), &scope, 0).await.is_ok(), seen);
        assert_eq!(
            db.runs(RunFilter::newest(scope, 10)).await.unwrap().runs.len(),
            usize::from(seen)
        );
    }
}

#[tokio::test]
async fn a_prefix_of_two_ids_is_refused() {
    let (_dir, db) = open();
    // More jobs than first letters: two share theirs.
    let mut ids = Vec::new();
    for _ in 0..24 {
        ids.push(inserted(&db, job("ada", "a", None)).await);
    }
    let mut seen = std::collections::HashSet::new();
    let shared = ids.iter().map(|id| &id[..1]).find(|letter| !seen.insert(*letter)).unwrap();
    assert!(matches!(db.job(shared, &Scope::All).await, Err(DbError::AmbiguousJob(_))));
    for bad in ["", "%", "a' OR 1", "zzzzzzzzzzzzzzzz"] {
        assert!(matches!(db.job(bad, &Scope::All).await, Err(DbError::NoJob(_))), "{bad:?}");
    }
    assert!(ids.iter().all(|id| id.parse::<i64>().is_err()), "an id is no run number");
}

#[tokio::test]
async fn a_key_makes_a_repeated_submission_harmless() {
    let (_dir, db) = open();
    let id = inserted(&db, job("ada", "a", Some("k"))).await;
    assert_eq!(db.insert_job(job("ada", "a", Some("k"))).await.unwrap(), Accepted::Known(id));
    assert!(matches!(db.insert_job(job("ada", "b", Some("k"))).await, Err(DbError::KeyReused)));
    inserted(&db, job("bob", "a", Some("k"))).await;
}

#[tokio::test]
async fn an_ended_job_does_not_move() {
    let (_dir, db) = open();
    let id = inserted(&db, job("ada", "a", None)).await;
    db.move_job(&id, JobState::Cancelled).await.unwrap();
    let error = db.move_job(&id, JobState::Running).await.unwrap_err();
    assert!(error.to_string().contains("is cancelled, it can't become running"), "{error}");
}

#[tokio::test]
async fn listings_page_from_new_to_old() {
    let (_dir, db) = open();
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(inserted(&db, job("ada", "a", None)).await);
    }
    let mut seen = Vec::new();
    let mut before = None;
    loop {
        let filter = JobFilter { before, limit: 2, ..JobFilter::all(of("ada")) };
        let page = db.jobs(filter).await.unwrap();
        seen.extend(page.jobs.into_iter().map(|job| job.id));
        before = page.next_before;
        if before.is_none() {
            break;
        }
    }
    seen.reverse();
    assert_eq!(seen, ids);
}

#[tokio::test]
async fn only_the_newest_runs_are_kept() {
    let (_dir, db) = open();
    let mut runs = Vec::new();
    for _ in 0..5 {
        let id = inserted(&db, job("ada", "a", None)).await;
        let run = db
            .begin_run(NewRun { job_id: id.clone(), queued_ms: 0, records_trace: false })
            .await
            .unwrap();
        db.end_run(run, end(JobState::Failed, Cause::Infrastructure)).await.unwrap();
        runs.push(run);
    }
    assert_eq!(db.prune(2).await.unwrap(), runs[..3]);
    assert!(db.prune(2).await.unwrap().is_empty());
    let filter = JobFilter::all(Scope::All);
    assert_eq!(db.jobs(filter).await.unwrap().jobs.len(), 2);
}

#[tokio::test]
async fn a_run_without_its_output_file_says_what_is_missing() {
    let (_dir, db) = open();
    let long = vec![b'x'; usize::try_from(STORED_OUTPUT_LEN_MAX).unwrap()];
    let mut runs = Vec::new();
    let note = Some("a note".to_owned());
    for (stderr, message, output_files) in [
        (long, note, None),
        (b"short".to_vec(), None, None),
        (b"short".to_vec(), None, Some((2, 30))),
    ] {
        let id = inserted(&db, job("ada", "a", None)).await;
        let run =
            db.begin_run(NewRun { job_id: id, queued_ms: 0, records_trace: false }).await.unwrap();
        let end = end(JobState::Failed, Cause::Exited);
        let end = RunEnd { stdout_truncated: false, stderr, message, output_files, ..end };
        db.end_run(run, end).await.unwrap();
        runs.push(run);
    }
    // Also where a crash came between the rows and the files.
    for _ in 0..2 {
        db.drop_outputs(runs.clone()).await.unwrap();
    }
    let run = db.run(&runs[0].to_string(), &Scope::All, 0).await.unwrap();
    assert!(run.stderr_truncated && !run.stdout_truncated);
    let message = "a note; its output beyond the first MiB is no longer kept";
    assert_eq!(run.message.as_deref(), Some(message));
    let run = db.run(&runs[1].to_string(), &Scope::All, 0).await.unwrap();
    assert_eq!((run.stderr_truncated, run.message), (false, None), "its row holds it all");
    let run = db.run(&runs[2].to_string(), &Scope::All, 0).await.unwrap();
    let message = "its files in /output are no longer kept";
    assert_eq!((run.output_files, run.message.as_deref()), (None, Some(message)));
}

#[tokio::test]
async fn an_existing_database_is_opened_again_as_it_was() {
    let (dir, db) = open();
    let id = inserted(&db, job("ada", "a", None)).await;
    drop(db);
    let path = dir.path().join("worker.db");
    let db = Db::open(&path).unwrap();
    assert_eq!(db.job(&id, &Scope::All).await.unwrap().view.state, JobState::Approved);
    let version: i64 = Connection::open(&path)
        .unwrap()
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap();
    assert_eq!(usize::try_from(version).unwrap(), MIGRATIONS.len());
}

#[test]
fn a_newer_database_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("worker.db");
    drop(Db::open(&path).unwrap());
    let connection = Connection::open(&path).unwrap();
    connection.pragma_update(None, "user_version", 99).unwrap();
    drop(connection);
    let error = Db::open(&path).unwrap_err();
    assert!(matches!(error, DbError::Newer { found: 99, .. }), "{error}");
    assert!(error.to_string().contains("start the newer worker again"));
}

#[tokio::test]
async fn the_record_and_its_journals_are_their_owners_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let db = Db::open(&dir.path().join("worker.db")).unwrap();
    db.insert_job(job("ada", "secret", None)).await.unwrap();
    let mut files = 0;
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{:?}", file.file_name());
        files += 1;
    }
    assert_eq!(files, 3, "the database, its log and its index");
}

#[tokio::test]
async fn traces_are_known_by_user_image_and_key() {
    let (_dir, db) = open();
    let [ada, bob]: [sway_core::name::UserName; 2] = ["ada", "bob"].map(|n| n.parse().unwrap());
    let known = |image: &[u8], key: &str, trace: &[u8]| KnownTrace {
        manifest: Digest::of(image),
        key: key.parse().unwrap(),
        trace: trace.to_vec(),
    };
    db.put_trace(&ada, known(b"1", "_", b"old")).await.unwrap();
    db.put_trace(&ada, known(b"1", "app.py", b"app")).await.unwrap();
    db.put_trace(&bob, known(b"1", "_", b"bob's")).await.unwrap();
    db.put_trace(&ada, known(b"1", "_", b"new")).await.unwrap();
    let any = sway_core::trace::TraceKey::any();
    let of_ada = db.trace(&ada, Digest::of(b"1"), &any).await.unwrap();
    assert_eq!(of_ada.unwrap(), b"new");
    assert_eq!(db.trace(&ada, Digest::of(b"2"), &any).await.unwrap(), None);
    let mine = db.traces(Some(vec![ada.clone()])).await.unwrap();
    assert_eq!(mine.len(), 2);
    assert_eq!(mine.iter().find(|known| known.key == any).unwrap().trace, b"new");
    assert_eq!(db.traces(None).await.unwrap().len(), 3);
}

#[tokio::test]
async fn traces_have_a_bound_and_the_oldest_go_first() {
    let (_dir, db) = open();
    let ada: sway_core::name::UserName = "ada".parse().unwrap();
    for number in 0u8..5 {
        let known = KnownTrace {
            manifest: Digest::of(&[number]),
            key: sway_core::trace::TraceKey::any(),
            trace: vec![number; 20 << 20],
        };
        db.put_trace(&ada, known).await.unwrap();
    }
    let left = db.traces(None).await.unwrap();
    let left: Vec<u8> = left.iter().map(|known| known.trace[0]).collect();
    assert_eq!(left, [4, 3, 2]);
}
