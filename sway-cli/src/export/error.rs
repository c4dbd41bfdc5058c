//! Why an export ended without an image. The ref on the fileserver is as it was, whichever it is.

use std::io;
use std::path::PathBuf;

use sway_client::ClientError;
use sway_core::image::{ArchiveError, LayerError};
use sway_core::manifest::{ManifestError, TreeError};
use sway_core::name::NameError;

/// An export that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    /// Nothing says how to build an image.
    #[error(
        "no Dockerfile in {0}, and no pyproject.toml or requirements.txt to make an image from"
    )]
    NoDockerfile(PathBuf),
    /// What says which packages an image has does not.
    #[error("{path} can't be understood")]
    Project {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: Box<toml::de::Error>,
    },
    /// The folder's name is no image name.
    #[error("can't name an image after the folder {0}: give --name")]
    NoName(PathBuf),
    /// The name that was given is none.
    #[error(transparent)]
    Name(#[from] NameError),
    /// `--from` that is not understood.
    #[error(
        "not a source of an image: {0:?} (expected docker-archive:FILE, oci-archive:FILE or oci:DIR)"
    )]
    Source(String),
    /// No program that builds images.
    #[error("no builder works here: {}", .0.join("; "))]
    NoBuilder(Vec<String>),
    /// The builder could not be run, or failed.
    #[error("{builder} {what}{}", tail(.output))]
    Build {
        /// Its name.
        builder: String,
        /// What happened.
        what: String,
        /// The last lines that it wrote.
        output: Vec<String>,
    },
    /// A file or directory of this machine.
    #[error("can't read or write {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The image can't be found in what was given, or is not what its digests say.
    #[error("{origin}: {source}")]
    Archive {
        /// Where it came from.
        origin: String,
        /// Why.
        source: ArchiveError,
    },
    /// A layer can't be applied.
    #[error("{origin}, layer {number} of {count}: {source}")]
    Layer {
        /// Where the image came from.
        origin: String,
        /// From 1, lowest first.
        number: usize,
        /// How many there are.
        count: usize,
        /// Why.
        source: LayerError,
    },
    /// The layers together are no tree that a manifest can hold.
    #[error("the image can't be described")]
    Tree(#[from] TreeError),
    /// The manifest has no bytes.
    #[error("the image can't be described")]
    Manifest(#[from] ManifestError),
    /// The fileserver.
    #[error("the image could not be stored on the fileserver")]
    Client(#[from] ClientError),
    /// What is to be sent can't be kept until then.
    #[error("can't use a temporary file for what is to be sent")]
    Spool(#[source] io::Error),
    /// A layer does not have the chunks that it had at an earlier export.
    #[error("{0} has other content than when it was exported before")]
    Changed(String),
    /// A thread panicked.
    #[error("an internal step of the export failed")]
    Internal(#[source] tokio::task::JoinError),
}

fn tail(output: &[String]) -> String {
    output.iter().map(|line| format!("\n  | {line}")).collect()
}

impl ExportError {
    /// For `map_err` on what was done with `path`.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
