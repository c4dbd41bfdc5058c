//! What creates containers from bundles: the `runc` command, or this program itself.

use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::RunnerConfig;
use super::cgroup::Hierarchies;
use super::container::{Container, ContainerStdio};
use super::runc::{Runc, RuncError};
use super::sandbox::{SandboxError, Sandboxes};

/// What is to create containers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Sandbox {
    /// The `runc` command.
    #[default]
    Runc,
    /// This program itself.
    Sway {
        /// A program whose `main` begins with [`super::sandbox::enter_if_asked`].
        program: PathBuf,
    },
}

impl Sandbox {
    /// This very program, also where its file has been replaced meanwhile.
    pub fn own() -> Self {
        Self::Sway { program: PathBuf::from("/proc/self/exe") }
    }
}

/// Who waits for a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Haste {
    /// A job.
    Now,
    /// Nobody yet: jobs that run go first.
    Ahead,
}

/// A container that was not created, or whose program did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CreateError {
    /// By runc.
    #[error(transparent)]
    Runc(#[from] RuncError),
    /// By us.
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
}

/// Creates containers.
#[derive(Debug)]
pub(crate) enum Creator {
    Runc(Runc),
    Sway(Sandboxes),
}

impl Creator {
    pub(crate) fn new(config: &RunnerConfig, hierarchies: &Hierarchies) -> Self {
        match &config.sandbox {
            Sandbox::Runc => Self::Runc(Runc::new(config.runc.clone(), config.runc_root.clone())),
            Sandbox::Sway { program } => {
                Self::Sway(Sandboxes::new(program.clone(), hierarchies.clone()))
            }
        }
    }

    /// Creates the container `id` from the bundle directory: everything is set up, its program is
    /// not started. None where that was cancelled before.
    pub(crate) async fn create(
        &self,
        id: &str,
        bundle: &Path,
        stdio: ContainerStdio,
        haste: Haste,
        cancel: &CancellationToken,
    ) -> Option<Result<Container, CreateError>> {
        match self {
            Self::Runc(runc) => {
                let created =
                    cancel.run_until_cancelled(runc.create(id, bundle, stdio, haste)).await?;
                Some(created.map_err(CreateError::from))
            }
            Self::Sway(sandboxes) => {
                let created = sandboxes.create(id, bundle, stdio, cancel).await?;
                Some(created.map_err(CreateError::from))
            }
        }
    }

    /// Starts the program of a created container.
    pub(crate) async fn start(
        &self,
        container: &Container,
        id: &str,
        bundle: &Path,
    ) -> Result<(), CreateError> {
        match self {
            Self::Runc(runc) => Ok(runc.start(id, bundle).await?),
            Self::Sway(sandboxes) => Ok(sandboxes.start(container).await?),
        }
    }
}
