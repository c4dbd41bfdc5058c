//! `find / -xdev` with stat over the whole tree, first pass: metadata only.

use anyhow::{Context, Result, ensure};
use fs_err as fs;

use super::Bench;
use crate::arms::native::Native;
use crate::arms::origin::{Origin, Traces};
use crate::arms::sway::TraceMode;
use crate::images::Program;
use crate::machine::drop_caches;
use crate::row::{Cell, Sample};

/// The time is taken inside, so that it is the tree's alone and not the container's.
const SCRIPT: &str = "\
find /etc -maxdepth 0 >/dev/null
a=$(date +%s%N)
n=$(find / -xdev -printf '%s %T@ %m %U %p\\n' | wc -l)
b=$(date +%s%N)
echo \"$n $(((b - a) / 1000))\"
";

/// Entries that differ at most: mount points and the script itself.
const ENTRIES_DIFFER_MAX: u64 = 100;

/// Native with its page cache dropped against a fresh worker.
pub(crate) fn measure(bench: &mut Bench, origin: &Origin) -> Result<()> {
    let script = bench.scratch.join("list.sh");
    fs::write(&script, SCRIPT)?;
    let program = Program::new(&script, "")?;
    let workload =
        if bench.quick { bench.workloads.w1.clone() } else { bench.workloads.w2.clone() };
    let mut entries = 0;
    for round in 0..bench.rounds {
        let cell = |arm| Cell::new("find", workload.name, "-", arm);
        let native = Native::new(&bench.scratch, &workload.image.rootfs, &program)?;
        drop_caches()?;
        let mut counted = 0;
        bench.record(round, &cell("native"), |_| {
            let (count, sample) = parse(&native.run_for_output()?)?;
            counted = count;
            Ok(sample)
        });
        entries = counted.max(entries);
        origin.set_traces(&Traces::new())?;
        let worker = bench.fresh_worker(origin.address, TraceMode::Default)?;
        drop_caches()?;
        bench.record(round, &cell("Sway"), |bench| {
            let name = &workload.image.name;
            let output = worker.run_for_output(&bench.installation, name, &program)?;
            let (count, mut sample) = parse(&output)?;
            sample.fuse = worker.fuse_since(&bench.installation)?;
            ensure!(
                count.abs_diff(entries) < ENTRIES_DIFFER_MAX,
                "{count} entries, natively {entries}"
            );
            Ok(sample)
        });
    }
    Ok(())
}

/// Entries and microseconds.
fn parse(output: &str) -> Result<(u64, Sample)> {
    let (count, us) = output.trim().split_once(' ').context("not two numbers")?;
    let us: u32 = us.parse()?;
    Ok((count.parse()?, Sample { wall_s: f64::from(us) / 1e6, ..Sample::default() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_time_are_read() {
        let (count, sample) = parse("31780 250000\n").unwrap();
        assert_eq!((count, sample.wall_s), (31780, 0.25));
        parse("nothing").unwrap_err();
    }
}
