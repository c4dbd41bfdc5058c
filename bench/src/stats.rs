//! Medians and minima of rows, cell by cell, in the order in which cells were first measured.

use std::collections::BTreeMap;

use crate::load::Load;
use crate::row::{Cell, Row, Sample};

/// What the rows of one cell amount to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Figures {
    /// Which cell.
    pub(crate) cell: Cell,
    /// Runs that count.
    pub(crate) runs: usize,
    /// Median and minimum of the wall time, in seconds; none where a run failed.
    pub(crate) wall: Option<(f64, f64)>,
    /// Medians of what a run reports beside.
    pub(crate) cpu_s: Option<f64>,
    pub(crate) machine_cpu_s: Option<f64>,
    pub(crate) bytes_down: Option<f64>,
    pub(crate) requests: Option<f64>,
    pub(crate) connections: Option<f64>,
    pub(crate) peak_rss_bytes: Option<f64>,
    /// Days and commits of its runs.
    pub(crate) measured: Vec<String>,
    /// What ran, with its version.
    pub(crate) program: Option<String>,
    /// Medians of many requests one after the other; none where a run failed.
    pub(crate) load: Option<Load>,
    /// FUSE requests of the last run, by operation.
    pub(crate) fuse: BTreeMap<String, u64>,
    /// Why there is no time: the first failure.
    pub(crate) failure: Option<String>,
}

/// The middle value; the mean of the two in the middle of an even number.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len().checked_sub(1)? / 2;
    let upper = sorted.len() / 2;
    Some(f64::midpoint(sorted[middle], sorted[upper]))
}

/// One row of figures for each cell. A cell with a failed run has no wall time: a median of the
/// runs that happened to be right would say more than was measured.
pub(crate) fn figures(rows: &[Row]) -> Vec<Figures> {
    let mut cells: Vec<&Cell> = Vec::new();
    for row in rows {
        if !cells.contains(&&row.cell) {
            cells.push(&row.cell);
        }
    }
    cells.into_iter().map(|cell| of_cell(cell, rows)).collect()
}

fn of_cell(cell: &Cell, rows: &[Row]) -> Figures {
    let rows: Vec<&Row> = rows.iter().filter(|row| row.cell == *cell).collect();
    let samples: Vec<&Sample> = rows.iter().filter_map(|row| row.sample.as_ref()).collect();
    let failure = rows.iter().find_map(|row| row.failure.clone());
    let mut measured: Vec<String> = rows.iter().map(|row| row.measured.clone()).collect();
    measured.dedup();
    let walls: Vec<f64> = samples.iter().map(|sample| sample.wall_s).collect();
    let of = |value: fn(&Sample) -> Option<f64>| {
        median(&samples.iter().filter_map(|sample| value(sample)).collect::<Vec<f64>>())
    };
    Figures {
        cell: cell.clone(),
        runs: samples.len(),
        wall: median(&walls)
            .filter(|_| failure.is_none())
            .map(|median| (median, walls.iter().copied().fold(f64::INFINITY, f64::min))),
        cpu_s: of(|sample| sample.cpu_s),
        machine_cpu_s: of(|sample| sample.machine_cpu_s),
        bytes_down: of(|sample| sample.bytes_down.map(float)),
        requests: of(|sample| sample.requests.map(float)),
        connections: of(|sample| sample.connections.map(float)),
        peak_rss_bytes: of(|sample| sample.peak_rss_bytes.map(float)),
        load: of_loads(&samples).filter(|_| failure.is_none()),
        measured,
        program: samples.iter().find_map(|sample| sample.program.clone()),
        fuse: samples.last().map(|sample| sample.fuse.clone()).unwrap_or_default(),
        failure,
    }
}

fn of_loads(samples: &[&Sample]) -> Option<Load> {
    let of = |value: fn(&Load) -> f64| {
        let loads = samples.iter().filter_map(|sample| sample.load.as_ref());
        median(&loads.map(value).collect::<Vec<f64>>())
    };
    Some(Load {
        p50_ms: of(|load| load.p50_ms)?,
        p99_ms: of(|load| load.p99_ms)?,
        per_second: of(|load| load.per_second)?,
    })
}

#[expect(clippy::cast_precision_loss, reason = "for tables and plots")]
pub(crate) fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(arm: &str, wall_s: Option<f64>) -> Row {
        Row {
            cell: Cell::new("cold", "W1", "N1", arm),
            round: 0,
            measured: "today".to_owned(),
            sample: wall_s.map(|wall_s| Sample { wall_s, ..Sample::default() }),
            failure: wall_s.is_none().then(|| "output".to_owned()),
        }
    }

    #[test]
    fn the_median_lies_in_the_middle() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
    }

    #[test]
    fn cells_keep_the_order_of_measuring() {
        let rows = [row("b", Some(1.0)), row("a", Some(2.0)), row("b", Some(3.0))];
        let figures = figures(&rows);
        assert_eq!(figures.len(), 2);
        assert_eq!((figures[0].cell.arm.as_str(), figures[0].wall), ("b", Some((2.0, 1.0))));
        assert_eq!(figures[0].runs, 2);
    }

    #[test]
    fn a_failed_run_takes_the_figure_of_its_cell() {
        let rows = [row("a", Some(1.0)), row("a", None)];
        let figures = figures(&rows);
        assert_eq!(figures[0].wall, None);
        assert_eq!(figures[0].failure.as_deref(), Some("output"));
    }
}
