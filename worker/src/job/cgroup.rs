//! A run's control group: who is in it, what it used, and its end. cgroup v1, v2 and hybrid.
//!
//! runc makes the groups of its containers, hands controllers down to them
//! (`cgroup.subtree_control`) and sets the limits; for our own sandboxes this does, on v1 and hybrid.
//! It reads and clears all of them. On v1 a run has a directory of the same path in every
//! hierarchy, on v2 one. Nothing but runs' groups has processes below `/sway`, as v2 wants it.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions};
use serde::Deserialize;

use super::bundle::CPU_PERIOD_US;

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
        let found = Self::parse(&fs_err::read_to_string("/proc/self/mounts")?);
        if found.roots.is_empty() {
            // A run without a group could not be killed.
            return Err(io::Error::other(format!("none is mounted at {ROOT}")));
        }
        Ok(found)
    }

    fn parse(mounts: &str) -> Self {
        let (mut v1, mut v2) = (Vec::new(), Vec::new());
        let mut unified = false;
        for line in mounts.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let &[_, path, kind, options, ..] = fields.as_slice() else { continue };
            if !Path::new(path).starts_with(ROOT) {
                continue;
            }
            // As runc has it: v2 there is v2 alone, whatever somebody mounted below it.
            unified |= path == ROOT && kind == "cgroup2";
            let memory = options.split(',').any(|option| option == "memory");
            match kind {
                "cgroup" if memory => v1.insert(0, PathBuf::from(path)),
                "cgroup" => v1.push(PathBuf::from(path)),
                "cgroup2" => v2.push(PathBuf::from(path)),
                _ => {}
            }
        }
        if unified {
            return Self { roots: vec![PathBuf::from(ROOT)], unified };
        }
        v1.extend(v2);
        Self { roots: v1, unified }
    }

    /// Whether memory and swap together can be limited. runc 1.1 fails where they can't and shall.
    pub(crate) fn swap_limit(&self) -> bool {
        let Some(memory) = self.roots.first() else { return false };
        if !self.unified {
            return memory.join("memory.memsw.limit_in_bytes").exists();
        }
        // The root group has no limits: any other one with the controller tells.
        let limited = self.children("/").into_iter().map(|name| memory.join(name));
        let limited = limited.filter(|group| group.join("memory.max").exists());
        let mut swap = limited.map(|group| group.join("memory.swap.max").exists());
        swap.next().unwrap_or(true)
    }

    /// The group `path`, such as `/sway/1f0c/run-7`.
    pub(crate) fn group(&self, path: &str) -> Cgroup {
        let path = path.trim_start_matches('/');
        let directories = self.roots.iter().map(|root| root.join(path)).collect();
        Cgroup { directories, unified: self.unified }
    }

    /// Keeps one CPU quota in force as long as the group `path` is there: the kernel patches its own
    /// code for the first one on a machine, and back after the last, which takes each run that is
    /// alone 3 ms. For v1; on v2 a group may have none before its parents hand the controller down.
    pub(crate) fn hold_quotas(&self, path: &str) -> io::Result<()> {
        let cpu = self.roots.iter().find(|root| root.join("cpu.cfs_quota_us").exists());
        let Some(cpu) = cpu.filter(|_| !self.unified) else { return Ok(()) };
        let group = cpu.join(path.trim_start_matches('/'));
        fs_err::create_dir_all(&group)?;
        fs_err::write(group.join("cpu.cfs_quota_us"), "100000")
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

/// Has the kernel do ahead of time what the first of several moves of processes between groups
/// waits for: an RCU grace period, 8 to 16 ms. Moves that come soon after wait no more. Moves this
/// process to where it is already. Blocks.
pub(crate) fn expect_moves() -> io::Result<()> {
    let own = fs_err::read_to_string("/proc/self/cgroup")?;
    let mounts = fs_err::read_to_string("/proc/self/mounts")?;
    let Some(group) = own_group(&own, &mounts) else { return Ok(()) };
    fs_err::write(group.join("cgroup.procs"), "0")
}

/// Where this process is, by `/proc/self/cgroup` and `/proc/self/mounts`: in the v2 hierarchy.
fn own_group(own: &str, mounts: &str) -> Option<PathBuf> {
    let path = own.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let root = mounts.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let &[_, root, "cgroup2", ..] = fields.as_slice() else { return None };
        Path::new(root).starts_with(ROOT).then(|| PathBuf::from(root))
    })?;
    Some(root.join(path))
}

/// `linux.resources` of a bundle's configuration.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Resources {
    devices: Vec<DeviceRule>,
    memory: MemoryLimit,
    cpu: CpuQuota,
    pids: TaskLimit,
}

/// Access to devices, beside [`DEVICES`].
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceRule {
    allow: bool,
    access: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemoryLimit {
    limit: u64,
    /// Memory and swap together.
    swap: Option<u64>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CpuQuota {
    quota: u64,
    period: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TaskLimit {
    limit: u32,
}

/// What every container may use, as an OCI runtime grants it: nodes may be made, which takes a
/// capability; null, zero, full, random, urandom, tty, ptmx and pseudo-terminals may be used.
const DEVICES: [&str; 10] = [
    "b *:* m",
    "c *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// One run's group.
#[derive(Clone, Debug)]
pub(crate) struct Cgroup {
    /// One per hierarchy, the memory controller's first.
    directories: Vec<PathBuf>,
    unified: bool,
}

impl Cgroup {
    /// Makes the group, in every hierarchy, with these limits. For v1 and hybrid: v2 alone has no
    /// list of devices to write to. Blocks.
    pub(crate) fn make(&self, resources: &Resources) -> io::Result<()> {
        if self.unified {
            return Err(io::Error::other(
                "cgroup v2 alone is for `--sandbox runc`: it limits devices by a program",
            ));
        }
        let is_closed = |rule: &DeviceRule| !rule.allow && rule.access == "rwm";
        if resources.devices.is_empty() || !resources.devices.iter().all(is_closed) {
            return Err(io::Error::other("a bundle that grants devices is for `--sandbox runc`"));
        }
        for directory in &self.directories {
            match fs_err::create_dir(directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs_err::create_dir_all(directory)?;
                }
                result => result?,
            }
        }
        let Resources { memory, cpu, pids, .. } = resources;
        self.inherit_cpus()?;
        self.set("devices.deny", "a")?;
        for rule in DEVICES {
            self.set("devices.allow", rule)?;
        }
        self.set("memory.limit_in_bytes", &memory.limit.to_string())?;
        if let Some(both) = memory.swap {
            self.set("memory.memsw.limit_in_bytes", &both.to_string())?;
        }
        self.set("cpu.cfs_period_us", &cpu.period.to_string())?;
        self.set("cpu.cfs_quota_us", &cpu.quota.to_string())?;
        self.limit_tasks(pids.limit)
    }

    /// Gives a new group of v1, and those above it, the CPUs and memory nodes of the one above: it
    /// has none, and takes no process so.
    fn inherit_cpus(&self) -> io::Result<()> {
        let is_cpuset = |directory: &&PathBuf| directory.join("cpuset.cpus").exists();
        let Some(directory) = self.directories.iter().find(is_cpuset) else { return Ok(()) };
        for file in ["cpuset.cpus", "cpuset.mems"] {
            inherit(directory, file)?;
        }
        Ok(())
    }

    /// A file of the hierarchy that has it.
    fn found(&self, file: &str) -> Option<PathBuf> {
        let mut all = self.directories.iter().map(|directory| directory.join(file));
        all.find(|path| path.exists())
    }

    /// Writes such a file.
    fn set(&self, file: &str, value: &str) -> io::Result<()> {
        let missing = || format!("this machine's cgroups have no {file}");
        let found = self.found(file);
        let found = found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, missing()))?;
        fs_err::write(found, value)
    }

    /// Puts a process into the group, in every hierarchy. Blocks.
    pub(crate) fn admit(&self, pid: Pid) -> io::Result<()> {
        let pid = pid.as_raw_nonzero().to_string();
        self.directories
            .iter()
            .try_for_each(|directory| fs_err::write(directory.join("cgroup.procs"), &pid))
    }

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

    /// CPU time of all that ever was in the group.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        let text = |directory: &PathBuf, file| fs_err::read_to_string(directory.join(file)).ok();
        let nanos = |directory| text(directory, "cpuacct.usage")?.trim().parse().ok();
        let micros = |directory| field(&text(directory, "cpu.stat")?, "usage_usec");
        if let Some(nanos) = self.directories.iter().find_map(nanos).filter(|_| !self.unified) {
            return Some(Duration::from_nanos(nanos));
        }
        self.directories.iter().find_map(micros).map(Duration::from_micros)
    }

    /// Sets the limits of a group that has others: memory with swap, CPUs in thousandths, tasks.
    pub(crate) fn limit(&self, memory_bytes: u64, cpus_milli: u32, tasks: u32) -> io::Result<()> {
        let memory = memory_bytes.to_string();
        let quota_us = u64::from(cpus_milli) * CPU_PERIOD_US / 1000;
        if self.unified {
            self.set("memory.max", &memory)?;
            self.set("cpu.max", &format!("{quota_us} {CPU_PERIOD_US}"))?;
        } else {
            // Memory alone may never exceed memory with swap, so which goes first depends. Some
            // kernels do not count swap.
            let both = self.found("memory.memsw.limit_in_bytes");
            let _raised = both.as_ref().map(|both| fs_err::write(both, &memory));
            self.set("memory.limit_in_bytes", &memory)?;
            if let Some(both) = both {
                fs_err::write(both, &memory)?;
            }
            self.set("cpu.cfs_quota_us", &quota_us.to_string())?;
        }
        self.limit_tasks(tasks)
    }

    /// Lets at most so many tasks be in the group from now on.
    pub(crate) fn limit_tasks(&self, tasks: u32) -> io::Result<()> {
        self.set("pids.max", &tasks.to_string())
    }

    /// Whether something lives in the group, even where no process of it is listed any more: on v2
    /// one that is about to end keeps the group from being removed.
    fn is_populated(&self) -> bool {
        let events = |directory: &PathBuf| {
            let text = fs_err::read_to_string(directory.join("cgroup.events")).ok()?;
            field(&text, "populated")
        };
        self.directories.iter().filter_map(events).any(|populated| populated > 0)
    }

    /// Asks the kernel to kill everything in the group at once, forks under way too: v2, since
    /// Linux 5.14.
    fn kill_at_once(&self) {
        let files = self.directories.iter().map(|directory| directory.join("cgroup.kill"));
        for file in files.filter(|file| file.exists()) {
            if let Err(error) = fs_err::write(&file, "1") {
                tracing::debug!(%error, "processes are killed one by one");
            }
        }
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

    /// Whether nothing lives in the group. Asks one hierarchy: for a container whose first process
    /// was in all of them.
    pub(crate) fn is_deserted(&self) -> bool {
        let Some(first) = self.directories.first() else { return false };
        below(first).iter().all(|group| {
            fs_err::read_to_string(group.join("cgroup.procs")).is_ok_and(|pids| pids.is_empty())
        }) && !self.is_populated()
    }

    /// Kills everything in the group and waits until it is gone. False where something is left.
    pub(crate) async fn kill(&self) -> bool {
        let deadline = Instant::now() + EMPTY_DEADLINE;
        self.kill_at_once();
        loop {
            let pids = self.processes();
            if pids.is_empty() && !self.is_populated() {
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
        let remove = |group: &Path| match fs_err::remove_dir(group) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        for directory in &self.directories {
            // Few have groups of their own below: to look for them takes more than to fail.
            if remove(directory).is_err() {
                below(directory).iter().rev().try_for_each(|group| remove(group))?;
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
        // What the directory says of them: a group has dozens of files.
        let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        all.extend(groups.map(|entry| entry.path()));
    }
    all
}

/// Fills an empty file of a group with what the one above has, above first.
fn inherit(directory: &Path, file: &str) -> io::Result<String> {
    let text = fs_err::read_to_string(directory.join(file))?;
    let parent = directory.parent().filter(|parent| parent.join(file).exists());
    let Some(parent) = parent.filter(|_| text.trim().is_empty()) else { return Ok(text) };
    let text = inherit(parent, file)?;
    fs_err::write(directory.join(file), &text)?;
    Ok(text)
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
    fn a_v1_hierarchy_below_v2_changes_nothing() {
        let mixed = "\
            cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n\
            net_cls /sys/fs/cgroup/net_cls cgroup rw,net_cls 0 0\n\
            cgroup /sys/fs/cgroups-elsewhere/memory cgroup rw,memory 0 0\n";
        let mixed = Hierarchies::parse(mixed);
        assert!(mixed.unified);
        assert_eq!(mixed.roots, [Path::new("/sys/fs/cgroup")]);
    }

    #[test]
    fn the_own_group_is_found_on_v2_and_beside_v1() {
        let own = "4:memory:/elsewhere\n0::/system.slice/sway.service\n";
        let v2 = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        let at = own_group(own, v2).unwrap();
        assert_eq!(at, Path::new("/sys/fs/cgroup/system.slice/sway.service"));
        let hybrid = "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(own_group("0::/\n", hybrid).unwrap(), Path::new("/sys/fs/cgroup/unified/"));
        assert_eq!(own_group("4:memory:/\n", hybrid), None);
        assert_eq!(own_group("0::/\n", "none /proc proc rw 0 0\n"), None);
    }

    /// Plain files in the place of a cgroup v2 filesystem.
    fn fake(files: &[(&str, &str)]) -> (tempfile::TempDir, Hierarchies) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        }
        let roots = vec![root.path().to_owned()];
        (root, Hierarchies { roots, unified: true })
    }

    #[test]
    fn figures_of_a_v2_group_are_read() {
        let (_root, hierarchies) = fake(&[
            ("sway/w/run-1/memory.stat", "anon 1000\nfile 99999\nkernel 5\nshmem 24\n"),
            ("sway/w/run-1/cpu.stat", "usage_usec 70500\nuser_usec 50000\nsystem_usec 20500\n"),
            ("sway/w/run-1/memory.events", "oom 4\noom_kill 2\noom_group_kill 1\n"),
            ("sway/w/run-1/pids.max", "88\n"),
        ]);
        let group = hierarchies.group("/sway/w/run-1");
        assert_eq!((group.memory_bytes(), group.oom_kills()), (Some(1024), 2));
        assert_eq!(group.cpu_time(), Some(Duration::from_micros(70_500)));
        group.limit_tasks(64).unwrap();
        assert_eq!(group.read("pids.max").as_deref(), Some("64"));
        assert_eq!(hierarchies.children("/sway/w"), ["run-1"]);
        let gone = hierarchies.group("/sway/w/run-2");
        assert_eq!((gone.memory_bytes(), gone.oom_kills()), (None, 0));
        assert_eq!(gone.cpu_time(), None);
    }

    #[test]
    fn v2_limits_swap_where_groups_have_such_a_limit() {
        let with = [("init.scope/cgroup.procs", ""), ("system.slice/memory.max", "max\n")];
        let (root, hierarchies) = fake(&with);
        assert!(!hierarchies.swap_limit());
        fs_err::write(root.path().join("system.slice/memory.swap.max"), "max\n").unwrap();
        assert!(hierarchies.swap_limit());
        assert!(fake(&with[..1]).1.swap_limit(), "nobody can tell");
    }

    #[tokio::test]
    async fn a_v2_group_is_killed_at_once_and_over_when_nothing_lives_in_it() {
        let (root, hierarchies) = fake(&[
            ("sway/w/run-1/cgroup.procs", ""),
            ("sway/w/run-1/cgroup.kill", ""),
            ("sway/w/run-1/cgroup.events", "populated 1\nfrozen 0\n"),
        ]);
        let group = hierarchies.group("/sway/w/run-1");
        let at = root.path().join("sway/w/run-1");
        let ends = async {
            while fs_err::read_to_string(at.join("cgroup.kill")).unwrap() != "1" {
                tokio::task::yield_now().await;
            }
            assert!(group.is_populated());
            fs_err::write(at.join("cgroup.events"), "populated 0\nfrozen 0\n").unwrap();
        };
        let (killed, ()) = tokio::join!(group.kill(), ends);
        assert!(killed);
        assert!(hierarchies.group("/sway/w/run-2").kill().await, "there is none");
    }

    #[test]
    fn counters_are_found_by_their_whole_name() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(field(text, "oom_kill"), Some(3));
        assert_eq!(field(text, "oom"), None);
    }
}
