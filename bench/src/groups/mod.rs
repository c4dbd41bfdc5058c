//! What is measured, group by group. All arms of a group alternate within each round.

mod changed;
mod cold;
mod export;
mod find;
mod jobs;
mod peers;
mod pool;
mod wrong;

use std::path::PathBuf;

use anyhow::{Error, Result, anyhow};
use fs_err as fs;

use crate::arms::Peers;
use crate::arms::native::Native;
use crate::arms::origin::{Origin, Traces};
use crate::arms::registry::Registry;
use crate::arms::sway::{Installation, TraceMode, Worker};
use crate::images::{Workload, Workloads};
use crate::link::Network;
use crate::machine::{drop_caches, in_memory, remove};
use crate::row::{Cell, Row, Rows, Sample};

/// Both networks with their names.
pub(crate) const NETWORKS: [(&str, Network); 2] = [("N1", Network::N1), ("N2", Network::N2)];

/// What `--only` chooses from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Group {
    /// Page cache dropped, worker's caches empty
    Cold,
    /// The same with the peers, as far as they are given
    Peers,
    /// Worker restarted, page cache dropped, its disk cache kept
    Restart,
    /// Runs back to back
    Hot,
    /// 1, 8 and 32 jobs at once, hot
    Jobs,
    /// A program that changed, exported again, then cold
    Changed,
    /// Cold with the trace of another program
    Wrong,
    /// The whole tree listed, cold
    Find,
    /// Storing an image
    Export,
    /// Small requests over HTTP, with containers that wait and without
    Pool,
}

impl Group {
    /// The groups of cells that it fills.
    pub(crate) fn cells(self) -> &'static [&'static str] {
        match self {
            Self::Cold | Self::Peers => &["cold"],
            Self::Restart => &["restart"],
            Self::Hot => &["hot"],
            Self::Jobs => &["jobs-1", "jobs-8", "jobs-32"],
            Self::Changed => &["changed"],
            Self::Wrong => &["wrong"],
            Self::Find => &["find"],
            Self::Export => &["export"],
            Self::Pool => &["pool"],
        }
    }
}

/// All that a group needs.
#[derive(Debug)]
pub(crate) struct Bench {
    /// Sway's binaries.
    pub(crate) installation: Installation,
    /// Other systems'.
    pub(crate) peers: Peers,
    /// What runs.
    pub(crate) workloads: Workloads,
    /// What was asked for.
    pub(crate) groups: Vec<Group>,
    /// W1 only.
    pub(crate) quick: bool,
    /// How often.
    pub(crate) rounds: u32,
    /// Data of everything that runs, removed as it goes.
    pub(crate) scratch: PathBuf,
    /// What later runs can use again.
    pub(crate) kept: PathBuf,
    /// Day and commit.
    pub(crate) measured: String,
    /// Results, written as they come.
    pub(crate) rows: Rows,
}

impl Bench {
    /// Measures all groups that were asked for.
    pub(crate) fn run(&mut self) -> Result<()> {
        let groups = self.groups.clone();
        let asked = |some: &[Group]| some.iter().any(|group| groups.contains(group));
        let life = asked(&[Group::Cold, Group::Peers, Group::Restart, Group::Hot]);
        let (changed, wrong) = (asked(&[Group::Changed]), asked(&[Group::Wrong]));
        let (jobs, find) = (asked(&[Group::Jobs]), asked(&[Group::Find]));
        let pool = asked(&[Group::Pool]);
        if asked(&[Group::Export]) {
            let result = export::measure(self);
            self.told(Group::Export, result);
        }
        if !(life || changed || wrong || jobs || find || pool) {
            return Ok(());
        }
        let (stored, images) = (self.scratch.join("fileserver"), self.scratch.join("registry"));
        in_memory(&stored)?;
        let (binaries, token) = (&self.installation.binaries, &self.installation.token);
        let origin = Origin::start(binaries, &stored.join("data"), token)?;
        let registry = match &self.peers.registry {
            Some(program) if groups.contains(&Group::Peers) => {
                in_memory(&images)?;
                Some(Registry::start(program, &images)?)
            }
            _ => None,
        };
        let ours = jobs || changed || wrong || find;
        let known = if ours || asked(&[Group::Cold, Group::Restart, Group::Hot]) {
            cold::prepare(self, &origin)?
        } else {
            cold::Known::default()
        };
        if life {
            let result = cold::measure(self, &origin, registry.as_ref(), &known);
            self.told(Group::Cold, result);
        }
        if jobs {
            let result = jobs::measure(self, &origin, &known);
            self.told(Group::Jobs, result);
        }
        if changed {
            let result = changed::measure(self, &origin);
            self.told(Group::Changed, result);
        }
        if wrong && !self.quick {
            let result = wrong::measure(self, &origin, &known);
            self.told(Group::Wrong, result);
        }
        if find {
            let result = find::measure(self, &origin);
            self.told(Group::Find, result);
        }
        if pool {
            let result = pool::measure(self, &origin);
            self.told(Group::Pool, result);
        }
        Ok(())
    }

    /// Runs something and keeps what came of it. What fails is told, and is no figure.
    pub(crate) fn record(
        &mut self,
        round: u32,
        cell: &Cell,
        run: impl FnOnce(&Self) -> Result<Sample>,
    ) {
        let result = run(self);
        self.keep(round, cell, result);
    }

    /// Keeps why a cell has no figure.
    pub(crate) fn unmeasured(&mut self, cell: &Cell, why: &Error) {
        self.keep(0, cell, Err(anyhow!("not measured: {why:#}")));
    }

    fn keep(&mut self, round: u32, cell: &Cell, result: Result<Sample>) {
        let (sample, failure) = match result {
            Ok(sample) => (Some(sample), None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        say(&progress(round, cell, sample.as_ref(), failure.as_deref()));
        let measured = self.measured.clone();
        let row = Row { cell: cell.clone(), round, measured, sample, failure };
        if let Err(error) = self.rows.add(row) {
            say(&format!("the row can't be written: {error:#}"));
        }
    }

    /// A group that fails leaves the reason; the rest is still worth measuring.
    fn told(&mut self, group: Group, result: Result<()>) {
        let Err(error) = result else { return };
        for cells in group.cells() {
            self.unmeasured(&Cell::new(cells, "-", "-", "all of it"), &error);
        }
    }

    /// A native run with nothing in the page cache.
    pub(crate) fn native_cold(&self, workload: &Workload) -> Result<Sample> {
        let native = Native::new(&self.scratch, &workload.image.rootfs, &workload.program)?;
        drop_caches()?;
        native.run(&workload.program)
    }

    /// A worker with empty caches behind a network.
    pub(crate) fn fresh_worker(
        &self,
        fileserver: std::net::SocketAddr,
        mode: TraceMode,
    ) -> Result<Worker> {
        let data = self.scratch.join("worker");
        remove(&data)?;
        self.installation.worker(&data, fileserver, mode)
    }

    /// Lets a worker without a network learn what a first run of a workload touches.
    pub(crate) fn learn(
        &self,
        origin: &Origin,
        worker: &Worker,
        workload: &Workload,
        manifest: &str,
    ) -> Result<Traces> {
        // A mount that nobody else uses, nothing cached: as a user's first run finds it.
        drop_caches()?;
        worker.run(&self.installation, workload)?;
        origin.wait_for_trace(manifest)
    }
}

fn progress(round: u32, cell: &Cell, sample: Option<&Sample>, failure: Option<&str>) -> String {
    let name = format!("{} {} {} {}", cell.group, cell.workload, cell.network, cell.arm);
    match (sample, failure) {
        (Some(Sample { load: Some(load), .. }), _) => format!(
            "{round} {name}: p50 {:.1} ms, p99 {:.1} ms, {:.1} a second",
            load.p50_ms, load.p99_ms, load.per_second,
        ),
        (Some(sample), _) => format!(
            "{round} {name}: {:.3} s, cpu {:.2} s{}",
            sample.wall_s,
            sample.cpu_s.unwrap_or_default(),
            sample.bytes_down.map_or_else(String::new, |bytes| format!(", {bytes} bytes")),
        ),
        (None, failure) => format!("{round} {name}: NONE: {}", failure.unwrap_or_default()),
    }
}

/// Progress, on stderr.
#[expect(clippy::print_stderr, reason = "progress of a benchmark")]
pub(crate) fn say(line: &str) {
    eprintln!("{line}");
}

/// Copies a directory.
pub(crate) fn copy(from: &std::path::Path, to: &std::path::Path) -> Result<()> {
    remove(to)?;
    fs::create_dir_all(to)?;
    let mut command = std::process::Command::new("cp");
    crate::process::output(command.arg("-a").arg(from.join(".")).arg(to)).map(drop)
}
