//! A run's control group: who is in it, what it used, and its end. cgroup v1, v2 and hybrid.
//!
//! runc makes the groups of its containers, hands controllers down to them
//! (`cgroup.subtree_control`) and sets the limits; for our own sandboxes this does, on v1 and hybrid.
//! It reads and clears all of them. On v1 a run has a directory of the same path in every
//! hierarchy, of our own sandboxes in those that limit or count something; on v2 one. Nothing but
//! runs' groups has processes below `/sway`, as v2 wants it.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
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

/// Controllers of v1 by which a run is limited or counted.
const CONTROLLERS: [&str; 5] = ["memory", "cpu", "cpuacct", "pids", "devices"];

/// One hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hierarchy {
    /// Its mount point.
    root: PathBuf,
    /// Those of [`CONTROLLERS`] that it has. On v2 they are not asked for: it has what no v1 has.
    controllers: Vec<&'static str>,
    is_v2: bool,
}

/// The hierarchies of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchies {
    /// The memory controller's first.
    all: Arc<[Hierarchy]>,
    /// cgroup v2 alone.
    pub(crate) unified: bool,
}

impl Hierarchies {
    /// Reads this process' mounts.
    pub(crate) fn detect() -> io::Result<Self> {
        let found = Self::parse(&fs_err::read_to_string("/proc/self/mounts")?);
        if found.all.is_empty() {
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
            let has = |name: &&str| options.split(',').any(|option| option == *name);
            let controllers: Vec<_> = CONTROLLERS.into_iter().filter(has).collect();
            let hierarchy =
                |controllers, is_v2| Hierarchy { root: path.into(), controllers, is_v2 };
            match kind {
                "cgroup" if controllers.contains(&"memory") => {
                    v1.insert(0, hierarchy(controllers, false));
                }
                "cgroup" => v1.push(hierarchy(controllers, false)),
                "cgroup2" => v2.push(hierarchy(Vec::new(), true)),
                _ => {}
            }
        }
        if unified {
            v1.clear();
            v2.retain(|hierarchy| hierarchy.root == Path::new(ROOT));
            v2.truncate(1);
        }
        v1.extend(v2);
        Self { all: v1.into(), unified }
    }

    /// Whether memory and swap together can be limited. runc 1.1 fails where they can't and shall.
    pub(crate) fn swap_limit(&self) -> bool {
        let Some(Hierarchy { root: memory, .. }) = self.all.first() else { return false };
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
        let path = path.trim_start_matches('/').into();
        Cgroup { hierarchies: self.clone(), path }
    }

    /// Keeps one CPU quota in force as long as the group `path` is there: the kernel patches its own
    /// code for the first one on a machine, and back after the last, which takes each run that is
    /// alone 3 ms. For v1; on v2 a group may have none before its parents hand the controller down.
    pub(crate) fn hold_quotas(&self, path: &str) -> io::Result<()> {
        let cpu = self.all.iter().find(|hierarchy| hierarchy.controllers.contains(&"cpu"));
        let Some(cpu) = cpu else { return Ok(()) };
        let group = cpu.root.join(path.trim_start_matches('/'));
        fs_err::create_dir_all(&group)?;
        fs_err::write(group.join("cpu.cfs_quota_us"), "100000")
    }

    /// The names of all groups directly below `path`, in any hierarchy.
    pub(crate) fn children(&self, path: &str) -> Vec<String> {
        let mut names: Vec<String> = self
            .group(path)
            .directories()
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

/// Where this process is in the v2 hierarchy; none where there is none.
#[derive(Debug)]
pub(crate) struct OwnGroup(PathBuf);

impl OwnGroup {
    /// Looks for it.
    pub(crate) fn find() -> io::Result<Option<Self>> {
        let own = fs_err::read_to_string("/proc/self/cgroup")?;
        let mounts = fs_err::read_to_string("/proc/self/mounts")?;
        Ok(own_group(&own, &mounts).map(Self))
    }

    /// Has the kernel do ahead of time what the first of several moves of processes between groups
    /// waits for: an RCU grace period, 8 to 16 ms. Moves that come soon after wait no more. Moves
    /// this process to where it is already. Blocks.
    pub(crate) fn expect_moves(&self) -> io::Result<()> {
        fs_err::write(self.0.join("cgroup.procs"), "0")
    }
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
    /// Of v1: beside 1024, the usual.
    shares: Option<u64>,
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
    hierarchies: Hierarchies,
    /// Below the mount point of each.
    path: PathBuf,
}

impl Cgroup {
    /// One in every hierarchy, the memory controller's first, whether it is there or not.
    fn directories(&self) -> impl Iterator<Item = PathBuf> {
        self.hierarchies.all.iter().map(|hierarchy| hierarchy.root.join(&self.path))
    }

    /// Those of v2.
    fn v2_directories(&self) -> impl Iterator<Item = PathBuf> {
        let v2 = self.hierarchies.all.iter().filter(|hierarchy| hierarchy.is_v2);
        v2.map(|hierarchy| hierarchy.root.join(&self.path))
    }

    /// Those where our own sandboxes have their groups: in the others, which neither limit nor count
    /// anything of theirs, they stay where the worker is.
    fn joined(&self) -> impl Iterator<Item = PathBuf> {
        let is_joined = |it: &&Hierarchy| it.is_v2 || !it.controllers.is_empty();
        let joined = self.hierarchies.all.iter().filter(is_joined);
        joined.map(|hierarchy| hierarchy.root.join(&self.path))
    }

    /// Makes the group with these limits. For v1 and hybrid: v2 alone has no list of devices to
    /// write to. Blocks.
    pub(crate) fn make(&self, resources: &Resources) -> io::Result<()> {
        if self.hierarchies.unified {
            return Err(io::Error::other(
                "cgroup v2 alone is for `--sandbox runc`: it limits devices by a program",
            ));
        }
        let is_closed = |rule: &DeviceRule| !rule.allow && rule.access == "rwm";
        if resources.devices.is_empty() || !resources.devices.iter().all(is_closed) {
            return Err(io::Error::other("a bundle that grants devices is for `--sandbox runc`"));
        }
        for directory in self.joined() {
            match fs_err::create_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    fs_err::create_dir_all(directory)?;
                }
                result => result?,
            }
        }
        let Resources { memory, cpu, pids, .. } = resources;
        self.set("devices.deny", "a")?;
        self.set_all("devices.allow", &DEVICES)?;
        self.set("memory.limit_in_bytes", &memory.limit.to_string())?;
        if let Some(both) = memory.swap {
            self.set("memory.memsw.limit_in_bytes", &both.to_string())?;
        }
        self.set("cpu.cfs_period_us", &cpu.period.to_string())?;
        self.set("cpu.cfs_quota_us", &cpu.quota.to_string())?;
        if let Some(shares) = cpu.shares {
            self.set("cpu.shares", &shares.to_string())?;
        }
        self.limit_tasks(pids.limit)
    }

    /// A file of the hierarchy with its controller; none where no hierarchy has it.
    fn file(&self, name: &str) -> Option<PathBuf> {
        let controller = name.split('.').next().unwrap_or_default();
        let of_v1 = self.hierarchies.all.iter().find(|it| it.controllers.contains(&controller));
        let found = of_v1.or_else(|| self.hierarchies.all.iter().find(|it| it.is_v2))?;
        Some(found.root.join(&self.path).join(name))
    }

    /// Writes such a file.
    fn set(&self, name: &str, value: &str) -> io::Result<()> {
        self.set_all(name, &[value])
    }

    /// Writes several values to such a file, each by itself.
    fn set_all(&self, name: &str, values: &[&str]) -> io::Result<()> {
        let missing = || format!("this machine's cgroups have no {name}");
        let path = self.file(name);
        let path = path.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, missing()))?;
        let mut file = fs_err::OpenOptions::new().write(true).truncate(true).open(path)?;
        values.iter().try_for_each(|value| file.write_all(value.as_bytes()))
    }

    /// Puts a process into the group. Blocks.
    pub(crate) fn admit(&self, pid: Pid) -> io::Result<()> {
        let pid = pid.as_raw_nonzero().to_string();
        let mut joined = self.joined();
        joined.try_for_each(|directory| fs_err::write(directory.join("cgroup.procs"), &pid))
    }

    fn read(&self, name: &str) -> Option<String> {
        fs_err::read_to_string(self.file(name)?).ok()
    }

    /// Processes that the kernel killed because the group had no memory left.
    pub(crate) fn oom_kills(&self) -> u64 {
        let unified = self.hierarchies.unified;
        let file = if unified { "memory.events" } else { "memory.oom_control" };
        self.read(file).and_then(|text| field(&text, "oom_kill")).unwrap_or(0)
    }

    /// Bytes of anonymous and shared memory in use, page cache left out.
    pub(crate) fn memory_bytes(&self) -> Option<u64> {
        let text = self.read("memory.stat")?;
        let unified = self.hierarchies.unified;
        let anonymous = if unified { "anon" } else { "total_rss" };
        let shared = if unified { "shmem" } else { "total_shmem" };
        Some(field(&text, anonymous)? + field(&text, shared).unwrap_or(0))
    }

    /// CPU time of all that ever was in the group.
    pub(crate) fn cpu_time(&self) -> Option<Duration> {
        let of_v1 = self.hierarchies.all.iter().find(|it| it.controllers.contains(&"cpuacct"));
        if let Some(hierarchy) = of_v1 {
            let path = hierarchy.root.join(&self.path).join("cpuacct.usage");
            let nanos = fs_err::read_to_string(path).ok()?.trim().parse().ok()?;
            return Some(Duration::from_nanos(nanos));
        }
        let path = self.v2_directories().next()?.join("cpu.stat");
        let micros = field(&fs_err::read_to_string(path).ok()?, "usage_usec")?;
        Some(Duration::from_micros(micros))
    }

    /// Sets the limits of a group that has others: memory with swap, CPUs in thousandths, tasks.
    pub(crate) fn limit(&self, memory_bytes: u64, cpus_milli: u32, tasks: u32) -> io::Result<()> {
        let memory = memory_bytes.to_string();
        let quota_us = u64::from(cpus_milli) * CPU_PERIOD_US / 1000;
        if self.hierarchies.unified {
            self.set("memory.max", &memory)?;
            self.set("cpu.max", &format!("{quota_us} {CPU_PERIOD_US}"))?;
        } else {
            // Memory alone may never exceed memory with swap, so which goes first depends. Some
            // kernels do not count swap.
            let both = "memory.memsw.limit_in_bytes";
            let has_both = self.file(both).is_some_and(|file| file.exists());
            let _raised = has_both.then(|| self.set(both, &memory));
            self.set("memory.limit_in_bytes", &memory)?;
            if has_both {
                self.set(both, &memory)?;
            }
            self.set("cpu.cfs_quota_us", &quota_us.to_string())?;
        }
        self.limit_tasks(tasks)
    }

    /// Gives a group that had less the usual part of busy processors.
    pub(crate) fn give_usual_share(&self) -> io::Result<()> {
        match self.hierarchies.unified {
            true => self.set("cpu.weight", "100"),
            false => self.set("cpu.shares", "1024"),
        }
    }

    /// Lets at most so many tasks be in the group from now on.
    pub(crate) fn limit_tasks(&self, tasks: u32) -> io::Result<()> {
        self.set("pids.max", &tasks.to_string())
    }

    /// Whether something lives in the group, even where no process of it is listed any more: one that
    /// is about to end keeps the group from being removed. Only v2 tells.
    fn is_populated(&self) -> Option<bool> {
        let path = self.v2_directories().next()?.join("cgroup.events");
        Some(field(&fs_err::read_to_string(path).ok()?, "populated")? > 0)
    }

    /// Asks the kernel to kill everything in the group at once, forks under way too: v2, since
    /// Linux 5.14.
    fn kill_at_once(&self) {
        let files = self.v2_directories().map(|directory| directory.join("cgroup.kill"));
        for file in files.filter(|file| file.exists()) {
            if let Err(error) = fs_err::write(&file, "1") {
                tracing::debug!(%error, "processes are killed one by one");
            }
        }
    }

    fn processes(&self) -> Vec<Pid> {
        let mut pids = Vec::new();
        for directory in self.directories() {
            for group in below(&directory) {
                let text = fs_err::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
                pids.extend(text.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)));
            }
        }
        pids
    }

    /// Whether nothing lives in the group. Asks one hierarchy, v2's where there is one: for a
    /// container whose first process was in all of them.
    pub(crate) fn is_deserted(&self) -> bool {
        if let Some(is_populated) = self.is_populated() {
            return !is_populated;
        }
        let Some(first) = self.directories().next() else { return false };
        below(&first).iter().all(|group| {
            fs_err::read_to_string(group.join("cgroup.procs")).is_ok_and(|pids| pids.is_empty())
        })
    }

    /// Kills everything in the group and waits until it is gone. False where something is left.
    pub(crate) async fn kill(&self) -> bool {
        let deadline = Instant::now() + EMPTY_DEADLINE;
        self.kill_at_once();
        loop {
            let pids = self.processes();
            if pids.is_empty() && !self.is_populated().unwrap_or(false) {
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
        for directory in self.directories() {
            // Few have groups of their own below: to look for them takes more than to fail.
            if remove(&directory).is_err() {
                below(&directory).iter().rev().try_for_each(|group| remove(group))?;
            }
        }
        Ok(())
    }

    /// Removes the group where nothing is in it, not even an empty group.
    pub(crate) fn remove_unless_used(&self) {
        for directory in self.directories() {
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
        let first = &hybrid.all[0];
        assert_eq!(first.root, Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(hybrid.all.len(), 3);
        let group = hybrid.group("/sway/w");
        for (name, directory) in [
            ("memory.stat", "memory"),
            ("cpu.cfs_quota_us", "cpu"),
            // No v1 has it.
            ("pids.max", "unified"),
        ] {
            let at = Path::new("/sys/fs/cgroup").join(directory).join("sway/w").join(name);
            assert_eq!(group.file(name), Some(at));
        }
        let pure = Hierarchies::parse("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n");
        assert!(pure.unified);
        let directories: Vec<_> = pure.group("/sway/w").directories().collect();
        assert_eq!(directories, [Path::new("/sys/fs/cgroup/sway/w")]);
    }

    #[test]
    fn a_v1_hierarchy_below_v2_changes_nothing() {
        let mixed = "\
            cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n\
            net_cls /sys/fs/cgroup/net_cls cgroup rw,net_cls 0 0\n\
            cgroup /sys/fs/cgroups-elsewhere/memory cgroup rw,memory 0 0\n";
        let mixed = Hierarchies::parse(mixed);
        assert!(mixed.unified);
        let directories: Vec<_> = mixed.group("/").directories().collect();
        assert_eq!(directories, [Path::new("/sys/fs/cgroup/")]);
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
        let controllers = Vec::new();
        let hierarchy = Hierarchy { root: root.path().to_owned(), controllers, is_v2: true };
        (root, Hierarchies { all: [hierarchy].into(), unified: true })
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
            assert_eq!(group.is_populated(), Some(true));
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
