//! The arms of the comparison. Each runs the same program with the same limits, and none has a
//! figure for a run whose output was wrong.

pub(crate) mod containerd;
pub(crate) mod fastapi;
pub(crate) mod native;
pub(crate) mod nydus;
pub(crate) mod origin;
pub(crate) mod registry;
pub(crate) mod stargz;
pub(crate) mod sway;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result};

use crate::link::Network;
use crate::machine::first_line;
use crate::proxy::Proxy;
use crate::row::Sample;

/// All arms run with these limits.
pub(crate) const CPUS: u32 = 2;
/// Likewise, with swap.
pub(crate) const MEMORY_BYTES: u64 = 2 << 30;

/// Where the peers' programs are, as far as they were given.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Peers {
    /// containerd, for a full pull and for stargz
    #[arg(long)]
    pub(crate) containerd: Option<PathBuf>,
    /// Its client
    #[arg(long)]
    pub(crate) ctr: Option<PathBuf>,
    /// The registry that the peers pull from
    #[arg(long)]
    pub(crate) registry: Option<PathBuf>,
    /// Nydus' daemon
    #[arg(long)]
    pub(crate) nydusd: Option<PathBuf>,
    /// Nydus' converter
    #[arg(long)]
    pub(crate) nydus_image: Option<PathBuf>,
    /// stargz' snapshotter, `containerd-stargz-grpc`
    #[arg(long)]
    pub(crate) stargz: Option<PathBuf>,
    /// Its client
    #[arg(long)]
    pub(crate) ctr_remote: Option<PathBuf>,
}

/// A program that a flag names.
pub(crate) fn given<'a>(program: Option<&'a PathBuf>, flag: &str) -> Result<&'a Path> {
    program.map(PathBuf::as_path).with_context(|| format!("{flag} is not given"))
}

/// What a program says of its version.
pub(crate) fn version(program: &Path) -> Option<String> {
    first_line(Command::new(program).arg("--version"))
}

/// A network in front of a server, with what went through it.
#[derive(Debug)]
pub(crate) struct Wire {
    /// The model.
    pub(crate) proxy: Proxy,
}

impl Wire {
    /// Starts a proxy in front of `server`.
    pub(crate) fn new(network: Network, server: std::net::SocketAddr) -> Result<Self> {
        let handle = tokio::runtime::Handle::current();
        Ok(Self { proxy: handle.block_on(Proxy::start(network, server))? })
    }

    fn counters(&self) -> [u64; 3] {
        let traffic = &self.proxy.traffic;
        [&traffic.bytes_down, &traffic.requests, &traffic.connections]
            .map(|counter| counter.load(Ordering::Relaxed))
    }

    /// Runs something and adds to its sample what went through meanwhile.
    pub(crate) fn count(&self, run: impl FnOnce() -> Result<Sample>) -> Result<Sample> {
        let before = self.counters();
        let mut sample = run()?;
        let after = self.counters();
        sample.bytes_down = Some(after[0] - before[0]);
        sample.requests = Some(after[1] - before[1]);
        sample.connections = Some(after[2] - before[2]);
        Ok(sample)
    }
}
