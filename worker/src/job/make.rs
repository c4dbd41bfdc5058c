//! From a plan to a container whose program only has to be started, and back to nothing.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sway_core::job::{JobSpec, Limits, Network, Program};
use sway_server::tasks::Tasks;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::bundle::{self, Host, Request};
use super::cgroup::{Cgroup, Hierarchies};
use super::cleanup;
use super::container::Container;
use super::creator::{Creator, Haste};
use super::data::{self, MountedDataset};
use super::ids::{self, IdRange, IdRanges};
use super::network;
use super::overlay::Overlay;
use super::program::Process;
use super::stage::Stage;
use super::supervise::Pipes;
use super::user::{self, AccountFiles, User};
use super::{ROOTFS_DIR, Rootfs, RunError, RunnerConfig};
use crate::account::{Accounts, RunAccount};
use crate::id_map::IdMaps;

/// Runs that may have told their outcome and not be removed yet; the end of a further one waits.
const REMOVED_AT_ONCE: usize = 8;

/// Bytes of `/etc/passwd` that are read.
const ACCOUNT_FILE_LEN_MAX: usize = 1 << 20;

/// Numbers of this process' containers: no two of a job's have one name.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Makes containers on this machine, and removes them.
#[derive(Debug)]
pub(crate) struct Maker {
    pub(crate) config: RunnerConfig,
    pub(crate) creator: Creator,
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) hierarchies: Hierarchies,
    /// What the host can limit.
    pub(crate) host: Host,
    pub(crate) ids: Arc<IdRanges>,
    pub(crate) tasks: Tasks,
    /// Runs that have ended and are being removed.
    removing: Arc<Semaphore>,
}

/// What a container is made of.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) hostname: String,
    pub(crate) spec: JobSpec,
    /// With the init among the processes.
    pub(crate) limits: Limits,
    pub(crate) mount: Arc<dyn Rootfs>,
    pub(crate) datasets: Vec<MountedDataset>,
    /// What it runs instead of the spec's program, where that comes later.
    pub(crate) waits: Option<Process>,
}

/// One run while it goes on: what all of its steps need.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) container: String,
    pub(crate) stage: Stage,
    pub(crate) cgroup_path: String,
    pub(crate) cgroup: Cgroup,
    pub(crate) account: Arc<RunAccount>,
    /// Memory of what was imported before the job came: not the job's.
    pub(crate) preload_bytes: u64,
}

/// A container whose program was not started.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) container: Container,
    pub(crate) pipes: Pipes,
    pub(crate) egress: Option<network::Egress>,
}

/// How far the making of a container has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// To make its rootfs.
    pub(crate) mount: Duration,
    /// To create it.
    pub(crate) start: Duration,
    /// What it runs on, if that may serve another one.
    pub(crate) overlay: Option<Overlay>,
    /// Whether it has come so far as to have its `/output`.
    pub(crate) is_staged: bool,
}

impl Plan {
    /// Whether its program reads something.
    fn has_stdin(&self) -> bool {
        self.spec.stdin || self.waits.is_some() || matches!(self.spec.program, Program::Handler(_))
    }
}

impl Maker {
    pub(crate) fn new(
        config: RunnerConfig,
        accounts: Arc<Accounts>,
        hierarchies: Hierarchies,
    ) -> Self {
        Self {
            creator: Creator::new(&config, &hierarchies),
            ids: IdRanges::new(&config.worker_id),
            config,
            accounts,
            host: Host { unified: hierarchies.unified, swap_limit: hierarchies.swap_limit() },
            hierarchies,
            tasks: Tasks::new(),
            removing: Arc::new(Semaphore::new(REMOVED_AT_ONCE)),
        }
    }

    pub(crate) fn worker_cgroup(&self) -> String {
        format!("/sway/{}", self.config.worker_id)
    }

    pub(crate) fn rootfs_dir(&self) -> PathBuf {
        Path::new(ROOTFS_DIR).join(&self.config.worker_id)
    }

    /// Names a run and opens its account.
    pub(crate) fn begin(&self, name: &str) -> Run {
        let container = format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let cgroup_path = format!("{}/{container}", self.worker_cgroup());
        let place = self.rootfs_dir().join(&container);
        Run {
            stage: Stage {
                home: self.config.dir.join(&container),
                rootfs: place.join("rootfs"),
                place,
            },
            container,
            cgroup: self.hierarchies.group(&cgroup_path),
            account: self.accounts.open(&cgroup_path),
            cgroup_path,
            preload_bytes: 0,
        }
    }

    /// From the plan to a container whose program only has to be started.
    pub(crate) async fn create(
        &self,
        plan: Arc<Plan>,
        cancel: &CancellationToken,
        run: &Run,
        range: &Arc<IdRange>,
        progress: &mut Progress,
    ) -> Result<Created, RunError> {
        let cancelled = || RunError::Cancelled;
        let begun = Instant::now();
        let user = cancel.run_until_cancelled(self.user(plan.mount.as_ref()));
        let user = user.await.ok_or_else(cancelled)??;
        let ids = maps(range.base(), plan.mount.as_ref(), &user)?;
        let host_uid = ids.uids.outside(user.uid).unwrap_or_else(|| range.base());
        let step = |what: &'static str| move |source| RunError::Stage { what, source };
        // Waits for no fileserver.
        let lower = plan.mount.lower(&ids).await;
        let lower = lower.map_err(step("mount the image with the job's owners"))?;
        let data = data::Plan {
            datasets: data::planned(&plan.spec, &plan.datasets, &ids).await?,
            output: plan.limits.output.map(|limits| data::PlannedOutput {
                limits,
                uid: host_uid,
                gid: ids.gids.outside(user.gid).unwrap_or_else(|| range.base()),
            }),
        };
        let network = plan.spec.network;
        let haste = if plan.waits.is_some() { Haste::Ahead } else { Haste::Now };
        let has_stdin = plan.has_stdin();
        let staging = {
            let range = Arc::clone(range);
            let (stage, cgroup) = (run.stage.clone(), run.cgroup_path.clone());
            let (host, init) = (self.host, self.config.init.clone());
            tokio::task::spawn_blocking(move || {
                let manifest = Arc::clone(plan.mount.manifest());
                let request = Request {
                    spec: &plan.spec,
                    limits: &plan.limits,
                    manifest: &manifest,
                    user: &user,
                    ids: &ids,
                    cgroup: &cgroup,
                    hostname: &plan.hostname,
                    name_server: bundle::name_server(plan.spec.network),
                    host,
                    init: init.as_deref(),
                };
                let mut bundle = match &plan.waits {
                    None => bundle::plan(&request)?,
                    Some(process) => bundle::plan_waiting(&request, process.clone())?,
                };
                stage.make(&mut bundle, plan.mount.overlays(), &lower, &data, &ids, &range)
            })
        };
        progress.overlay = staging.await.map_err(|error| RunError::Stage {
            what: "prepare the container",
            source: io::Error::other(error),
        })??;
        progress.is_staged = true;
        progress.mount = begun.elapsed();

        let begun = Instant::now();
        let (stdio, pipes) =
            Pipes::open(has_stdin, host_uid).map_err(step("make the container's pipes"))?;
        let creating = self.creator.create(&run.container, &run.stage.home, stdio, haste, cancel);
        let container = creating.await.ok_or_else(cancelled)??;
        let egress = match network {
            Network::None => None,
            Network::Isolated => {
                let opening = network::Egress::open(container.pid());
                Some(cancel.run_until_cancelled(opening).await.ok_or_else(cancelled)??)
            }
        };
        progress.start = begun.elapsed();
        Ok(Created { container, pipes, egress })
    }

    /// Who a job is in an image.
    pub(crate) async fn user(&self, mount: &dyn Rootfs) -> Result<User, RunError> {
        let config = mount.manifest().config();
        let mut files = AccountFiles::default();
        if user::needs_account_files(config) {
            files.passwd = account_file(mount, "/etc/passwd").await?;
            files.group = account_file(mount, "/etc/group").await?;
        }
        user::resolve(config, &files, self.config.allow_container_root)
    }

    /// Gives back what a run used and others can use, when its processes are `gone`.
    pub(crate) async fn give_back(
        &self,
        run: &Run,
        mount: Arc<dyn Rootfs>,
        overlay: Option<Overlay>,
        range: Arc<IdRange>,
        gone: bool,
    ) {
        if let Some(mut overlay) = overlay {
            let _ = tokio::task::spawn_blocking(move || {
                if gone && overlay.reset() {
                    mount.overlays().give_back(overlay);
                }
            })
            .await;
        }
        drop(range);
        self.accounts.close(&run.cgroup_path);
    }

    /// Has what is left of the run removed, while its end is told.
    pub(crate) async fn remove(&self, run: &Run) {
        let place = Arc::clone(&self.removing).acquire_owned().await;
        let state = self.config.runc_root.join(&run.container);
        let Run { container, stage, cgroup, .. } = run;
        let (container, stage, cgroup) = (container.clone(), stage.clone(), cgroup.clone());
        self.tasks.spawn("remove run", async move {
            for failure in cleanup::remove_run(&state, &cgroup, &stage).await {
                tracing::error!(run.name = container, error = failure, "a run is not cleaned up");
            }
            drop(place);
        });
    }

    /// Waits until nothing is left of runs that have ended.
    pub(crate) async fn settled(&self) {
        let all = u32::try_from(REMOVED_AT_ONCE).expect("a handful");
        let _all = self.removing.acquire_many(all).await;
    }
}

/// The maps of a job that is `user`, with ids from `base` on.
pub(crate) fn maps(base: u32, mount: &dyn Rootfs, user: &User) -> Result<IdMaps, RunError> {
    let mut gids = vec![user.gid];
    gids.extend(&user.additional_gids);
    ids::maps(base, mount.owners(), user.uid, &gids)
}

/// A small text of the image; empty where it lacks it.
async fn account_file(mount: &dyn Rootfs, path: &str) -> Result<String, RunError> {
    if mount.manifest().resolve_following(path.as_bytes()).is_none() {
        return Ok(String::new());
    }
    let bytes = mount.read_file(path, ACCOUNT_FILE_LEN_MAX).await;
    let bytes =
        bytes.map_err(|source| RunError::Stage { what: "read the image's users", source })?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// A job's id as a host name: its letters, digits and `-`, at most 63 of them.
pub(crate) fn hostname(job_id: &str) -> String {
    let sound = |c: &char| c.is_ascii_alphanumeric() || *c == '-';
    let name: String = job_id.chars().filter(sound).take(63).collect();
    if name.is_empty() { "job".to_owned() } else { name }
}
