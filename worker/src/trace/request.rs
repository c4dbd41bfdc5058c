//! `POST /v1/traces`: an image is prepared for its first start.

use std::sync::Arc;
use std::time::Duration;

use sway_core::api::jobs::{RECORD_LABEL, TraceRequest};
use sway_core::digest::Digest;
use sway_core::job::{JobFile, JobSpec, Program};
use sway_core::manifest::Manifest;
use sway_core::name::{ImageName, UserName};
use sway_core::trace::TraceKey;
use sway_server::guard::Identity;
use sway_server::tasks::Tasks;
use tokio::sync::OwnedSemaphorePermit;

use super::{RecordError, Traces};
use crate::queue::{Images, QueueError};

/// Images that are prepared at a time.
pub(super) const PREPARING_MAX: usize = 4;

/// When to try again where those are too many.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// How long deriving may take before the recording run.
const DERIVE_DEADLINE: Duration = Duration::from_secs(30);

/// Why nothing can be recorded.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Nothing says what to run.
    #[error("the image has no command of its own: name one, as in --trace 'python app.py'")]
    NoCommand,
    /// The traces can't be derived or the image not be read.
    #[error("{0}")]
    Failed(String),
}

impl From<RecordError> for PrepareError {
    fn from(error: RecordError) -> Self {
        Self::Failed(error.to_string())
    }
}

/// Too many images are being prepared: try again later.
#[derive(Clone, Copy, Debug)]
pub struct Deferred {
    /// When.
    pub retry_after: Duration,
}

impl Traces {
    /// A place among the images that are being prepared, for as long as it is held.
    pub fn place(&self) -> Result<OwnedSemaphorePermit, Deferred> {
        let place = Arc::clone(&self.preparing).try_acquire_owned();
        place.map_err(|_| Deferred { retry_after: RETRY_AFTER })
    }

    /// The manifest that an image's name leads this caller to.
    pub async fn find(&self, who: &Identity, name: &ImageName) -> Result<Digest, QueueError> {
        let images = Images::new(self.client.clone());
        images.resolve(&who.user, who.is_operator(), name, &TraceKey::any()).await
    }

    /// Who owns what happens later.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Derives the image's traces; then the job to submit, whose reads will be recorded.
    pub async fn prepare(
        &self,
        user: &UserName,
        image: Digest,
        request: TraceRequest,
    ) -> Result<JobSpec, PrepareError> {
        let manifest = Arc::new(self.manifest(image).await?);
        let deriving = self.derive(user, image, &manifest, request.previous);
        match tokio::time::timeout(DERIVE_DEADLINE, deriving).await {
            Ok(Ok(keys)) if keys.is_empty() => {}
            Ok(Ok(keys)) => {
                tracing::info!(manifest.digest = %image, traces = keys.len(), "traces derived");
            }
            // The run makes up for it.
            Ok(Err(error)) => tracing::warn!(%error, "traces are not derived"),
            Err(_) => tracing::warn!("traces are not derived in time"),
        }
        spec_of(request, image, &manifest)
    }

    async fn manifest(&self, image: Digest) -> Result<Manifest, RecordError> {
        let blob = self.client.blobs().get(image).await?;
        Manifest::decode(blob.as_ref())
            .map_err(|error| RecordError::Manifest { digest: image, reason: error.to_string() })
    }
}

fn spec_of(
    request: TraceRequest,
    image: Digest,
    manifest: &Manifest,
) -> Result<JobSpec, PrepareError> {
    let TraceRequest { image: mut name, program, mut args, file, .. } = request;
    let mut program = program.unwrap_or(Program::Command { argv: Vec::new() });
    if let (Program::Command { argv }, Some(file)) = (&program, file)
        && let Some(at) = argv.iter().position(|word| *word == file.path)
        && !is_in_image(manifest, &file.path)
    {
        args.splice(0..0, argv[at + 1..].iter().cloned());
        program = Program::Script { file: JobFile { path: base_name(&file.path), ..file } };
    }
    let own = manifest.config();
    if matches!(&program, Program::Command { argv } if argv.is_empty())
        && own.entrypoint.is_empty()
        && own.cmd.is_empty()
    {
        return Err(PrepareError::NoCommand);
    }
    // What is recorded is this image, whatever is exported meanwhile.
    name.digest = Some(image);
    let (label, value) = RECORD_LABEL;
    let labels = [(label.to_owned(), value.to_owned())].into();
    Ok(JobSpec { args, detach: true, labels, ..JobSpec::new(Some(name), program) })
}

/// Whether a job's program would find this file.
fn is_in_image(manifest: &Manifest, path: &str) -> bool {
    let full = format!("{}/{path}", manifest.config().working_dir);
    let full = if path.starts_with('/') { path } else { &full };
    manifest.resolve_following(full.as_bytes()).is_some()
}

fn base_name(path: &str) -> String {
    path.rsplit('/').next().unwrap_or(path).to_owned()
}

#[cfg(test)]
mod tests {
    use sway_core::manifest::{FileContent, Metadata, NodeKind, RunConfig, Tree};

    use super::*;

    fn image(cmd: &[&str]) -> Manifest {
        let mut tree = Tree::new();
        let file = tree.add(Metadata::default(), NodeKind::Regular(FileContent::new()));
        tree.entries_mut(Tree::ROOT).unwrap().insert(b"inside.py".to_vec(), file);
        let cmd = cmd.iter().map(|&word| word.to_owned()).collect();
        tree.to_manifest(RunConfig { cmd, ..RunConfig::default() }).unwrap().0
    }

    fn request(command: &str, file: Option<&str>) -> TraceRequest {
        let argv: Vec<_> = command.split_whitespace().map(str::to_owned).collect();
        TraceRequest {
            image: "demo".parse().unwrap(),
            previous: None,
            program: (!argv.is_empty()).then_some(Program::Command { argv }),
            args: vec![],
            file: file.map(|path| JobFile {
                path: path.to_owned(),
                content: b"pass".to_vec(),
                executable: false,
            }),
        }
    }

    fn spec(command: &str, file: Option<&str>) -> JobSpec {
        let spec = spec_of(request(command, file), Digest::of(b"x"), &image(&["true"])).unwrap();
        spec.check().unwrap();
        assert!(super::super::is_recording(&spec));
        spec
    }

    #[test]
    fn a_file_that_the_image_lacks_is_sent_along() {
        let sent = spec("python app.py --fast", Some("app.py"));
        assert!(matches!(&sent.program, Program::Script { file } if file.path == "app.py"));
        assert_eq!(sent.args, ["--fast"]);
        let nested = spec("python src/app.py", Some("src/app.py"));
        assert!(matches!(&nested.program, Program::Script { file } if file.path == "app.py"));
    }

    #[test]
    fn a_file_that_the_image_has_is_run_there() {
        let there = spec("python inside.py", Some("inside.py"));
        assert!(matches!(&there.program, Program::Command { argv } if argv.len() == 2));
        assert!(there.args.is_empty());
    }

    #[test]
    fn without_a_command_the_images_own_is_run() {
        let own = spec("", None);
        assert_eq!(own.program, Program::Command { argv: vec![] });
        assert!(own.detach && own.image.is_some_and(|image| image.digest.is_some()));
        let refused = spec_of(request("", None), Digest::of(b"x"), &image(&[]));
        assert!(matches!(refused, Err(PrepareError::NoCommand)));
    }
}
