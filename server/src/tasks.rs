//! Background work has an owner: it is named, its panics are logged, and it ends before its owner.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A set of tasks that end together. Clones share the set.
#[derive(Clone, Debug)]
pub struct Tasks {
    runtime: Handle,
    tracker: TaskTracker,
    stop: CancellationToken,
    abort: CancellationToken,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// An empty set on the current runtime.
    ///
    /// # Panics
    /// Outside a Tokio runtime.
    pub fn new() -> Self {
        Self {
            runtime: Handle::current(),
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
            abort: CancellationToken::new(),
        }
    }

    /// Runs `work` until it ends, or is dropped at the deadline of [`Tasks::shutdown`]. May be
    /// called from any thread.
    pub fn spawn<F>(&self, name: &'static str, work: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let abort = self.abort.clone();
        let owned = async move {
            let work = AssertUnwindSafe(abort.run_until_cancelled(work)).catch_unwind();
            if work.await.is_err() {
                tracing::error!(task.name = name, "task panicked");
            }
        };
        self.tracker.spawn_on(owned, &self.runtime);
    }

    /// Runs `work` on a blocking thread. It can't be aborted: it must end by itself.
    pub fn spawn_blocking<F>(&self, name: &'static str, work: F)
    where
        F: FnOnce() + Send + 'static,
    {
        let owned = move || {
            if std::panic::catch_unwind(AssertUnwindSafe(work)).is_err() {
                tracing::error!(task.name = name, "task panicked");
            }
        };
        self.tracker.spawn_blocking_on(owned, &self.runtime);
    }

    /// Cancelled when [`Tasks::shutdown`] starts: tasks that loop wait for it.
    pub fn stopping(&self) -> &CancellationToken {
        &self.stop
    }

    /// How many have not ended.
    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    /// Whether all have ended.
    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Asks all tasks to stop, waits for them, and drops those that outlast `deadline`. Tells
    /// whether all ended by themselves.
    pub async fn shutdown(&self, deadline: Duration) -> bool {
        self.stop.cancel();
        self.tracker.close();
        if tokio::time::timeout(deadline, self.tracker.wait()).await.is_ok() {
            return true;
        }
        tracing::warn!(tasks = self.tracker.len(), "tasks did not end in time; dropping them");
        self.abort.cancel();
        // Dropping a future is quick; a blocking thread is left behind.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.tracker.wait()).await;
        false
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[tokio::test]
    async fn shutdown_waits_for_tasks_that_stop_when_asked() {
        let tasks = Tasks::new();
        let done = Arc::new(AtomicBool::new(false));
        let (stopping, flag) = (tasks.stopping().clone(), Arc::clone(&done));
        tasks.spawn("polite", async move {
            stopping.cancelled().await;
            flag.store(true, Ordering::SeqCst);
        });
        assert!(tasks.shutdown(Duration::from_secs(10)).await);
        assert!(done.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn a_task_that_does_not_stop_is_dropped() {
        let tasks = Tasks::new();
        tasks.spawn("deaf", std::future::pending());
        assert!(!tasks.shutdown(Duration::from_millis(10)).await);
        assert!(tasks.is_empty());
    }

    #[tokio::test]
    async fn a_panic_takes_only_its_task() {
        let tasks = Tasks::new();
        tasks.spawn("broken", async { panic!("on purpose") });
        tasks.spawn_blocking("broken too", || panic!("on purpose"));
        assert!(tasks.shutdown(Duration::from_secs(10)).await);
    }
}
