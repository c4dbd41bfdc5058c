//! Native runc, Sway and its peers, alternating in one run over a modelled network.
//! `bench/run` builds the images and calls this.
//!
//! Prints a table, writes the raw rows, and with `--document` docs/benchmarks.md with its plots.
//! A run whose output was wrong has no figure.

mod arms;
mod groups;
mod images;
mod link;
mod load;
mod machine;
mod plot;
mod process;
mod proxy;
mod report;
mod row;
mod stats;

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Parser;
use fs_err as fs;

use crate::arms::Peers;
use crate::arms::sway::Installation;
use crate::groups::{Bench, Group};
use crate::images::Workloads;
use crate::row::{Row, Rows};

/// Native `runc run`, `sway run` and the peers, side by side.
#[derive(Debug, Parser)]
struct Arguments {
    /// Folder with `sway`, `sway-worker` and `sway-fileserver`
    #[arg(long)]
    binaries: PathBuf,
    /// What bench/images/build.sh printed
    #[arg(long)]
    images: PathBuf,
    /// The checkout
    #[arg(long, default_value = ".")]
    project: PathBuf,
    /// Groups to measure [default: all]
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Group>,
    /// W1 only
    #[arg(long)]
    quick: bool,
    /// Rounds of alternating runs
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Where raw rows go
    #[arg(long)]
    out: PathBuf,
    /// Add to the rows of the groups that are measured instead of taking their place
    #[arg(long)]
    add: bool,
    /// Write docs/benchmarks.md and its plots, from the rows of all groups
    #[arg(long)]
    document: bool,
    /// Report on the rows that are there instead of measuring
    #[arg(long)]
    report: bool,
    #[command(flatten)]
    peers: Peers,
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    tokio::task::block_in_place(|| run(arguments))
}

fn run(arguments: Arguments) -> Result<()> {
    let out = arguments.out.clone();
    // A quick run says less: it leaves the rows of others alone.
    let file = out.join(if arguments.quick { "quick.jsonl" } else { "rows.jsonl" });
    let groups = if arguments.only.is_empty() {
        clap::ValueEnum::value_variants().to_vec()
    } else {
        arguments.only.clone()
    };
    let cells: Vec<&str> = groups.iter().flat_map(|group| group.cells()).copied().collect();
    let project = arguments.project.clone();
    let document = arguments.document;
    let rows: Vec<Row> = if arguments.report {
        row::read(&file)?
    } else {
        fs::create_dir_all(&out)?;
        let rows =
            Rows::open(&file, |cell| arguments.add || !cells.contains(&cell.group.as_str()))?;
        let mut bench = bench(arguments, groups, rows)?;
        let result = bench.run();
        machine::remove(&bench.scratch)?;
        result?;
        bench.rows.all().to_vec()
    };
    let figures = stats::figures(&rows);
    print(&report::tables(&figures, &cells));
    if document {
        let text = report::document(&figures, &machine::describe(&out));
        fs::write(project.join("docs/benchmarks.md"), text)?;
        let folder = project.join("docs/benchmarks");
        fs::create_dir_all(&folder)?;
        for (name, svg) in report::plots(&figures) {
            fs::write(folder.join(format!("{name}.svg")), svg)?;
        }
    }
    Ok(())
}

fn bench(arguments: Arguments, groups: Vec<Group>, rows: Rows) -> Result<Bench> {
    let scratch = arguments.out.join("data");
    machine::remove(&scratch)?;
    fs::create_dir_all(&scratch)?;
    let scratch = fs::canonicalize(scratch)?;
    Ok(Bench {
        installation: Installation {
            binaries: fs::canonicalize(arguments.binaries)?,
            token: format!("bench-{}-token-of-one-run", std::process::id()),
            home: scratch.join("home-of-all"),
        },
        peers: arguments.peers,
        workloads: Workloads::new(&arguments.images, &arguments.project)
            .context("the images are not there: run bench/images/build.sh")?,
        groups,
        quick: arguments.quick,
        rounds: arguments.rounds,
        kept: arguments.out.join("estargz"),
        measured: machine::measured(&arguments.project),
        scratch,
        rows,
    })
}

#[expect(clippy::print_stdout, reason = "the report of a benchmark")]
fn print(text: &str) {
    println!("{text}");
}
