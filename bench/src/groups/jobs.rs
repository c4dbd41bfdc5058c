//! Several jobs at once on one mount, hot.

use anyhow::Result;

use super::Bench;
use super::cold::Known;
use crate::arms::native::Native;
use crate::arms::origin::Origin;
use crate::arms::sway::TraceMode;
use crate::row::Cell;

/// How many at once.
const COUNTS: [u32; 3] = [1, 8, 32];

/// As many native runs side by side as jobs.
pub(crate) fn measure(bench: &mut Bench, origin: &Origin, known: &Known) -> Result<()> {
    origin.set_traces(&known.all)?;
    let workload = bench.workloads.w1.clone();
    let native = Native::new(&bench.scratch, &workload.image.rootfs, &workload.program)?;
    let worker = bench.fresh_worker(origin.address, TraceMode::Default)?;
    worker.run(&bench.installation, &workload)?;
    let rounds = if bench.quick { 1 } else { bench.rounds };
    for round in 0..rounds {
        for count in COUNTS {
            // What was not used for some seconds is taken back: touch it once.
            native.run(&workload.program)?;
            let cell = |arm| Cell::new(&format!("jobs-{count}"), "W1", "-", arm);
            bench.record(round, &cell("native"), |_| native.run_many(&workload.program, count));
            worker.run(&bench.installation, &workload)?;
            bench.record(round, &cell("Sway"), |bench| {
                worker.run_many(&bench.installation, &workload, count)
            });
        }
    }
    Ok(())
}
