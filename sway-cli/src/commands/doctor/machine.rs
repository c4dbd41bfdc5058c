//! What a worker needs of a machine. Facts in, findings out.

use super::runc::{self, Runc};
use super::{Finding, State};

/// The first kernel with idmapped FUSE mounts. The worker asks the kernel itself, mount by mount.
const IDMAPPED_FUSE: (u32, u32) = (6, 12);
/// The first kernel with idmapped mounts at all, for ext4 and others.
const OLDEST: (u32, u32) = (5, 12);

/// Controllers that a job's limits need.
const CONTROLLERS: [&str; 3] = ["memory", "cpu", "pids"];

/// What was found on a machine.
#[derive(Clone, Debug)]
pub(super) struct Machine {
    /// Whether it runs Linux.
    pub(super) linux: bool,
    /// Whether we are root.
    pub(super) root: bool,
    /// Such as `6.12.3-amd64`.
    pub(super) kernel: String,
    /// Whether `/dev/fuse` can be opened, else why not.
    pub(super) fuse: Result<(), String>,
    /// Whether the kernel knows overlayfs.
    pub(super) overlay: bool,
    /// How many user namespaces there may be.
    pub(super) user_namespaces: u64,
    /// Control groups.
    pub(super) cgroups: Cgroups,
    /// Whether there is swap.
    pub(super) swap: bool,
    /// Whether a group's swap can be limited.
    pub(super) swap_accounting: bool,
    /// What `runc --version` says.
    pub(super) runc: Option<String>,
    /// Where a static init is.
    pub(super) init: Option<String>,
    /// What `slirp4netns --version` says.
    pub(super) slirp4netns: Option<String>,
}

/// Which control groups are mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cgroups {
    layout: &'static str,
    missing: Vec<&'static str>,
}

impl Cgroups {
    /// From the text of `/proc/mounts` and of v2's `cgroup.controllers`.
    pub(super) fn read(mounts: &str, v2_controllers: &str) -> Self {
        let mut v1: Vec<&str> = Vec::new();
        let (mut has_v1, mut has_v2) = (false, false);
        for line in mounts.lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            match (fields.get(2), fields.get(3)) {
                (Some(&"cgroup"), Some(options)) => {
                    has_v1 = true;
                    v1.extend(options.split(','));
                }
                (Some(&"cgroup2"), _) => has_v2 = true,
                _ => {}
            }
        }
        let v2: Vec<&str> = v2_controllers.split_whitespace().collect();
        let missing = CONTROLLERS
            .into_iter()
            .filter(|name| !v1.contains(name) && !v2.contains(name))
            .collect();
        let layout = match (has_v1, has_v2) {
            (false, false) => "none",
            (true, false) => "v1",
            (false, true) => "v2",
            (true, true) => "hybrid",
        };
        Self { layout, missing }
    }
}

impl Machine {
    /// What it means for jobs.
    pub(super) fn findings(&self) -> Vec<Finding> {
        if !self.linux {
            return vec![
                Finding::new("system", State::Missing, "not Linux: no worker can run here")
                    .advice("set WORKER_URL and FILESERVER_URL to servers on a Linux machine"),
            ];
        }
        vec![
            self.root(),
            self.kernel(),
            self.fuse(),
            self.overlay(),
            self.user_namespaces(),
            self.cgroups(),
            self.swap(),
            self.runc(),
            self.init(),
            self.isolated_network(),
        ]
    }

    fn root(&self) -> Finding {
        if self.root {
            return Finding::new("root", State::Good, "yes");
        }
        Finding::new("root", State::Missing, "no: mounts, cgroups and runc need it")
            .advice("run `sway up` as root; jobs are never root of the machine")
    }

    fn kernel(&self) -> Finding {
        let release = &self.kernel;
        match version(release) {
            Some(version) if version >= IDMAPPED_FUSE => Finding::new(
                "kernel",
                State::Good,
                format!("{release}: one mount for each image, id-mapped for each job"),
            ),
            Some(version) if version >= OLDEST => Finding::new(
                "kernel",
                State::Limited,
                format!(
                    "{release}: one mount for each image and id range, ids shifted by the worker"
                ),
            )
            .advice(
                "6.12 or later has id-mapped FUSE: jobs then share one mount and its page cache",
            ),
            Some(_) => Finding::new("kernel", State::Missing, format!("{release}: too old"))
                .advice("5.12 or later is needed, 6.12 or later is best"),
            None => Finding::new("kernel", State::Limited, format!("unknown release {release:?}")),
        }
    }

    fn fuse(&self) -> Finding {
        match &self.fuse {
            Ok(()) => Finding::new("/dev/fuse", State::Good, "can be opened"),
            Err(error) => Finding::new("/dev/fuse", State::Missing, error.clone())
                .advice("modprobe fuse, as root; in a container give it --device /dev/fuse"),
        }
    }

    fn overlay(&self) -> Finding {
        if self.overlay {
            return Finding::new("overlayfs", State::Good, "yes");
        }
        Finding::new("overlayfs", State::Missing, "not in /proc/filesystems")
            .advice("modprobe overlay: each job's root lies over the image by it")
    }

    fn user_namespaces(&self) -> Finding {
        match self.user_namespaces {
            0 => Finding::new("user namespaces", State::Missing, "none are allowed").advice(
                "sysctl user.max_user_namespaces=10000: a job's root is never the machine's",
            ),
            most => Finding::new("user namespaces", State::Good, format!("up to {most}")),
        }
    }

    fn cgroups(&self) -> Finding {
        let Cgroups { layout, missing } = &self.cgroups;
        if missing.is_empty() {
            let found = format!("{layout}, with {}", CONTROLLERS.join(", "));
            return Finding::new("cgroups", State::Good, found);
        }
        let found = format!("{layout}, without {}", missing.join(", "));
        Finding::new("cgroups", State::Missing, found)
            .advice("limits need these controllers: mount them, or boot with cgroup v2")
    }

    fn swap(&self) -> Finding {
        match (self.swap, self.swap_accounting) {
            (_, true) => Finding::new("swap", State::Good, "counts towards a job's memory limit"),
            (false, false) => Finding::new("swap", State::Good, "none, so none to limit"),
            (true, false) => Finding::new("swap", State::Limited, "can't be limited for each job")
                .advice("boot with swapaccount=1, or swapoff: a job could use swap without limit"),
        }
    }

    fn runc(&self) -> Finding {
        let Some(text) = &self.runc else {
            return Finding::new("runc", State::Missing, "not found in PATH")
                .advice("apt install runc: it starts every job's container");
        };
        let Some(found) = Runc::parse(text) else {
            let line = text.lines().next().unwrap_or_default();
            return Finding::new("runc", State::Limited, format!("of unknown version: {line}"));
        };
        let open = found.open();
        if open.is_empty() {
            return Finding::new("runc", State::Good, format!("{found}, no known hole open"));
        }
        Finding::new("runc", State::Limited, format!("{found}, open: {}", open.join(", "))).advice(
            format!("1.2.8, 1.3.3 or later closes them; against them stand {}", runc::AGAINST),
        )
    }

    fn init(&self) -> Finding {
        match &self.init {
            Some(path) => Finding::new("init", State::Good, path.clone()),
            None => Finding::new("init", State::Limited, "none found")
                .advice("apt install tini: without it a job is process 1, which can't kill itself"),
        }
    }

    fn isolated_network(&self) -> Finding {
        match self.slirp4netns.as_deref().and_then(|text| text.lines().next()) {
            Some(version) => Finding::new("--network", State::Good, version),
            None => Finding::new("--network", State::Limited, "none only, isolated is refused")
                .advice("apt install slirp4netns iproute2"),
        }
    }
}

/// Major and minor of a kernel's release.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit() -> Machine {
        Machine {
            linux: true,
            root: true,
            kernel: "6.18.44".to_owned(),
            fuse: Ok(()),
            overlay: true,
            user_namespaces: 1000,
            cgroups: Cgroups::read("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0", "cpu memory pids io"),
            swap: false,
            swap_accounting: false,
            runc: Some("runc version 1.3.3\n".to_owned()),
            init: Some("/usr/bin/tini-static".to_owned()),
            slirp4netns: Some("slirp4netns version 1.2.0".to_owned()),
        }
    }

    fn states(machine: &Machine) -> Vec<State> {
        machine.findings().into_iter().map(|finding| finding.state).collect()
    }

    #[test]
    fn a_machine_with_everything_has_nothing_to_complain_about() {
        assert!(states(&fit()).iter().all(|state| *state == State::Good));
    }

    #[test]
    fn each_thing_that_jobs_need_is_missed() {
        let machines = [
            Machine { root: false, ..fit() },
            Machine { kernel: "4.19.0".to_owned(), ..fit() },
            Machine { fuse: Err("no such file".to_owned()), ..fit() },
            Machine { overlay: false, ..fit() },
            Machine { user_namespaces: 0, ..fit() },
            Machine { cgroups: Cgroups::read("", ""), ..fit() },
            Machine { runc: None, ..fit() },
            Machine { linux: false, ..fit() },
        ];
        for machine in machines {
            let missing = states(&machine).into_iter().filter(|state| *state == State::Missing);
            assert_eq!(missing.count(), 1, "{machine:?}");
        }
    }

    #[test]
    fn an_older_kernel_takes_the_other_path() {
        let machine = Machine { kernel: "6.1.0-18-amd64".to_owned(), ..fit() };
        let kernel = machine.kernel();
        assert_eq!(kernel.state, State::Limited);
        assert!(kernel.found.contains("ids shifted by the worker"));
    }

    #[test]
    fn all_three_layouts_of_cgroups_are_told_apart() {
        let v1 = "cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu,cpuacct 0 0\n\
                  cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
                  cgroup /sys/fs/cgroup/pids cgroup rw,pids 0 0\n";
        let hybrid = format!("{v1}cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n");
        let expect =
            |layout, missing: &[&'static str]| Cgroups { layout, missing: missing.to_vec() };
        assert_eq!(Cgroups::read(v1, ""), expect("v1", &[]));
        assert_eq!(Cgroups::read(&hybrid, ""), expect("hybrid", &[]));
        assert_eq!(
            Cgroups::read("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0", "memory cpu"),
            expect("v2", &["pids"])
        );
    }
}
