//! A run's control group: who is in it, what it used, and its end. cgroup v1, v2 and hybrid.
//!
//! runc makes the groups and sets the limits; this reads and clears them. On v1 a run has a
//! directory of the same path in every hierarchy, on v2 one.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};

/// Where hierarchies may be mounted.
const ROOT: &str = "/sys/fs/cgroup";

/// How long killed processes may take to leave. One that is in uninterruptible sleep leaves
/// when its device answers.
const EMPTY_DEADLINE: Duration = Duration::from_secs(20);

/// Between two looks whether they left.
const EMPTY_POLL: Duration = Duration::from_millis(5);

/// The hierarchies of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    /// Mount points, the memory controller's first.
    roots: Vec<PathBuf>,
    /// cgroup v2 alone.
    pub(crate) unified: bool,
}

impl Hierarchies {
    /// Reads this process' mounts.
    pub(crate) fn detect() -> io::Result<Self> {
        Ok(Self::parse(&fs_err::read_to_string("/proc/self/mounts")?))
    }

    fn parse(mounts: &str) -> Self {
        let (mut v1, mut v2) = (Vec::new(), Vec::new());
        for line in mounts.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let &[_, path, kind, options, ..] = fields.as_slice() else { continue };
            if !path.starts_with(ROOT) {
                continue;
            }
            let memory = options.split(',').any(|option| option == "memory");
            match kind {
                "cgroup" if memory => v1.insert(0, PathBuf::from(path)),
                "cgroup" => v1.push(PathBuf::from(path)),
                "cgroup2" => v2.push(PathBuf::from(path)),
                _ => {}
            }
        }
        let unified = v1.is_empty();
        v1.extend(v2);
        Self { roots: v1, unified }
    }

    /// Whether memory and swap together can be limited.
    pub(crate) fn swap_limit(&self) -> bool {
        let memory = self.roots.first();
        self.unified || memory.is_some_and(|at| at.join("memory.memsw.limit_in_bytes").exists())
    }

    /// The group `path`, such as `/sway/1f0c/run-7`.
    pub(crate) fn group(&self, path: &str) -> Cgroup {
        let path = path.trim_start_matches('/');
        let directories = self.roots.iter().map(|root| root.join(path)).collect();
        Cgroup { directories, unified: self.unified }
    }

    /// The names of all groups directly below `path`, in any hierarchy.
    pub(crate) fn children(&self, path: &str) -> Vec<String> {
        let mut names: Vec<String> = self
            .group(path)
            .directories
            .iter()
            .filter_map(|directory| fs_err::read_dir(directory).ok())
            .flatten()
            .filter_map(|entry| entry.ok().filter(|entry| entry.path().is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

/// One run's group.
#[derive(Clone, Debug)]
pub(crate) struct Cgroup {
    /// One per hierarchy, the memory controller's first.
    directories: Vec<PathBuf>,
    unified: bool,
}

impl Cgroup {
    fn read(&self, file: &str) -> Option<String> {
        fs_err::read_to_string(self.directories.first()?.join(file)).ok()
    }

    /// Processes that the kernel killed because the group had no memory left.
    pub(crate) fn oom_kills(&self) -> u64 {
        let file = if self.unified { "memory.events" } else { "memory.oom_control" };
        self.read(file).and_then(|text| field(&text, "oom_kill")).unwrap_or(0)
    }

    /// Bytes of anonymous and shared memory in use, page cache left out.
    pub(crate) fn memory_bytes(&self) -> Option<u64> {
        let text = self.read("memory.stat")?;
        let anonymous = if self.unified { "anon" } else { "total_rss" };
        let shared = if self.unified { "shmem" } else { "total_shmem" };
        Some(field(&text, anonymous)? + field(&text, shared).unwrap_or(0))
    }

    /// Lets at most so many tasks be in the group from now on.
    pub(crate) fn limit_tasks(&self, tasks: u32) -> io::Result<()> {
        let at = |directory: &PathBuf| directory.join("pids.max");
        let file = self.directories.iter().map(at).find(|file| file.exists());
        file.map_or(Ok(()), |file| fs_err::write(file, tasks.to_string()))
    }

    fn processes(&self) -> Vec<Pid> {
        let mut pids = Vec::new();
        for directory in &self.directories {
            for group in below(directory) {
                let text = fs_err::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
                pids.extend(text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)));
            }
        }
        pids
    }

    /// Kills everything in the group and waits until it is gone. False where something is left.
    pub(crate) async fn kill(&self) -> bool {
        let deadline = Instant::now() + EMPTY_DEADLINE;
        loop {
            let pids = self.processes();
            if pids.is_empty() {
                return true;
            }
            for pid in pids {
                // The group is read again until it is empty, so errors need no handling. What
                // became our child when its parent died is waited for.
                let _ = rustix::process::kill_process(pid, Signal::KILL);
                let _ = rustix::process::waitpid(Some(pid), WaitOptions::NOHANG);
            }
            if Instant::now() > deadline {
                return false;
            }
            tokio::time::sleep(EMPTY_POLL).await;
        }
    }

    /// Removes the empty group. One that is not there is fine.
    pub(crate) fn remove(&self) -> io::Result<()> {
        for directory in &self.directories {
            for group in below(directory).iter().rev() {
                match fs_err::remove_dir(group) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Removes the group where nothing is in it, not even an empty group.
    pub(crate) fn remove_unless_used(&self) {
        for directory in &self.directories {
            let _ = fs_err::remove_dir(directory);
        }
    }
}

/// A directory and those below it, each after the one that holds it. Empty where it is missing.
fn below(directory: &Path) -> Vec<PathBuf> {
    let mut all = if directory.is_dir() { vec![directory.to_owned()] } else { vec![] };
    let mut at = 0;
    while let Some(directory) = all.get(at).cloned() {
        at += 1;
        let entries = fs_err::read_dir(directory).into_iter().flatten().flatten();
        all.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir()));
    }
    all
}

/// The value of `name` in lines of `name value`.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_told_apart() {
        let hybrid = "\
            cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
            cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n";
        let hybrid = Hierarchies::parse(hybrid);
        assert!(!hybrid.unified);
        assert_eq!(hybrid.roots[0], Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(hybrid.roots.len(), 3);
        let pure = Hierarchies::parse("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n");
        assert!(pure.unified);
        assert_eq!(pure.group("/sway/w").directories, [Path::new("/sys/fs/cgroup/sway/w")]);
    }

    #[test]
    fn counters_are_found_by_their_whole_name() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(field(text, "oom_kill"), Some(3));
        assert_eq!(field(text, "oom"), None);
    }
}
