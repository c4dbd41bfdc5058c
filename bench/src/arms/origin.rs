//! The fileserver: one for all of Sway's arms, whose start traces are put to a chosen state
//! before every run, so that no run learns from the one before.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use fs_err as fs;
use serde_json::{Value, json};

use crate::process::{Daemon, free_address, http, pause};

/// How long after a run its trace may take to appear.
const TRACE_DEADLINE: Duration = Duration::from_secs(60);

/// Refs of traces, and what they point to.
pub(crate) type Traces = BTreeMap<String, String>;

/// A running fileserver.
#[derive(Debug)]
pub(crate) struct Origin {
    _daemon: Daemon,
    /// Where it listens, without any network in between.
    pub(crate) address: SocketAddr,
    token: String,
}

impl Origin {
    /// Starts one on a free port with its data in `data`.
    pub(crate) fn start(binaries: &Path, data: &Path, token: &str) -> Result<Self> {
        fs::create_dir_all(data)?;
        let address = free_address()?;
        let mut command = std::process::Command::new(binaries.join("sway-fileserver"));
        command.arg("--data").arg(data).args(["--listen", &address.to_string()]);
        command.env("SWAY_TOKEN", token);
        let mut daemon = Daemon::start(&mut command, &data.with_extension("log"))?;
        daemon.wait_for_port("sway-fileserver", address)?;
        Ok(Self { _daemon: daemon, address, token: token.to_owned() })
    }

    /// The traces that it has now.
    pub(crate) fn traces(&self) -> Result<Traces> {
        let body = self.http("GET", "refs?prefix=traces/", None)?;
        let answer: Value = serde_json::from_slice(&body)?;
        let refs = answer["refs"].as_array().context("no list of refs")?;
        let pair = |entry: &Value| {
            Some((entry["name"].as_str()?.to_owned(), entry["digest"].as_str()?.to_owned()))
        };
        Ok(refs.iter().filter_map(pair).collect())
    }

    /// Makes its traces exactly these.
    pub(crate) fn set_traces(&self, wanted: &Traces) -> Result<()> {
        let there = self.traces()?;
        for name in there.keys().filter(|name| !wanted.contains_key(*name)) {
            self.http("DELETE", &format!("refs/{}", escaped(name)), None)?;
        }
        for (name, digest) in
            wanted.iter().filter(|(name, digest)| there.get(*name) != Some(digest))
        {
            let body = json!({ "digest": digest }).to_string();
            self.http("PUT", &format!("refs/{}", escaped(name)), Some(body.as_bytes()))?;
        }
        Ok(())
    }

    /// Waits until there is a trace of a manifest, and no newer one for a moment.
    pub(crate) fn wait_for_trace(&self, manifest: &str) -> Result<Traces> {
        let deadline = Instant::now() + TRACE_DEADLINE;
        let of_manifest = |traces: Traces| -> Traces {
            traces.into_iter().filter(|(name, _)| name.contains(manifest)).collect()
        };
        let mut last = Traces::new();
        loop {
            let now = of_manifest(self.traces()?);
            if !now.is_empty() && now == last {
                return Ok(now);
            }
            if Instant::now() > deadline {
                bail!("no trace of manifest {manifest} after {TRACE_DEADLINE:?}");
            }
            last = now;
            pause(Duration::from_millis(1500));
        }
    }

    fn http(&self, method: &str, path: &str, body: Option<&[u8]>) -> Result<Vec<u8>> {
        http(method, &format!("http://{}/v1/{path}", self.address), Some(&self.token), body)
    }
}

/// `%` is the only character of a ref's name that a URL gives another meaning.
fn escaped(name: &str) -> String {
    name.replace('%', "%25")
}
