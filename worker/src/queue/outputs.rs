//! The files with the runs' whole outputs: one for each run, and a second one where it left files in
//! `/output`, with a bound on all of them together.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::QueueError;
use crate::job::archive;
use crate::job::output::OutputLog;

/// The ending of the files that hold what was in `/output`.
const ARCHIVE: &str = ".tar";

/// The directory of outputs.
#[derive(Debug)]
pub(super) struct Outputs {
    dir: PathBuf,
    /// Length of all files of ended runs together; open ones come on top.
    bytes_max: u64,
    /// What that length is, at least once [`Outputs::excess`] has looked.
    bytes: AtomicU64,
}

impl Outputs {
    pub(super) fn new(dir: PathBuf, bytes_max: u64) -> Self {
        Self { dir, bytes_max, bytes: AtomicU64::new(0) }
    }

    /// Removes what a worker that died has not finished. Call it before the first run.
    pub(super) async fn recover(&self) -> io::Result<()> {
        let dir = self.dir.clone();
        blocking(move || {
            for file in fs_err::read_dir(&dir)? {
                let file = file?;
                if file.file_name().as_encoded_bytes().starts_with(archive::UNFINISHED.as_bytes()) {
                    fs_err::remove_file(file.path())?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Starts the output of a run, of at most `limit` bytes a stream.
    pub(super) fn create(&self, run_id: i64, limit: u64) -> Result<Arc<OutputLog>, QueueError> {
        let log = OutputLog::create(&self.path(run_id), limit);
        Ok(Arc::new(log.map_err(|source| QueueError::Output { run: run_id, source })?))
    }

    /// The output of a run, if it is kept.
    pub(super) fn open(&self, run_id: i64) -> Result<Option<Arc<OutputLog>>, QueueError> {
        match OutputLog::open(&self.path(run_id)) {
            Ok(output) => Ok(Some(Arc::new(output))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(QueueError::Output { run: run_id, source }),
        }
    }

    /// Counts a run that has ended; whether there is too much now.
    pub(super) fn count_ended(&self, run_id: i64) -> bool {
        let len = |path: PathBuf| fs_err::metadata(path).map_or(0, |file| file.len());
        let len = len(self.path(run_id)) + len(self.archive(run_id));
        self.bytes.fetch_add(len, Ordering::Relaxed).saturating_add(len) > self.bytes_max
    }

    /// The oldest runs whose outputs have to go, `open` ones never. Goes an eighth below the
    /// bound, so that not every run that ends has to look at all files.
    pub(super) async fn excess(&self, open: HashSet<i64>) -> io::Result<Vec<i64>> {
        let dir = self.dir.clone();
        let files = blocking(move || {
            let mut files = BTreeMap::<i64, u64>::new();
            for file in fs_err::read_dir(&dir)? {
                let file = file?;
                let run_id = run_of(Path::new(&file.file_name()));
                if let Some(run_id) = run_id.filter(|run_id| !open.contains(run_id)) {
                    *files.entry(run_id).or_default() += file.metadata()?.len();
                }
            }
            Ok(files)
        });
        let files = files.await?;
        let mut bytes: u64 = files.values().sum();
        let mut excess = Vec::new();
        if bytes > self.bytes_max {
            let aim = self.bytes_max - self.bytes_max / 8;
            for (run_id, len) in files {
                if bytes <= aim {
                    break;
                }
                bytes -= len;
                excess.push(run_id);
            }
        }
        self.bytes.store(bytes, Ordering::Relaxed);
        Ok(excess)
    }

    /// Removes the files of these runs, where they have any.
    pub(super) async fn remove(&self, runs: Vec<i64>) -> io::Result<()> {
        let of_run = |run_id| [self.path(run_id), self.archive(run_id)];
        let paths: Vec<PathBuf> = runs.into_iter().flat_map(of_run).collect();
        blocking(move || {
            for path in paths {
                match fs_err::remove_file(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            Ok(())
        })
        .await
    }

    fn path(&self, run_id: i64) -> PathBuf {
        self.dir.join(run_id.to_string())
    }

    /// The archive of what a run left in `/output`, whether or not it is there.
    pub(super) fn archive(&self, run_id: i64) -> PathBuf {
        self.dir.join(format!("{run_id}{ARCHIVE}"))
    }
}

/// Which run a file belongs to.
fn run_of(name: &Path) -> Option<i64> {
    let name = name.to_str()?;
    name.strip_suffix(ARCHIVE).unwrap_or(name).parse().ok()
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_oldest_outputs_go_first_and_open_ones_stay() {
        let dir = tempfile::tempdir().unwrap();
        let outputs = Outputs::new(dir.path().to_owned(), 800);
        for run_id in [2, 9, 10, 11, 100] {
            fs_err::write(outputs.path(run_id), [0; 200]).unwrap();
        }
        fs_err::write(dir.path().join("else"), [0; 900]).unwrap();
        let open = HashSet::from([2]);
        assert!(outputs.excess(open.clone()).await.unwrap().is_empty(), "800 bytes are allowed");
        assert!(!outputs.count_ended(99), "there is no such file");
        fs_err::write(outputs.path(101), [0; 1]).unwrap();
        assert!(outputs.count_ended(101));
        let excess = outputs.excess(open.clone()).await.unwrap();
        assert_eq!(excess, [9], "one is enough for seven eighths");
        outputs.remove(vec![9, 77]).await.unwrap();
        assert!(outputs.excess(open.clone()).await.unwrap().is_empty());
        assert!(outputs.open(9).unwrap().is_none() && outputs.open(2).unwrap().is_some());

        // What was in `/output` counts too, and goes along.
        fs_err::write(outputs.archive(10), [0; 300]).unwrap();
        assert_eq!(outputs.excess(open).await.unwrap(), [10]);
        outputs.remove(vec![10]).await.unwrap();
        assert!(!outputs.archive(10).exists() && !outputs.path(10).exists());
        let unfinished = dir.path().join(format!("{}x", archive::UNFINISHED));
        fs_err::write(&unfinished, "").unwrap();
        outputs.recover().await.unwrap();
        assert!(!unfinished.exists() && outputs.path(2).exists());
    }
}
