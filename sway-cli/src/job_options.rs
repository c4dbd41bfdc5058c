//! What flags ask for, for any job: limits, network, environment.

use std::collections::BTreeMap;

use clap::{Args, ValueEnum};
use sway_core::job::{LimitsRequest, Network};

use crate::config;
use crate::failure::Failure;
use crate::size::{parse_cpus_milli, parse_size, parse_time_ms};

/// Flags of every command that runs a job.
#[derive(Debug, Args)]
pub(crate) struct JobOptions {
    /// Time that the job may take, in seconds or with a unit [default: 10]
    #[arg(long, value_name = "S", value_parser = parse_time_ms, allow_negative_numbers = true)]
    timeout: Option<u64>,
    /// Memory including swap, such as 512M or 2G [default: 256M]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, allow_negative_numbers = true)]
    memory: Option<u64>,
    /// CPUs, such as 2 or 0.5 [default: 0.5]
    #[arg(long, value_name = "N", value_parser = parse_cpus_milli, allow_negative_numbers = true)]
    cpus: Option<u32>,
    /// Processes and threads [default: 64]
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pids: Option<u32>,
    /// Bytes of standard output, and as many of standard error [default: 10M]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, allow_negative_numbers = true)]
    output_limit: Option<u64>,
    /// Bytes of /tmp [default: 64M]
    #[arg(long, value_name = "SIZE", value_parser = parse_size, allow_negative_numbers = true)]
    tmp: Option<u64>,
    /// What the job can reach
    #[arg(long, value_enum, default_value_t = NetworkArg::None)]
    network: NetworkArg,
    /// Set a variable of the job's environment; without =VALUE it gets the value that it has here
    #[arg(long, short, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
}

impl JobOptions {
    pub(crate) fn limits(&self) -> LimitsRequest {
        LimitsRequest {
            timeout_ms: self.timeout,
            memory_bytes: self.memory,
            cpus_milli: self.cpus,
            pids: self.pids,
            output_bytes: self.output_limit,
            tmp_bytes: self.tmp,
        }
    }

    pub(crate) fn network(&self) -> Network {
        self.network.into()
    }

    /// What `--env` sets; refused where a variable has no value here.
    pub(crate) fn env(&self) -> anyhow::Result<BTreeMap<String, String>> {
        self.env.iter().map(|setting| env_setting(setting)).collect()
    }
}

/// As it is typed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum NetworkArg {
    /// Nothing
    None,
    /// The outside, but nothing of the worker's host and networks
    Isolated,
}

impl From<NetworkArg> for Network {
    fn from(network: NetworkArg) -> Self {
        match network {
            NetworkArg::None => Self::None,
            NetworkArg::Isolated => Self::Isolated,
        }
    }
}

/// `NAME=VALUE`, or the name of a variable that has a value here.
pub(crate) fn env_setting(setting: &str) -> anyhow::Result<(String, String)> {
    if let Some((name, value)) = setting.split_once('=') {
        return Ok((name.to_owned(), value.to_owned()));
    }
    let value = config::variable(setting).ok_or_else(|| {
        Failure::refused(format!("--env {setting}: there is no such variable here"))
            .hint(format!("give it a value: --env {setting}=VALUE"))
    })?;
    let value = value
        .into_string()
        .map_err(|_| Failure::refused(format!("--env {setting}: its value is not valid UTF-8")))?;
    Ok((setting.to_owned(), value))
}
