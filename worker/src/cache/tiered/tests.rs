//! The whole stack of tiers over a fileserver that can be told to fail.

use super::*;
use crate::fetch::script::{Act, Script, Scripted};

struct Stack {
    script: Arc<Script>,
    chunks: Arc<Chunks>,
    tasks: Tasks,
    account: Arc<RunAccount>,
}

fn stack(script: Arc<Script>, change: impl FnOnce(&mut ChunksConfig)) -> Stack {
    let tasks = Tasks::new();
    let mut config = ChunksConfig {
        fetch: FetchConfig {
            backoff_min: Duration::from_millis(1),
            backoff_max: Duration::from_millis(5),
            ..FetchConfig::default()
        },
        ..ChunksConfig::default()
    };
    change(&mut config);
    let chunks =
        Chunks::new(config, Arc::new(Scripted(Arc::clone(&script))), tasks.clone()).unwrap();
    Stack { script, chunks, tasks, account: Arc::default() }
}

impl Stack {
    fn put(&self, raw: &[u8]) -> ChunkRef {
        let len = u32::try_from(raw.len()).unwrap();
        ChunkRef { digest: self.script.put(raw), len }
    }

    /// Waits for what goes on in the background.
    async fn settle(&self) {
        while !self.tasks.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    fn figures(&self) -> (u64, u64, u64) {
        let figures = self.account.figures();
        (figures.memory_hits, figures.disk_hits, figures.fetches)
    }
}

#[tokio::test]
async fn a_chunk_comes_from_the_nearest_tier_and_is_counted_there() {
    let dir = tempfile::tempdir().unwrap();
    let script = Script::of([]);
    let stack = stack_on(dir.path(), Arc::clone(&script));
    let chunk = stack.put(&[7; 1000]);
    assert_eq!(stack.chunks.chunk(chunk, &stack.account).await.unwrap().as_ref(), [7; 1000]);
    assert_eq!(stack.figures(), (0, 0, 1));
    stack.chunks.chunk(chunk, &stack.account).await.unwrap();
    assert_eq!(stack.figures(), (1, 0, 1));
    assert!(stack.account.figures().fetched_bytes < 100, "counted as on the wire");
    stack.settle().await;
    drop(stack);

    let restarted = stack_on(dir.path(), script);
    assert!(restarted.chunks.try_memory(chunk).is_none());
    restarted.chunks.chunk(chunk, &restarted.account).await.unwrap();
    assert_eq!(restarted.figures(), (0, 1, 0));
    assert_eq!(restarted.account.figures().disk_bytes, 1000);
    assert!(restarted.chunks.try_memory(chunk).is_some());
    assert_eq!(restarted.script.requests().len(), 1);
}

fn stack_on(dir: &std::path::Path, script: Arc<Script>) -> Stack {
    stack(script, |config| config.disk_dir = Some(dir.to_owned()))
}

#[tokio::test]
async fn the_missing_chunks_of_a_read_are_one_request() {
    let stack = stack(Script::of([]), |_| {});
    let known = stack.put(b"known");
    stack.chunks.chunk(known, &stack.account).await.unwrap();
    let chunks = [stack.put(b"one"), known, stack.put(b"two"), stack.put(b"three")];
    let parts = chunks.map(|chunk| Part { chunk, bytes: 2 });
    let blobs = stack.chunks.read(&parts, &stack.account).await.unwrap();
    let texts: Vec<_> = blobs.iter().map(AsRef::as_ref).collect();
    assert_eq!(texts, [&b"one"[..], b"known", b"two", b"three"]);
    assert_eq!(stack.script.requests()[1].digests.len(), 3);
    assert_eq!(stack.script.requests().len(), 2);
    assert_eq!(stack.figures(), (1, 0, 4));
}

#[tokio::test]
async fn many_askers_make_one_request_and_the_first_one_is_charged() {
    let stack = stack(Script::of([]), |_| {});
    let chunk = stack.put(b"wanted by all");
    let accounts: Vec<Arc<RunAccount>> = (0..8).map(|_| Arc::default()).collect();
    let askers = accounts.iter().map(|account| stack.chunks.chunk(chunk, account));
    futures::future::try_join_all(askers).await.unwrap();
    assert_eq!(stack.script.requests().len(), 1);
    let fetches: Vec<_> = accounts.iter().map(|account| account.figures().fetches).collect();
    assert_eq!(fetches, [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(accounts[7].figures().memory_hits, 1);
}

#[tokio::test]
async fn an_asker_that_goes_away_takes_nothing_from_the_others() {
    let stack = stack(Script::of([]), |_| {});
    let chunk = stack.put(b"wanted");
    stack.script.hold(true);
    let mut first = Box::pin(stack.chunks.chunk(chunk, &stack.account));
    assert!(futures::poll!(&mut first).is_pending());
    let other = Arc::default();
    let mut second = Box::pin(stack.chunks.chunk(chunk, &other));
    assert!(futures::poll!(&mut second).is_pending());
    drop(first);
    stack.script.hold(false);
    assert_eq!(second.await.unwrap().as_ref(), b"wanted");
    assert_eq!(stack.script.requests().len(), 1);
    assert_eq!(stack.figures(), (0, 0, 1), "who caused it is charged even so");
}

#[tokio::test]
async fn a_failure_is_the_run_s_own_and_soon_forgotten() {
    let stack = stack(Script::of([]), |config| {
        config.fetch.deadline = Duration::from_millis(100);
    });
    let chunk = stack.put(b"wanted");
    stack.script.always(Act::Unreachable);
    let error = stack.chunks.chunk(chunk, &stack.account).await.unwrap_err();
    assert!(matches!(error, FetchError::Deadline { .. }));
    stack.script.always(Act::Answer);
    let other_run = Arc::default();
    assert_eq!(stack.chunks.chunk(chunk, &other_run).await.unwrap().as_ref(), b"wanted");
    // It is in memory now: the run that gave up need not wait for it either.
    assert_eq!(stack.chunks.chunk(chunk, &stack.account).await.unwrap().as_ref(), b"wanted");
}

#[tokio::test]
async fn a_run_with_little_time_waits_for_a_third_of_it_and_once() {
    let stack = stack(Script::of([]), |_| {});
    stack.account.bound_reads(Duration::from_millis(100));
    let chunk = stack.put(b"wanted");
    stack.script.always(Act::Unreachable);
    let begun = Instant::now();
    for _ in 0..10 {
        let error = stack.chunks.chunk(chunk, &stack.account).await.unwrap_err();
        assert!(matches!(error, FetchError::Deadline { .. }), "{error}");
    }
    // Others may wait longer, and the fetch goes on for them.
    assert!(begun.elapsed() < stack.chunks.fetcher.config().deadline);
    stack.script.always(Act::Answer);
    let patient = Arc::default();
    assert_eq!(stack.chunks.chunk(chunk, &patient).await.unwrap().as_ref(), b"wanted");
    assert!(stack.chunks.chunk(chunk, &stack.account).await.is_ok());
}

#[tokio::test]
async fn a_chunk_of_another_length_than_its_manifest_says_is_refused() {
    let stack = stack(Script::of([]), |_| {});
    let mut chunk = stack.put(b"wanted");
    chunk.len += 1;
    let error = stack.chunks.chunk(chunk, &stack.account).await.unwrap_err();
    assert!(matches!(error, FetchError::Corrupt { .. }), "{error}");
}

#[tokio::test]
async fn what_was_read_ahead_is_in_memory_and_counts_as_fetched() {
    let stack = stack(Script::of([]), |_| {});
    let chunks = [stack.put(b"one"), stack.put(b"two")];
    stack.chunks.prefetch(&chunks, &stack.account);
    stack.settle().await;
    assert!(chunks.iter().all(|chunk| stack.chunks.try_memory(*chunk).is_some()));
    assert_eq!(stack.script.requests().len(), 1);
    assert_eq!(stack.figures(), (0, 0, 2));
}

#[tokio::test]
async fn a_disk_that_fails_slows_reads_down_and_fails_none() {
    let dir = tempfile::tempdir().unwrap();
    let stack = stack(Script::of([]), |config| {
        config.disk_dir = Some(dir.path().to_owned());
        config.memory_bytes = 0;
    });
    std::fs::remove_dir_all(dir.path()).unwrap();
    let chunk = stack.put(b"wanted");
    for _ in 0..2 {
        assert_eq!(stack.chunks.chunk(chunk, &stack.account).await.unwrap().as_ref(), b"wanted");
        stack.settle().await;
    }
    assert_eq!(stack.figures(), (0, 0, 2));
}

#[tokio::test]
async fn a_manifest_is_kept_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let stack = stack_on(dir.path(), Script::of([]));
    let digest = stack.script.put(b"a manifest, or so it says");
    for _ in 0..2 {
        stack.chunks.blob(digest, &stack.account).await.unwrap();
        stack.settle().await;
    }
    assert_eq!(stack.script.requests().len(), 1);
    assert_eq!(stack.figures(), (0, 1, 1));
}
