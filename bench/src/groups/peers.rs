//! The peers of a cold start, measured in the rounds of native and Sway.

use anyhow::{Context, Result, anyhow};

use super::{Bench, say};
use crate::arms::registry::Registry;
use crate::arms::{containerd, nydus, stargz};
use crate::images::Workload;
use crate::link::Network;
use crate::row::{Cell, Sample};

/// Who is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arm {
    FullPull,
    Nydus,
    NydusList,
    Stargz,
    StargzOptimised,
}

const ARMS: [Arm; 5] =
    [Arm::FullPull, Arm::Nydus, Arm::NydusList, Arm::Stargz, Arm::StargzOptimised];

/// What a start of an arm needs beside the registry.
#[derive(Debug)]
enum Start {
    FullPull,
    Nydus(nydus::Converted),
    Stargz(String),
}

/// A workload as the peers have it: what each needs to start it, or why it can't.
#[derive(Debug)]
pub(crate) struct Prepared<'a> {
    registry: Option<&'a Registry>,
    starts: Vec<(Arm, Result<Start>)>,
}

impl Arm {
    fn name(self) -> &'static str {
        match self {
            Self::FullPull => "full pull (containerd, overlayfs)",
            Self::Nydus => "Nydus",
            Self::NydusList => "Nydus, prefetch list",
            Self::Stargz => "eStargz",
            Self::StargzOptimised => "eStargz, optimised",
        }
    }

    /// Converts and pushes what this arm pulls.
    fn prepare(self, bench: &Bench, registry: &Registry, workload: &Workload) -> Result<Start> {
        let Bench { peers, scratch, kept, .. } = bench;
        match self {
            Self::FullPull => containerd::check(peers).map(|()| Start::FullPull),
            Self::Nydus => {
                nydus::convert(peers, registry, &workload.image, scratch, None).map(Start::Nydus)
            }
            Self::NydusList => {
                let list = nydus::files_read(workload, scratch)?;
                nydus::convert(peers, registry, &workload.image, scratch, Some(&list))
                    .map(Start::Nydus)
            }
            Self::Stargz | Self::StargzOptimised => {
                let optimised = self == Self::StargzOptimised;
                stargz::convert(peers, registry, workload, scratch, kept, optimised)
                    .map(Start::Stargz)
            }
        }
    }
}

impl Start {
    fn cold(
        &self,
        bench: &Bench,
        registry: &Registry,
        network: Network,
        workload: &Workload,
    ) -> Result<Sample> {
        let Bench { peers, scratch, .. } = bench;
        match self {
            Self::FullPull => containerd::cold(peers, registry, network, workload, scratch),
            Self::Nydus(converted) => {
                nydus::cold(peers, registry, network, workload, converted, scratch)
            }
            Self::Stargz(converted) => {
                stargz::cold(peers, registry, network, workload, converted, scratch)
            }
        }
    }
}

impl<'a> Prepared<'a> {
    /// Pushes the image, and converts it for each arm.
    pub(crate) fn new(bench: &Bench, registry: Option<&'a Registry>, workload: &Workload) -> Self {
        let image = &workload.image;
        let pushed = registry
            .context("--registry is not given")
            .and_then(|registry| registry.push(&image.layout, &image.name).map(|()| registry));
        let prepare = |arm: Arm| match &pushed {
            Ok(registry) => {
                say(&format!("preparing {} for {}", image.name, arm.name()));
                arm.prepare(bench, registry, workload)
            }
            Err(error) => Err(anyhow!("{error:#}")),
        };
        Self { registry, starts: ARMS.map(|arm| (arm, prepare(arm))).into() }
    }

    /// One round. Why an arm can't be measured is told in the first.
    pub(crate) fn measure(
        &self,
        bench: &mut Bench,
        workload: &Workload,
        (name, network): (&str, Network),
        round: u32,
    ) {
        for (arm, start) in &self.starts {
            let cell = Cell::new("cold", workload.name, name, arm.name());
            match (start, self.registry) {
                (Ok(start), Some(registry)) => bench
                    .record(round, &cell, |bench| start.cold(bench, registry, network, workload)),
                (Err(why), _) if round == 0 => bench.unmeasured(&cell, why),
                _ => {}
            }
        }
    }
}
