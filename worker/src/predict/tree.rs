//! Paths within an image, from any directory. Pure.

use std::sync::Arc;

use sway_core::manifest::{Ino, Manifest};

/// Links followed on one path (Linux `MAXSYMLINKS`).
const LINKS_MAX: u32 = 40;

/// An image's tree that also knows where its files lie.
#[derive(Debug)]
pub(super) struct Tree {
    manifest: Arc<Manifest>,
    /// The directory of each inode by its number; 0 for the root.
    directories: Vec<u32>,
}

impl Tree {
    /// Walks through the whole tree once.
    pub(super) fn new(manifest: Arc<Manifest>) -> Self {
        let mut directories = vec![0; manifest.inode_count() + 1];
        for (directory, inode) in manifest.inodes() {
            if !inode.is_directory() {
                continue;
            }
            for (_, child) in manifest.entries(directory).into_iter().flatten() {
                // Of a file with several names the first counts.
                let place = &mut directories[child.0 as usize];
                if *place == 0 {
                    *place = directory.0;
                }
            }
        }
        Self { manifest, directories }
    }

    pub(super) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The directory that holds `ino`; the root's is the root.
    pub(super) fn directory_of(&self, ino: Ino) -> Ino {
        match self.directories.get(ino.0 as usize) {
            Some(&directory) if directory != 0 => Ino(directory),
            _ => Ino::ROOT,
        }
    }

    /// The name of `ino` in its directory; empty for the root.
    pub(super) fn name_of(&self, ino: Ino) -> &[u8] {
        let entries = self.manifest.entries(self.directory_of(ino)).into_iter().flatten();
        entries.filter(|(_, child)| *child == ino).map(|(name, _)| name).next().unwrap_or_default()
    }

    /// A path that leads to `ino`, for messages.
    pub(super) fn path_of(&self, ino: Ino) -> String {
        let mut parts = Vec::new();
        let mut at = ino;
        while at != Ino::ROOT {
            parts.push(self.name_of(at).escape_ascii().to_string());
            at = self.directory_of(at);
        }
        parts.reverse();
        format!("/{}", parts.join("/"))
    }

    /// What `path` leads to from the directory `from`, links followed, never above the root.
    pub(super) fn walk(&self, from: Ino, path: &[u8]) -> Option<Ino> {
        let mut links = 0;
        self.walk_within(from, path, &mut links)
    }

    fn walk_within(&self, from: Ino, path: &[u8], links: &mut u32) -> Option<Ino> {
        let mut at = if path.starts_with(b"/") { Ino::ROOT } else { from };
        for name in path.split(|&byte| byte == b'/') {
            at = match name {
                b"" | b"." => at,
                b".." => self.manifest.parent(at)?,
                name => {
                    let found = self.manifest.lookup(at, name)?;
                    match self.manifest.symlink_target(found) {
                        None => found,
                        Some(target) => {
                            *links += 1;
                            if *links > LINKS_MAX {
                                return None;
                            }
                            self.walk_within(at, target, links)?
                        }
                    }
                }
            };
        }
        Some(at)
    }

    /// A regular file at `path`.
    pub(super) fn file(&self, from: Ino, path: &[u8]) -> Option<Ino> {
        self.walk(from, path).filter(|&ino| self.is_file(ino))
    }

    /// A directory at `path`.
    pub(super) fn directory(&self, from: Ino, path: &[u8]) -> Option<Ino> {
        self.walk(from, path).filter(|&ino| self.is_directory(ino))
    }

    pub(super) fn is_file(&self, ino: Ino) -> bool {
        self.manifest.inode(ino).is_some_and(|inode| inode.is_regular())
    }

    pub(super) fn is_directory(&self, ino: Ino) -> bool {
        self.manifest.inode(ino).is_some_and(|inode| inode.is_directory())
    }
}
