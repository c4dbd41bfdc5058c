//! `sway up`: fileserver and worker in one process, data in one directory.
//!
//! The servers are those of `sway-fileserver` and `sway-worker`, unchanged: they speak HTTP to
//! each other as they would on two machines. Both on loopback, both with the directory's token.
//! The worker stops first, as its last reads still need the fileserver.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use sway_core::name::{ImageName, UserName};

use crate::config::{FILESERVER_LISTEN, WORKER_LISTEN};
use crate::context::Context;
use crate::exit_code::ExitCode;
use crate::size::{parse_cpus_milli, parse_pool, parse_size, parse_time_ms};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sway up                                as root; data in /var/lib/sway
  sway up --data /srv/sway               commands then need SWAY_DATA=/srv/sway
  sway up --max-memory 16G --max-timeout 4h
  sway up --disk-cache 50G --memory-cache 1G

Needs root and Linux (`sway doctor` says what else). Listens on loopback alone; for other
addresses start sway-fileserver and sway-worker, which have TLS.")]
#[cfg_attr(not(target_os = "linux"), expect(dead_code, reason = "there is no worker"))]
pub(crate) struct UpArgs {
    /// Directory for all data [default: `SWAY_DATA`, else /var/lib/sway]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where the fileserver listens; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = FILESERVER_LISTEN)]
    fileserver_listen: SocketAddr,
    /// Where the worker listens
    #[arg(long, value_name = "ADDR", default_value = WORKER_LISTEN)]
    worker_listen: SocketAddr,
    /// Image content kept in memory [default: 256M]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    memory_cache: Option<u64>,
    /// Image content kept on disk [default: 10G]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    disk_cache: Option<u64>,
    /// Jobs that run at a time [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    max_concurrent_jobs: Option<u16>,
    /// Longest time a job may ask for [default: 1h]
    #[arg(long, value_name = "S", value_parser = parse_time_ms)]
    max_timeout: Option<u64>,
    /// Most memory a job may ask for [default: 4G]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    max_memory: Option<u64>,
    /// Most CPUs a job may ask for [default: all cores]
    #[arg(long, value_name = "N", value_parser = parse_cpus_milli)]
    max_cpus: Option<u32>,
    /// Most processes a job may ask for [default: 1024]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_pids: Option<u32>,
    /// Runs that stay on record [default: 10000]
    #[arg(long, value_name = "N")]
    keep_runs: Option<u32>,
    /// Output files kept for them; beyond this the oldest go, and their runs keep the first MiB of
    /// each output [default: 10G]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    keep_output_bytes: Option<u64>,
    /// Refuse jobs whose Python imports or uses what is not on a list: advice on top of isolation
    #[arg(long, value_name = "NAME", value_parser = ["science"])]
    policy: Option<String>,
    /// Which jobs wait for a decision: those that were submitted to an owner, or all of them
    /// (required), also those of `sway run`
    #[arg(long, value_name = "WHICH", default_value = "submitted", value_parser = ["submitted", "required"])]
    approval: String,
    /// Who decides on jobs that nobody submitted to an owner [default: your user name]
    #[arg(long, value_name = "NAME")]
    owner: Option<UserName>,
    /// Image of jobs that name none: snippets, handlers [default: science]
    #[arg(long, value_name = "NAME[:TAG]")]
    default_image: Option<ImageName>,
    /// Image of Node.js handlers that name none [default: node]
    #[arg(long, value_name = "NAME[:TAG]")]
    default_node_image: Option<ImageName>,
    /// Index of Python packages from which the requirements.txt of a submitted job is installed before
    /// its review; or off [default: `https://pypi.org/simple`]
    #[arg(long, value_name = "URL|off", value_parser = parse_index)]
    package_index: Option<String>,
    /// Containers that wait with a started interpreter for jobs of images that are used again and
    /// again, at most 32; or off [default: 8]
    #[arg(long, value_name = "N|off", value_parser = parse_pool)]
    pool: Option<usize>,
    /// What creates containers: the OCI runtime, or this program itself, which takes less time;
    /// sway needs cgroup v1 or hybrid
    #[arg(long, value_name = "WHAT", default_value = "runc", value_parser = ["runc", "sway"])]
    sandbox: String,
    /// Let GET / of the worker, /run and /execute in without a token (loopback only)
    #[arg(long)]
    open: bool,
    /// Log lines as text or json
    #[arg(long, value_name = "FORMAT", default_value = "text", value_parser = ["text", "json"])]
    log_format: String,
}

/// What `sway-worker --package-index` takes.
fn parse_index(text: &str) -> Result<String, String> {
    let is_address = ["http://", "https://"].iter().any(|scheme| text.starts_with(scheme));
    match text == "off" || (is_address && text.parse::<url::Url>().is_ok()) {
        true => Ok(text.to_owned()),
        false => Err("neither off nor the address of an index".to_owned()),
    }
}

/// Serves until it is told to stop.
#[cfg(target_os = "linux")]
pub(crate) async fn run(args: UpArgs, context: &Context) -> anyhow::Result<ExitCode> {
    servers::run(args, context).await
}

/// There is no worker but on Linux.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unused_async, reason = "as on Linux")]
pub(crate) async fn run(_args: UpArgs, _context: &Context) -> anyhow::Result<ExitCode> {
    Err(crate::failure::Failure::new("sway up needs Linux")
        .hint("set WORKER_URL and FILESERVER_URL to servers on a Linux machine")
        .into())
}

#[cfg(target_os = "linux")]
mod servers {
    //! The servers' life.

    use std::fs::{File, TryLockError};
    use std::io::{self, IsTerminal};
    use std::net::{SocketAddr, TcpListener};
    use std::os::unix::fs::DirBuilderExt;
    use std::path::Path;
    use std::time::Duration;

    use anyhow::Context as _;
    use sway_client::{Client, ClientConfig};
    use sway_core::name::UserName;
    use sway_server::listen::{Listen, ListenError};
    use sway_server::pass::PassKey;
    use sway_server::telemetry::init_logging;
    use sway_server::tls::Tls;
    use sway_server::token::Token;
    use sway_worker::config::FileserverAccess;
    use sway_worker::job::{PoolBounds, Sandbox};
    use sway_worker::policy::Policy;
    use tokio_util::sync::CancellationToken;
    use url::Url;

    use super::UpArgs;
    use crate::config::{FILESERVER_LISTEN, Login, WORKER_LISTEN};
    use crate::context::Context;
    use crate::exit_code::ExitCode;
    use crate::failure::Failure;
    use crate::interrupt::Interrupts;

    /// Held as long as the servers run.
    const LOCK_FILE: &str = "up.lock";

    /// How long the servers may take until they answer.
    const START_DEADLINE: Duration = Duration::from_secs(60);

    pub(super) async fn run(args: UpArgs, context: &Context) -> anyhow::Result<ExitCode> {
        if !Login::current().root {
            return Err(Failure::new("sway up needs root: mounts, cgroups and runc do")
                .hint("sudo sway up; `sway doctor` says what else is needed")
                .into());
        }
        if args.owner.is_some() && args.approval != "required" {
            return Err(Failure::new("--owner is for --approval required").into());
        }
        let data = args.data.clone().unwrap_or_else(|| context.settings.data.clone());
        let data = std::path::absolute(data)?;
        let _lock = lock(&data)?;
        let fileserver_listener = bind(args.fileserver_listen, "--fileserver-listen")?;
        let worker_listener = bind(args.worker_listen, "--worker-listen")?;
        let fileserver_url = url_of(&fileserver_listener)?;
        let worker_url = url_of(&worker_listener)?;
        let token =
            Token::load_or_create(&data, context.settings.token_given().map(str::to_owned))?;
        let log_format = args.log_format.parse().map_err(anyhow::Error::msg)?;
        // On a terminal somebody reads what is announced, not what every job does.
        let quiet = io::stderr().is_terminal() && !context.output.is_verbose();
        let filter = context.settings.log.as_deref();
        init_logging(filter.or(quiet.then_some("warn")), log_format);

        let mut fileserver = sway_fileserver::Config::new(data.join("fileserver"), token.clone());
        // The one knows the other: users need nothing but their tokens.
        fileserver.workers = vec![PassKey::load_or_create(&data.join("worker"))?.public()];
        let user = &context.settings.user;
        let worker = worker_config(&args, user, &data, &token, fileserver_url.clone());
        let (fileserver_stop, worker_stop) = (CancellationToken::new(), CancellationToken::new());
        let serving_files = async {
            let ended =
                sway_fileserver::run(fileserver, fileserver_listener, fileserver_stop.clone())
                    .await;
            worker_stop.cancel();
            ended.context("the fileserver failed")
        };
        let running_jobs = async {
            let ended = sway_worker::run(worker, worker_listener, worker_stop.clone()).await;
            fileserver_stop.cancel();
            ended.context("the worker failed")
        };
        let serving = async { tokio::join!(serving_files, running_jobs) };
        let announcing = async {
            for url in [&fileserver_url, &worker_url] {
                answers(url).await?;
            }
            announce(context, &data, &fileserver_url, &worker_url)?;
            std::future::pending::<anyhow::Result<()>>().await
        };
        let mut interrupts = Interrupts::listen()?;
        let stopping = async {
            interrupts.next().await;
            context.output.note("Stopping. Ctrl-C once more leaves at once.");
            worker_stop.cancel();
            interrupts.next().await;
        };
        tokio::pin!(serving);
        let (files, jobs) = tokio::select! {
            ended = &mut serving => ended,
            Err(error) = announcing => {
                worker_stop.cancel();
                let _ = serving.await;
                return Err(error);
            }
            () = stopping => return Ok(ExitCode::Cancelled),
        };
        // The worker's failure is the one to tell where both failed: it is the later one of the
        // two to start, and the first to be stopped.
        jobs.and(files)?;
        Ok(ExitCode::Success)
    }

    /// Makes the directory if need be, and refuses one that is in use.
    fn lock(data: &Path) -> anyhow::Result<File> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(data)
            .with_context(|| format!("can't make the data directory {}", data.display()))?;
        let path = data.join(LOCK_FILE);
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("can't open {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                Err(Failure::new(format!("another sway up is using {}", data.display()))
                    .hint("stop it first, or give another directory by --data")
                    .into())
            }
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("can't lock {}", path.display()))
            }
        }
    }

    fn bind(addr: SocketAddr, flag: &str) -> anyhow::Result<TcpListener> {
        match (Listen { addr, tls: Tls::Off }).bind() {
            Ok(listener) => Ok(listener),
            Err(ListenError::Bind { source, .. }) if source.kind() == io::ErrorKind::AddrInUse => {
                Err(Failure::new(format!("{addr} is in use by another program"))
                    .hint(format!("is Sway running already? else choose another by {flag}"))
                    .into())
            }
            Err(ListenError::NeedsTls(addr)) => {
                Err(Failure::new(format!("refusing to listen on {addr}: sway up has no TLS"))
                    .hint("start sway-fileserver and sway-worker for that, which have")
                    .into())
            }
            Err(
                error @ (ListenError::Bind { .. } | ListenError::Tls(_) | ListenError::Serve(_)),
            ) => Err(error.into()),
        }
    }

    fn url_of(listener: &TcpListener) -> anyhow::Result<Url> {
        let addr = listener.local_addr()?;
        Ok(format!("http://{addr}").parse().expect("an address makes a URL"))
    }

    fn worker_config(
        args: &UpArgs,
        user: &UserName,
        data: &Path,
        token: &Token,
        fileserver: Url,
    ) -> sway_worker::config::Config {
        let mut config = sway_worker::config::Config::new(data.join("worker"), fileserver);
        config.token = Some(token.expose().to_owned());
        config.fileserver_access = FileserverAccess::Passes;
        config.open = args.open;
        let set = |target: &mut u64, value: Option<u64>| *target = value.unwrap_or(*target);
        set(&mut config.memory_cache_bytes, args.memory_cache);
        set(&mut config.disk_cache_bytes, args.disk_cache);
        set(&mut config.keep_output_bytes, args.keep_output_bytes);
        set(&mut config.maxima.timeout_ms, args.max_timeout);
        set(&mut config.maxima.memory_bytes, args.max_memory);
        config.running_max = args.max_concurrent_jobs.map_or(config.running_max, usize::from);
        config.maxima.cpus_milli = args.max_cpus.unwrap_or(config.maxima.cpus_milli);
        config.maxima.pids = args.max_pids.unwrap_or(config.maxima.pids);
        if let Some(name) = &args.policy {
            let known = <Policy as clap::ValueEnum>::from_str(name, false);
            config.policy = Some(known.expect("the command line takes no other"));
        }
        if args.approval == "required" {
            config.approver = Some(args.owner.as_ref().unwrap_or(user).clone());
        }
        for (target, image) in [
            (&mut config.default_images.any, &args.default_image),
            (&mut config.default_images.node, &args.default_node_image),
        ] {
            if let Some(image) = image {
                image.clone_into(target);
            }
        }
        if let Some(index) = &args.package_index {
            // `off` is no address.
            config.package_index = index.parse().ok();
        }
        config.keep_runs = args.keep_runs.unwrap_or(config.keep_runs);
        if let (Some(containers), Some(pool)) = (args.pool, config.pool) {
            config.pool = (containers > 0).then_some(PoolBounds { containers, ..pool });
        }
        if args.sandbox == "sway" {
            config.sandbox = Sandbox::own();
        }
        config
    }

    /// Waits until a server answers.
    async fn answers(url: &Url) -> anyhow::Result<()> {
        let client = Client::new(&ClientConfig::new(url.clone()))?;
        let trying = async {
            while let Err(error) = client.health().await {
                tracing::debug!(%error, %url, "not there yet");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(START_DEADLINE, trying)
            .await
            .with_context(|| format!("{url} does not answer"))
    }

    /// Tells where the servers are, and what it takes to use them from another shell.
    fn announce(
        context: &Context,
        data: &Path,
        fileserver: &Url,
        worker: &Url,
    ) -> anyhow::Result<()> {
        let output = &context.output;
        let (fileserver, worker) = (shown(fileserver), shown(worker));
        output.line(format_args!("Fileserver  {fileserver}"))?;
        output.line(format_args!("Worker      {worker}"))?;
        output.line(format_args!("Data        {}", data.display()))?;
        output.line("")?;
        let mut settings = Vec::new();
        if context.settings.token_given().is_none() && !is_found_by_itself(data) {
            settings.push(format!("SWAY_DATA={}", data.display()));
        }
        if fileserver != format!("http://{FILESERVER_LISTEN}") {
            settings.push(format!("FILESERVER_URL={fileserver}"));
        }
        if worker != format!("http://{WORKER_LISTEN}") {
            settings.push(format!("WORKER_URL={worker}"));
        }
        output.line("In another shell:")?;
        if !settings.is_empty() {
            output.line(format_args!("  export {}", settings.join(" ")))?;
        }
        output.line("  sway export          makes an image of the Dockerfile there")?;
        output.line("  sway run app.py      runs app.py in it")?;
        output.line("")?;
        output.line("Ctrl-C stops both.")?;
        Ok(())
    }

    fn shown(url: &Url) -> &str {
        url.as_str().trim_end_matches('/')
    }

    /// Whether commands of root look for the token there unasked.
    fn is_found_by_itself(data: &Path) -> bool {
        data == Path::new("/var/lib/sway")
    }

    #[cfg(test)]
    mod tests {
        use clap::Parser as _;

        use super::*;

        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            up: UpArgs,
        }

        #[test]
        fn policy_and_default_images_reach_the_worker() {
            let config = |words: &[&str]| {
                let line = Line::try_parse_from([&["up"], words].concat()).unwrap();
                let token = Token::parse("t").unwrap();
                let url = "http://127.0.0.1:1".parse().unwrap();
                let user = "ada".parse().unwrap();
                worker_config(&line.up, &user, Path::new("/nowhere"), &token, url)
            };
            let plain = config(&[]);
            assert_eq!(plain.policy, None);
            assert_eq!(plain.default_images.any.to_string(), "science");
            assert_eq!(plain.default_images.node.to_string(), "node");
            let said =
                ["--policy", "science", "--default-image", "py:3", "--default-node-image", "js"];
            let told = config(&said);
            assert_eq!(told.policy, Some(Policy::Science));
            let index = |index: &str| config(&["--package-index", index]).package_index;
            assert_eq!(index("https://example.org/simple").unwrap().path(), "/simple");
            assert_eq!(index("off"), None);
            assert_eq!(plain.package_index.unwrap().host_str(), Some("pypi.org"));
            assert_eq!(told.default_images.any.to_string(), "py:3");
            assert_eq!(told.default_images.node.to_string(), "js");
            assert!(Line::try_parse_from(["up", "--policy", "none"]).is_err());
        }

        #[test]
        fn whoever_starts_it_approves_all_jobs_unless_it_is_somebody_else() {
            let approver = |words: &[&str]| {
                let line = Line::try_parse_from([&["up"], words].concat()).unwrap();
                let (user, token) = ("ada".parse().unwrap(), Token::parse("t").unwrap());
                let url = "http://127.0.0.1:1".parse().unwrap();
                let config = worker_config(&line.up, &user, Path::new("/nowhere"), &token, url);
                config.approver.map(|name| name.to_string())
            };
            assert_eq!(approver(&[]), None);
            assert_eq!(approver(&["--approval", "required"]).as_deref(), Some("ada"));
            let bob = ["--approval", "required", "--owner", "bob"];
            assert_eq!(approver(&bob).as_deref(), Some("bob"));
        }
    }
}
