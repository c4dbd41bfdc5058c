//! Jobs in containers: the image's mount from [`crate::mount`], the container from [`crate::job`].

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::BoxFuture;
use sha2::{Digest as _, Sha256};
use sway_core::api::jobs::{OutputStream, TraceUse};
use sway_core::job::Cause;
use sway_core::manifest::Manifest;
use sway_core::trace::TraceKey;

use crate::account::CacheFigures;
use crate::cache::{Chunks, ChunksConfig};
use crate::config::{Config, IdMapping};
use crate::fetch::FetchConfig;
use crate::id_map::IdMaps;
use crate::job::{
    Go, Lower, MountedDataset, Overlays, Owners, PoolUse, Rootfs, RunOutcome, RunRequest, Runner,
    RunnerConfig, Used,
};
use crate::mount::{ImageMount, MountError, Mounts, MountsConfig};
use crate::queue::{RunJob, RunOrder};
use crate::start::{Donors, StartGuard, Starts, StartsConfig, Traced};
use crate::trace::{EndedRun, Subject, Traces, is_recording};
use crate::{Foundation, private_dir};

/// The part of the disk cache that files of starts may take.
const STARTS_SHARE: u64 = 4;

/// Runs jobs in containers on lazily mounted images.
#[derive(Debug)]
pub(crate) struct Containers {
    mounts: Arc<Mounts>,
    starts: Arc<Starts>,
    /// None where traces are off.
    traces: Option<Arc<Traces>>,
    runner: Runner,
}

impl Containers {
    /// Takes away what a killed worker left, and gets ready.
    pub(crate) async fn open(config: &Config, foundation: &Foundation) -> anyhow::Result<Self> {
        let data = fs_err::canonicalize(&config.data_dir)?;
        let runner = Runner::new(
            RunnerConfig {
                dir: data.join("jobs"),
                worker_id: worker_id(&data),
                sandbox: config.sandbox.clone(),
                runc: config.runc.clone(),
                runc_root: data.join("runc"),
                allow_container_root: config.allow_root,
                init: config.init.clone(),
                pool: config.pool,
            },
            Arc::clone(&foundation.accounts),
        )?;
        // Containers first: their overlays lie on the mounts.
        runner.recover().await.context("clean up after an earlier worker")?;
        let mounts_dir = data.join("mounts");
        private_dir(&mounts_dir)?;
        let dir = mounts_dir.clone();
        let left = tokio::task::spawn_blocking(move || Mounts::recover(&dir)).await?;
        let left = left.context("unmount what an earlier worker left")?;
        if left > 0 {
            tracing::info!(mounts = left, "removed an earlier worker's mounts");
        }
        let disk_dir = (config.disk_cache_bytes > 0).then(|| data.join("cache"));
        disk_dir.as_deref().map_or(Ok(()), private_dir)?;
        let chunks = ChunksConfig {
            memory_bytes: config.memory_cache_bytes,
            disk_dir,
            disk_bytes: config.disk_cache_bytes,
            fetch: FetchConfig { deadline: config.read_deadline, ..FetchConfig::default() },
            predict: config.predict,
        };
        let chunks =
            Chunks::new(chunks, Arc::new(foundation.client.clone()), foundation.tasks.clone())?;
        let mut mounts = MountsConfig::new(mounts_dir);
        mounts.shift_ids = match config.id_mapping {
            IdMapping::Auto => false,
            IdMapping::Shift => true,
        };
        let accounts = Arc::clone(&foundation.accounts);
        let mounts = Mounts::new(mounts, chunks, accounts, foundation.tasks.clone());
        let starts = StartsConfig {
            mode: config.trace,
            dir: (config.disk_cache_bytes > 0).then(|| data.join("cache").join("starts")),
            disk_bytes: config.disk_cache_bytes / STARTS_SHARE,
        };
        let source = Arc::new(foundation.client.clone());
        let starts = Starts::new(starts, source, Arc::clone(&mounts), foundation.tasks.clone());
        let traces = foundation.traces.clone();
        if let Some(traces) = &traces {
            starts.set_donors(Arc::clone(traces) as Arc<dyn Donors>);
        }
        Ok(Self { mounts, starts, traces, runner })
    }

    /// The starts of images.
    pub(crate) fn starts(&self) -> &Arc<Starts> {
        &self.starts
    }

    async fn carry_out(&self, order: RunOrder) -> RunOutcome {
        let begun = Instant::now();
        let _running = self.traces.as_ref().map(Traces::job);
        let is_recorded = is_recording(&order.spec);
        let key = TraceKey::of_program(&order.spec.program);
        // Held to the end of the run: the last one ends the start.
        let start = (!is_recorded).then(|| self.starts.begin(order.manifest, &order.user, &key));
        let mount = async {
            match &start {
                Some(start) => start.mount().await,
                None => self.mounts.get_private(order.manifest).await,
            }
        };
        let mounting = async { tokio::join!(mount, self.datasets(&order)) };
        let (mount, datasets) = match order.cancel.run_until_cancelled(mounting).await {
            Some((Ok(mount), Ok(datasets))) => (mount, datasets),
            Some((Err(error), _)) => {
                let what = match &order.spec.image {
                    Some(image) => format!("image {image}"),
                    None => format!("image {}", order.manifest),
                };
                return not_mounted(order, &what, &error, begun.elapsed()).await;
            }
            Some((_, Err((what, error)))) => {
                return not_mounted(order, &what, &error, begun.elapsed()).await;
            }
            None => return never_started(Cause::Cancelled, None, begun.elapsed()),
        };
        let mounted = begun.elapsed();
        let (usage, rootfs) = (mount.enter(), Arc::clone(mount.rootfs()));
        // What a run reads that makes the first trace is to be seen page by page.
        let is_first = usage.is_fresh() && start.as_ref().is_none_or(|it| it.bundle().is_none());
        let _hold = (self.traces.is_some() && is_first).then(|| mount.hold_readahead());
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float; mounts are few")]
        metrics::gauge!("sway_mounts").set(self.mounts.len() as f64);
        let guessing = {
            let (start, mount, spec) = (start.as_ref(), Arc::clone(&mount), order.spec.clone());
            async move {
                let traced = match start {
                    Some(start) => start.traced().await,
                    None => Traced::Not,
                };
                mount.ahead_of(&spec, traced)
            }
        };
        let image = order.spec.image.as_ref();
        // A run that is to be recorded has its mount to itself.
        let pool = (!is_recorded).then(|| PoolUse {
            image: format!(
                "{} {}",
                order.user,
                image.map_or_else(String::new, |it| it.to_string())
            ),
            stays: image.is_none(),
        });
        let subject = Subject { user: order.user, manifest: order.manifest, key };
        let request = RunRequest {
            job_id: order.job_id.clone(),
            spec: order.spec,
            limits: order.limits,
            mount,
            datasets,
            pool,
            ready: order.ready,
            go: order.go,
            cancel: order.cancel,
            started: order.started,
        };
        let (mut running, mut guessing) = (pin!(self.runner.run(request)), pin!(guessing));
        let (mut ahead, mut is_decided) = (None, false);
        let mut outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut running => break outcome,
                decided = &mut guessing, if !is_decided => (ahead, is_decided) = (decided, true),
            }
        };
        outcome.mount += mounted;
        // What a container of the pool read before its job came is missing in a trace.
        let is_told = outcome.started_at.is_some()
            && outcome.cause != Cause::Infrastructure
            && !outcome.pooled;
        if let (Some(traces), Some(account), true) = (&self.traces, outcome.account.take(), is_told)
        {
            traces.ended(EndedRun {
                job_id: order.job_id,
                subject,
                rootfs,
                account,
                base: start.as_ref().and_then(StartGuard::trace),
                is_exact: usage.aftermath().is_some(),
                pushed: start.as_ref().and_then(|start| start.pushed(&usage)),
            });
        }
        if let Some(start) = &start {
            let figures = start.figures();
            outcome.trace = figures.mode;
            outcome.trace_pushed_bytes = figures.pushed_bytes;
            outcome.figures.fetches += figures.fetched_frames;
            outcome.figures.fetched_bytes += figures.bytes_on_wire;
        }
        if let Some(ahead) = ahead {
            let figures = ahead.figures();
            outcome.figures.fetches += figures.fetches;
            outcome.figures.fetched_bytes += figures.fetched_bytes;
        }
        outcome
    }

    /// The mounts of a job's datasets: one for each content, shared as those of images are.
    async fn datasets(
        &self,
        order: &RunOrder,
    ) -> Result<Vec<MountedDataset>, (String, MountError)> {
        let mounting = order.datasets.iter().map(|dataset| async move {
            let mount = self.mounts.get(dataset.manifest).await;
            let mount = mount.map_err(|error| (format!("dataset {}", dataset.dataset), error))?;
            Ok(MountedDataset { mount, kind: dataset.kind })
        });
        futures::future::try_join_all(mounting).await
    }
}

impl RunJob for Containers {
    fn run(&self, order: RunOrder) -> BoxFuture<'_, RunOutcome> {
        Box::pin(self.carry_out(order))
    }

    fn expect(&self) {
        self.runner.expect_run();
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            self.runner.drain().await;
            self.mounts.shutdown().await;
            self.runner.shutdown();
        })
    }
}

impl Rootfs for ImageMount {
    fn manifest(&self) -> &Arc<Manifest> {
        self.manifest()
    }

    fn owners(&self) -> &Owners {
        self.owners()
    }

    fn lower(&self, ids: &IdMaps) -> BoxFuture<'_, io::Result<Lower>> {
        let ids = ids.clone();
        Box::pin(async move {
            // Overlays that wait for a job keep a mount alive that somebody took away.
            let device = |path: &Path| fs_err::metadata(path).map(|found| found.dev());
            let above = self.path().parent().expect("a mountpoint lies in a directory");
            if device(self.path())? == device(above)? {
                return Err(io::Error::other("the image's mount was taken away"));
            }
            if self.needs_shifted() {
                self.shifted(&ids).await.map(Lower::Mapped).map_err(io::Error::other)
            } else {
                Ok(Lower::ToMap(self.path().to_owned()))
            }
        })
    }

    fn overlays(&self) -> &Overlays {
        self.overlays()
    }

    fn read_file(&self, path: &str, max: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        let path = path.as_bytes().to_vec();
        Box::pin(async move { Self::read_file(self, &path, max).await.map_err(io::Error::other) })
    }
}

/// The job's log says why, as for a failure within the container.
async fn not_mounted(
    order: RunOrder,
    what: &str,
    error: &MountError,
    waited: Duration,
) -> RunOutcome {
    let message = format!("{what} can't be mounted: {error}");
    drop(order.ready);
    if let Ok(Go { run_id, output, .. }) = order.go.await {
        tracing::error!(job.id = order.job_id, run.id = run_id, "{message}");
        let note = format!("sway: {message}\n");
        if let Err(error) = output.append_note(OutputStream::Stderr, &note) {
            tracing::error!(run.id = run_id, error = %error, "a note is not on record");
        }
    }
    never_started(Cause::Infrastructure, Some(message), waited)
}

fn never_started(cause: Cause, message: Option<String>, waited: Duration) -> RunOutcome {
    RunOutcome {
        cause,
        exit_code: None,
        message,
        started_at: None,
        duration: Duration::ZERO,
        mount: waited,
        start: Duration::ZERO,
        first_output: None,
        used: Used::default(),
        figures: CacheFigures::default(),
        account: None,
        trace: TraceUse::None,
        trace_pushed_bytes: 0,
        answer: None,
        stdout_truncated: false,
        stderr_truncated: false,
        packed: None,
        pooled: false,
    }
}

/// Unique among the workers of a machine, and the same at the next start: of the data directory.
fn worker_id(data: &Path) -> String {
    let path = data.as_os_str().as_encoded_bytes();
    hex::encode(&Sha256::digest(path)[..6])
}
