//! Compares two directory trees as `lstat` shows them, step by step from directory to directory,
//! so that neither the length of a path nor the bytes of a name matter.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, readlinkat, statat};

/// Differences after which one knows enough.
const DIFFERENCES_MAX: usize = 100;

/// What was compared, and what differs.
#[derive(Debug, Default)]
pub(crate) struct Comparison {
    /// Names seen in the first tree.
    pub(crate) entries: u64,
    /// Bytes of content compared.
    pub(crate) bytes: u64,
    /// One line each; empty where the trees are equal.
    pub(crate) differences: Vec<String>,
    /// Files with several names, by device and inode, in each tree: their first path.
    links: [BTreeMap<(u64, u64), String>; 2],
}

/// Compares type, mode, owner, modification time, size (but of directories), device number, link
/// target, link groups, extended attributes and content.
pub(crate) fn compare(left: &Path, right: &Path) -> io::Result<Comparison> {
    let mut comparison = Comparison::default();
    let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = |path: &Path| rustix::fs::open(path, flags, Mode::empty());
    let roots = [open(left)?, open(right)?];
    let stats = [rustix::fs::fstat(&roots[0])?, rustix::fs::fstat(&roots[1])?];
    comparison.compare_stats("/", &stats);
    comparison.compare_directories(&roots, "")?;
    Ok(comparison)
}

impl Comparison {
    fn differs(&mut self, path: &str, what: &str, left: &dyn ToString, right: &dyn ToString) {
        let line = format!("{path}: {what} {} / {}", left.to_string(), right.to_string());
        self.differences.push(line);
    }

    fn compare_directories(&mut self, dirs: &[OwnedFd; 2], path: &str) -> io::Result<()> {
        let names = [names(&dirs[0])?, names(&dirs[1])?];
        for (side, other, where_) in [(0, 1, "only left"), (1, 0, "only right")] {
            for name in names[side].difference(&names[other]) {
                self.differences
                    .push(format!("{path}/{}: {where_}", name.as_bytes().escape_ascii()));
            }
        }
        for name in names[0].intersection(&names[1]) {
            if self.differences.len() > DIFFERENCES_MAX {
                return Ok(());
            }
            let path = format!("{path}/{}", name.as_bytes().escape_ascii());
            self.compare_entries(dirs, name, &path)
                .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))?;
        }
        Ok(())
    }

    fn compare_entries(
        &mut self,
        dirs: &[OwnedFd; 2],
        name: &CString,
        path: &str,
    ) -> io::Result<()> {
        self.entries += 1;
        let stat = |dir| statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        let stats = [stat(&dirs[0])?, stat(&dirs[1])?];
        if !self.compare_stats(path, &stats) {
            return Ok(());
        }
        let attributes = [attributes(&dirs[0], name)?, attributes(&dirs[1], name)?];
        if attributes[0] != attributes[1] {
            let show = |side: usize| format!("{:?}", attributes[side]);
            self.differs(path, "attributes", &show(0), &show(1));
        }
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = |dir, flags| openat(dir, name, flags, Mode::empty());
        match FileType::from_raw_mode(stats[0].st_mode) {
            FileType::Directory => {
                let flags = flags | OFlags::DIRECTORY;
                let inner = [open(&dirs[0], flags)?, open(&dirs[1], flags)?];
                self.compare_directories(&inner, path)?;
            }
            FileType::RegularFile => {
                let files = [open(&dirs[0], flags)?, open(&dirs[1], flags)?].map(File::from);
                self.compare_content(path, files)?;
            }
            FileType::Symlink => {
                let target = |dir| readlinkat(dir, name, Vec::new());
                let targets = [target(&dirs[0])?, target(&dirs[1])?];
                if targets[0] != targets[1] {
                    let show = |side: usize| format!("{:?}", targets[side]);
                    self.differs(path, "target", &show(0), &show(1));
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Tells whether both are of one type.
    fn compare_stats(&mut self, path: &str, stats: &[Stat; 2]) -> bool {
        let [left, right] = stats;
        let kind = |stat: &Stat| FileType::from_raw_mode(stat.st_mode);
        if left.st_mode != right.st_mode {
            let show = |stat: &Stat| format!("{:o}", stat.st_mode);
            self.differs(path, "mode", &show(left), &show(right));
        }
        if kind(left) != kind(right) {
            return false;
        }
        if (left.st_uid, left.st_gid) != (right.st_uid, right.st_gid) {
            let show = |stat: &Stat| format!("{}:{}", stat.st_uid, stat.st_gid);
            self.differs(path, "owner", &show(left), &show(right));
        }
        if (left.st_mtime, left.st_mtime_nsec) != (right.st_mtime, right.st_mtime_nsec) {
            let show = |stat: &Stat| format!("{}.{:09}", stat.st_mtime, stat.st_mtime_nsec);
            self.differs(path, "mtime", &show(left), &show(right));
        }
        if left.st_rdev != right.st_rdev {
            self.differs(path, "device", &left.st_rdev, &right.st_rdev);
        }
        if kind(left) == FileType::Directory {
            return true;
        }
        if left.st_size != right.st_size {
            self.differs(path, "size", &left.st_size, &right.st_size);
        }
        if left.st_nlink != right.st_nlink {
            self.differs(path, "links", &left.st_nlink, &right.st_nlink);
        }
        if left.st_nlink > 1 || right.st_nlink > 1 {
            let first = [0, 1].map(|side| {
                let id = (stats[side].st_dev, stats[side].st_ino);
                self.links[side].entry(id).or_insert_with(|| path.to_owned()).clone()
            });
            if first[0] != first[1] {
                self.differs(path, "is the same file as", &first[0], &first[1]);
            }
        }
        true
    }

    fn compare_content(&mut self, path: &str, [left, right]: [File; 2]) -> io::Result<()> {
        let mut buffers = [Vec::new(), Vec::new()];
        let mut position = 0u64;
        loop {
            for (mut file, buffer) in [&left, &right].into_iter().zip(&mut buffers) {
                buffer.clear();
                (&mut file).take(1 << 20).read_to_end(buffer)?;
            }
            if buffers[0] != buffers[1] {
                self.differs(path, "content, from byte", &position, &position);
            }
            if buffers[0].is_empty() || buffers[0] != buffers[1] {
                return Ok(());
            }
            position += buffers[0].len() as u64;
            self.bytes += buffers[0].len() as u64;
        }
    }
}

fn names(directory: &OwnedFd) -> io::Result<BTreeSet<CString>> {
    let mut names = BTreeSet::new();
    for entry in Dir::read_from(directory)? {
        let name = entry?.file_name().to_owned();
        if name.as_bytes() != b"." && name.as_bytes() != b".." {
            names.insert(name);
        }
    }
    Ok(names)
}

fn attributes(directory: &OwnedFd, name: &CString) -> io::Result<BTreeMap<OsString, Vec<u8>>> {
    // Calls for attributes take paths alone; this one is short, whatever the tree's depth.
    let mut path = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
    path.push(OsString::from_vec(name.as_bytes().to_vec()));
    let mut found = BTreeMap::new();
    for attribute in xattr::list(&path)? {
        // The host's, and not kept by exports.
        if attribute.as_bytes() == b"security.selinux" {
            continue;
        }
        let value = xattr::get(&path, &attribute)?.unwrap_or_default();
        found.insert(attribute, value);
    }
    Ok(found)
}
