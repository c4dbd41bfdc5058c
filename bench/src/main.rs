//! Native against Sway, alternating in one run: cold, worker restarted, hot, over a modelled
//! network. `bench/run` prepares the image and calls this.
//!
//! Prints medians, minima and ratios to native, and writes the raw rows. A run whose output was
//! wrong ends the benchmark: there is no figure for it.

mod link;
mod proxy;
mod program;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use anyhow::Result;
use clap::Parser;
use fs_err as fs;

use crate::link::Network;
use crate::program::{Installation, Program, Row, drop_caches, run_native};
use crate::proxy::Proxy;

/// Native `runc run` against `sway run`, side by side.
#[derive(Debug, Parser)]
struct Arguments {
    /// Folder with `sway`, `sway-worker` and `sway-fileserver`.
    #[arg(long)]
    binaries: PathBuf,
    /// OCI layout of the image.
    #[arg(long)]
    layout: PathBuf,
    /// The same image, unpacked, for the native arm.
    #[arg(long)]
    rootfs: PathBuf,
    /// The program.
    #[arg(long)]
    script: PathBuf,
    /// A line that the program's output must hold; repeat for more.
    #[arg(long = "expect", required = true)]
    expected: Vec<String>,
    /// Rounds of alternating runs.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Where data and raw rows go; emptied first.
    #[arg(long)]
    out: PathBuf,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let rows = tokio::task::block_in_place(|| measure(&arguments))?;
    fs::write(arguments.out.join("rows.json"), serde_json::to_vec_pretty(&rows)?)?;
    report(&rows);
    Ok(())
}

fn measure(arguments: &Arguments) -> Result<Vec<Row>> {
    if arguments.out.exists() {
        fs::remove_dir_all(&arguments.out)?;
    }
    fs::create_dir_all(&arguments.out)?;
    let program =
        Program { script: arguments.script.clone(), expected: arguments.expected.clone() };
    let installation = Installation {
        binaries: arguments.binaries.clone(),
        token: format!("bench-{}-token-of-one-run", std::process::id()),
    };
    let fileserver = installation.fileserver(&arguments.out.join("fileserver"))?;
    installation.export(&arguments.layout, "bench", fileserver.address)?;

    let mut rows = Vec::new();
    for round in 0..arguments.rounds {
        for (name, network) in [("N1", Network::N1), ("N2", Network::N2)] {
            drop_caches()?;
            let wall_s = run_native(&arguments.rootfs, &arguments.out, &program)?;
            rows.push(row("native cold", name, wall_s));
            let wall_s = run_native(&arguments.rootfs, &arguments.out, &program)?;
            rows.push(row("native hot", name, wall_s));
            let data = arguments.out.join(format!("worker-{name}-{round}"));
            let round = Round { installation: &installation, program: &program, network, name };
            round.measure(&data, fileserver.address, &mut rows)?;
            fs::remove_dir_all(&data)?;
        }
        eprint_progress(round + 1, arguments.rounds);
    }
    Ok(rows)
}

struct Round<'a> {
    installation: &'a Installation,
    program: &'a Program,
    network: Network,
    name: &'a str,
}

impl Round<'_> {
    /// One worker's life: cold with empty caches, hot, restarted with its disk cache.
    fn measure(
        &self,
        data: &std::path::Path,
        fileserver: SocketAddr,
        rows: &mut Vec<Row>,
    ) -> Result<()> {
        let handle = tokio::runtime::Handle::current();
        let proxy = handle.block_on(Proxy::start(self.network, fileserver))?;
        let worker = self.installation.worker(data, proxy.address)?;
        drop_caches()?;
        let before = proxy.traffic.bytes_down.load(Ordering::Relaxed);
        let mut cold = row("sway cold", self.name, self.run(worker.address)?);
        cold.bytes_down = Some(proxy.traffic.bytes_down.load(Ordering::Relaxed) - before);
        cold.server_fetches = self.installation.last_fetches(worker.address)?;
        rows.push(cold);
        rows.push(row("sway hot", self.name, self.run(worker.address)?));
        drop(worker);

        let worker = self.installation.worker(data, proxy.address)?;
        drop_caches()?;
        rows.push(row("sway restarted", self.name, self.run(worker.address)?));
        Ok(())
    }

    fn run(&self, worker: SocketAddr) -> Result<f64> {
        self.installation.run("bench", worker, self.program)
    }
}

fn row(arm: &str, network: &str, wall_s: f64) -> Row {
    Row {
        arm: arm.to_owned(),
        network: network.to_owned(),
        wall_s,
        bytes_down: None,
        server_fetches: None,
    }
}

#[expect(clippy::print_stderr, reason = "progress of a benchmark")]
fn eprint_progress(done: u32, of: u32) {
    eprintln!("round {done} of {of}");
}

#[expect(clippy::print_stdout, reason = "the report of a benchmark")]
fn report(rows: &[Row]) {
    println!("| network | arm | median s | min s | ratio to native | MB down | fetches |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for network in ["N1", "N2"] {
        for (arm, base) in [
            ("native cold", "native cold"),
            ("sway cold", "native cold"),
            ("sway restarted", "native cold"),
            ("native hot", "native hot"),
            ("sway hot", "native hot"),
        ] {
            let Some(figures) = Figures::of(rows, network, arm) else { continue };
            let ratio = Figures::of(rows, network, base)
                .map_or(f64::NAN, |base| figures.median_s / base.median_s);
            let traffic =
                figures.bytes_down.map_or(String::new(), |bytes| format!("{:.1}", bytes / 1e6));
            let fetches = figures.fetches.map_or(String::new(), |fetches| fetches.to_string());
            println!(
                "| {network} | {arm} | {:.3} | {:.3} | {ratio:.2} | {traffic} | {fetches} |",
                figures.median_s, figures.min_s
            );
        }
    }
}

struct Figures {
    median_s: f64,
    min_s: f64,
    bytes_down: Option<f64>,
    fetches: Option<i64>,
}

impl Figures {
    fn of(rows: &[Row], network: &str, arm: &str) -> Option<Self> {
        let rows: Vec<&Row> =
            rows.iter().filter(|row| row.network == network && row.arm == arm).collect();
        let walls: Vec<f64> = rows.iter().map(|row| row.wall_s).collect();
        let bytes: Vec<f64> = rows
            .iter()
            .filter_map(|row| row.bytes_down)
            .map(|bytes| f64::from(u32::try_from(bytes / 1024).unwrap_or(u32::MAX)) * 1024.0)
            .collect();
        Some(Self {
            median_s: median(&walls)?,
            min_s: walls.iter().copied().fold(f64::INFINITY, f64::min),
            bytes_down: median(&bytes),
            fetches: rows.iter().rev().find_map(|row| row.server_fetches),
        })
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len().checked_sub(1)? / 2;
    let upper = sorted.len() / 2;
    Some((sorted[middle] + sorted[upper]) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }
}
