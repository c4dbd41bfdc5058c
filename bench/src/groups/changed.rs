//! A program in an image's last layer changes, the image is exported again: does the next cold
//! start on an empty worker know what the one before knew?

use anyhow::{Result, ensure};

use super::{Bench, NETWORKS, say};
use crate::arms::Wire;
use crate::arms::origin::{Origin, Traces};
use crate::arms::sway::TraceMode;
use crate::machine::drop_caches;
use crate::row::Cell;

/// Version 1 has run once; version 2 was only exported.
pub(crate) fn measure(bench: &mut Bench, origin: &Origin) -> Result<()> {
    let [one, two] = bench.workloads.changing.clone();
    for workload in [&one, &two] {
        ensure!(workload.image.layout.is_dir(), "{} was not built", workload.image.name);
    }
    origin.set_traces(&Traces::new())?;
    let (installation, address) = (&bench.installation, origin.address);
    let worker = bench.fresh_worker(address, TraceMode::Default)?;
    let exported = installation.export(&one.image, &one.image.name, address, &["--no-trace"])?;
    let mut traces = bench.learn(origin, &worker, &one, &exported.manifest)?;
    let manifest =
        installation.export_with_worker(&two.image, &two.image.name, address, &worker)?;
    match origin.wait_for_trace(&manifest) {
        Ok(inherited) => traces.extend(inherited),
        Err(error) => say(&format!("the changed image inherits no trace: {error:#}")),
    }
    drop(worker);
    for round in 0..bench.rounds {
        for (name, network) in NETWORKS {
            for (workload, arm) in
                [(&one, "Sway, before the change"), (&two, "Sway, after the change")]
            {
                origin.set_traces(&traces)?;
                let wire = Wire::new(network, origin.address)?;
                let worker = bench.fresh_worker(wire.proxy.address, TraceMode::Default)?;
                drop_caches()?;
                bench.record(round, &Cell::new("changed", "W1", name, arm), |bench| {
                    wire.count(|| worker.run(&bench.installation, workload))
                });
            }
        }
    }
    Ok(())
}
