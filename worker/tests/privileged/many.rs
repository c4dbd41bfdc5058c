//! Many jobs in one queue: all at once, and with a worker that dies among them.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use sway_client::jobs::RunPage;
use sway_core::api::jobs::RunView;
use sway_core::api::submissions::{DecisionRequest, Submission};
use sway_core::job::{Cause, JobSpec, JobState, OutputRequest, Program};

use crate::mount_fixture::mounted_below;
use crate::worker::{PATIENCE, Site, cgroups_of, ended, script};

/// A hundred jobs on a busy machine.
const LONG: Duration = Duration::from_secs(300);

/// What the worker's memory may grow by while a hundred jobs run, eight at a time.
const GROWTH_MAX: u64 = 128 << 20;

/// A job of one of ten kinds.
fn job(n: usize) -> JobSpec {
    let mut job = script("true");
    let run = |text: &str| script(text).program;
    match n % 10 {
        0 => job.program = run(&format!("seq {n} {}; exit {n}", n + 50)),
        1 => job.program = run(&format!("echo out {n}; echo err {n} >&2; exit 3")),
        2 => job.program = run("cat /version"),
        3 => {
            job.program = run("held=$(head -c 100000000 /dev/zero | tr '\\0' x); echo $held");
            job.limits.memory_bytes = Some(24 << 20);
        }
        4 => {
            job.program = run("trap '' TERM; echo begun; sleep 1000 & sleep 1000");
            job.limits.timeout_ms = Some(700);
        }
        5 => {
            job.program = run("seq 1 1000");
            job.limits.output_bytes = Some(1000);
        }
        6 => job.program = Program::Command { argv: vec!["/bin/true".to_owned()] },
        7 => job.program = Program::Command { argv: vec!["/nowhere".to_owned()] },
        8 => {
            job.program = run(&format!("echo {n} > /output/n; echo kept"));
            job.output = Some(OutputRequest::default());
        }
        _ => {
            job.program = run("seq 1 1000; sleep 1000");
            job.limits.output_bytes = Some(1000);
            job.fail_on_output_limit = true;
        }
    }
    job
}

fn check(n: usize, run: &RunView) {
    let (stdout, stderr) = (run.stdout.as_deref().unwrap(), run.stderr.as_deref().unwrap());
    let thousand = (1..=1000).map(|line| format!("{line}\n")).collect::<String>();
    let end = (run.cause.unwrap(), run.exit_code);
    match n % 10 {
        0 => {
            let lines = (n..=n + 50).map(|line| format!("{line}\n")).collect::<String>();
            assert_eq!(stdout, lines);
            assert_eq!(end, (Cause::Exited, Some(n.try_into().unwrap())));
        }
        1 => {
            assert_eq!((stdout, stderr), (&*format!("out {n}\n"), &*format!("err {n}\n")));
            assert_eq!(end, (Cause::Exited, Some(3)));
        }
        2 => assert_eq!((stdout, end), ("one\n", (Cause::Exited, Some(0)))),
        3 => assert_eq!((stdout, end.0), ("", Cause::MemoryExceeded), "{run:?}"),
        4 => assert_eq!((stdout, end.0), ("begun\n", Cause::Timeout), "{run:?}"),
        5 => {
            assert_eq!((stdout, run.stdout_truncated), (&thousand[..1000], true));
            assert_eq!(end, (Cause::Exited, Some(0)));
        }
        6 => assert_eq!((stdout, end), ("", (Cause::Exited, Some(0)))),
        7 => assert_eq!((stdout, end), ("", (Cause::Exited, Some(127))), "{run:?}"),
        8 => assert_eq!(
            (stdout, end, run.output_files),
            ("kept\n", (Cause::Exited, Some(0)), Some(1))
        ),
        _ => assert_eq!((stdout, end.0), (&thousand[..1000], Cause::OutputLimit), "{run:?}"),
    }
}

/// Waits until all of these jobs have ended.
async fn all_ended(site: &Site, ids: &[String]) {
    let (client, begun) = (site.client(), Instant::now());
    for id in ids {
        while !client.jobs().job(id).await.unwrap().state.is_final() {
            assert!(begun.elapsed() < LONG, "job {id} does not end");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Waits until one of these jobs runs.
async fn one_runs(site: &Site, ids: &[String]) {
    let (client, begun) = (site.client(), Instant::now());
    loop {
        for id in ids {
            if client.jobs().job(id).await.unwrap().state == JobState::Running {
                return;
            }
        }
        assert!(begun.elapsed() < LONG, "no job runs");
    }
}

/// What runs leave behind on the host: control groups, directories, mounts.
fn leftovers(site: &Site) -> Vec<PathBuf> {
    let dir = site.worker_dir();
    let groups = cgroups_of(&dir).into_iter();
    let mut left: Vec<_> = groups.filter(|path| path.to_str().unwrap().contains("/run-")).collect();
    for dir in ["jobs", "runc"].map(|name| dir.join(name)) {
        left.extend(fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()));
    }
    left.extend(mounted_below(&dir.join("jobs")).into_iter().map(PathBuf::from));
    left
}

async fn nothing_is_left(site: &Site) {
    let begun = Instant::now();
    // An end is told before it is cleaned up.
    while !leftovers(site).is_empty() {
        assert!(begun.elapsed() < PATIENCE, "{:?}", leftovers(site));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_jobs_at_once_all_end_right_and_leave_nothing() {
    let site = Site::start().await;
    let client = site.client();
    ended(&client, &script("true")).await;
    let before = site.memory_peak_bytes();
    // More than a worker has ranges of ids: one that was kept would be missing.
    let jobs = client.jobs().submit_batch((0..100).map(job).collect()).await.unwrap();
    let ids: Vec<String> = jobs.into_iter().map(|job| job.id).collect();
    all_ended(&site, &ids).await;
    let mut runs = HashSet::new();
    for (n, id) in ids.iter().enumerate() {
        let run = client.jobs().run(id).await.unwrap();
        check(n, &run);
        assert!(runs.insert(run.id));
    }
    let grown = site.memory_peak_bytes() - before;
    assert!(grown <= GROWTH_MAX, "{} MiB", grown >> 20);
    nothing_is_left(&site).await;
    assert_eq!(mounted_below(&site.worker_dir()).len(), 1, "the image's own mount");
    let after = ended(&client, &script("echo works")).await;
    assert_eq!(after.stdout.as_deref(), Some("works\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_of_fifty_outlives_its_worker_and_each_job_runs_once() {
    let mut site = Site::start().await;
    let client = site.client();
    let job = |n: i32| script(&format!("echo begun {n}; sleep 0.5; echo done {n}"));
    let jobs = client.jobs().submit_batch((0..50).map(job).collect()).await.unwrap();
    let ids: Vec<String> = jobs.into_iter().map(|job| job.id).collect();
    // Amid the queue: some have ended, some run, most wait.
    all_ended(&site, &ids[..10]).await;
    one_runs(&site, &ids[10..]).await;
    site.kill();
    site.restart().await;
    all_ended(&site, &ids).await;
    let client = site.client();
    let mut interrupted = 0;
    for (n, id) in ids.iter().enumerate() {
        let run = client.jobs().run(id).await.unwrap();
        let stdout = run.stdout.unwrap();
        match run.cause.unwrap() {
            Cause::Infrastructure => {
                interrupted += 1;
                // It may have been about to be written down.
                assert!(format!("begun {n}\ndone {n}\n").starts_with(&stdout), "{stdout}");
                assert_eq!(client.jobs().job(id).await.unwrap().state, JobState::Failed);
            }
            cause => {
                assert_eq!((cause, run.exit_code), (Cause::Exited, Some(0)));
                assert_eq!(stdout, format!("begun {n}\ndone {n}\n"));
            }
        }
    }
    assert!((1..=8).contains(&interrupted), "{interrupted}");
    // One run for each, whoever began it.
    let page = RunPage { limit: Some(1000), ..RunPage::default() };
    let runs = client.jobs().runs(page).await.unwrap().runs;
    let of: HashSet<&str> = runs.iter().map(|run| run.job_id.as_str()).collect();
    assert_eq!((runs.len(), of.len()), (50, 50));
    nothing_is_left(&site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn approved_jobs_outlive_their_worker_and_each_runs_once() {
    let mut site = Site::start().await;
    let client = site.client();
    let mut ids = Vec::new();
    for n in 0..8 {
        let submission = Submission {
            owner: "ada".parse().unwrap(),
            queue: "code-queue".to_owned(),
            name: format!("number {n}"),
            description: String::new(),
            tags: vec![],
            job: script(&format!("echo {n} > /output/n; sleep 0.3; echo done {n}")),
        };
        ids.push(client.submissions().submit(&submission).await.unwrap().id);
    }
    for id in &ids {
        client.submissions().approve(id, &DecisionRequest::default()).await.unwrap();
    }
    // Three of them have their turns, and are about to start or have; the others wait.
    site.kill();
    site.restart().await;
    all_ended(&site, &ids).await;
    let client = site.client();
    let mut interrupted = 0;
    for (n, id) in ids.iter().enumerate() {
        let run = client.jobs().run(id).await.unwrap();
        match run.cause.unwrap() {
            Cause::Infrastructure => interrupted += 1,
            cause => {
                assert_eq!(
                    (cause, run.exit_code, run.output_files),
                    (Cause::Exited, Some(0), Some(1))
                );
                assert_eq!(run.stdout.unwrap(), format!("done {n}\n"));
            }
        }
    }
    assert!(interrupted <= 3, "{interrupted}");
    let runs = client.jobs().runs(RunPage::default()).await.unwrap().runs;
    let of: HashSet<&str> = runs.iter().map(|run| run.job_id.as_str()).collect();
    assert_eq!((runs.len(), of.len()), (8, 8));
    let verdict = client.submissions().verify_audit(None).await.unwrap();
    assert_eq!((verdict.fault, verdict.head.seq), (None, 32));
    nothing_is_left(&site).await;
}
