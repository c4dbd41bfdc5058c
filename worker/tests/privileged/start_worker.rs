//! Starts through a whole worker and a real fileserver: what one run touched starts the next.

use std::path::Path;
use std::time::Instant;

use sway_core::api::jobs::TraceUse;

use crate::worker::{
    PATIENCE, client, ended, script, start_fileserver, start_worker, store_image, terminate,
};

const PROGRAM: &str = "seq 3 | cat; head -c 5 /bin/sh > /dev/null; id -u";

/// Waits until a trace of some image is on the fileserver.
async fn traced(fileserver: &sway_client::Client) {
    let begun = Instant::now();
    while fileserver.refs().list("traces/").await.unwrap().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "no trace was stored");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Waits until a worker has written the file of a start.
async fn written(data: &Path) {
    let dir = data.join("worker/cache/starts/v1");
    let begun = Instant::now();
    loop {
        let files = std::fs::read_dir(&dir).into_iter().flatten();
        let mut names = files.map(|entry| entry.unwrap().path());
        if names.any(|path| path.extension().is_some_and(|end| end == "start")) {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "no start was kept on disk");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_run_touched_is_pushed_at_the_next_cold_start() {
    let data = tempfile::tempdir().unwrap();
    let fileserver = start_fileserver(&data.path().join("fileserver"), None).await;
    store_image(&fileserver).await;
    let server = client(&format!("http://{}", fileserver.addr));

    let (mut worker, url) = start_worker(data.path(), &fileserver, &[]);
    let begun = Instant::now();
    while client(&url).health().await.is_err() {
        assert!(begun.elapsed() < PATIENCE);
    }
    let first = ended(&client(&url), &script(PROGRAM)).await;
    assert_eq!(first.exit_code, Some(0), "{first:?}");
    assert_eq!(first.trace, TraceUse::None);
    traced(&server).await;
    terminate(&mut worker);

    // A worker that has nothing.
    let other = tempfile::tempdir().unwrap();
    let mut figures = Vec::new();
    for _ in 0..2 {
        let (mut worker, url) = start_worker(other.path(), &fileserver, &[]);
        let begun = Instant::now();
        while client(&url).health().await.is_err() {
            assert!(begun.elapsed() < PATIENCE);
        }
        let run = ended(&client(&url), &script(PROGRAM)).await;
        assert_eq!((run.exit_code, &run.stdout), (Some(0), &first.stdout), "{run:?}");
        assert_eq!(run.trace, TraceUse::Pushed, "{run:?}");
        assert!(run.trace_pushed_bytes > 0, "{run:?}");
        // Hot: nothing is pushed, and what is told of it is the same.
        let hot = ended(&client(&url), &script(PROGRAM)).await;
        assert_eq!((hot.stdout, hot.trace), (first.stdout.clone(), TraceUse::None));
        figures.push((run.server_fetches, run.bytes_fetched));
        written(other.path()).await;
        terminate(&mut worker);
    }
    eprintln!("fetches and bytes of the cold start, and after a restart: {figures:?}");
    fileserver.shutdown.cancel();
}
