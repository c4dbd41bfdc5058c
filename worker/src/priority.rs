//! How much of a busy processor the worker's own work gets, beside jobs.

use std::io;

use rustix::process::{Uid, geteuid, getpriority_process, setpriority_process, setpriority_user};

/// What nobody waits for.
pub(crate) const BACKGROUND: i32 = 19;

/// What a job may need soon.
pub(crate) const AHEAD: i32 = 10;

/// Runs `work` with this nice value, which what it starts inherits. Blocking threads are shared, so
/// it is set back; only root may do that, so nobody else gets another one.
pub(crate) fn at_nice<T>(nice: i32, work: impl FnOnce() -> T) -> T {
    // On Linux this is the calling thread's.
    let before = getpriority_process(None).unwrap_or(0);
    let lowered = geteuid().is_root() && setpriority_process(None, nice).is_ok();
    let done = work();
    if lowered && let Err(error) = setpriority_process(None, before) {
        tracing::warn!(%error, "a thread stays at low priority");
    }
    done
}

/// Gives all that runs as a user of this machine the usual priority. Only root may.
pub(crate) fn restore(uid: u32) -> io::Result<()> {
    Ok(setpriority_user(Uid::from_raw(uid), 0)?)
}
