//! The worker: mounts images lazily and runs isolated jobs in them.
//!
//! Modules are listed in the order in which data flows: blobs are fetched and cached, a rootfs is
//! read through FUSE, a job runs on it, its output and its figures are kept and served.
//! [`run`] puts them together, and takes them apart in the opposite order.

pub mod config;
pub mod account;
pub mod fetch;
pub mod cache;
pub mod predict;
pub mod rootfs;
pub mod id_map;
pub mod fuse;
pub mod mount;
pub mod start;
pub mod trace;
pub mod job;
pub mod policy;
pub mod packages;
pub mod queue;
pub mod db;
pub mod users;
pub mod passes;
pub mod http;
mod containers;
mod priority;

use std::fs::{File, Permissions};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use sway_client::{Client, ClientConfig};
use sway_server::pass::PassKey;
use sway_server::tasks::Tasks;
use sway_server::telemetry::Metrics;
use sway_server::token::Token;
use tokio_util::sync::CancellationToken;

use self::account::Accounts;
use self::config::{Config, FileserverAccess};
use self::containers::Containers;
use self::db::Db;
use self::packages::PackagesConfig;
use self::passes::{OwnPasses, PassDesk};
use self::queue::{Images, Queue, QueueConfig, RunJob};
use self::start::TraceMode;
use self::trace::Traces;
use self::users::Users;

/// How long background work may take to end.
const TASKS_DEADLINE: Duration = Duration::from_secs(5);

/// What every part of a worker shares.
#[derive(Debug)]
pub(crate) struct Foundation {
    pub(crate) token: Token,
    pub(crate) passes: PassDesk,
    pub(crate) client: Client,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) db: Db,
    /// None where traces are off.
    pub(crate) traces: Option<Arc<Traces>>,
    pub(crate) tasks: Tasks,
    /// Held as long as the worker lives: one worker per data directory.
    _lock: File,
}

/// Runs a worker until `shutdown`: cleans up what an earlier one left, serves, and leaves nothing
/// mounted or running behind. Needs root.
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("the worker mounts filesystems and starts containers: it needs root (try sudo)");
    }
    let foundation = Foundation::lay(&config)?;
    let containers = Containers::open(&config, &foundation).await?;
    let images = Images::with_starts(foundation.client.clone(), Arc::clone(containers.starts()));
    serve(config, foundation, images, Arc::new(containers), listener, shutdown).await
}

/// Like [`run`], with something else than containers to carry out jobs; needs no root.
pub async fn run_with(
    config: Config,
    runner: Arc<dyn RunJob>,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let foundation = Foundation::lay(&config)?;
    let images = Images::new(foundation.client.clone());
    serve(config, foundation, images, runner, listener, shutdown).await
}

impl Foundation {
    fn lay(config: &Config) -> anyhow::Result<Self> {
        let data = &config.data_dir;
        make_dir(data)?;
        let lock = lock(data)?;
        let token = Token::load_or_create(data, config.token.clone())?;
        let mut client = ClientConfig::new(config.fileserver.clone());
        client.pin.clone_from(&config.fileserver_pin);
        let passes = PassDesk::new(PassKey::load_or_create(data)?, Client::new(&client)?);
        tracing::info!(pass.key = %passes.public_key(), "the key that fileservers may know");
        match &config.fileserver_access {
            FileserverAccess::OwnToken => client.token = Some(token.expose().to_owned()),
            FileserverAccess::TokenOf(path) => {
                client.token = Some(Token::load(path)?.expose().to_owned());
            }
            FileserverAccess::Passes => {
                client.passes = Some(Arc::new(OwnPasses::new(passes.clone())))
            }
        }
        let client = Client::new(&client)?;
        let db = Db::open(&data.join("worker.db"))?;
        let tasks = Tasks::new();
        let records = config.trace != TraceMode::Off;
        let traces =
            records.then(|| Traces::new(client.clone(), db.clone(), &tasks, config.share_traces));
        Ok(Self {
            token,
            passes,
            client,
            accounts: Arc::new(Accounts::new(records)),
            db,
            traces,
            tasks,
            _lock: lock,
        })
    }
}

async fn serve(
    config: Config,
    foundation: Foundation,
    images: Images,
    runner: Arc<dyn RunJob>,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let metrics = Metrics::install();
    let tasks = foundation.tasks.clone();
    let outputs_dir = config.data_dir.join("outputs");
    private_dir(&outputs_dir)?;
    let packages = PackagesConfig {
        dir: config.data_dir.join("packages"),
        index: config.package_index.clone(),
    };
    // What a worker that died was about to install is begun again.
    match fs_err::remove_dir_all(&packages.dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => private_dir(&packages.dir)?,
    }
    let queue = Queue::open(
        QueueConfig {
            outputs_dir,
            running_max: config.running_max,
            waiting_max: config.waiting_max,
            default_limits: sway_core::job::Limits::DIRECT,
            default_images: config.default_images.clone(),
            approver: config.approver.clone(),
            policy: config.policy,
            maxima: config.maxima,
            keep_runs: config.keep_runs,
            keep_output_bytes: config.keep_output_bytes,
            packages,
            abandoned_after: config.abandoned_after,
            stop_grace: config.stop_grace,
        },
        foundation.db.clone(),
        images,
        Arc::clone(&runner),
        tasks.clone(),
    )
    .await?;
    let users = Users::open(foundation.token.clone(), foundation.db.clone(), tasks.clone()).await?;
    let listen = listener.local_addr()?;
    let router = http::router(
        http::App {
            queue: queue.clone(),
            users,
            passes: foundation.passes.clone(),
            traces: foundation.traces.clone(),
            accounts: Arc::clone(&foundation.accounts),
            metrics,
            uploads: Arc::default(),
            libraries: Arc::new(http::Libraries::new(
                foundation.client.clone(),
                config.default_images.any.clone(),
            )),
            maxima: config.maxima,
        },
        http::Access {
            token: foundation.token.clone(),
            listen,
            names: config.names.clone(),
            requests_per_second: config.requests_per_second,
            open: config.open,
        },
    );
    if config.once {
        let (queue, shutdown) = (queue.clone(), shutdown.clone());
        tasks.spawn("once", async move {
            if let Err(error) = queue.finish().await {
                tracing::error!(error = &error as &dyn std::error::Error, "not all was done");
            }
            shutdown.cancel();
        });
    }
    tracing::info!(listen = %listen, fileserver.url = %config.fileserver, "worker serves");

    // Jobs end while the server drains, so that their followers see the end.
    let serving = sway_server::listen::serve(listener, router, &config.tls, shutdown.clone());
    let stopping = async {
        shutdown.cancelled().await;
        queue.stop().await;
    };
    tokio::pin!(serving);
    let served = tokio::select! {
        served = &mut serving => {
            // Also when the server fails by itself.
            queue.stop().await;
            served
        }
        () = stopping => serving.await,
    };
    tasks.shutdown(TASKS_DEADLINE).await;
    runner.close().await;
    tracing::info!("worker stopped");
    Ok(served?)
}

/// Makes a directory that only its owner can look into, with its parents.
fn make_dir(path: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("make directory {}", path.display()))
}

/// Makes a directory of the data directory's that only its owner can look into, also where the data
/// directory is open to others, or an earlier worker left this one open. What is in it belongs to
/// all users.
pub(crate) fn private_dir(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs_err::set_permissions(path, Permissions::from_mode(0o700))
}

/// Two workers on one data directory would clean up after each other.
fn lock(data: &Path) -> anyhow::Result<File> {
    let path = data.join("lock");
    let file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => {
            bail!("another worker uses the data directory {}", data.display())
        }
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("lock {}", path.display()))
        }
    }
}
