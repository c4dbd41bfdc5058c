//! From arguments and environment to checked values, once; nobody else reads the environment.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Parser;
use sway_core::job::{Limits, OutputLimits};
use sway_core::name::{ImageName, UserName};
use sway_server::guard::OPERATOR;
use sway_server::listen::Listen;
use sway_server::telemetry::LogFormat;
use sway_server::tls::Tls;
use url::Url;

use crate::job::{PoolBounds, Sandbox};
use crate::policy::Policy;
use crate::predict::{Background, PredictConfig};
use crate::queue::DefaultImages;
use crate::start::TraceMode;

/// Where the worker listens unless told otherwise.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:8444";

/// The image of jobs that name none, unless told otherwise.
const DEFAULT_IMAGE: &str = "science";

/// And of Node.js handlers.
const DEFAULT_NODE_IMAGE: &str = "node";

/// Where packages come from, unless told otherwise.
const PACKAGE_INDEX: &str = "https://pypi.org/simple";

/// Containers that wait for their jobs, unless told otherwise.
const POOL_DEFAULT: PoolBounds = PoolBounds { containers: 8, memory_bytes: 1 << 30 };

/// No more than this: each has a range of ids.
const POOL_MAX: usize = 32;

/// Who maps the owners of an image's files to the ids of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum IdMapping {
    /// The kernel where it can (Linux 6.12), else as with `Shift`.
    Auto,
    /// The worker, by one mount for each image and id range.
    Shift,
}

/// Which jobs wait for an owner's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Approval {
    /// Those that were submitted to an owner.
    Submitted,
    /// All of them.
    Required,
}

/// What creates containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum SandboxKind {
    /// The runc command.
    Runc,
    /// This program itself.
    Sway,
}

/// What a worker shows to its fileserver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileserverAccess {
    /// The token that it asks for itself, which both know.
    OwnToken,
    /// The token in this file.
    TokenOf(PathBuf),
    /// Passes of its own, with the scope `worker`.
    Passes,
}

/// Everything a worker needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Data directory; made with mode 0700.
    pub data_dir: PathBuf,
    /// The token to ask for, where it was given; else the data directory's.
    pub token: Option<String>,
    /// What is shown to the fileserver.
    pub fileserver_access: FileserverAccess,
    /// The fileserver.
    pub fileserver: Url,
    /// SHA-256 of the fileserver's certificate, in hex.
    pub fileserver_pin: Option<String>,
    /// How connections are encrypted.
    pub tls: Tls,
    /// Further names by which clients may address the worker.
    pub names: Vec<String>,
    /// Whether `GET /`, `/run`, `/execute` and `/batch-upload` need no token; loopback only.
    pub open: bool,
    /// Requests that a user may send for each second; any number where it is absent.
    pub requests_per_second: Option<NonZeroU32>,
    /// Bytes of blobs kept in memory.
    pub memory_cache_bytes: u64,
    /// Bytes of blobs kept on disk.
    pub disk_cache_bytes: u64,
    /// Jobs that run at a time.
    pub running_max: usize,
    /// Jobs that wait at a time; at most half of them, and at least one, of one user.
    pub waiting_max: usize,
    /// What a job is granted at most.
    pub maxima: Limits,
    /// Runs that stay on record.
    pub keep_runs: u32,
    /// Bytes of output files that are kept for them.
    pub keep_output_bytes: u64,
    /// How long a job goes on after its last follower has gone.
    pub abandoned_after: Duration,
    /// How long jobs may go on when the worker stops; less than the server drains.
    pub stop_grace: Duration,
    /// How long a read of a file may wait for the fileserver.
    pub read_deadline: Duration,
    /// What is fetched of an image that nobody asked for; none for nothing but traces.
    pub predict: Option<PredictConfig>,
    /// What is done with traces of starts.
    pub trace: TraceMode,
    /// Whether what one user's runs touched helps the images of other users.
    pub share_traces: bool,
    /// What the source of every job is held to.
    pub policy: Option<Policy>,
    /// Who decides on jobs that nobody submitted to an owner; none where they run at once.
    pub approver: Option<UserName>,
    /// Images of jobs that name none.
    pub default_images: DefaultImages,
    /// Where the packages of submitted jobs come from; nowhere where absent.
    pub package_index: Option<Url>,
    /// How many containers may wait for their jobs; none where all are made when the job comes.
    pub pool: Option<PoolBounds>,
    /// Whether an image's user root stays root (of its user namespace).
    pub allow_root: bool,
    /// Who maps owners.
    pub id_mapping: IdMapping,
    /// Whether the worker ends when everything that waited for a place has ended.
    pub once: bool,
    /// What creates containers.
    pub sandbox: Sandbox,
    /// The OCI runtime.
    pub runc: PathBuf,
    /// A static init for the first process of every container; none where the machine has none.
    pub init: Option<PathBuf>,
}

impl Config {
    /// A worker with all defaults.
    pub fn new(data_dir: PathBuf, fileserver: Url) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            data_dir,
            token: None,
            fileserver_access: FileserverAccess::OwnToken,
            fileserver,
            fileserver_pin: None,
            tls: Tls::Off,
            names: Vec::new(),
            open: false,
            requests_per_second: NonZeroU32::new(200),
            memory_cache_bytes: 256 << 20,
            disk_cache_bytes: 10 << 30,
            running_max: cores,
            waiting_max: 1000,
            maxima: Limits::maxima(u32::try_from(cores).unwrap_or(u32::MAX)),
            keep_runs: 10_000,
            keep_output_bytes: 10 << 30,
            abandoned_after: Duration::from_secs(5),
            stop_grace: Duration::from_secs(8),
            read_deadline: Duration::from_secs(30),
            predict: Some(PredictConfig::default()),
            trace: TraceMode::Push,
            share_traces: false,
            policy: None,
            approver: None,
            default_images: DefaultImages {
                any: DEFAULT_IMAGE.parse().expect("a good name"),
                node: DEFAULT_NODE_IMAGE.parse().expect("a good name"),
            },
            package_index: Some(PACKAGE_INDEX.parse().expect("a good address")),
            pool: Some(POOL_DEFAULT),
            allow_root: false,
            id_mapping: IdMapping::Auto,
            once: false,
            sandbox: Sandbox::Runc,
            runc: PathBuf::from("runc"),
            init: crate::job::find_init(),
        }
    }
}

/// Mounts images lazily and runs isolated jobs in them.
#[derive(Debug, Parser)]
#[command(name = "sway-worker", version, about)]
pub struct Arguments {
    /// Data directory: token, database, caches, mounts
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Address to listen on; beyond loopback only with TLS
    #[arg(long, value_name = "ADDR", default_value = LISTEN_DEFAULT)]
    listen: SocketAddr,
    /// The fileserver
    #[arg(long, value_name = "URL", env = "FILESERVER_URL")]
    fileserver: Option<Url>,
    /// SHA-256 of the fileserver's self-signed certificate, in hex
    #[arg(long, value_name = "SHA256")]
    fileserver_pin: Option<String>,
    /// File with the fileserver's token [default: the token of the environment; where there is none,
    /// passes of this worker's own, which the fileserver takes that knows DATA/pass-key.pub]
    #[arg(long, value_name = "FILE")]
    fileserver_token_file: Option<PathBuf>,
    /// Requests that a user may send for each second, ten seconds' worth at once; 0 for any number.
    /// The operator is not counted [default: 200]
    #[arg(long, value_name = "N")]
    max_user_requests: Option<u32>,
    /// Blobs kept in memory [default: 256M]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory_cache: Option<u64>,
    /// Blobs kept on disk [default: 10G]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    disk_cache: Option<u64>,
    /// Jobs that run at a time [default: cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    max_concurrent_jobs: Option<u16>,
    /// Jobs that wait at a time, at most half of them of one user [default: 1000]
    #[arg(long, value_name = "N")]
    max_waiting_jobs: Option<u16>,
    /// Longest timeout a job may ask for, in seconds [default: 3600]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    max_timeout: Option<u64>,
    /// Most memory a job may ask for [default: 4G]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_memory: Option<u64>,
    /// Most CPUs a job may ask for [default: cores]
    #[arg(long, value_name = "N")]
    max_cpus: Option<f64>,
    /// Most processes a job may ask for [default: 1024]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_pids: Option<u32>,
    /// Most bytes of /output, and of one file in it, that a job may ask for [default: 1G]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    max_output_size: Option<u64>,
    /// Most files in /output that a job may ask for [default: 100000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_output_files: Option<u64>,
    /// Runs that stay on record
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    keep_runs: u32,
    /// Output files kept for them: beyond this the oldest go, and their runs keep the first MiB of
    /// each output [default: 10G]
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    keep_output_bytes: Option<u64>,
    /// How long a read may wait for the fileserver, in seconds
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3600))]
    read_deadline: u64,
    /// Whether the rest of an image without a trace is fetched behind what its job reads: not at
    /// all (off), while the job runs (idle), or to the end (full)
    #[arg(long, value_name = "WHEN", default_value = "idle")]
    background: Background,
    /// Guess nothing: fetch only what jobs read, and traces
    #[arg(long, conflicts_with = "background")]
    no_predict: bool,
    /// What is done with traces of starts: their pages are put into the kernel's cache (push), or
    /// answer reads (read); or there are none, and none are recorded (off)
    #[arg(long, value_name = "HOW", default_value = "push")]
    trace: TraceMode,
    /// Start images also from what other users' runs touched of the same files: whoever starts
    /// jobs can then tell by their time whether somebody uses a file
    #[arg(long)]
    share_traces: bool,
    /// Refuse jobs whose Python imports or uses what is not on a list: advice on top of isolation
    #[arg(long, value_name = "NAME")]
    policy: Option<Policy>,
    /// Which jobs wait for a decision: those that were submitted to an owner, or all of them
    /// (required), also those of `sway run`, POST /v1/jobs, /run and /execute
    #[arg(long, value_name = "WHICH", default_value = "submitted")]
    approval: Approval,
    /// Who decides on jobs that nobody submitted to an owner, with --approval required [default:
    /// operator]
    #[arg(long, value_name = "NAME")]
    owner: Option<UserName>,
    /// Image of jobs that name none: snippets, handlers
    #[arg(long, value_name = "NAME[:TAG]", default_value = DEFAULT_IMAGE)]
    default_image: ImageName,
    /// Image of Node.js handlers that name none
    #[arg(long, value_name = "NAME[:TAG]", default_value = DEFAULT_NODE_IMAGE)]
    default_node_image: ImageName,
    /// Index of Python packages from which the requirements.txt of a submitted job is installed before
    /// its review, in a container with a filtered network; or off
    #[arg(long, value_name = "URL|off", default_value = PACKAGE_INDEX)]
    package_index: String,
    /// Containers that wait with a started interpreter for jobs of images that are used again and
    /// again, at most; or off [default: 8]
    #[arg(long, value_name = "N|off", value_parser = pool_size)]
    pool: Option<usize>,
    /// Memory of all containers that wait [default: 1G]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    pool_memory: Option<u64>,
    /// Let an image's user root be root of the job's user namespace
    #[arg(long)]
    allow_root: bool,
    /// Who maps the owners of an image's files to a job's ids: the kernel where it can (auto), or
    /// the worker in any case (shift), which every kernel before 6.12 needs
    #[arg(long, value_name = "HOW", default_value = "auto")]
    id_mapping: IdMapping,
    /// Run what is approved, remove what is older than its owner keeps it, and exit
    #[arg(long)]
    once: bool,
    /// Answer GET /, POST /run and POST /execute without a token (loopback only)
    #[arg(long)]
    open: bool,
    /// A further name by which clients address this server
    #[arg(long = "name", value_name = "HOST")]
    names: Vec<String>,
    /// Certificate chain, PEM
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Its key, PEM
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Make a certificate; clients pin its fingerprint
    #[arg(long)]
    tls_self_signed: bool,
    /// What creates containers: the OCI runtime, or this program itself, which takes less time;
    /// sway needs cgroup v1 or hybrid
    #[arg(long, value_name = "WHAT", default_value = "runc")]
    sandbox: SandboxKind,
    /// The OCI runtime
    #[arg(long, value_name = "PATH", default_value = "runc")]
    runc: PathBuf,
    /// The static init of every container [default: tini-static, docker-init or catatonit, if
    /// there is one]
    #[arg(long, value_name = "PATH")]
    init: Option<PathBuf>,
    /// Log lines as text or json
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
}

/// What `main` needs beside the worker's own configuration.
#[derive(Debug)]
pub struct Process {
    /// The worker.
    pub config: Config,
    /// Where to listen.
    pub listen: Listen,
    /// `SWAY_LOG`, else `LOG_LEVEL`.
    pub log_filter: Option<String>,
    /// How log lines look.
    pub log_format: LogFormat,
}

/// Checks arguments and environment.
#[expect(clippy::disallowed_methods, reason = "the only reader of the environment")]
pub fn load(arguments: Arguments) -> anyhow::Result<Process> {
    let env = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let fileserver = match (arguments.fileserver, env("SERVER_URL")) {
        (Some(url), _) => url,
        (None, Some(url)) => url.parse().with_context(|| format!("SERVER_URL is {url:?}"))?,
        (None, None) => bail!("no fileserver: give --fileserver URL, or set FILESERVER_URL"),
    };
    let tls = Tls::from_flags(
        arguments.tls_cert,
        arguments.tls_key,
        arguments.tls_self_signed,
        &arguments.data,
    )
    .map_err(anyhow::Error::msg)?;
    if arguments.open && !arguments.listen.ip().to_canonical().is_loopback() {
        bail!("--open is for loopback addresses only, not {}", arguments.listen);
    }
    let mut config = Config::new(arguments.data, fileserver);
    config.token = env("SWAY_TOKEN");
    config.fileserver_pin = arguments.fileserver_pin;
    config.fileserver_access = match (arguments.fileserver_token_file, &config.token) {
        (Some(path), _) => FileserverAccess::TokenOf(path),
        (None, Some(_)) => FileserverAccess::OwnToken,
        (None, None) => FileserverAccess::Passes,
    };
    config.tls = tls.clone();
    config.names = arguments.names;
    config.open = arguments.open;
    if let Some(rate) = arguments.max_user_requests {
        config.requests_per_second = NonZeroU32::new(rate);
    }
    config.memory_cache_bytes = arguments.memory_cache.unwrap_or(config.memory_cache_bytes);
    config.disk_cache_bytes = arguments.disk_cache.unwrap_or(config.disk_cache_bytes);
    config.running_max = arguments.max_concurrent_jobs.map_or(config.running_max, usize::from);
    config.waiting_max = arguments.max_waiting_jobs.map_or(config.waiting_max, usize::from);
    if let Some(seconds) = arguments.max_timeout {
        config.maxima.timeout_ms = seconds * 1000;
    }
    config.maxima.memory_bytes = arguments.max_memory.unwrap_or(config.maxima.memory_bytes);
    if let Some(cpus) = arguments.max_cpus {
        config.maxima.cpus_milli = cpus_milli(cpus)?;
    }
    config.maxima.pids = arguments.max_pids.unwrap_or(config.maxima.pids);
    let output = config.maxima.output.get_or_insert(OutputLimits::MAXIMA);
    if let Some(bytes) = arguments.max_output_size {
        (output.bytes, output.file_bytes) = (bytes, bytes);
    }
    output.files = arguments.max_output_files.unwrap_or(output.files);
    config.keep_runs = arguments.keep_runs;
    config.keep_output_bytes = arguments.keep_output_bytes.unwrap_or(config.keep_output_bytes);
    config.read_deadline = Duration::from_secs(arguments.read_deadline);
    config.predict =
        (!arguments.no_predict).then_some(PredictConfig { background: arguments.background });
    config.trace = arguments.trace;
    config.share_traces = arguments.share_traces;
    config.policy = arguments.policy;
    config.approver = match (arguments.approval, arguments.owner) {
        (Approval::Submitted, None) => None,
        (Approval::Submitted, Some(_)) => bail!("--owner is for --approval required"),
        (Approval::Required, Some(owner)) => Some(owner),
        (Approval::Required, None) => Some(OPERATOR.parse().expect("a good name")),
    };
    config.default_images =
        DefaultImages { any: arguments.default_image, node: arguments.default_node_image };
    config.package_index = package_index(&arguments.package_index)?;
    let pool = PoolBounds {
        containers: arguments.pool.unwrap_or(POOL_DEFAULT.containers),
        memory_bytes: arguments.pool_memory.unwrap_or(POOL_DEFAULT.memory_bytes),
    };
    config.pool = (pool.containers > 0).then_some(pool);
    config.allow_root = arguments.allow_root;
    config.id_mapping = arguments.id_mapping;
    config.once = arguments.once;
    config.sandbox = match arguments.sandbox {
        SandboxKind::Runc => Sandbox::Runc,
        SandboxKind::Sway => Sandbox::own(),
    };
    config.runc = arguments.runc;
    config.init = arguments.init.or(config.init);
    Ok(Process {
        config,
        listen: Listen { addr: arguments.listen, tls },
        log_filter: env("SWAY_LOG").or_else(|| env("LOG_LEVEL")),
        log_format: arguments.log_format,
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked before"
)]
fn cpus_milli(cpus: f64) -> anyhow::Result<u32> {
    if !(0.01..=4096.0).contains(&cpus) {
        bail!("--max-cpus {cpus} is outside 0.01 to 4096");
    }
    Ok((cpus * 1000.0).round() as u32)
}

/// An index; none for `off`.
fn package_index(text: &str) -> anyhow::Result<Option<Url>> {
    if text == "off" {
        return Ok(None);
    }
    let url: Url = text.parse().with_context(|| format!("--package-index {text:?}"))?;
    if !["http", "https"].contains(&url.scheme()) {
        bail!("--package-index {text:?} is neither off nor the address of an index");
    }
    Ok(Some(url))
}

/// How many containers may wait; none for `off`.
fn pool_size(text: &str) -> Result<usize, String> {
    match text.parse() {
        _ if text == "off" => Ok(0),
        Ok(size @ 1..=POOL_MAX) => Ok(size),
        Ok(_) | Err(_) => Err(format!("{text:?} is neither off nor a number from 1 to {POOL_MAX}")),
    }
}

/// Bytes with an optional suffix K, M, G or T (powers of 1024).
fn bytes(text: &str) -> Result<u64, String> {
    let bad = || format!("{text:?} is not a size (such as 268435456, 256M or 10G)");
    let upper = text.to_ascii_uppercase();
    let digits = upper.trim_end_matches("IB").trim_end_matches('B');
    let (digits, shift) = match digits.char_indices().last() {
        Some((at, 'K')) => (&digits[..at], 10),
        Some((at, 'M')) => (&digits[..at], 20),
        Some((at, 'G')) => (&digits[..at], 30),
        Some((at, 'T')) => (&digits[..at], 40),
        _ => (digits, 0),
    };
    let number: u64 = digits.parse().map_err(|_| bad())?;
    number.checked_mul(1 << shift).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> anyhow::Result<Process> {
        let all = ["sway-worker", "--data", "/d", "--fileserver", "http://127.0.0.1:8443"];
        load(Arguments::try_parse_from(all.iter().chain(arguments))?)
    }

    #[test]
    fn flags_become_checked_values() {
        let process = parsed(&[
            "--memory-cache",
            "64M",
            "--disk-cache",
            "1g",
            "--max-timeout",
            "60",
            "--max-cpus",
            "1.5",
            "--max-concurrent-jobs",
            "3",
            "--read-deadline",
            "7",
            "--keep-output-bytes",
            "2G",
            "--max-output-size",
            "3M",
            "--max-output-files",
            "50",
        ])
        .unwrap();
        let config = process.config;
        assert_eq!((config.memory_cache_bytes, config.disk_cache_bytes), (64 << 20, 1 << 30));
        assert_eq!((config.maxima.timeout_ms, config.maxima.cpus_milli), (60_000, 1500));
        assert_eq!(config.keep_output_bytes, 2 << 30);
        let output = OutputLimits { bytes: 3 << 20, files: 50, file_bytes: 3 << 20 };
        assert_eq!(config.maxima.output, Some(output));
        assert_eq!((config.running_max, config.read_deadline.as_secs()), (3, 7));
        assert_eq!(process.listen.addr.to_string(), LISTEN_DEFAULT);
        assert!(config.predict.is_some());
        assert!(parsed(&["--no-predict"]).unwrap().config.predict.is_none());
        assert_eq!(config.pool, Some(POOL_DEFAULT));
        assert_eq!(parsed(&["--pool", "off"]).unwrap().config.pool, None);
        let pool = parsed(&["--pool", "3", "--pool-memory", "64M"]).unwrap().config.pool;
        assert_eq!(pool, Some(PoolBounds { containers: 3, memory_bytes: 64 << 20 }));
        let index = |arguments: &[&str]| parsed(arguments).unwrap().config.package_index;
        assert_eq!(index(&[]).unwrap().as_str(), PACKAGE_INDEX);
        assert_eq!(index(&["--package-index", "off"]), None);
    }

    #[test]
    fn every_job_waits_for_an_approval_where_that_is_asked_for() {
        let approver = |arguments: &[&str]| {
            parsed(arguments).unwrap().config.approver.map(|name| name.to_string())
        };
        assert_eq!(approver(&[]), None);
        assert_eq!(approver(&["--approval", "required"]).as_deref(), Some("operator"));
        let named = ["--approval", "required", "--owner", "alice@example.org"];
        assert_eq!(approver(&named).as_deref(), Some("alice@example.org"));
        assert!(parsed(&["--owner", "alice"]).is_err(), "she would decide on nothing");
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        for bad in [
            ["--memory-cache", "much"],
            ["--disk-cache", "99999999999T"],
            ["--max-cpus", "0"],
            ["--max-concurrent-jobs", "0"],
            ["--listen", "nowhere"],
            ["--log-format", "xml"],
            ["--id-mapping", "none"],
            ["--approval", "never"],
            ["--pool", "0"],
            ["--package-index", "file:///x"],
            ["--package-index", "nowhere"],
        ] {
            let error = parsed(&bad).unwrap_err().to_string();
            assert!(error.contains(bad[0]), "{error}");
        }
        assert!(parsed(&["--open", "--listen", "0.0.0.0:1"]).is_err());
        assert!(parsed(&["--tls-cert", "x"]).is_err());
    }
}
