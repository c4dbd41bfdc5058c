//! Sway: a fresh worker for every cold start, and its command line as the user types it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use fs_err as fs;
use serde_json::Value;

use super::{CPUS, MEMORY_BYTES};
use crate::images::{Image, Program, Workload};
use crate::process::{Daemon, Meter, free_address, http, output, outputs, parse_counters};
use crate::row::Sample;

/// Jobs that a worker runs at once: as many as are ever measured together.
const JOBS_AT_ONCE: u32 = 32;

/// How a worker uses traces.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum TraceMode {
    /// As it comes.
    Default,
    /// Into the page cache.
    Push,
    /// As answers to reads.
    Read,
}

/// Where the binaries are and how they know each other.
#[derive(Debug)]
pub(crate) struct Installation {
    /// Folder with `sway`, `sway-worker` and `sway-fileserver`.
    pub(crate) binaries: PathBuf,
    /// The one token of all three.
    pub(crate) token: String,
    /// Home of the command line: its caches are there.
    pub(crate) home: PathBuf,
}

/// A running worker.
#[derive(Debug)]
pub(crate) struct Worker {
    daemon: Daemon,
    pub(crate) address: SocketAddr,
    /// FUSE requests up to the last run. Asking before a run would warm a cold worker.
    counted: RefCell<BTreeMap<String, u64>>,
}

impl Installation {
    /// Starts a worker with its data in `data` that fetches from `fileserver`.
    pub(crate) fn worker(
        &self,
        data: &Path,
        fileserver: SocketAddr,
        mode: TraceMode,
    ) -> Result<Worker> {
        let jobs = JOBS_AT_ONCE.to_string();
        let jobs = ["--max-concurrent-jobs", &jobs];
        match mode {
            TraceMode::Default => self.worker_with(data, fileserver, &jobs),
            TraceMode::Push => {
                self.worker_with(data, fileserver, &[&jobs[..], &["--trace", "push"]].concat())
            }
            TraceMode::Read => {
                self.worker_with(data, fileserver, &[&jobs[..], &["--trace", "read"]].concat())
            }
        }
    }

    /// The same with some flags.
    pub(crate) fn worker_with(
        &self,
        data: &Path,
        fileserver: SocketAddr,
        flags: &[&str],
    ) -> Result<Worker> {
        fs::create_dir_all(data)?;
        let address = free_address()?;
        let mut command = Command::new(self.binaries.join("sway-worker"));
        command.arg("--data").arg(data).args(["--listen", &address.to_string()]);
        command.args(["--fileserver", &format!("http://{fileserver}")]);
        command.args(flags);
        command.env("SWAY_TOKEN", &self.token);
        let mut daemon = Daemon::start(&mut command, &data.with_extension("log"))?;
        daemon.wait_for_port("sway-worker", address)?;
        Ok(Worker { daemon, address, counted: RefCell::default() })
    }

    /// Exports an image; its manifest.
    pub(crate) fn export(
        &self,
        image: &Image,
        name: &str,
        fileserver: SocketAddr,
        more: &[&str],
    ) -> Result<Exported> {
        let mut command = self.sway(fileserver, fileserver);
        command.args(["export", "--json", "--name", name, "--from"]);
        command.arg(format!("oci:{}", image.layout.display())).args(more);
        let meter = Meter::start(&[]);
        let output = output(&mut command)?;
        let sample = meter.stop();
        let summary: Value = serde_json::from_slice(&output.stdout)?;
        let manifest = summary["manifest"].as_str().context("no manifest")?.to_owned();
        Ok(Exported { manifest, sample })
    }

    /// Exports with a worker that derives traces.
    pub(crate) fn export_with_worker(
        &self,
        image: &Image,
        name: &str,
        fileserver: SocketAddr,
        worker: &Worker,
    ) -> Result<String> {
        let mut command = self.sway(fileserver, worker.address);
        command.args(["export", "--json", "--name", name, "--from"]);
        command.arg(format!("oci:{}", image.layout.display()));
        let summary: Value = serde_json::from_slice(&output(&mut command)?.stdout)?;
        Ok(summary["manifest"].as_str().context("no manifest")?.to_owned())
    }

    fn sway(&self, fileserver: SocketAddr, worker: SocketAddr) -> Command {
        let mut command = Command::new(self.binaries.join("sway"));
        command
            .env("SWAY_TOKEN", &self.token)
            .env("XDG_CACHE_HOME", &self.home)
            .env("FILESERVER_URL", format!("http://{fileserver}"))
            .env("WORKER_URL", format!("http://{worker}"));
        command
    }
}

/// What an export left behind.
#[derive(Debug)]
pub(crate) struct Exported {
    /// Digest of the manifest.
    pub(crate) manifest: String,
    /// What it cost.
    pub(crate) sample: Sample,
}

impl Worker {
    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// `sway run`, from its start to its exit.
    pub(crate) fn run(&self, installation: &Installation, workload: &Workload) -> Result<Sample> {
        let mut command = self.command(installation, &workload.image.name, &workload.program);
        let meter = Meter::start(&[self.daemon.pid()]);
        let output = output(&mut command)?;
        let mut sample = meter.stop();
        workload.program.check(&output.stdout)?;
        sample.fuse = self.fuse_since(installation)?;
        sample.run = self.last_run(installation)?;
        Ok(sample)
    }

    /// The same, with its output instead of a check.
    pub(crate) fn run_for_output(
        &self,
        installation: &Installation,
        image: &str,
        program: &Program,
    ) -> Result<String> {
        let output = output(&mut self.command(installation, image, program))?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `count` times `sway run` at once; the time until the last has ended.
    pub(crate) fn run_many(
        &self,
        installation: &Installation,
        workload: &Workload,
        count: u32,
    ) -> Result<Sample> {
        let commands = (0..count)
            .map(|_| self.command(installation, &workload.image.name, &workload.program))
            .collect();
        let meter = Meter::start(&[self.daemon.pid()]);
        let outputs = outputs(commands)?;
        let mut sample = meter.stop();
        for output in outputs {
            workload.program.check(&output.stdout)?;
        }
        sample.fuse = self.fuse_since(installation)?;
        Ok(sample)
    }

    fn command(&self, installation: &Installation, image: &str, program: &Program) -> Command {
        let mut command = installation.sway(self.address, self.address);
        command.args(["run", "--image", image, "--timeout", "600", "--cpus", &CPUS.to_string()]);
        command.args(["--memory", &MEMORY_BYTES.to_string()]);
        command.arg(&program.script);
        command
    }

    fn last_run(&self, installation: &Installation) -> Result<Option<Value>> {
        let mut command = installation.sway(self.address, self.address);
        let output = output(command.args(["runs", "--json", "--limit", "1"]))?;
        let mut runs: Value = serde_json::from_slice(&output.stdout)?;
        Ok(runs.get_mut(0).map(Value::take))
    }

    /// FUSE requests since the last run that was counted.
    pub(crate) fn fuse_since(&self, installation: &Installation) -> Result<BTreeMap<String, u64>> {
        let now = self.fuse(installation)?;
        let grown = since(&self.counted.borrow(), &now);
        *self.counted.borrow_mut() = now;
        Ok(grown)
    }

    /// FUSE requests so far, by operation. A worker that does not count them has none.
    fn fuse(&self, installation: &Installation) -> Result<BTreeMap<String, u64>> {
        let url = format!("http://{}/metrics", self.address);
        let body = http("GET", &url, Some(&installation.token), None)?;
        Ok(parse_counters(&String::from_utf8_lossy(&body), "sway_fuse_requests_total", "op"))
    }
}

fn since(before: &BTreeMap<String, u64>, after: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    after
        .iter()
        .map(|(op, count)| (op.clone(), count - before.get(op).copied().unwrap_or(0)))
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_grew_counts() {
        let before = [("read".to_owned(), 3), ("lookup".to_owned(), 2)].into();
        let after = [("read".to_owned(), 3), ("lookup".to_owned(), 5), ("open".to_owned(), 1)];
        let grown = since(&before, &after.into());
        assert_eq!(grown, [("lookup".to_owned(), 3), ("open".to_owned(), 1)].into());
    }
}
