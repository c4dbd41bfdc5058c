//! Figures into tables, a document and plots.

use std::fmt::Write as _;

use crate::plot::{Bar, Panel, draw, number};
use crate::row::Cell;
use crate::stats::Figures;

/// What is told of a reason.
const REASON_CHARS_MAX: usize = 300;

/// A group of cells as it is told.
struct Section {
    group: &'static str,
    title: &'static str,
    text: &'static str,
    /// Group and arm that ratios refer to.
    base: (&'static str, &'static str),
    plot: bool,
}

const SECTIONS: [Section; 11] = [
    Section {
        group: "cold",
        title: "Cold start",
        text: "Page cache dropped, caches of worker or daemon empty. \"Nothing known\": no trace of \
               the image, and a worker that has never run anything. \"Another image shares \
               files\": likewise, but the worker has run the other workload; its caches are empty. \
               W2's image has W1's layers below its own.",
        base: ("cold", "native"),
        plot: true,
    },
    Section {
        group: "restart",
        title: "Worker restarted",
        text: "The disk cache is kept, the page cache dropped. The base is native cold.",
        base: ("cold", "native"),
        plot: true,
    },
    Section {
        group: "hot",
        title: "Hot",
        text: "Runs in turns, after some that do not count.",
        base: ("hot", "native"),
        plot: true,
    },
    Section {
        group: "jobs-1",
        title: "One job, hot",
        text: "The base of the next two.",
        base: ("jobs-1", "native"),
        plot: false,
    },
    Section {
        group: "jobs-8",
        title: "8 jobs at once, hot",
        text: "From the start of the first to the end of the last.",
        base: ("jobs-8", "native"),
        plot: false,
    },
    Section {
        group: "jobs-32",
        title: "32 jobs at once, hot",
        text: "From the start of the first to the end of the last.",
        base: ("jobs-32", "native"),
        plot: false,
    },
    Section {
        group: "changed",
        title: "A changed program, exported again",
        text: "W1's image with the program in its last layer. Version 1 has run once; version 2 \
               was exported and has never run. Both start cold on an empty worker.",
        base: ("changed", "Sway, before the change"),
        plot: false,
    },
    Section {
        group: "wrong",
        title: "The trace of another program",
        text: "W1's program in W2's image, whose trace is W2's program's.",
        base: ("wrong", "native"),
        plot: false,
    },
    Section {
        group: "find",
        title: "The whole tree listed",
        text: "`find / -xdev` with stat, first pass, page cache dropped: the time of `find` alone.",
        base: ("find", "native"),
        plot: false,
    },
    Section {
        group: "export",
        title: "Export",
        text: "From an OCI layout to an empty fileserver, layers decompressed on the way; \
               `nydus-image create` reads the unpacked tree. What is read lies in the page cache. \
               \"One file changed\": in the last layer, which holds nothing else. \"One file of a \
               big layer changed\": the whole image is one layer, and the file is in it.",
        base: ("export", "nydus-image create"),
        plot: true,
    },
    Section {
        group: "pool",
        title: "Small requests",
        text: "`print(\"hi\")` in W1's image by `POST /run`, again and again, by 1, 2 and 8 clients \
               that keep their connections: 5 s each, 20 s for 8. A worker as it comes (as many jobs \
               at once as the machine has cores), with its pool and with `--pool off`, with containers \
               created by runc and by Sway itself (`--sandbox sway`: \"own sandbox\"). FastAPI \
               answers by a plain process each, without any isolation. `runc run` are loops of \
               `runc run python3 -c`, as many as clients and for 8 also 4, without seccomp, user \
               namespace and record. *to runc* is the rate against the better of those loops.",
        base: ("pool", "runc run"),
        plot: false,
    },
];

/// Arms that rates are compared with.
const RUNC_LOOPS: [&str; 2] = ["runc run", "runc run, 4 loops"];

/// The tables of some groups as Markdown, as far as they were measured.
pub(crate) fn tables(figures: &[Figures], groups: &[&str]) -> String {
    let asked = SECTIONS.iter().filter(|section| groups.contains(&section.group));
    asked.filter_map(|section| table(section, figures)).collect::<Vec<_>>().join("\n")
}

fn table(section: &Section, figures: &[Figures]) -> Option<String> {
    let ours: Vec<&Figures> =
        figures.iter().filter(|row| row.cell.group == section.group).collect();
    if ours.is_empty() {
        return None;
    }
    let mut text = format!("## {}\n\n{}\n\n", section.title, section.text);
    if ours.iter().any(|row| row.load.is_some()) {
        text.push_str(&loads(&ours));
        return Some(with_failures(text, &ours));
    }
    text.push_str(
        "| workload | network | arm | median s | min s | ratio | CPU s | machine's CPU s | MB down \
         | requests | connections | daemon MB | FUSE requests |\n\
         | --- | --- | --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --- |\n",
    );
    for workload in ours.iter().fold(Vec::new(), |mut names, row| {
        let name = (&row.cell.workload, &row.cell.network);
        if !names.contains(&name) {
            names.push(name);
        }
        names
    }) {
        for row in ours.iter().filter(|row| (&row.cell.workload, &row.cell.network) == workload) {
            text.push_str(&line(row, ratio(section, row, figures)));
        }
    }
    Some(with_failures(text, &ours))
}

fn with_failures(mut text: String, rows: &[&Figures]) -> String {
    for (why, cells) in failures(rows) {
        writeln!(text, "\nNo figure: {} ({why}).", cells.join("; ")).expect("a string takes all");
    }
    text
}

/// The table of what was asked again and again.
fn loads(rows: &[&Figures]) -> String {
    let mut text = "| clients | arm | p50 ms | p99 ms | a second | to runc |\n\
                    | --- | --- | --: | --: | --: | --: |\n"
        .to_owned();
    for row in rows {
        let Cell { workload, arm, .. } = &row.cell;
        let Some(load) = row.load else {
            writeln!(text, "| {workload} | {arm} | none | – | – | – |")
                .expect("a string takes all");
            continue;
        };
        let loops = rows.iter().filter(|it| RUNC_LOOPS.contains(&it.cell.arm.as_str()));
        let loops = loops.filter(|it| it.cell.workload == *workload).filter_map(|it| it.load);
        let best = loops.map(|load| load.per_second).fold(0.0, f64::max);
        let ratio = (best > 0.0).then(|| number(load.per_second / best));
        writeln!(
            text,
            "| {workload} | {arm} | {:.1} | {:.1} | {:.1} | {} |",
            load.p50_ms,
            load.p99_ms,
            load.per_second,
            ratio.unwrap_or_else(|| "–".to_owned()),
        )
        .expect("a string takes all");
    }
    text
}

/// What has no figure, by the reason, in the order of the rows.
fn failures(rows: &[&Figures]) -> Vec<(String, Vec<String>)> {
    let mut failures: Vec<(String, Vec<String>)> = Vec::new();
    for row in rows {
        let Some(why) = &row.failure else { continue };
        let why: String = why.replace('\n', " ").chars().take(REASON_CHARS_MAX).collect();
        let Cell { workload, network, arm, .. } = &row.cell;
        let cell = format!("{workload} {network} {arm}");
        match failures.iter_mut().find(|(other, _)| *other == why) {
            Some((_, cells)) => cells.push(cell),
            None => failures.push((why, vec![cell])),
        }
    }
    failures
}

fn line(row: &Figures, ratio: Option<f64>) -> String {
    let shown = |value: Option<f64>, digits: usize| {
        value.map_or_else(|| "–".to_owned(), |value| format!("{value:.digits$}"))
    };
    let (median, min) = match row.wall {
        Some((median, min)) => (format!("{median:.3}"), format!("{min:.3}")),
        None => ("none".to_owned(), "–".to_owned()),
    };
    let mega = |bytes: Option<f64>| shown(bytes.map(|bytes| bytes / 1e6), 1);
    let mut operations: Vec<_> = row.fuse.iter().collect();
    operations.sort_by_key(|&(_, count)| std::cmp::Reverse(*count));
    let fuse: Vec<String> =
        operations.iter().map(|(operation, count)| format!("{operation} {count}")).collect();
    format!(
        "| {} | {} | {} | {median} | {min} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
        row.cell.workload,
        row.cell.network,
        row.cell.arm,
        ratio.map_or_else(|| "–".to_owned(), number),
        shown(row.cpu_s, 2),
        shown(row.machine_cpu_s, 2),
        mega(row.bytes_down),
        shown(row.requests, 0),
        shown(row.connections, 0),
        mega(row.peak_rss_bytes),
        fuse.join(", "),
    )
}

/// Median against the base's median in the same workload and network.
fn ratio(section: &Section, row: &Figures, figures: &[Figures]) -> Option<f64> {
    let base = figures.iter().find(|base| {
        (base.cell.group.as_str(), base.cell.arm.as_str()) == section.base
            && base.cell.workload == row.cell.workload
            && base.cell.network == row.cell.network
    })?;
    Some(row.wall?.0 / base.wall?.0)
}

/// Plots by name: ratios where there is something to compare with.
pub(crate) fn plots(figures: &[Figures]) -> Vec<(&'static str, String)> {
    let mut plots: Vec<_> = SECTIONS
        .iter()
        .filter(|section| section.plot)
        .filter_map(|section| {
            let panels = panels(section, figures);
            let heading = format!("{}: time as a multiple of {}", section.title, section.base.1);
            let drawn = draw(&heading, &panels, Some(1.0), "×");
            (!panels.is_empty()).then_some((section.group, drawn))
        })
        .collect();
    let jobs: Vec<Panel> = SECTIONS
        .iter()
        .filter(|section| section.group.starts_with("jobs-"))
        .flat_map(|section| {
            let mut panels = panels(section, figures);
            for panel in &mut panels {
                section.title.clone_into(&mut panel.title);
            }
            panels
        })
        .collect();
    if !jobs.is_empty() {
        plots.push(("jobs", draw("Jobs at once: multiple of native", &jobs, Some(1.0), "×")));
    }
    plots
}

fn panels(section: &Section, figures: &[Figures]) -> Vec<Panel> {
    let mut panels: Vec<Panel> = Vec::new();
    for row in figures.iter().filter(|row| row.cell.group == section.group) {
        let title = match row.cell.network.as_str() {
            "-" => row.cell.workload.clone(),
            network => format!("{}, {network}", row.cell.workload),
        };
        let ratio = ratio(section, row, figures);
        if ratio.is_none() && row.failure.is_none() {
            continue;
        }
        let arm = &row.cell.arm;
        let bar = Bar { label: arm.clone(), value: ratio, ours: arm.starts_with("Sway") };
        match panels.iter_mut().find(|panel| panel.title == title) {
            Some(panel) => panel.bars.push(bar),
            None => panels.push(Panel { title, bars: vec![bar] }),
        }
    }
    panels.sort_by(|a, b| a.title.cmp(&b.title));
    panels
}

const METHOD: &str = "\
## Method

- **Workloads.** W1: numpy and scipy.linalg (`bench/images/scipy`) in an image of 510
  MB (`testapps/scipy`). W2: pandas, sympy, matplotlib and scikit-learn in an image of 830 MB built on
  W1's (`bench/images/science`).
- **Time** is what a user sees: from the start of `sway run` (of `runc run`, of the pull) to its
  exit. For a cold start everything on disk is cold, the command line's own binary too.
- **Both sides have the same limits**: 2 CPUs, 2 GiB. Native is `runc run` on the plain directory,
  without seccomp and user namespace. Sway runs with its full isolation, verifies every byte, and
  writes its disk cache.
- **Network.** Clients reach the server through a TCP proxy on this machine that models round-trip
  time, bandwidth and TCP slow start, without loss. N1: 2 ms, 1 Gbit/s. N2: 20 ms, 500 Mbit/s.
- **The server is warm**: fileserver and registry are on this machine and keep their stores in
  memory (tmpfs), so that emptying the page cache does not make them read a disk.
- **Traces** are those of one first run, as a user's first run leaves them. Before every cold run
  the fileserver's traces are put back to that state, so that no run learns from the one before.
- **Peers.** containerd pulls gzipped layers and unpacks them to overlayfs. Nydus (RAFS v6, default
  settings) runs as a daemon already; its start fetches the bootstrap, mounts and runs runc on the
  mount; its prefetch list holds the files that this very program reads, in order. eStargz runs
  with its snapshotter's default settings; optimised means for this very program.
- **Arms alternate** within each round; medians and minima are over rounds. An arm with a wrong
  output in any round has no figure, nor has one that could not run: the reason stands below the
  table.
- **CPU s**: user and system time of the daemon, of what it waited for, and of the command. What a
  daemon starts and does not wait for is missing there; *machine's CPU s* is the busy time of the
  whole machine without the proxy, other work and the server included.
- **Requests** are HTTP requests seen by the proxy, *daemon MB* the peak of resident memory of
  worker, nydusd, containerd or snapshotter.
";

/// docs/benchmarks.md.
pub(crate) fn document(figures: &[Figures], machine: &[(String, String)]) -> String {
    let mut text = String::from(
        "# Benchmarks\n\nWritten by `bench/run`; the raw rows stay in `bench/out/rows.jsonl`. \
         Ratios are medians against native in the same run: below 1 is faster.\n\n",
    );
    for (name, _) in plots(figures) {
        writeln!(text, "![{name}](benchmarks/{name}.svg)\n").expect("a string takes all");
    }
    text.push_str("## Machine\n\n| what | |\n| --- | --- |\n");
    for (what, value) in machine {
        writeln!(text, "| {what} | {value} |").expect("a string takes all");
    }
    for (what, value) in provenance(figures) {
        writeln!(text, "| {what} | {value} |").expect("a string takes all");
    }
    let sections: Vec<String> = SECTIONS
        .iter()
        .map(|section| {
            table(section, figures)
                .unwrap_or_else(|| format!("## {}\n\nNot measured.\n", section.title))
        })
        .collect();
    format!("{text}\n{METHOD}\n{}", sections.join("\n"))
}

/// What the figures come from: days and commits, programs, how many runs.
fn provenance(figures: &[Figures]) -> Vec<(String, String)> {
    let mut measured: Vec<&str> =
        figures.iter().flat_map(|row| &row.measured).map(String::as_str).collect();
    measured.sort_unstable();
    measured.dedup();
    let mut lines = vec![("measured".to_owned(), measured.join("; "))];
    for row in figures {
        let Some(program) = &row.program else { continue };
        if !lines.iter().any(|(arm, _)| *arm == row.cell.arm) {
            lines.push((row.cell.arm.clone(), program.clone()));
        }
    }
    let runs = figures.iter().filter(|row| row.failure.is_none()).map(|row| row.runs).min();
    lines.push(("least runs of a cell".to_owned(), runs.unwrap_or_default().to_string()));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{Cell, Row, Sample};
    use crate::stats;

    fn rows() -> Vec<Row> {
        let row = |group: &str, arm: &str, wall_s: Option<f64>| Row {
            cell: Cell::new(group, "W1", "N2", arm),
            round: 0,
            measured: "today".to_owned(),
            sample: wall_s.map(|wall_s| Sample { wall_s, ..Sample::default() }),
            failure: wall_s.is_none().then(|| "the output\nis wrong".to_owned()),
        };
        vec![
            row("cold", "native", Some(0.4)),
            row("cold", "Sway, trace pushed", Some(0.38)),
            row("cold", "Nydus", None),
            row("cold", "eStargz", None),
            row("restart", "Sway, worker restarted", Some(0.36)),
        ]
    }

    #[test]
    fn ratios_are_to_native_cold_also_after_a_restart() {
        let text = tables(&stats::figures(&rows()), &["cold", "restart"]);
        assert!(text.contains("| W1 | N2 | Sway, trace pushed | 0.380 | 0.380 | 0.95 |"), "{text}");
        assert!(text.contains("| W1 | N2 | Sway, worker restarted | 0.360 | 0.360 | 0.90 |"));
    }

    #[test]
    fn arms_without_a_figure_say_why() {
        let text = tables(&stats::figures(&rows()), &["cold"]);
        assert!(text.contains("| W1 | N2 | Nydus | none | – | – |"), "{text}");
        let reason = "No figure: W1 N2 Nydus; W1 N2 eStargz (the output is wrong).";
        assert!(text.contains(reason), "{text}");
    }

    #[test]
    fn groups_that_were_not_asked_for_are_not_shown_and_those_without_rows_are_told() {
        let figures = stats::figures(&rows());
        assert!(!tables(&figures, &["cold"]).contains("Worker restarted"));
        let text = document(&figures, &[]);
        assert!(text.contains("## Export\n\nNot measured.\n"), "{text}");
    }

    #[test]
    fn rates_are_compared_with_the_better_loops() {
        use crate::load::Load;
        let row = |arm: &str, per_second: f64| Row {
            cell: Cell::new("pool", "8 at a time", "-", arm),
            round: 0,
            measured: "today".to_owned(),
            sample: Some(Sample {
                load: Some(Load { p50_ms: 12.34, p99_ms: 56.7, per_second }),
                ..Sample::default()
            }),
            failure: None,
        };
        let rows =
            [row("Sway, pool on", 60.0), row("runc run", 30.0), row("runc run, 4 loops", 50.0)];
        let text = tables(&stats::figures(&rows), &["pool"]);
        assert!(
            text.contains("| 8 at a time | Sway, pool on | 12.3 | 56.7 | 60.0 | 1.20 |"),
            "{text}"
        );
    }

    #[test]
    fn the_document_shows_every_plot_that_is_drawn() {
        let figures = stats::figures(&rows());
        let text = document(&figures, &[("kernel".to_owned(), "Linux 6".to_owned())]);
        let plots = plots(&figures);
        assert_eq!(plots.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["cold", "restart"]);
        for (name, _) in plots {
            assert!(text.contains(&format!("benchmarks/{name}.svg")));
        }
        assert!(text.contains("| kernel | Linux 6 |"));
        assert!(text.contains("| measured | today |"));
        assert!(text.contains("| least runs of a cell | 1 |"));
    }
}
