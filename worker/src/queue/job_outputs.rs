//! The files that one job's run left in `/output`, read from their archive.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use sway_core::api::jobs::OutputFile;

use super::QueueError;
use crate::job::archive;

/// What a job's latest run left in `/output`.
#[derive(Clone, Debug)]
pub struct JobOutputs {
    job_id: String,
    run_id: i64,
    archive: PathBuf,
}

/// Bytes of a file, from an offset on.
#[derive(Debug)]
pub struct OutputBytes {
    /// Where they are.
    pub file: File,
    /// Where they begin.
    pub offset: u64,
    /// How many they are.
    pub len: u64,
}

impl JobOutputs {
    pub(super) fn new(job_id: String, run_id: i64, archive: PathBuf) -> Self {
        Self { job_id, run_id, archive }
    }

    /// All entries, folders before what they hold.
    pub async fn list(self) -> Result<Vec<OutputFile>, QueueError> {
        self.read(|it| archive::list(&it.archive)).await
    }

    /// Everything, as a tar archive.
    pub async fn whole(self) -> Result<OutputBytes, QueueError> {
        self.read(|it| {
            let file = File::open(&it.archive)?;
            let len = file.metadata()?.len();
            Ok(OutputBytes { file, offset: 0, len })
        })
        .await
    }

    /// One file.
    pub async fn file(self, path: &str) -> Result<OutputBytes, QueueError> {
        let missing = QueueError::NoOutput { id: self.job_id.clone(), path: path.to_owned() };
        let path = path.to_owned();
        let found = self.read(move |it| {
            let Some((offset, len)) = archive::find(&it.archive, &path)? else { return Ok(None) };
            Ok(Some(OutputBytes { file: File::open(&it.archive)?, offset, len }))
        });
        found.await?.ok_or(missing)
    }

    async fn read<T: Send + 'static>(
        self,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> Result<T, QueueError> {
        let run = self.run_id;
        let done = tokio::task::spawn_blocking(move || work(&self)).await;
        let done = done.map_err(io::Error::other).and_then(|done| done);
        done.map_err(|source| QueueError::Output { run, source })
    }
}
