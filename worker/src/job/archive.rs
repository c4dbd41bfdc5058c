//! What a job left in `/output`, as one tar file: packed when the run has ended, kept with it, read
//! by those who ask for its outputs.
//!
//! One file of the worker's own, because what a job made must not lie about on the host under names
//! and modes of its choice. Regular files, folders, and links that stay within `/output` are kept;
//! what else there is, is counted and left out.

use std::fs::File;
use std::io::{self, BufReader};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use fs_err::os::unix::fs::OpenOptionsExt as _;
use rustix::fs::OFlags;
use sway_core::api::jobs::{OutputFile, OutputKind};
use sway_core::job::OutputLimits;
use sway_core::link::stays_inside;
use tar::{EntryType, Header};

/// What was packed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packed {
    /// Regular files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Entries that are not kept: special files, links that lead out, and what is beyond the
    /// limits, as holes make possible.
    pub left_out: u64,
    /// Whether a file has the length that none may exceed.
    pub has_longest: bool,
}

/// Packs the directory `from` into the new file `to`, which is there whole or not at all. Nobody may
/// change the directory meanwhile. Blocks.
pub(crate) fn pack(from: &Path, limits: &OutputLimits, to: &Path) -> io::Result<Packed> {
    let parent = to.parent().unwrap_or(Path::new("."));
    let making = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(parent)?;
    let mut archive = tar::Builder::new(io::BufWriter::new(making.as_file()));
    archive.mode(tar::HeaderMode::Deterministic);
    let mut packed = Packed::default();
    // Those that are looked at next are at the end.
    let mut open = vec![(PathBuf::new(), 0)];
    while let Some((directory, depth)) = open.pop() {
        let mut entries =
            fs_err::read_dir(from.join(&directory))?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs_err::DirEntry::file_name);
        for entry in entries {
            let path = directory.join(entry.file_name());
            let metadata = fs_err::symlink_metadata(entry.path())?;
            let kind = metadata.file_type();
            let mut header = Header::new_gnu();
            header.set_mode(metadata.mode() & 0o777);
            header.set_mtime(metadata.mtime().try_into().unwrap_or(0));
            header.set_size(0);
            if kind.is_dir() {
                header.set_entry_type(EntryType::Directory);
                archive.append_data(&mut header, &path, io::empty())?;
                open.push((path, depth + 1));
            } else if kind.is_symlink() {
                let target = fs_err::read_link(entry.path())?;
                if !stays_inside(depth, target.as_os_str().as_bytes()) {
                    packed.left_out += 1;
                    continue;
                }
                header.set_entry_type(EntryType::Symlink);
                archive.append_link(&mut header, &path, &target)?;
            } else if kind.is_file() {
                packed.has_longest |= metadata.len() >= limits.file_bytes;
                // Holes take no room in `/output`, and would here.
                if packed.bytes + metadata.len() > limits.bytes {
                    packed.left_out += 1;
                    continue;
                }
                let mut options = fs_err::OpenOptions::new();
                let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
                options.read(true).custom_flags(flags.bits().cast_signed());
                let file = options.open(entry.path())?;
                header.set_entry_type(EntryType::Regular);
                header.set_size(metadata.len());
                archive.append_data(&mut header, &path, file)?;
                packed.files += 1;
                packed.bytes += metadata.len();
            } else {
                packed.left_out += 1;
            }
        }
    }
    archive.into_inner()?.into_inner().map_err(io::IntoInnerError::into_error)?;
    making.persist(to).map_err(|error| error.error)?;
    Ok(packed)
}

/// How the names of archives begin that are not finished: of a worker that died.
pub const UNFINISHED: &str = ".unfinished-";

/// All entries, folders before what they hold. Blocks.
pub fn list(archive: &Path) -> io::Result<Vec<OutputFile>> {
    let mut archive = tar::Archive::new(BufReader::new(File::open(archive)?));
    let mut files = Vec::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let kind = match entry.header().entry_type() {
            EntryType::Regular => OutputKind::File,
            EntryType::Directory => OutputKind::Folder,
            _ => OutputKind::Link,
        };
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        files.push(OutputFile {
            path: path.trim_end_matches('/').to_owned(),
            kind,
            bytes: entry.size(),
        });
    }
    Ok(files)
}

/// Where the bytes of a regular file are in the archive: offset and length. None where it has no
/// such file. Blocks.
pub fn find(archive: &Path, path: &str) -> io::Result<Option<(u64, u64)>> {
    let mut archive = tar::Archive::new(BufReader::new(File::open(archive)?));
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        if entry.header().entry_type().is_file() && *entry.path_bytes() == *path.as_bytes() {
            return Ok(Some((entry.raw_file_position(), entry.size())));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const LIMITS: OutputLimits = OutputLimits { bytes: 1000, files: 10, file_bytes: 500 };

    #[test]
    fn what_is_packed_is_found_again() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let long = "x".repeat(200);
        fs_err::create_dir_all(from.path().join("plots").join(&long)).unwrap();
        fs_err::write(from.path().join("plots").join(&long).join("a.png"), "png").unwrap();
        fs_err::write(from.path().join("result.txt"), "result").unwrap();
        symlink("../result.txt", from.path().join("plots/latest")).unwrap();
        let archive = to.path().join("7.tar");
        let packed = pack(from.path(), &LIMITS, &archive).unwrap();
        let expected = Packed { files: 2, bytes: 9, left_out: 0, has_longest: false };
        assert_eq!(packed, expected);
        let listed = list(&archive).unwrap();
        let shown: Vec<_> = listed.iter().map(|file| (file.path.as_str(), file.kind)).collect();
        let (folder, png) = (format!("plots/{long}"), format!("plots/{long}/a.png"));
        let expected = [
            ("plots", OutputKind::Folder),
            ("result.txt", OutputKind::File),
            ("plots/latest", OutputKind::Link),
            (folder.as_str(), OutputKind::Folder),
            (png.as_str(), OutputKind::File),
        ];
        assert_eq!(shown, expected);
        let (offset, len) = find(&archive, &png).unwrap().unwrap();
        let (offset, len) = (usize::try_from(offset).unwrap(), usize::try_from(len).unwrap());
        assert_eq!(&fs_err::read(&archive).unwrap()[offset..][..len], b"png");
        for missing in ["plots", "plots/latest", "png", "", "../result.txt"] {
            assert_eq!(find(&archive, missing).unwrap(), None, "{missing:?}");
        }
        assert_eq!(fs_err::read_dir(to.path()).unwrap().count(), 1, "nothing unfinished is left");
    }

    #[test]
    fn links_out_special_files_and_what_holes_inflate_are_left_out() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink("/etc/passwd", from.path().join("passwd")).unwrap();
        symlink("../7", from.path().join("up")).unwrap();
        let fifo = from.path().join("fifo");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let sparse = fs_err::File::create(from.path().join("sparse")).unwrap();
        sparse.set_len(1001).unwrap();
        fs_err::write(from.path().join("zlast"), [1; 500]).unwrap();
        let packed = pack(from.path(), &LIMITS, &to.path().join("7.tar")).unwrap();
        assert_eq!(packed, Packed { files: 1, bytes: 500, left_out: 4, has_longest: true });
    }
}
