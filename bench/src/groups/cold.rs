//! Cold starts, and what follows in a worker's life: hot runs, then a restart.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use fs_err as fs;

use super::peers::Prepared;
use super::{Bench, Group, NETWORKS, copy, say};
use crate::arms::Wire;
use crate::arms::native::Native;
use crate::arms::origin::{Origin, Traces};
use crate::arms::registry::Registry;
use crate::arms::sway::TraceMode;
use crate::images::Workload;
use crate::link::Network;
use crate::machine::{drop_caches, remove};
use crate::process::pause;
use crate::row::Cell;

/// Hot runs that don't count: a pool makes nothing ahead for a program's first run.
const WARM_UPS: u32 = 2;

/// Hot runs that count.
const HOT_RUNS: u32 = 5;

/// How long a worker is left alone after them, for what a cold start leaves to be done behind the
/// job's back.
const SETTLING: Duration = Duration::from_secs(3);

/// Before each hot run: nobody pays for what the run before it left to be done.
const BREATH: Duration = Duration::from_millis(300);

/// What is known before the first measured run.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Traces of both workloads.
    pub(crate) all: Traces,
    /// What each first run left, by its workload.
    runs: BTreeMap<&'static str, FirstRun>,
}

/// What a workload's first run left.
#[derive(Debug)]
struct FirstRun {
    /// On the fileserver.
    traces: Traces,
    /// Data of a worker that has run nothing else, without its caches.
    worker: PathBuf,
}

impl Known {
    /// The traces of one workload only.
    pub(crate) fn traces_of(&self, workload: &str) -> Option<&Traces> {
        self.runs.get(workload).map(|run| &run.traces)
    }

    /// What the other workload's first run left.
    fn other(&self, workload: &str) -> Option<&FirstRun> {
        self.runs.iter().find(|(name, _)| **name != workload).map(|(_, run)| run)
    }
}

/// Exports the images, and lets one first run of each leave its trace.
pub(crate) fn prepare(bench: &Bench, origin: &Origin) -> Result<Known> {
    let mut known = Known::default();
    let mut workloads = vec![&bench.workloads.w1];
    if !bench.quick {
        workloads.push(&bench.workloads.w2);
    }
    for workload in workloads {
        let image = &workload.image;
        say(&format!("preparing {}", image.name));
        let exported =
            bench.installation.export(image, &image.name, origin.address, &["--no-trace"])?;
        // Each in a worker of its own: neither trace is to hold anything of the other.
        let worker = bench.fresh_worker(origin.address, TraceMode::Default)?;
        let learnt = bench.learn(origin, &worker, workload, &exported.manifest);
        drop(worker);
        let traces = learnt.with_context(|| format!("{} has no trace", workload.name))?;
        known.all.extend(traces.clone());
        let from = bench.scratch.join("worker");
        let worker = bench.scratch.join(format!("worker-of-{}", image.name));
        remove(&from.join("cache"))?;
        fs::rename(&from, &worker)?;
        known.runs.insert(workload.name, FirstRun { traces, worker });
    }
    Ok(known)
}

/// What a start may know.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Knowledge {
    Nothing,
    Shared,
    Read,
    Push,
}

impl Knowledge {
    fn arm(self) -> &'static str {
        match self {
            Self::Nothing => "Sway, nothing known",
            Self::Shared => "Sway, another image shares files",
            Self::Read => "Sway, trace as reads",
            Self::Push => "Sway, trace pushed",
        }
    }
}

/// All rounds of all workloads and networks.
pub(crate) fn measure(
    bench: &mut Bench,
    origin: &Origin,
    registry: Option<&Registry>,
    known: &Known,
) -> Result<()> {
    let mut workloads = vec![bench.workloads.w1.clone()];
    if !bench.quick {
        workloads.push(bench.workloads.w2.clone());
    }
    let mut prepared = Vec::new();
    for workload in workloads.iter().filter(|_| bench.groups.contains(&Group::Peers)) {
        prepared.push(Prepared::new(bench, registry, workload));
    }
    for round in 0..bench.rounds {
        for (index, workload) in workloads.iter().enumerate() {
            for (name, network) in NETWORKS {
                let cell = Cell::new("cold", workload.name, name, "native");
                bench.record(round, &cell, |bench| bench.native_cold(workload));
                let mut arms = vec![Knowledge::Push, Knowledge::Read, Knowledge::Nothing];
                if known.other(workload.name).is_some() {
                    arms.push(Knowledge::Shared);
                }
                for knowledge in arms {
                    let life = Life { origin, known, workload, name, network, round };
                    if let Err(error) = life.measure(bench, knowledge) {
                        bench.unmeasured(&life.cell("cold", knowledge.arm()), &error);
                    }
                }
                if let Some(peers) = prepared.get(index) {
                    peers.measure(bench, workload, (name, network), round);
                }
            }
        }
    }
    Ok(())
}

struct Life<'a> {
    origin: &'a Origin,
    known: &'a Known,
    workload: &'a Workload,
    name: &'static str,
    network: Network,
    round: u32,
}

impl Life<'_> {
    fn cell(&self, group: &str, arm: &str) -> Cell {
        Cell::new(group, self.workload.name, self.name, arm)
    }

    fn measure(&self, bench: &mut Bench, knowledge: Knowledge) -> Result<()> {
        let cold = bench.groups.contains(&Group::Cold);
        let later = [Group::Hot, Group::Restart].iter().any(|group| bench.groups.contains(group));
        if !(cold || later && knowledge == Knowledge::Push) {
            return Ok(());
        }
        let nothing = Traces::new();
        let other = || self.known.other(self.workload.name).context("nothing else has run");
        self.origin.set_traces(match knowledge {
            Knowledge::Nothing => &nothing,
            Knowledge::Shared => &other()?.traces,
            Knowledge::Read | Knowledge::Push => &self.known.all,
        })?;
        let wire = Wire::new(self.network, self.origin.address)?;
        let mode = match knowledge {
            Knowledge::Nothing | Knowledge::Shared => TraceMode::Default,
            Knowledge::Read => TraceMode::Read,
            Knowledge::Push => TraceMode::Push,
        };
        let data = bench.scratch.join("worker");
        let worker = if knowledge == Knowledge::Shared {
            copy(&other()?.worker, &data)?;
            bench.installation.worker(&data, wire.proxy.address, mode)?
        } else {
            bench.fresh_worker(wire.proxy.address, mode)?
        };
        drop_caches()?;
        bench.record(self.round, &self.cell("cold", knowledge.arm()), |bench| {
            wire.count(|| worker.run(&bench.installation, self.workload))
        });
        if knowledge != Knowledge::Push {
            return Ok(());
        }
        if bench.groups.contains(&Group::Hot) {
            self.hot(bench, &worker)?;
        }
        drop(worker);
        if bench.groups.contains(&Group::Restart) {
            let worker = bench.installation.worker(&data, wire.proxy.address, mode)?;
            drop_caches()?;
            bench.record(self.round, &self.cell("restart", "Sway, worker restarted"), |bench| {
                wire.count(|| worker.run(&bench.installation, self.workload))
            });
        }
        Ok(())
    }

    /// Back to back and in turns: the kernel takes pages back that nobody used for some seconds, and
    /// the machine's speed changes.
    fn hot(&self, bench: &mut Bench, worker: &crate::arms::sway::Worker) -> Result<()> {
        let Workload { image, program, .. } = self.workload;
        let native = Native::new(&bench.scratch, &image.rootfs, program)?;
        for _ in 0..WARM_UPS {
            native.run(program)?;
            worker.run(&bench.installation, self.workload)?;
        }
        pause(SETTLING);
        for _ in 0..HOT_RUNS {
            pause(BREATH);
            bench.record(self.round, &self.cell("hot", "Sway"), |bench| {
                worker.run(&bench.installation, self.workload)
            });
            pause(BREATH);
            bench.record(self.round, &self.cell("hot", "native"), |_| native.run(program));
        }
        Ok(())
    }
}
