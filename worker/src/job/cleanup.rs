//! Leaves nothing behind: of a run that ended, and of a worker that was killed.
//!
//! Both go the same way and depend on no state but what lies on the host: the cgroup tells the
//! processes, the directories tell the mounts. So a half-made run is removed like a whole one.

use std::io;
use std::path::Path;

use super::cgroup::Cgroup;
use super::stage::{Stage, unmount};

/// Removes everything of a run, when its processes are gone: `state` is what runc keeps of it. Tries
/// each step, whatever the others did, and returns what went wrong.
pub(crate) async fn remove_run(state: &Path, cgroup: &Cgroup, stage: &Stage) -> Vec<String> {
    let mut failures = Vec::new();
    let (state, cgroup, stage) = (state.to_owned(), cgroup.clone(), stage.clone());
    let rest = tokio::task::spawn_blocking(move || {
        let results = [cgroup.remove(), remove_directory(&state), stage.remove()];
        results.into_iter().filter_map(|result| Some(result.err()?.to_string())).collect()
    });
    match rest.await {
        Ok(rest) => failures.extend::<Vec<String>>(rest),
        Err(error) => failures.push(error.to_string()),
    }
    failures
}

/// Removes a directory with what it holds, if it is there. Not for places where mounts may be.
fn remove_directory(path: &Path) -> io::Result<()> {
    match fs_err::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Detaches every mount below `directory`, the last one first. Blocks.
pub(crate) fn unmount_below(directory: &Path) -> io::Result<()> {
    let mountinfo = fs_err::read_to_string("/proc/self/mountinfo")?;
    let mut points: Vec<_> = mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(unescaped)
        .filter(|point| Path::new(point).starts_with(directory))
        .collect();
    while let Some(point) = points.pop() {
        unmount(Path::new(&point))?;
    }
    Ok(())
}

/// A path of `/proc/self/mountinfo`: space, tab, newline and backslash are octal there.
fn unescaped(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .into_iter()
        .fold(field.to_owned(), |path, (escape, character)| path.replace(escape, character))
}
