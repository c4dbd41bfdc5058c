//! Containers that are made before their jobs come.
//!
//! Most of what a small job waits for is its container: runc, and the interpreter that starts in
//! it. Where jobs of one [`fit::Shape`] come again and again, containers for them wait here, each
//! as isolated as one that is made for a job, with the interpreter started and what the image
//! names in `SWAY_PRELOAD` imported. A job that fits one gets its files, limits and host name put
//! in place, and is told to the interpreter through standard input (`wait.py`). A container serves
//! one job; any other one is made when the job comes, as if there were no pool.
//!
//! `demand` decides how many should wait, `shelves` what is to be done for that, and two tasks do
//! it. What waits is counted as nothing else: it has no job, no place of the queue, and
//! gives up its ids where a job needs them.

mod demand;
mod fit;
mod shelves;

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use sway_core::job::{JobSpec, Limits};
use sway_server::tasks::Tasks;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::Notify;
use tokio::time::timeout;

use self::fit::{Preloaded, Shape};
use self::shelves::{State, Step};
use super::bundle::{self, Request};
use super::ids::IdRange;
use super::kernel;
use super::make::{self, Created, Maker, Plan, Progress, Run};
use super::overlay::Overlay;
use super::program;
use super::skeleton::Skeleton;
use super::user::User;
use super::{Rootfs, RunError};
use crate::priority;

/// Containers that are made at a time.
const MADE_AT_ONCE: usize = 2;

/// Ranges of ids that are left to jobs.
const RANGES_LEFT: u32 = 16;

/// Between two looks at what waits.
const TICK: Duration = Duration::from_millis(500);

/// How long an interpreter may take to start, and imports may take.
const START_DEADLINE: Duration = Duration::from_secs(30);
const PRELOAD_DEADLINE: Duration = Duration::from_secs(60);

/// How long what is under way may take to end when the pool is closed.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// What imports may use.
const PRELOAD_LIMITS: (u64, u32, u32) = (1 << 30, 1000, 256);

/// How long an interpreter that ends may take to say why.
const COMPLAINT_DEADLINE: Duration = Duration::from_millis(100);

/// The longest list of modules that is read.
const LINE_LEN_MAX: usize = 256 << 10;

/// The part of the machine's memory below which nothing waits.
const MEMORY_FREE_PARTS: u64 = 10;

/// How far a pool may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolBounds {
    /// Containers that wait.
    pub containers: usize,
    /// Bytes of anonymous memory of all of them.
    pub memory_bytes: u64,
}

/// How a job's image uses the pool.
#[derive(Clone, Debug)]
pub struct PoolUse {
    /// What the image was asked for by: where it leads to another tree, the old one's go.
    pub image: String,
    /// Whether a container waits for as long as the worker runs, once there was a job.
    pub stays: bool,
}

/// A container that a job got.
#[derive(Debug)]
pub(crate) struct Taken {
    pub(crate) run: Run,
    pub(crate) range: Arc<IdRange>,
    pub(crate) created: Created,
    pub(crate) overlay: Overlay,
    /// What starts the job.
    pub(crate) message: Vec<u8>,
    /// To put the job in its place.
    pub(crate) took: Duration,
}

/// What a job would have taken.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    shape: Shape,
    /// Not kept mounted for this.
    mount: Weak<dyn Rootfs>,
    spec: JobSpec,
    limits: Limits,
    image: String,
    stays: bool,
}

/// A container that waits.
#[derive(Debug)]
struct Waiting {
    run: Run,
    range: Arc<IdRange>,
    mount: Arc<dyn Rootfs>,
    overlay: Overlay,
    created: Created,
    limits: Limits,
    memory_bytes: u64,
    preloaded: Option<Preloaded>,
    /// Whether a script could import a file of the image instead of what is loaded.
    is_shadowed: bool,
}

/// A job that runs, whether it has a container of the pool or not.
#[derive(Debug)]
pub(crate) struct RunningJob(Arc<Pool>);

impl Drop for RunningJob {
    fn drop(&mut self) {
        self.0.lock().running -= 1;
        self.0.changed.notify_waiters();
    }
}

/// The containers that wait.
#[derive(Debug)]
pub(crate) struct Pool {
    bounds: PoolBounds,
    maker: Arc<Maker>,
    state: Mutex<State>,
    changed: Notify,
    tasks: Tasks,
}

impl Pool {
    /// An empty one, with the tasks that fill it.
    pub(crate) fn open(bounds: PoolBounds, maker: Arc<Maker>) -> Arc<Self> {
        let (state, changed, tasks) = (Mutex::default(), Notify::new(), Tasks::new());
        let pool = Arc::new(Self { bounds, maker, state, changed, tasks });
        for _ in 0..MADE_AT_ONCE {
            let owned = Arc::clone(&pool);
            pool.tasks.spawn("pool", async move { owned.tend().await });
        }
        pool
    }

    /// A container for the job, with the job in its place. Where there is none because nobody asked
    /// for such a one before, what was asked for: for [`Pool::want`].
    pub(crate) async fn take(
        self: &Arc<Self>,
        plan: &Arc<Plan>,
        used: &PoolUse,
    ) -> (Option<Taken>, Option<Asked>) {
        if !fit::may_fit(&plan.spec, &plan.limits) {
            return (None, None);
        }
        let Ok(user) = self.maker.user(plan.mount.as_ref()).await else { return (None, None) };
        let (pool, plan, used) = (Arc::clone(self), Arc::clone(plan), used.clone());
        let placing = tokio::task::spawn_blocking(move || pool.place(&plan, &user, &used));
        let placed = placing.await.ok().flatten().unwrap_or((None, None));
        self.changed.notify_waiters();
        placed
    }

    fn place(
        &self,
        plan: &Plan,
        user: &User,
        used: &PoolUse,
    ) -> Option<(Option<Taken>, Option<Asked>)> {
        let begun = Instant::now();
        let manifest = Arc::clone(plan.mount.manifest());
        // Whatever is wrong with the job, it is told when its own container is made.
        let ids = make::maps(0, plan.mount.as_ref(), user).ok()?;
        let request = Request {
            spec: &plan.spec,
            limits: &plan.limits,
            manifest: &manifest,
            user,
            ids: &ids,
            cgroup: "",
            hostname: &plan.hostname,
            name_server: None,
            host: self.maker.host,
            init: self.maker.config.init.as_deref(),
        };
        let mut bundle = bundle::plan(&request).ok()?;
        let fitting = fit::fitting(&plan.spec, &mut bundle)?;
        loop {
            let Some(mut waiting) = self.lock().pop(&plan.mount, &fitting, &used.image) else {
                metrics::counter!("sway_pool_missed_total").increment(1);
                let asked = Asked {
                    shape: fitting.shape,
                    mount: Arc::downgrade(&plan.mount),
                    spec: JobSpec {
                        program: sway_core::job::Program::Command { argv: Vec::new() },
                        args: Vec::new(),
                        ..plan.spec.clone()
                    },
                    limits: plan.limits,
                    image: used.image.clone(),
                    stays: used.stays && plan.spec.env.is_empty(),
                };
                return Some((None, Some(asked)));
            };
            if let Err(error) = self.serve(&mut waiting, plan, user, &bundle.skeleton) {
                tracing::warn!(%error, run.name = waiting.run.container, "a container of the pool can't be used");
                self.lock().gone.push(waiting);
                continue;
            }
            metrics::counter!("sway_pool_used_total").increment(1);
            let Waiting { run, range, overlay, created, .. } = waiting;
            let (message, took) = (fitting.message, begun.elapsed());
            let taken = Taken { run, range, created, overlay, message, took };
            return Some((Some(taken), None));
        }
    }

    /// Puts in place what is the job's own.
    fn serve(
        &self,
        waiting: &mut Waiting,
        plan: &Plan,
        user: &User,
        skeleton: &Skeleton<'_>,
    ) -> io::Result<()> {
        let Waiting { run, range, overlay, created, limits, preloaded, .. } = waiting;
        // It was made with less.
        let ids = make::maps(range.base(), plan.mount.as_ref(), user).map_err(io::Error::other)?;
        priority::restore(ids.uids.outside(user.uid).unwrap_or_else(|| range.base()))?;
        run.cgroup.give_usual_share()?;
        overlay.furnish(skeleton)?;
        kernel::set_hostname(created.container.pid(), &plan.hostname)?;
        let wanted = &plan.limits;
        let is_limited = (limits.memory_bytes, limits.cpus_milli, limits.pids)
            == (wanted.memory_bytes, wanted.cpus_milli, wanted.pids);
        if !is_limited || preloaded.is_some() {
            run.preload_bytes = preloaded.as_ref().map_or(0, |preloaded| preloaded.bytes);
            let memory_bytes = wanted.memory_bytes + run.preload_bytes;
            run.cgroup.limit(memory_bytes, wanted.cpus_milli, wanted.pids)?;
        }
        // What was read before is nobody's.
        self.maker.accounts.close(&run.cgroup_path);
        run.account = self.maker.accounts.open(&run.cgroup_path);
        run.account.of_image(plan.mount.manifest());
        Ok(())
    }

    /// A job runs as long as this is kept: what does not press waits for its end.
    pub(crate) fn job(self: &Arc<Self>) -> RunningJob {
        self.lock().running += 1;
        RunningJob(Arc::clone(self))
    }

    /// From now on, containers like this are wanted. To be called when the job has ended: what they
    /// read would hide what the first job on a mount reads.
    pub(crate) fn want(&self, asked: Asked) {
        self.lock().want(asked);
        self.changed.notify_waiters();
    }

    /// Whether any container waits.
    pub(crate) fn has_waiting(&self) -> bool {
        self.lock().has_ready()
    }

    /// Removes all that waits; it comes again with the next job.
    pub(crate) async fn empty(&self) {
        let gone = self.lock().clear();
        for waiting in gone {
            self.remove(waiting).await;
        }
    }

    /// Removes all that waits, and lets nothing come after it.
    pub(crate) async fn close(&self) {
        self.lock().closed = true;
        self.tasks.shutdown(CLOSE_DEADLINE).await;
        self.empty().await;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn tend(&self) {
        let stopping = self.tasks.stopping();
        let (mut is_short, mut looked_at) = (false, None);
        while !stopping.is_cancelled() {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            let now = Instant::now();
            if looked_at.is_none_or(|at| now >= at + TICK) {
                (is_short, looked_at) = (is_memory_short().unwrap_or(false), Some(now));
            }
            let step = self.lock().next(now, &self.bounds, is_short);
            match step {
                Step::Make(number, asked) => {
                    let made = self.make(&asked).await;
                    self.done(number, made);
                }
                Step::Preload(number, waiting) => {
                    let preloaded = self.preload(*waiting).await;
                    self.done(number, preloaded);
                }
                Step::Remove(gone) => {
                    for waiting in gone {
                        self.remove(waiting).await;
                    }
                }
                Step::Rest => {
                    tokio::select! {
                        () = &mut changed => {}
                        () = tokio::time::sleep(TICK) => {}
                        () = stopping.cancelled() => {}
                    }
                }
            }
        }
    }

    /// Puts a container where a job finds it, or notes that there is none.
    fn done(&self, number: u64, result: Result<Waiting, RunError>) {
        if let Err(error) = &result
            && !matches!(error, RunError::Cancelled | RunError::Unwanted)
        {
            tracing::warn!(error = error as &dyn std::error::Error, "no container can wait");
        }
        self.lock().put(number, result.ok());
        self.changed.notify_waiters();
    }

    /// Makes a container that waits for any job of the shape.
    async fn make(&self, asked: &Asked) -> Result<Waiting, RunError> {
        let mount = asked.mount.upgrade().ok_or(RunError::Unwanted)?;
        let range = self.maker.ids.try_take(RANGES_LEFT).ok_or(RunError::Unwanted)?;
        let (range, run) = (Arc::new(range), self.maker.begin("wait"));
        let plan = Arc::new(Plan {
            hostname: "wait".to_owned(),
            spec: asked.spec.clone(),
            limits: asked.limits,
            mount: Arc::clone(&mount),
            datasets: Vec::new(),
            waits: Some(asked.shape.process()),
        });
        let mut progress = Progress::default();
        let creating = self.maker.create(plan, self.tasks.stopping(), &run, &range, &mut progress);
        let made = match creating.await {
            Ok(mut created) => {
                let starting = async {
                    let Created { container, .. } = &created;
                    self.maker.creator.start(container, &run.container, &run.stage.home).await?;
                    line(&mut created).await.map_err(step("start an interpreter ahead"))
                };
                match timeout(START_DEADLINE, starting).await {
                    Ok(Ok(_)) => Ok(created),
                    Ok(Err(error)) => Err((Some(created), error)),
                    Err(_) => Err((Some(created), late("start an interpreter ahead"))),
                }
            }
            Err(error) => Err((None, error)),
        };
        match (made, progress.overlay.take()) {
            (Ok(created), Some(overlay)) => {
                metrics::counter!("sway_pool_made_total").increment(1);
                let memory_bytes = run.cgroup.memory_bytes().unwrap_or(0);
                let (limits, preloaded) = (asked.limits, None);
                Ok(Waiting {
                    run,
                    range,
                    mount,
                    overlay,
                    created,
                    limits,
                    memory_bytes,
                    preloaded,
                    is_shadowed: false,
                })
            }
            (made, overlay) => {
                let (created, error) = match made {
                    Ok(created) => (Some(created), RunError::Unwanted),
                    Err(failed) => failed,
                };
                self.unmake(run, range, mount, overlay, created).await;
                Err(error)
            }
        }
    }

    /// Has a container import what its image names.
    async fn preload(&self, mut waiting: Waiting) -> Result<Waiting, RunError> {
        let what = "import what SWAY_PRELOAD names";
        let (memory_bytes, cpus_milli, pids) = PRELOAD_LIMITS;
        let importing = async {
            waiting.run.cgroup.limit(memory_bytes, cpus_milli, pids)?;
            let pipe = waiting.created.pipes.stdin.as_mut();
            let pipe = pipe.ok_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe))?;
            pipe.write_all(&fit::preload()).await?;
            let line = line(&mut waiting.created).await?;
            Preloaded::read(&line).ok_or_else(|| io::Error::other("it was not told what came"))
        };
        let preloaded = match timeout(PRELOAD_DEADLINE, importing).await {
            Ok(Ok(preloaded)) => preloaded,
            failed => {
                self.remove(waiting).await;
                return Err(match failed {
                    Ok(Err(source)) => RunError::Stage { what, source },
                    _ => late(what),
                });
            }
        };
        let used = waiting.run.cgroup.memory_bytes().unwrap_or(0);
        // It is the image's own word, and gives the job as much memory: no more than came by it. The
        // interpreter itself stays the job's.
        let bytes = preloaded.bytes.min(used.saturating_sub(waiting.memory_bytes));
        waiting.memory_bytes = used;
        waiting.is_shadowed = is_shadowed(waiting.mount.as_ref(), &preloaded.modules);
        waiting.preloaded = Some(Preloaded { bytes, ..preloaded });
        Ok(waiting)
    }

    async fn remove(&self, waiting: Waiting) {
        let Waiting { run, range, mount, overlay, created, .. } = waiting;
        self.unmake(run, range, mount, Some(overlay), Some(created)).await;
    }

    /// The end of a container that served nobody.
    async fn unmake(
        &self,
        run: Run,
        range: Arc<IdRange>,
        mount: Arc<dyn Rootfs>,
        overlay: Option<Overlay>,
        created: Option<Created>,
    ) {
        run.account.doom();
        if let Some(created) = &created {
            created.container.kill();
            let _ = timeout(CLOSE_DEADLINE, created.container.wait()).await;
        }
        let gone = run.cgroup.kill().await;
        if !gone {
            tracing::error!(run.name = run.container, "processes of the pool survive");
        }
        self.maker.give_back(&run, mount, overlay, range, gone).await;
        self.maker.remove(&run).await;
    }
}

fn step(what: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::Stage { what, source }
}

fn late(what: &'static str) -> RunError {
    RunError::Stage { what, source: io::ErrorKind::TimedOut.into() }
}

/// The line that a container writes when it has done what it was told.
async fn line(created: &mut Created) -> io::Result<String> {
    let (mut line, mut buffer) = (Vec::new(), vec![0; 4096]);
    while line.last() != Some(&b'\n') {
        let len = created.pipes.stdout.read(&mut buffer).await?;
        if len == 0 || line.len() > LINE_LEN_MAX {
            let mut complaint = String::new();
            let mut stderr = (&mut created.pipes.stderr).take(4096);
            let _ = timeout(COMPLAINT_DEADLINE, stderr.read_to_string(&mut complaint)).await;
            return Err(io::Error::other(format!("it ended: {}", complaint.trim_end())));
        }
        line.extend_from_slice(&buffer[..len]);
    }
    String::from_utf8(line).map_err(io::Error::other)
}

/// Whether the image's working directory, where scripts run, has a file of one of these names.
fn is_shadowed(mount: &dyn Rootfs, modules: &HashSet<String>) -> bool {
    let manifest = mount.manifest();
    let directory = program::working_dir(manifest.config());
    let entries = manifest
        .resolve_following(directory.as_bytes())
        .and_then(|ino| manifest.entries(ino))
        .into_iter()
        .flatten();
    let stem = |name: &[u8]| name.split(|&byte| byte == b'.').next().map(<[u8]>::to_vec);
    let mut stems = entries.filter_map(|(name, _)| String::from_utf8(stem(name)?).ok());
    stems.any(|stem| modules.contains(&stem))
}

/// Whether the machine has too little memory left for what only waits.
fn is_memory_short() -> io::Result<bool> {
    let text = fs_err::read_to_string("/proc/meminfo")?;
    let field = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().split(' ').next()?.parse().ok()
    };
    let (total, available) = (field("MemTotal:"), field("MemAvailable:"));
    Ok(total.zip(available).is_some_and(|(total, left)| left < total / MEMORY_FREE_PARTS))
}
