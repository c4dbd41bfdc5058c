//! Takes away what a killed worker left mounted, and the mountpoints.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use crate::fuse::detach;

/// Unmounts everything at or below `dir`, newest first, and returns how much that was. Then removes
/// all directories below that hold nothing.
pub(super) fn unmount_below(dir: &Path) -> io::Result<usize> {
    let dir = match fs_err::canonicalize(dir) {
        Ok(dir) => dir,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(error),
    };
    let mounts = fs_err::read("/proc/self/mountinfo")?;
    let below = mountpoints(&mounts).into_iter().rev().filter(|path| path.starts_with(&dir));
    let mut count = 0;
    for path in below {
        if detach(&path) {
            tracing::info!(path = %path.display(), "unmounted what an earlier process left");
            count += 1;
        }
    }
    remove_empty_below(&dir)?;
    Ok(count)
}

/// What can't be removed stays: a file is none of ours, and a directory that is still mounted on is
/// not looked into.
fn remove_empty_below(dir: &Path) -> io::Result<()> {
    for entry in fs_err::read_dir(dir)? {
        let entry = entry?;
        if !entry.file_type()?.is_dir() {
            continue;
        }
        match fs_err::remove_dir(entry.path()) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                remove_empty_below(&entry.path())?;
                // Still not empty where there are files.
                let _ = fs_err::remove_dir(entry.path());
            }
            Err(error) => tracing::warn!(%error, "cannot remove what an earlier process left"),
            Ok(()) => {}
        }
    }
    Ok(())
}

/// The mountpoints of a `mountinfo` file (see its manual page): the fifth field of each line, space,
/// tab, newline and backslash as octal escapes. Oldest first.
fn mountpoints(mountinfo: &[u8]) -> Vec<PathBuf> {
    let lines = mountinfo.split(|&byte| byte == b'\n');
    let fields = lines.filter_map(|line| line.split(|&byte| byte == b' ').nth(4));
    fields.map(|field| PathBuf::from(unescape(field))).collect()
}

fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, behind)) = rest.split_first() {
        let octal = behind.get(..3).filter(|_| first == b'\\');
        let escaped = octal.and_then(|digits| {
            let digits = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(digits, 8).ok()
        });
        match escaped {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[3..];
            }
            None => {
                bytes.push(first);
                rest = behind;
            }
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountpoints_are_read_with_their_escapes() {
        let mountinfo = b"22 1 0:21 / / rw,relatime - ext4 /dev/vda rw\n\
            40 22 0:55 / /var/a\\040b/x ro,nosuid,nodev shared:1 - fuse.sway sway ro\n";
        assert_eq!(mountpoints(mountinfo), [PathBuf::from("/"), PathBuf::from("/var/a b/x")]);
    }

    #[test]
    fn empty_directories_are_removed_and_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["empty", "image/root", "kept/root"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("kept/file"), b"").unwrap();
        assert_eq!(unmount_below(dir.path()).unwrap(), 0);
        let left = |dir: &Path| std::fs::read_dir(dir).unwrap().count();
        assert_eq!(left(dir.path()), 1);
        assert_eq!(left(&dir.path().join("kept")), 1);
    }

    #[test]
    fn nothing_is_mounted_below_a_directory_that_does_not_exist() {
        assert_eq!(unmount_below(Path::new("/nonexistent/sway")).unwrap(), 0);
    }
}
