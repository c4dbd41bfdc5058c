//! What is measured, group by group. All arms of a group alternate within each round.

mod changed;
mod cold;
mod export;
mod find;
mod jobs;
mod wrong;

use std::path::PathBuf;

use anyhow::Result;
use fs_err as fs;

use crate::arms::Peers;
use crate::arms::native::Native;
use crate::arms::origin::{Origin, Traces};
use crate::arms::registry::Registry;
use crate::arms::sway::{Installation, TraceMode, Worker};
use crate::images::{Workload, Workloads};
use crate::link::Network;
use crate::machine::{drop_caches, remove};
use crate::row::{Cell, Row, Sample};

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
    /// Where results are written as they come.
    pub(crate) file: PathBuf,
    /// Results so far.
    pub(crate) rows: Vec<Row>,
}

impl Bench {
    /// Measures all groups that were asked for.
    pub(crate) fn run(&mut self) -> Result<()> {
        let groups = self.groups.clone();
        let asked = |some: &[Group]| some.iter().any(|group| groups.contains(group));
        let life = asked(&[Group::Cold, Group::Peers, Group::Restart, Group::Hot]);
        let (changed, wrong) = (asked(&[Group::Changed]), asked(&[Group::Wrong]));
        let (jobs, find) = (asked(&[Group::Jobs]), asked(&[Group::Find]));
        if asked(&[Group::Export]) {
            told("export", export::measure(self));
        }
        if !(life || changed || wrong || jobs || find) {
            return Ok(());
        }
        let origin = Origin::start(
            &self.installation.binaries,
            &self.scratch.join("fileserver"),
            &self.installation.token,
        )?;
        let registry = match &self.peers.registry {
            Some(program) if groups.contains(&Group::Peers) => {
                Some(Registry::start(program, &self.scratch.join("registry"))?)
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
            told("cold", cold::measure(self, &origin, registry.as_ref(), &known));
        }
        if jobs {
            told("jobs", jobs::measure(self, &origin, &known));
        }
        if changed {
            told("changed", changed::measure(self, &origin));
        }
        if wrong && !self.quick {
            told("wrong", wrong::measure(self, &origin, &known));
        }
        if find {
            told("find", find::measure(self, &origin));
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
        let (sample, wrong) = match run(self) {
            Ok(sample) => (Some(sample), None),
            Err(error) => (None, Some(format!("{error:#}"))),
        };
        say(&progress(round, cell, sample.as_ref(), wrong.as_deref()));
        self.rows.push(Row { cell: cell.clone(), round, sample, wrong });
        if let Err(error) = self.save() {
            say(&format!("the rows can't be written: {error:#}"));
        }
    }

    /// Writes the rows: what was measured before something failed is not lost.
    fn save(&self) -> Result<()> {
        Ok(fs::write(&self.file, serde_json::to_vec_pretty(&self.rows)?)?)
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

fn progress(round: u32, cell: &Cell, sample: Option<&Sample>, wrong: Option<&str>) -> String {
    let name = format!("{} {} {} {}", cell.group, cell.workload, cell.network, cell.arm);
    match (sample, wrong) {
        (Some(sample), _) => format!(
            "{round} {name}: {:.3} s, cpu {:.2} s{}",
            sample.wall_s,
            sample.cpu_s.unwrap_or_default(),
            sample.bytes_down.map_or_else(String::new, |bytes| format!(", {bytes} bytes")),
        ),
        (None, wrong) => format!("{round} {name}: WRONG: {}", wrong.unwrap_or_default()),
    }
}

/// What fails is told and left out: the rest is still worth measuring.
pub(crate) fn told<T>(what: &str, result: Result<T>) -> Option<T> {
    result.inspect_err(|error| say(&format!("{what} is left out: {error:#}"))).ok()
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
