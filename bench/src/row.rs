//! What one measured run left behind: the raw rows that tables and plots are made of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

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
    /// Its figures; none where it failed or its output was wrong.
    pub(crate) sample: Option<Sample>,
    /// What was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) wrong: Option<String>,
}
