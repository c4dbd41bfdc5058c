//! A trace that tells of other files than the program touches: what does it cost?

use anyhow::{Context, Result};

use super::cold::Known;
use super::{Bench, NETWORKS};
use crate::arms::Wire;
use crate::arms::origin::{Origin, Traces};
use crate::arms::sway::TraceMode;
use crate::machine::drop_caches;
use crate::row::Cell;

/// W1's program in W2's image, with the trace of W2's program and with none.
pub(crate) fn measure(bench: &mut Bench, origin: &Origin, known: &Known) -> Result<()> {
    let workload = bench.workloads.stranger.clone();
    let nothing = Traces::new();
    let traces_of_w2 = known.traces_of("W2").context("W2 has not run")?;
    for round in 0..bench.rounds {
        for (name, network) in NETWORKS {
            let cell = |arm| Cell::new("wrong", workload.name, name, arm);
            bench.record(round, &cell("native"), |bench| bench.native_cold(&workload));
            for (arm, traces) in [
                ("Sway, trace of another program", traces_of_w2),
                ("Sway, nothing known", &nothing),
            ] {
                origin.set_traces(traces)?;
                let wire = Wire::new(network, origin.address)?;
                let worker = bench.fresh_worker(wire.proxy.address, TraceMode::Default)?;
                drop_caches()?;
                bench.record(round, &cell(arm), |bench| {
                    wire.count(|| worker.run(&bench.installation, &workload))
                });
            }
        }
    }
    Ok(())
}
