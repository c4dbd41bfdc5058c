//! What lies near, and how likely it is needed. Pure.

use std::collections::{HashSet, VecDeque};

use sway_core::manifest::Ino;

use super::tree::Tree;

/// The longest file that is fetched for lying next to another, in bytes.
const SIBLING_LEN_MAX: u64 = 256 << 10;

/// Files fetched for one miss.
const SIBLINGS_MAX: usize = 64;

/// Bytes of siblings for the first, second and each further miss in one directory: one miss says
/// little about a directory.
const SIBLING_BYTES: [u64; 3] = [256 << 10, 1 << 20, 2 << 20];

/// Directories that programs seldom read.
const SELDOM: [&[u8]; 14] = [
    b"tests",
    b"test",
    b"testing",
    b"doc",
    b"docs",
    b"man",
    b"info",
    b"include",
    b"locale",
    b"examples",
    b"benchmarks",
    b"licenses",
    b"lintian",
    b"dpkg",
];

/// Endings of files that programs seldom read.
const SELDOM_ENDINGS: [&str; 12] =
    ["h", "hpp", "a", "la", "c", "cpp", "pyx", "pxd", "pyi", "md", "rst", "html"];

/// The small files next to `missed`, the likeliest first; `misses` counts those in the directory,
/// this one included.
pub(super) fn siblings(tree: &Tree, missed: Ino, misses: usize) -> Vec<Ino> {
    let bytes_max = SIBLING_BYTES[misses.clamp(1, SIBLING_BYTES.len()) - 1];
    let directory = tree.directory_of(missed);
    let name = tree.name_of(missed);
    let Some(entries) = tree.manifest().entries(directory) else { return Vec::new() };
    let at = entries.map(|(name, _)| name).position(|entry| entry == name).unwrap_or(0);
    let entries = tree.manifest().entries(directory).into_iter().flatten().enumerate();
    let mut files: Vec<(bool, bool, usize, Ino, u64)> = entries
        .filter(|(_, (_, ino))| *ino != missed && tree.is_file(*ino))
        .filter_map(|(position, (entry, ino))| {
            let size = tree.manifest().inode(ino)?.size();
            let other = ending(entry) != ending(name);
            let near = position.abs_diff(at);
            (1..=SIBLING_LEN_MAX).contains(&size).then_some((
                is_seldom(entry),
                other,
                near,
                ino,
                size,
            ))
        })
        .collect();
    files.sort_unstable();
    let mut bytes = 0;
    let within = |&(.., size): &(bool, bool, usize, Ino, u64)| {
        bytes += size;
        bytes <= bytes_max
    };
    files.into_iter().take(SIBLINGS_MAX).take_while(within).map(|(_, _, _, ino, _)| ino).collect()
}

/// All files of the image in the order in which they may be brought for nobody: those near to
/// `touched` (directories, the first one first), then further and further away; what programs
/// seldom read comes last.
pub(super) fn rest(tree: &Tree, touched: &[Ino]) -> Vec<Ino> {
    let manifest = tree.manifest();
    let mut seen: HashSet<Ino> = HashSet::new();
    let mut directories: VecDeque<(Ino, bool)> = VecDeque::new();
    let starts = touched.iter().chain([&Ino::ROOT]);
    for &start in starts {
        if seen.insert(start) {
            directories.push_back((start, is_seldom_path(tree, start)));
        }
    }
    let (mut likely, mut seldom) = (Vec::new(), Vec::new());
    while let Some((directory, is_seldom_here)) = directories.pop_front() {
        let mut files = Vec::new();
        let mut near = Vec::new();
        for (name, ino) in manifest.entries(directory).into_iter().flatten() {
            if tree.is_directory(ino) {
                near.push((ino, is_seldom_here || SELDOM.contains(&name)));
            } else if let Some(inode) = manifest.inode(ino).filter(|inode| inode.is_regular()) {
                let is_seldom =
                    is_seldom_here || is_seldom(name) || has_compiled(tree, directory, name);
                files.push((inode.size(), ino, is_seldom));
            }
        }
        near.extend(manifest.parent(directory).map(|parent| (parent, false)));
        for (ino, is_seldom) in near {
            if seen.insert(ino) {
                directories.push_back((ino, is_seldom));
            }
        }
        files.sort_unstable();
        for (_, ino, is_seldom) in files {
            if is_seldom { seldom.push(ino) } else { likely.push(ino) }
        }
    }
    likely.append(&mut seldom);
    likely
}

/// Whether a source has a compiled file, which is read in its place.
fn has_compiled(tree: &Tree, directory: Ino, name: &[u8]) -> bool {
    ending(name) == b"py" && tree.manifest().lookup(directory, b"__pycache__").is_some()
}

fn is_seldom(name: &[u8]) -> bool {
    SELDOM_ENDINGS.iter().any(|seldom| seldom.as_bytes() == ending(name))
}

fn is_seldom_path(tree: &Tree, directory: Ino) -> bool {
    let mut at = directory;
    while at != Ino::ROOT {
        if SELDOM.contains(&tree.name_of(at)) {
            return true;
        }
        at = tree.directory_of(at);
    }
    false
}

/// What follows the last dot of a name.
fn ending(name: &[u8]) -> &[u8] {
    name.rsplit(|&byte| byte == b'.').next().filter(|end| end.len() < name.len()).unwrap_or(b"")
}
