//! Between a job's submission and its review: the packages that its `requirements.txt` asks for.
//!
//! The job is pending, and can't be approved. A worker that dies begins again at its next start: what
//! is installed has no name before it is all stored. One installation of each submitter goes on at a
//! time, and each takes a place among the jobs that run.

use std::sync::Arc;

use sway_client::refs::Expect;
use sway_core::api::jobs::{DatasetView, JobView};
use sway_core::api::submissions::{Packages, QueueSettings};
use sway_core::digest::Digest;
use sway_core::job::{
    Cause, Dataset, DatasetKind, JobSpec, JobState, Limits, LimitsRequest, OutputLimits, SpecError,
};
use sway_core::name::{DatasetName, ImageName, RefName, UserName};
use sway_core::requirements;

use super::active::Active;
use super::attempt::Running;
use super::{Images, Inner, QueueError, read_output};
use crate::db::{DbError, NewRun, PackageBuild, RunEnd, Scope, new_id};
use crate::job::output::OutputLog;
use crate::job::{Go, RunOutcome};
use crate::packages::{self, Answer, StoreError, Wheels};

/// Bytes that an installation may write, and of which the submitter is shown the first ones.
const OUTPUT_LEN_MAX: u64 = 256 << 10;

/// Installations of one submitter at a time.
const INSTALLATIONS_MAX: u32 = 1;

/// Why packages can't be installed.
struct Failure {
    /// Whose fault it is.
    cause: Cause,
    /// Why, and what to do.
    reason: String,
    /// What was written meanwhile.
    stderr: Vec<u8>,
}

impl Failure {
    fn of_job(reason: impl Into<String>) -> Self {
        Self { cause: Cause::Policy, reason: reason.into(), stderr: Vec::new() }
    }

    fn of_worker(reason: impl Into<String>) -> Self {
        Self { cause: Cause::Infrastructure, ..Self::of_job(reason) }
    }
}

/// The ref that keeps a job's own image.
fn ref_of(job: &str) -> Option<RefName> {
    format!("jobs/{job}").parse().ok()
}

/// What is to become of the packages that a job asks for; none where it asks for none. `images` are
/// those that the job may name.
pub(super) async fn planned(
    images: &Images,
    user: &UserName,
    owner: &UserName,
    spec: &JobSpec,
    image: &ImageName,
    manifest: Digest,
) -> Result<Option<Packages>, QueueError> {
    let Some(file) = packages::requirements_of(&spec.program) else { return Ok(None) };
    // Whoever made an image has its programs do what they like.
    let is_submitters = owner != user && !images.is_kept_by(owner, image, manifest).await?;
    if is_submitters {
        return Ok(Some(Packages::LeftToImage));
    }
    let asked = requirements::parse(file).map_err(|error| SpecError {
        field: "program.files",
        reason: format!("{}: {error}", requirements::FILE),
    })?;
    Ok((!asked.is_empty()).then_some(Packages::Preparing))
}

impl Inner {
    /// Installs what a job asks for, where that is still to be done. False where the job has ended
    /// by that.
    pub(super) async fn prepare(
        self: &Arc<Self>,
        active: &Active,
        owner: &UserName,
    ) -> Result<bool, QueueError> {
        let job = self.db.job(&active.id, &Scope::All).await?.view;
        let failure = match job.submission.as_ref().and_then(|it| it.packages.clone()) {
            Some(Packages::Preparing) if job.state == JobState::Pending => {
                tokio::select! {
                    biased;
                    // Its owner does not want it, or nobody does.
                    _ = active.is_approved() => return Ok(true),
                    installed = self.install(&job, owner) => installed?.err(),
                }
            }
            // The worker died when this was all that was on record.
            Some(Packages::Failed { reason }) if job.state == JobState::Pending => {
                Some(Failure::of_job(reason))
            }
            Some(_) | None => None,
        };
        if let Some(failure) = failure {
            self.end_unprepared(active, failure).await?;
            return Ok(false);
        }
        active.progress.send_modify(|progress| progress.preparing = false);
        Ok(true)
    }

    async fn install(
        self: &Arc<Self>,
        job: &JobView,
        owner: &UserName,
    ) -> Result<Result<(), Failure>, QueueError> {
        let spec = self.db.job_spec(&job.id).await?;
        let file = spec.as_ref().and_then(|spec| packages::requirements_of(&spec.program));
        let Some(asked) = file.and_then(|file| requirements::parse(file).ok()) else {
            return Ok(Err(Failure::of_worker("it is not what was submitted")));
        };
        let settings = self.db.queue_settings(owner).await?;
        let wheels = match self.wheels(owner, &settings).await {
            Ok(wheels) => wheels,
            Err(failure) => return Ok(Err(failure)),
        };
        let key = packages::key(job.manifest, &asked, &wheels);
        let _turn = self.installations.take(&job.username, INSTALLATIONS_MAX).await;
        let build = match self.built(&key).await? {
            Some(build) => build,
            None => match self.build(job, owner, &settings, &asked, &wheels).await? {
                Err(failure) => return Ok(Err(failure)),
                Ok(build) => {
                    self.db.keep_package_build(&key, build.clone()).await?;
                    build
                }
            },
        };
        if build.manifest != job.manifest
            && let Some(name) = ref_of(&job.id)
        {
            let refs = self.images.client().refs();
            if let Err(error) = refs.put(&name, build.manifest, Expect::Any).await {
                return Ok(Err(Failure::of_worker(format!("the fileserver failed: {error}"))));
            }
        }
        let installed = build.installed.len();
        Ok(match self.db.packages_ready(&job.id, build).await? {
            true => {
                tracing::info!(job.id = job.id, packages = installed, "packages installed");
                Ok(())
            }
            false => Err(Failure::of_worker("it is not what was submitted")),
        })
    }

    /// Lets go of the image that a job had of its own.
    pub(super) async fn forget_image(&self, job: &str) -> Result<(), QueueError> {
        let Some(name) = ref_of(job) else { return Ok(()) };
        let deleted = self.images.client().refs().delete(&name, Expect::Any).await;
        deleted.map_err(|source| QueueError::Fileserver { name: name.to_string(), source })
    }

    /// Where an owner's submitters get their wheels from.
    async fn wheels(&self, owner: &UserName, settings: &QueueSettings) -> Result<Wheels, Failure> {
        let Some(name) = &settings.wheels else {
            let index = self.config.packages.index.clone();
            return Ok(index.map_or(Wheels::Nowhere, Wheels::Index));
        };
        let dataset = DatasetName { user: Some(owner.clone()), name: name.clone() };
        let asked = [Dataset { name: None, kind: DatasetKind::Folder, dataset }];
        match self.images.datasets(owner, false, &asked).await {
            Ok(found) => Ok(found.into_iter().next().map_or(Wheels::Nowhere, Wheels::Dataset)),
            Err(QueueError::NoDataset(_)) => Err(Failure::of_job(format!(
                "{owner} has no dataset {name} with wheels any more: ask {owner} to add one, or to \
                 name another one with `sway queue set --wheels`"
            ))),
            Err(error) => Err(Failure::of_worker(error.to_string())),
        }
    }

    /// What was built a short while ago, as long as the fileserver has it.
    async fn built(&self, key: &str) -> Result<Option<PackageBuild>, QueueError> {
        let Some(build) = self.db.package_build(key).await? else { return Ok(None) };
        let missing = self.images.client().blobs().missing(&[build.manifest]).await;
        Ok(missing.is_ok_and(|missing| missing.is_empty()).then_some(build))
    }

    /// Runs the installation, and stores what comes of it. Where this is dropped, the run is killed.
    async fn build(
        self: &Arc<Self>,
        job: &JobView,
        owner: &UserName,
        settings: &QueueSettings,
        asked: &[String],
        wheels: &Wheels,
    ) -> Result<Result<PackageBuild, Failure>, QueueError> {
        let place = Arc::clone(&self.places).acquire_owned().await;
        let place = place.map_err(|_| QueueError::Stopping)?;
        let maxima = &self.config.maxima;
        let kept = maxima.output.unwrap_or(OutputLimits::MAXIMA);
        let limits = settings.grant(&LimitsRequest::default(), maxima)?;
        let limits = Limits { output: Some(kept), output_bytes: OUTPUT_LEN_MAX, ..limits };
        let parent = self.config.packages.dir.clone();
        let making = tokio::task::spawn_blocking(move || {
            let dir = tempfile::tempdir_in(parent)?;
            let output = OutputLog::create(&dir.path().join("output"), OUTPUT_LEN_MAX)?;
            Ok((dir, Arc::new(output)))
        });
        let making = making.await.map_err(|_| QueueError::Stopping)?;
        let (dir, output) = making.map_err(QueueError::Outputs)?;
        let layer = dir.path().join("layer.tar");
        let spec = packages::installation(&job.image, asked, wheels);
        let datasets = match wheels {
            Wheels::Dataset(dataset) => vec![dataset.clone()],
            Wheels::Index(_) | Wheels::Nowhere => Vec::new(),
        };
        // Nobody's job: it is on nobody's list, and ends with this.
        let active = Active::new(new_id(), owner.clone(), &spec, JobState::Approved);
        let _end = active.cancel.clone().drop_guard();
        let mut attempt = self.attempt(&active, spec, limits, job.manifest, datasets, place);
        attempt.is_ready().await;
        let go = Go {
            run_id: 0,
            stdin: None,
            output: Arc::clone(&output),
            usage: active.usage.clone(),
            archive: layer.clone(),
        };
        let Running { started: _started, outcome } = attempt.go(go);
        let outcome = outcome.await.map_err(|_| QueueError::Stopping)?;
        let (stdout, stderr) = read_output(&output, OUTPUT_LEN_MAX, 0).await?;
        let failed = |failure: Failure| Ok(Err(Failure { stderr: stderr.clone(), ..failure }));
        let installed = match Answer::read(&stdout) {
            Some(Answer::Installed(installed)) if outcome.exit_code == Some(0) => installed,
            Some(Answer::Error(error)) => {
                let advice = advice(owner, wheels);
                return failed(Failure::of_job(format!("{error}; {advice}")));
            }
            Some(Answer::Installed(_)) | None => return failed(broken_off(&outcome, &limits)),
        };
        if installed.is_empty() {
            return Ok(Ok(PackageBuild { manifest: job.manifest, installed }));
        }
        if outcome.packed.is_none_or(|packed| packed.left_out > 0) {
            let reason = format!("what is installed does not fit into {} bytes", kept.bytes);
            return failed(Failure::of_job(reason));
        }
        match packages::store(self.images.client(), job.manifest, layer).await {
            Ok(manifest) => Ok(Ok(PackageBuild { manifest, installed })),
            Err(StoreError::Stopping) => Err(QueueError::Stopping),
            Err(error) => failed(Failure::of_worker(error.to_string())),
        }
    }

    /// Ends a job whose packages can't be installed.
    async fn end_unprepared(&self, active: &Active, failure: Failure) -> Result<(), QueueError> {
        let Failure { cause, reason, stderr } = failure;
        tracing::info!(job.id = active.id, reason, "packages can't be installed");
        let message = format!("{}: {reason}", requirements::FILE);
        let mut run = None;
        if self.db.packages_failed(&active.id, reason).await? {
            let new = NewRun { job_id: active.id.clone(), queued_ms: 0, records_trace: false };
            let run_id = self.db.begin_run(new).await?;
            let end = RunEnd { cause, stderr, ..RunEnd::failed(message) };
            match self.db.end_run(run_id, end).await {
                // Its owner said no at the same moment, or nobody wants it any more.
                Err(DbError::IllegalMove { .. }) => self.db.forget_run(run_id).await?,
                ended => run = Some(Box::new(ended?)),
            }
        }
        let state = self.db.job(&active.id, &Scope::All).await?.view.state;
        active.progress.send_modify(|progress| {
            progress.state = state;
            progress.run = run;
        });
        Ok(())
    }
}

/// Of an installation that ended before it answered.
fn broken_off(outcome: &RunOutcome, limits: &Limits) -> Failure {
    let told = || match (&outcome.message, outcome.exit_code) {
        (Some(message), _) => message.clone(),
        (None, Some(code)) => format!("the installation ended with exit code {code}"),
        (None, None) => "the installation ended early".to_owned(),
    };
    match outcome.cause {
        Cause::Timeout => {
            let seconds = limits.timeout_ms / 1000;
            Failure::of_job(format!("they are not installed after {seconds} s"))
        }
        Cause::MemoryExceeded => Failure::of_job(format!(
            "to install them takes more than {} bytes of memory",
            limits.memory_bytes
        )),
        Cause::Exited | Cause::OutputLimit | Cause::Policy => Failure::of_job(told()),
        Cause::Cancelled | Cause::Infrastructure => Failure::of_worker(told()),
    }
}

/// What to do about packages that are not to be had.
fn advice(owner: &UserName, wheels: &Wheels) -> String {
    match wheels {
        Wheels::Dataset(DatasetView { dataset, .. }) => format!(
            "only wheels of the dataset {dataset} are installed: ask {owner} to add those that are \
             missing (`pip wheel` builds them from source)"
        ),
        Wheels::Index(index) => format!(
            "only wheels of {index} are installed: what has to be built from source, {owner} can \
             build with `pip wheel` and offer with `sway queue set --wheels`"
        ),
        Wheels::Nowhere => format!(
            "this worker installs no packages from an index: ask {owner} to offer wheels with \
             `sway queue set --wheels`, or for an image that has them"
        ),
    }
}
