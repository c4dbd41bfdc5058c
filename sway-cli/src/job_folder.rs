//! The folder of this machine where a job's output and logs go: `jobs/<YYYYMMDD_HHMMSS>[-n]/`.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use jiff::Zoned;

/// Jobs of one second that get folders.
const OF_A_SECOND_MAX: u32 = 10_000;

/// Such a folder.
#[derive(Debug)]
pub(crate) struct JobFolder {
    path: PathBuf,
}

impl JobFolder {
    /// A new one below `base`, named after this moment; its folders `output` and `logs` are there.
    pub(crate) fn make(base: &Path) -> io::Result<Self> {
        Self::make_at(base, &Zoned::now())
    }

    fn make_at(base: &Path, now: &Zoned) -> io::Result<Self> {
        fs_err::create_dir_all(base)?;
        let stamp = now.strftime("%Y%m%d_%H%M%S").to_string();
        for number in 1..=OF_A_SECOND_MAX {
            let name = if number == 1 { stamp.clone() } else { format!("{stamp}-{number}") };
            let path = base.join(name);
            match fs_err::create_dir(&path) {
                Ok(()) => {
                    let folder = Self { path };
                    fs_err::create_dir(folder.output())?;
                    fs_err::create_dir(folder.logs())?;
                    return Ok(folder);
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other(format!("{} is full of jobs of {stamp}", base.display())))
    }

    /// All of it.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where what was in `/output` goes.
    pub(crate) fn output(&self) -> PathBuf {
        self.path.join("output")
    }

    fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// The new files `stdout.log` and `stderr.log`.
    pub(crate) fn open_logs(&self) -> io::Result<[File; 2]> {
        let open = |name| fs_err::File::create_new(self.logs().join(name));
        Ok([open("stdout.log")?.into_file(), open("stderr.log")?.into_file()])
    }

    /// Removes it where nothing is in it: of a job that was not started.
    pub(crate) fn remove_unused(self) {
        for path in [self.output(), self.logs(), self.path] {
            let _ = fs_err::remove_dir(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_of_one_second_have_folders_of_their_own() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("jobs");
        let now: Zoned = "2025-02-14T12:27:58+01:00[+01:00]".parse().unwrap();
        let first = JobFolder::make_at(&base, &now).unwrap();
        let second = JobFolder::make_at(&base, &now).unwrap();
        assert_eq!(first.path(), base.join("20250214_122758"));
        assert_eq!(second.path(), base.join("20250214_122758-2"));
        first.open_logs().unwrap();
        first.remove_unused();
        second.remove_unused();
        let left = base.join("20250214_122758/logs/stderr.log");
        assert!(left.exists() && !base.join("20250214_122758-2").exists());
    }
}
