//! The upper layer of a job's rootfs: what the image lacks or must not decide.
//!
//! Mount points, the job's own files, `/etc/hosts` and its like. A directory that the image has,
//! too, takes over the image's mode, owner and time, because in an overlay the uppermost directory
//! decides what the merged one looks like. Planning is pure; [`Skeleton::write`] carries it out.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::stat::UtimensatFlags;
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid};
use rustix::fs::{Mode, XattrFlags};
use sway_core::manifest::{Ino, Inode, Manifest, Timestamp, mode};

use super::RunError;
use crate::id_map::IdMaps;

/// Symbolic links that one path may lead through (Linux `MAXSYMLINKS`).
const LINKS_MAX: usize = 40;

/// A path from the root, as its names, free of links, `.` and `..`.
pub(crate) type Names = Vec<Vec<u8>>;

/// The plan: paths in order, so that a directory comes before what it holds.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Skeleton<'a> {
    manifest: &'a Manifest,
    entries: BTreeMap<Names, Entry>,
    /// Whether what is added next is of every job.
    common: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    permissions: u32,
    uid: u32,
    gid: u32,
    mtime: Option<Timestamp>,
    kind: Kind,
    /// Whether every job on the image has it, though perhaps with another content.
    common: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    /// Opaque: hides what the image has there.
    Directory {
        opaque: bool,
    },
    File(Vec<u8>),
}

/// Owner and permissions of a file that a job brings along.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Owner {
    /// Root of the container.
    pub(crate) const ROOT: Self = Self { uid: 0, gid: 0 };
}

impl<'a> Skeleton<'a> {
    /// The root alone, as the image has it.
    pub(crate) fn new(manifest: &'a Manifest) -> Self {
        let root = manifest.inode(Ino::ROOT).expect("every manifest has a root");
        let root = Entry { common: true, ..directory_like(root) };
        Self { manifest, entries: BTreeMap::from([(Names::new(), root)]), common: true }
    }

    /// What is added from now on is this job's alone.
    pub(crate) fn end_of_common(&mut self) {
        self.common = false;
    }

    /// Follows the image's links on the way along `path`, and lets what the image lacks stand as
    /// it is written. None for a circle of links.
    pub(crate) fn canonical(&self, path: &str) -> Option<Names> {
        let parts = |path: &[u8]| -> Vec<Vec<u8>> {
            path.rsplit(|&byte| byte == b'/').map(<[u8]>::to_vec).collect()
        };
        let mut rest = parts(path.as_bytes());
        let mut names = Names::new();
        let mut links = 0;
        while let Some(name) = rest.pop() {
            match name.as_slice() {
                b"" | b"." => continue,
                b".." => {
                    names.pop();
                    continue;
                }
                _ => names.push(name),
            }
            let found = self.in_image(&names);
            if let Some(target) = found.and_then(|ino| self.manifest.symlink_target(ino)) {
                links += 1;
                if links > LINKS_MAX {
                    return None;
                }
                names.pop();
                if target.starts_with(b"/") {
                    names.clear();
                }
                rest.extend(parts(target));
            }
        }
        Some(names)
    }

    fn in_image(&self, names: &[Vec<u8>]) -> Option<Ino> {
        names.iter().try_fold(Ino::ROOT, |directory, name| self.manifest.lookup(directory, name))
    }

    /// Adds a directory and those that lead to it, as the image has them, else 0755 root.
    pub(crate) fn directory(&mut self, names: &[Vec<u8>]) -> Result<(), RunError> {
        for end in 1..=names.len() {
            let path = names[..end].to_vec();
            match self.entries.get(&path) {
                Some(Entry { kind: Kind::Directory { .. }, .. }) => continue,
                Some(_) => return Err(in_the_way(&path)),
                None => {}
            }
            let found = self.in_image(&path).and_then(|ino| self.manifest.inode(ino));
            let entry = match found {
                Some(inode) if inode.is_directory() => {
                    Entry { common: self.common, ..directory_like(inode) }
                }
                Some(inode) if end < names.len() && !is_link(inode) => {
                    return Err(in_the_way(&path));
                }
                // A mount point takes the place of a file or a link that the image has there.
                _ => Entry {
                    permissions: 0o755,
                    uid: 0,
                    gid: 0,
                    mtime: None,
                    kind: Kind::Directory { opaque: false },
                    common: self.common,
                },
            };
            self.entries.insert(path, entry);
        }
        Ok(())
    }

    /// Adds a directory whose permissions the image does not decide.
    pub(crate) fn directory_with(
        &mut self,
        names: &[Vec<u8>],
        permissions: u32,
    ) -> Result<(), RunError> {
        self.directory(names)?;
        let entry = self.entries.get_mut(names).expect("it was added just now");
        (entry.permissions, entry.uid, entry.gid) = (permissions, 0, 0);
        Ok(())
    }

    /// Adds a directory that hides whatever the image has there.
    pub(crate) fn own_directory(
        &mut self,
        names: &[Vec<u8>],
        owner: Owner,
    ) -> Result<(), RunError> {
        self.directory_with(names, 0o755)?;
        let entry = self.entries.get_mut(names).expect("it was added just now");
        (entry.uid, entry.gid) = (owner.uid, owner.gid);
        (entry.mtime, entry.kind) = (None, Kind::Directory { opaque: true });
        Ok(())
    }

    /// Adds a file, and the directories that lead to it.
    pub(crate) fn file(
        &mut self,
        names: &[Vec<u8>],
        content: Vec<u8>,
        permissions: u32,
        owner: Owner,
    ) -> Result<(), RunError> {
        let parent = names.len().checked_sub(1).ok_or_else(|| in_the_way(names))?;
        self.directory(&names[..parent])?;
        let Owner { uid, gid } = owner;
        let kind = Kind::File(content);
        let entry = Entry { permissions, uid, gid, mtime: None, kind, common: self.common };
        match self.entries.insert(names.to_vec(), entry) {
            None => Ok(()),
            Some(_) => Err(in_the_way(names)),
        }
    }

    /// Makes it below the empty directory `at`. Blocks.
    pub(crate) fn write(&self, at: &Path, ids: &IdMaps) -> io::Result<()> {
        self.write_some(at, ids, |_| true)
    }

    /// Makes what every job on the image has below the empty directory `at`. Blocks.
    pub(crate) fn write_resting(&self, at: &Path, ids: &IdMaps) -> io::Result<()> {
        self.write_some(at, ids, |entry| entry.common)
    }

    /// What [`Skeleton::write_resting`] makes; the mark is for directories.
    pub(crate) fn resting(&self) -> BTreeMap<Names, bool> {
        let common = self.entries.iter().filter(|(_, entry)| entry.common);
        common.map(|(names, entry)| (names.clone(), entry.is_directory())).collect()
    }

    /// Files of the job that stand where the image has a file: to be bound over it, for an
    /// overlay that is used again must not hide it for good. None where that can't be done.
    pub(crate) fn hiding(&self) -> Option<Vec<Names>> {
        let mut files = Vec::new();
        for (names, entry) in self.entries.iter().filter(|(_, entry)| !entry.common) {
            let found = self.in_image(names).and_then(|ino| self.manifest.inode(ino));
            match (&entry.kind, found) {
                (_, None) => {}
                (Kind::Directory { opaque: false }, Some(inode)) if inode.is_directory() => {}
                (Kind::File(_), Some(inode))
                    if inode.is_regular() && std::str::from_utf8(&names.join(&b'/')).is_ok() =>
                {
                    files.push(names.clone());
                }
                _ => return None,
            }
        }
        Some(files)
    }

    /// Makes the file `names` of the job at `path`. Blocks.
    pub(crate) fn write_file(&self, names: &Names, path: &Path, ids: &IdMaps) -> io::Result<()> {
        let entry = self.entries.get(names).filter(|entry| !entry.is_directory());
        let entry = entry.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        entry.make(path)?;
        entry.dress(path, ids)
    }

    /// Brings an overlay, mounted at `at`, from what every job has to what this one has; files of
    /// [`Skeleton::hiding`] are left out. Notes in `brought` what is to be removed afterwards,
    /// also when it fails, in `resting` directories that are copied up for good, and in `changed`
    /// those of them that may look otherwise than in the image. Blocks.
    pub(crate) fn furnish(
        &self,
        at: &Path,
        ids: &IdMaps,
        resting: &mut BTreeMap<Names, bool>,
        brought: &mut Vec<(Names, bool)>,
        changed: &mut BTreeSet<Names>,
    ) -> io::Result<()> {
        for (names, entry) in &self.entries {
            let path = host_path(at, names);
            if let (true, Kind::File(content)) = (entry.common, &entry.kind) {
                fs_err::write(&path, content)?;
                entry.renew(&path)?;
            } else if !entry.common && self.in_image(names).is_none() {
                brought.push((names.clone(), entry.is_directory()));
                if let Err(error) = entry.make(&path) {
                    brought.pop();
                    return Err(error);
                }
            } else if !entry.common && entry.is_directory() {
                // Changing it below copies it up, with all that lead to it.
                resting.insert(names.clone(), true);
                changed.insert(names.clone());
            }
        }
        // Backwards: making an entry changes its directory's times. Those of all others are renewed,
        // too: they would tell when earlier jobs came. Owners and permissions stay.
        let new = self.entries.keys().filter(|names| !resting.contains_key(*names));
        for names in resting.keys().rev().chain(new.rev()) {
            let path = host_path(at, names);
            let is_as_it_was = resting.contains_key(names) && !changed.contains(names);
            let give = |entry: &Entry| match is_as_it_was {
                true => entry.renew(&path),
                false => entry.dress(&path, ids),
            };
            match self.entries.get(names) {
                Some(entry) if entry.is_directory() || self.in_image(names).is_none() => {
                    give(entry)?;
                }
                Some(_) => {}
                None => {
                    let ino = self.in_image(names).and_then(|ino| self.manifest.inode(ino));
                    if let Some(inode) = ino {
                        give(&directory_like(inode))?;
                    }
                }
            }
        }
        Ok(())
    }

    fn write_some(
        &self,
        at: &Path,
        ids: &IdMaps,
        which: impl Fn(&Entry) -> bool,
    ) -> io::Result<()> {
        let entries = || self.entries.iter().filter(|(_, entry)| which(entry));
        for (names, entry) in entries() {
            let path = host_path(at, names);
            if !names.is_empty() {
                entry.make(&path)?;
            }
            if entry.kind == (Kind::Directory { opaque: true }) {
                let flags = XattrFlags::empty();
                rustix::fs::lsetxattr(&path, "trusted.overlay.opaque", b"y", flags)?;
            }
        }
        // Attributes afterwards and backwards: making an entry changes its directory's time.
        for (names, entry) in entries().rev() {
            entry.dress(&host_path(at, names), ids)?;
        }
        Ok(())
    }
}

impl Entry {
    fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory { .. })
    }

    fn make(&self, path: &Path) -> io::Result<()> {
        match &self.kind {
            Kind::Directory { .. } => fs_err::create_dir(path)?,
            Kind::File(content) => fs_err::write(path, content)?,
        }
        Ok(())
    }

    /// Gives a file or directory its owner, its permissions and its time.
    fn dress(&self, path: &Path, ids: &IdMaps) -> io::Result<()> {
        let unmapped = || io::Error::other(format!("no map for the owner of {path:?}"));
        let uid = ids.uids.outside(self.uid).ok_or_else(unmapped)?;
        let gid = ids.gids.outside(self.gid).ok_or_else(unmapped)?;
        nix::unistd::chown(path, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
        rustix::fs::chmod(path, Mode::from_raw_mode(self.permissions))?;
        self.renew(path)
    }

    /// Gives it its time.
    fn renew(&self, path: &Path) -> io::Result<()> {
        let time = match self.mtime {
            Some(Timestamp { seconds, nanoseconds }) => {
                TimeSpec::new(seconds, i64::from(nanoseconds))
            }
            None => TimeSpec::UTIME_NOW,
        };
        let follow = UtimensatFlags::NoFollowSymlink;
        nix::sys::stat::utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, follow)?;
        Ok(())
    }
}

/// Where `names` are below the directory `at`.
pub(crate) fn host_path(at: &Path, names: &[Vec<u8>]) -> PathBuf {
    names.iter().fold(at.to_owned(), |path, name| path.join(OsStr::from_bytes(name)))
}

fn is_link(inode: &Inode) -> bool {
    inode.file_type() == mode::SYMLINK
}

fn directory_like(inode: &Inode) -> Entry {
    Entry {
        permissions: inode.mode & mode::PERMISSIONS,
        uid: inode.uid,
        gid: inode.gid,
        mtime: Some(inode.mtime),
        kind: Kind::Directory { opaque: false },
        common: false,
    }
}

fn in_the_way(names: &[Vec<u8>]) -> RunError {
    let path = shown(names);
    RunError::Refused(format!("{path} is needed twice, or is no directory in the image"))
}

/// As a path from the root.
pub(crate) fn shown(names: &[Vec<u8>]) -> String {
    names.iter().fold(String::new(), |path, name| path + "/" + &String::from_utf8_lossy(name))
}

/// `/a/b` as names, for paths that need no following.
pub(crate) fn names(path: &str) -> Names {
    path.split('/').filter(|name| !name.is_empty()).map(|name| name.as_bytes().to_vec()).collect()
}

#[cfg(test)]
mod tests {
    use sway_core::manifest::{Metadata, NodeKind, RunConfig, Tree};

    use super::*;

    fn manifest() -> Manifest {
        let metadata = Metadata {
            permissions: 0o750,
            uid: 7,
            gid: 8,
            mtime: Timestamp { seconds: 5, nanoseconds: 6 },
            ..Metadata::default()
        };
        let mut tree = Tree::new();
        let link = tree.add(metadata.clone(), NodeKind::Symlink(b"/srv/../srv".to_vec()));
        let circle = tree.add(metadata.clone(), NodeKind::Symlink(b"loop".to_vec()));
        let in_srv = BTreeMap::from([(b"loop".to_vec(), circle)]);
        let srv = tree.add(metadata, NodeKind::Directory(in_srv));
        let root = tree.entries_mut(Tree::ROOT).unwrap();
        root.extend([(b"app".to_vec(), link), (b"srv".to_vec(), srv)]);
        tree.to_manifest(RunConfig::default()).unwrap().0
    }

    #[test]
    fn links_of_the_image_are_followed_and_what_it_lacks_stands() {
        let manifest = manifest();
        let skeleton = Skeleton::new(&manifest);
        assert_eq!(skeleton.canonical("/app/x/./y"), Some(names("/srv/x/y")));
        assert_eq!(skeleton.canonical("../../nowhere/.."), Some(names("/")));
        assert_eq!(skeleton.canonical("/srv/loop"), None);
    }

    #[test]
    fn a_directory_of_the_image_keeps_its_attributes() {
        let manifest = manifest();
        let mut skeleton = Skeleton::new(&manifest);
        skeleton.file(&names("/srv/new/f"), vec![], 0o644, Owner::ROOT).unwrap();
        let srv = &skeleton.entries[&names("/srv")];
        assert_eq!((srv.permissions, srv.uid, srv.gid), (0o750, 7, 8));
        assert_eq!(srv.mtime, Some(Timestamp { seconds: 5, nanoseconds: 6 }));
        let new = &skeleton.entries[&names("/srv/new")];
        assert_eq!((new.permissions, new.uid, new.mtime), (0o755, 0, None));
    }

    #[test]
    fn a_file_that_is_also_a_directory_is_refused() {
        let manifest = manifest();
        let mut skeleton = Skeleton::new(&manifest);
        skeleton.file(&names("/code/a"), vec![], 0o644, Owner::ROOT).unwrap();
        assert!(skeleton.file(&names("/code/a/b"), vec![], 0o644, Owner::ROOT).is_err());
        assert!(skeleton.file(&names("/code"), vec![], 0o644, Owner::ROOT).is_err());
        assert!(skeleton.file(&names("/"), vec![], 0o644, Owner::ROOT).is_err());
    }
}
