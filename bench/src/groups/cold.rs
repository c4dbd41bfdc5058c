//! Cold starts, and what follows in a worker's life: hot runs, then a restart.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use fs_err as fs;

use super::{Bench, Group, NETWORKS, copy, say, told};
use crate::arms::native::Native;
use crate::arms::origin::{Origin, Traces};
use crate::arms::registry::Registry;
use crate::arms::sway::TraceMode;
use crate::arms::{Wire, containerd, nydus, stargz};
use crate::images::Workload;
use crate::link::Network;
use crate::machine::{drop_caches, remove};
use crate::process::pause;
use crate::row::Cell;

/// Hot runs that count, after one that does not.
const HOT_RUNS: u32 = 3;

/// How long a worker is left alone after a cold start.
const SETTLING: Duration = Duration::from_secs(2);

/// What is known before the first measured run.
#[derive(Debug, Default)]
pub(crate) struct Known {
    /// Traces of both workloads.
    pub(crate) all: Traces,
    /// Traces of W2's image only.
    pub(crate) science: Traces,
    /// Data of a worker that ran W2 and knows its traces, without its caches.
    pub(crate) science_worker: Option<PathBuf>,
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
        match bench.learn(origin, &worker, workload, &exported.manifest) {
            Ok(traces) => {
                known.all.extend(traces.clone());
                if workload.name == "W2" {
                    known.science = traces;
                }
            }
            Err(error) => say(&format!("{} has no trace: {error:#}", workload.name)),
        }
        drop(worker);
        if workload.name == "W2" {
            let (data, from) = (bench.scratch.join("science-worker"), bench.scratch.join("worker"));
            remove(&from.join("cache"))?;
            fs::rename(&from, &data)?;
            known.science_worker = Some(data);
        }
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
    let mut converted = Vec::new();
    for workload in &workloads {
        converted.push(Peer::prepare(bench, registry, workload));
    }
    for round in 0..bench.rounds {
        for (workload, peer) in workloads.iter().zip(&converted) {
            for (name, network) in NETWORKS {
                let cell = Cell::new("cold", workload.name, name, "native");
                bench.record(round, &cell, |bench| bench.native_cold(workload));
                let mut arms = vec![Knowledge::Push, Knowledge::Read, Knowledge::Nothing];
                if known.science_worker.is_some() && workload.name == "W1" {
                    arms.push(Knowledge::Shared);
                }
                for knowledge in arms {
                    let life = Life { origin, known, workload, name, network, round };
                    if let Err(error) = life.measure(bench, knowledge) {
                        say(&format!("{}: {error:#}", knowledge.arm()));
                    }
                }
                if let Some(registry) = registry {
                    peer.measure(bench, registry, workload, (name, network), round);
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
        self.origin.set_traces(match knowledge {
            Knowledge::Nothing => &nothing,
            Knowledge::Shared => &self.known.science,
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
            copy(self.known.science_worker.as_ref().context("no such worker")?, &data)?;
            bench.installation.worker(&data, wire.proxy.address, mode)?
        } else {
            bench.fresh_worker(wire.proxy.address, mode)?
        };
        drop_caches()?;
        self.origin.warm()?;
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
            self.origin.warm()?;
            bench.record(self.round, &self.cell("restart", "Sway, worker restarted"), |bench| {
                wire.count(|| worker.run(&bench.installation, self.workload))
            });
        }
        Ok(())
    }

    /// Back to back: the kernel takes pages back that nobody used for some seconds. What a cold
    /// start leaves to be done behind the job's back is given the time to end first.
    fn hot(&self, bench: &mut Bench, worker: &crate::arms::sway::Worker) -> Result<()> {
        let Workload { image, program, .. } = self.workload;
        pause(SETTLING);
        worker.run(&bench.installation, self.workload)?;
        for _ in 0..HOT_RUNS {
            bench.record(self.round, &self.cell("hot", "Sway"), |bench| {
                worker.run(&bench.installation, self.workload)
            });
        }
        let native = Native::new(&bench.scratch, &image.rootfs, program)?;
        native.run(program)?;
        for _ in 0..HOT_RUNS {
            bench.record(self.round, &self.cell("hot", "native"), |_| native.run(program));
        }
        Ok(())
    }
}

/// A workload as the peers have it.
#[derive(Debug, Default)]
struct Peer {
    containerd: bool,
    nydus: Option<nydus::Converted>,
    nydus_list: Option<nydus::Converted>,
    stargz: bool,
}

impl Peer {
    /// Converts and pushes; what fails is told and left out.
    fn prepare(bench: &Bench, registry: Option<&Registry>, workload: &Workload) -> Self {
        let mut peer = Self::default();
        let Some(registry) = registry else { return peer };
        let peers = &bench.peers;
        if let Err(error) = registry.push(&workload.image) {
            say(&format!("the registry has no {}: {error:#}", workload.image.name));
            return peer;
        }
        peer.containerd = peers.containerd.is_some() && peers.ctr.is_some();
        if peers.nydusd.is_some() && peers.nydus_image.is_some() {
            let image = &workload.image;
            let convert = |list: Option<&[String]>| {
                nydus::convert(peers, registry, image, &bench.scratch, list)
            };
            peer.nydus = told("nydus", convert(None));
            let list = nydus::files_read(workload, &bench.scratch);
            peer.nydus_list = told("nydus", list.and_then(|list| convert(Some(&list))));
        }
        if peers.stargz.is_some() && peer.containerd {
            let done = stargz::optimise(peers, registry, workload, &bench.scratch);
            peer.stargz = told("stargz", done).is_some();
        }
        peer
    }

    fn measure(
        &self,
        bench: &mut Bench,
        registry: &Registry,
        workload: &Workload,
        (name, network): (&str, Network),
        round: u32,
    ) {
        let cell = |arm: &str| Cell::new("cold", workload.name, name, arm);
        if self.containerd {
            bench.record(round, &cell("full pull (containerd, overlayfs)"), |bench| {
                containerd::cold(&bench.peers, registry, network, workload, &bench.scratch)
            });
        }
        for (arm, converted) in [("Nydus", &self.nydus), ("Nydus, prefetch list", &self.nydus_list)]
        {
            let Some(converted) = converted else { continue };
            bench.record(round, &cell(arm), |bench| {
                let (peers, scratch) = (&bench.peers, &bench.scratch);
                nydus::cold(peers, registry, network, workload, converted, scratch)
            });
        }
        if self.stargz {
            bench.record(round, &cell("eStargz, optimised"), |bench| {
                stargz::cold(&bench.peers, registry, network, workload, &bench.scratch)
            });
        }
    }
}
