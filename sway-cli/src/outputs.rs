//! What a job left in `/output`, brought to this machine: a tar archive of the worker's, unpacked so
//! that nothing in it can reach beyond the folder it is unpacked into.
//!
//! The archive is a stranger's work. Every entry is made new, below folders that were made here, so
//! nothing is written over and nothing through a link; links come last, and only such as stay
//! inside; permissions are at most everybody's to read and run.

use std::collections::HashSet;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use anyhow::Context as _;
use fs_err::os::unix::fs::OpenOptionsExt as _;
use sway_client::Client;
use sway_core::link::stays_inside;
use tokio::io::AsyncWriteExt as _;

use crate::output::Output;
use crate::size::show_size;

/// Longest archive that is taken: more than any worker grants a job unless its owner wants that.
const ARCHIVE_LEN_MAX: u64 = 64 << 30;

/// What was unpacked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Regular files.
    pub(crate) files: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Entries that are not what a worker sends; their names.
    pub(crate) refused: Vec<String>,
}

/// Brings all that a job left into the new or empty folder `to`.
pub(crate) async fn fetch(worker: &Client, job: &str, to: &Path) -> anyhow::Result<Unpacked> {
    let mut download = worker.jobs().output_archive(job).await?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    let archive = tempfile::tempfile_in(parent.unwrap_or(Path::new(".")))
        .with_context(|| format!("can't make a temporary file beside {}", to.display()))?;
    let mut file = tokio::fs::File::from_std(archive);
    let mut len = 0;
    while let Some(piece) = download.next().await? {
        len += piece.len() as u64;
        anyhow::ensure!(len <= ARCHIVE_LEN_MAX, "the worker sends more than a job can have left");
        file.write_all(&piece).await.context("can't store the job's output")?;
    }
    file.flush().await.context("can't store the job's output")?;
    let mut file = file.into_std().await;
    let to = to.to_owned();
    let unpacking = tokio::task::spawn_blocking(move || {
        io::Seek::rewind(&mut file)?;
        unpack(file, &to)
    });
    unpacking.await?.context("can't unpack the job's output")
}

/// Says what was brought, and what was not.
pub(crate) fn tell(unpacked: &Unpacked, to: &Path, output: &Output) {
    let Unpacked { files, bytes, refused } = unpacked;
    let plural = if *files == 1 { "file" } else { "files" };
    let (size, to) = (show_size(*bytes), to.display());
    output.done(format_args!("Output: {files} {plural} ({size}) in {to}"));
    for path in refused {
        output.warning(format_args!("{path:?} of the job's output is not unpacked"));
    }
}

/// Unpacks into the folder `to`, which is made if need be. Blocks.
fn unpack(archive: impl io::Read, to: &Path) -> io::Result<Unpacked> {
    fs_err::create_dir_all(to)?;
    let mut unpacked = Unpacked::default();
    let mut folders = HashSet::from([PathBuf::new()]);
    let mut links = Vec::new();
    for entry in tar::Archive::new(io::BufReader::new(archive)).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let kind = entry.header().entry_type();
        let is_placed = path.parent().is_some_and(|parent| folders.contains(parent))
            && path.components().all(|part| matches!(part, Component::Normal(_)))
            && !path.as_os_str().is_empty();
        let target = entry.link_name()?.map(|target| target.into_owned());
        match target {
            None if is_placed && kind.is_dir() => {
                make_folder(&to.join(&path))?;
                folders.insert(path.components().collect());
            }
            None if is_placed && kind.is_file() => {
                let mode = 0o600 | entry.header().mode()? & 0o155;
                let mut options = fs_err::OpenOptions::new();
                options.write(true).create_new(true).mode(mode);
                let mut file = options.open(to.join(&path))?;
                let len = entry.size();
                unpacked.bytes += io::copy(&mut entry.by_ref().take(len), &mut file)?;
                unpacked.files += 1;
                if let Ok(mtime) = entry.header().mtime() {
                    let mtime =
                        std::time::UNIX_EPOCH.checked_add(std::time::Duration::from_secs(mtime));
                    // A file system that knows no such time keeps the one of now.
                    let _ = mtime.map(|mtime| file.file().set_modified(mtime));
                }
            }
            Some(target) if is_placed && kind.is_symlink() => links.push((path, target)),
            _ => unpacked.refused.push(path.display().to_string()),
        }
    }
    for (path, target) in links {
        let depth = path.components().count() - 1;
        if stays_inside(depth, target.as_os_str().as_bytes()) {
            symlink(&target, to.join(&path))?;
        } else {
            unpacked.refused.push(path.display().to_string());
        }
    }
    Ok(unpacked)
}

fn make_folder(path: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().mode(0o755).create(path)?;
    // Whatever this process' umask is, what comes next must fit in.
    let mode = fs_err::metadata(path)?.permissions().mode();
    fs_err::set_permissions(path, std::fs::Permissions::from_mode(mode | 0o700))
}

#[cfg(test)]
mod tests {
    use tar::{Builder, EntryType, Header};

    use super::*;

    /// An archive of entries as they are, which no honest tool makes.
    fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o7777);
            header.set_mtime(1_000_000_000);
            header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
            let is_file = kind.is_file();
            if !is_file && !content.is_empty() {
                let place = &mut header.as_old_mut().linkname[..content.len()];
                place.copy_from_slice(content.as_bytes());
            }
            let bytes = if is_file { content.as_bytes() } else { b"" };
            header.set_size(bytes.len() as u64);
            header.set_cksum();
            builder.append(&header, bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    use EntryType::{Directory, Fifo, Link, Regular, Symlink};

    #[test]
    fn files_folders_and_links_that_stay_inside_are_unpacked() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("output");
        let unpacked = unpack(
            &*archive(&[
                ("plots/", Directory, ""),
                ("plots/a.png", Regular, "png"),
                ("plots/latest", Symlink, "a.png"),
                ("plots/up", Symlink, "../result.txt"),
                ("result.txt", Regular, "result"),
            ]),
            &to,
        )
        .unwrap();
        assert_eq!(unpacked, Unpacked { files: 2, bytes: 9, refused: vec![] });
        assert_eq!(fs_err::read(to.join("plots/latest")).unwrap(), b"png");
        assert_eq!(fs_err::read(to.join("plots/up")).unwrap(), b"result");
        let metadata = fs_err::metadata(to.join("result.txt")).unwrap();
        assert_eq!(
            metadata.permissions().mode() & 0o7022,
            0,
            "neither setuid nor others' to write"
        );
        let modified = metadata.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
        assert_eq!(modified.as_secs(), 1_000_000_000);
    }

    #[test]
    fn nothing_is_written_outside_or_through_a_link_or_over_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs_err::create_dir(&outside).unwrap();
        let absolute = outside.join("absolute");
        let escape = outside.to_str().unwrap();
        let to = dir.path().join("output");
        let unpacked = unpack(
            &*archive(&[
                ("../outside/up", Regular, "x"),
                (absolute.to_str().unwrap(), Regular, "x"),
                ("out", Symlink, escape),
                ("out/through", Regular, "x"),
                ("up", Symlink, "../outside"),
                ("up/through", Regular, "x"),
                ("here/../../outside/y", Regular, "x"),
                ("hard", Link, absolute.to_str().unwrap()),
                ("pipe", Fifo, ""),
                ("nowhere/file", Regular, "x"),
                ("good", Regular, "x"),
            ]),
            &to,
        )
        .unwrap();
        assert_eq!(unpacked.files, 1);
        assert_eq!(unpacked.refused.len(), 10, "{unpacked:?}");
        assert_eq!(fs_err::read_dir(&outside).unwrap().count(), 0);
        assert_eq!(fs_err::read_dir(&to).unwrap().count(), 1);
        for twice in [
            [("a", Regular, "1"), ("a", Regular, "2")],
            [("a", Symlink, "b"), ("a", Symlink, "c")],
            [("a", Regular, "1"), ("a", Directory, "")],
        ] {
            let to = tempfile::tempdir().unwrap();
            assert!(unpack(&*archive(&twice), to.path()).is_err(), "{twice:?}");
        }
    }
}
