//! What one measured run left behind: the raw rows that tables and plots are made of.
//!
//! They lie in a file, a line each, written as they come, so that an interruption loses nothing.
//! Measuring a group takes the place of its rows and leaves those of other groups, so that one
//! document can be made of several runs.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Write as _};
use std::path::Path;

use anyhow::{Context, Result};
use fs_err as fs;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::load::Load;

/// Which cell of the tables a run belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Cell {
    /// What is compared, such as `cold`.
    pub(crate) group: String,
    /// Which program in which image.
    pub(crate) workload: String,
    /// `N1`, `N2`, or `-` where no network matters.
    pub(crate) network: String,
    /// Who ran it.
    pub(crate) arm: String,
}

impl Cell {
    pub(crate) fn new(group: &str, workload: &str, network: &str, arm: &str) -> Self {
        Self {
            group: group.to_owned(),
            workload: workload.to_owned(),
            network: network.to_owned(),
            arm: arm.to_owned(),
        }
    }
}

/// The figures of one run. What an arm does not have is absent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Sample {
    /// From start to exit, as the user sees it, in seconds.
    pub(crate) wall_s: f64,
    /// User and system time of the arm's processes, as far as the kernel adds them up for us.
    pub(crate) cpu_s: Option<f64>,
    /// Busy time of the whole machine without this benchmark's own process (the proxy).
    pub(crate) machine_cpu_s: Option<f64>,
    /// Bytes that came through the proxy.
    pub(crate) bytes_down: Option<u64>,
    /// HTTP requests that went through the proxy.
    pub(crate) requests: Option<u64>,
    /// Connections made to the proxy.
    pub(crate) connections: Option<u64>,
    /// Most memory that the daemon had resident.
    pub(crate) peak_rss_bytes: Option<u64>,
    /// What ran, with its version, where that is not told elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) program: Option<String>,
    /// Of many requests one after the other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) load: Option<Load>,
    /// FUSE requests by operation.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) fuse: BTreeMap<String, u64>,
    /// The run's record, as `sway runs --json` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) run: Option<Value>,
}

/// One run of one cell.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// Where it belongs.
    #[serde(flatten)]
    pub(crate) cell: Cell,
    /// Round, from 0.
    pub(crate) round: u32,
    /// Day and commit.
    pub(crate) measured: String,
    /// Its figures; none where it could not run, failed, or had a wrong output.
    pub(crate) sample: Option<Sample>,
    /// Why there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failure: Option<String>,
}

/// Rows, in memory and in their file.
#[derive(Debug)]
pub(crate) struct Rows {
    rows: Vec<Row>,
    file: fs::File,
}

impl Rows {
    /// Opens a file to add to, made where there is none; of the rows in it those stay that `keep`
    /// says.
    pub(crate) fn open(path: &Path, keep: impl Fn(&Cell) -> bool) -> Result<Self> {
        let mut rows = match fs::metadata(path) {
            Ok(_) => read(path)?,
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        rows.retain(|row: &Row| keep(&row.cell));
        // Written beside and renamed: what is kept is never half there.
        let beside = path.with_extension("new");
        let mut file = fs::File::create(&beside)?;
        for row in &rows {
            write(&mut file, row)?;
        }
        fs::rename(&beside, path)?;
        Ok(Self { rows, file })
    }

    /// Adds one.
    pub(crate) fn add(&mut self, row: Row) -> Result<()> {
        let written = write(&mut self.file, &row);
        self.rows.push(row);
        written
    }

    /// All of them.
    pub(crate) fn all(&self) -> &[Row] {
        &self.rows
    }
}

fn write(file: &mut fs::File, row: &Row) -> Result<()> {
    let mut line = serde_json::to_vec(row)?;
    line.push(b'\n');
    Ok(file.write_all(&line)?)
}

/// The rows of a file. A last line that was not written to its end is no row.
pub(crate) fn read(path: &Path) -> Result<Vec<Row>> {
    let text = fs::read_to_string(path)?;
    text.split_inclusive('\n')
        .filter(|line| line.ends_with('\n'))
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_str(line)
                .with_context(|| format!("line {} of {} is no row", index + 1, path.display()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(group: &str, round: u32) -> Row {
        Row {
            cell: Cell::new(group, "W1", "N1", "native"),
            round,
            measured: "today".to_owned(),
            sample: Some(Sample::default()),
            failure: None,
        }
    }

    fn kept(path: &Path) -> Vec<(String, u32)> {
        read(path).unwrap().into_iter().map(|row| (row.cell.group, row.round)).collect()
    }

    #[test]
    fn a_later_run_takes_the_place_of_its_groups_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        let mut rows = Rows::open(&path, |_| true).unwrap();
        rows.add(row("cold", 0)).unwrap();
        rows.add(row("hot", 1)).unwrap();
        let mut rows = Rows::open(&path, |cell| cell.group != "hot").unwrap();
        rows.add(row("hot", 2)).unwrap();
        assert_eq!(rows.all().len(), 2);
        assert_eq!(kept(&path), [("cold".to_owned(), 0), ("hot".to_owned(), 2)]);
    }

    #[test]
    fn a_line_that_was_cut_is_no_row_and_the_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.jsonl");
        Rows::open(&path, |_| true).unwrap().add(row("cold", 0)).unwrap();
        let whole = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{whole}{}", &whole[..20])).unwrap();
        assert_eq!(kept(&path), [("cold".to_owned(), 0)]);
        Rows::open(&path, |_| true).unwrap().add(row("cold", 1)).unwrap();
        assert_eq!(kept(&path), [("cold".to_owned(), 0), ("cold".to_owned(), 1)]);
        fs::write(&path, format!("{{}}\n{whole}")).unwrap();
        read(&path).unwrap_err();
    }
}
