//! Where the loader finds a library of an image. Pure.
//!
//! `ld.so.cache` is a list of what lies in the usual directories, so those are searched
//! themselves; what only the cache knows is found when it is missed.

use sway_core::manifest::Ino;

use super::elf::Needs;
use super::tree::Tree;

/// Directories of glibc's and musl's loaders on the machines that Sway runs on.
const DIRECTORIES: [&str; 11] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib/aarch64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/lib",
    "/usr/lib",
    "/usr/local/lib",
    "/usr/local/lib/x86_64-linux-gnu",
    "/opt/conda/lib",
];

/// Directories searched for one file.
const SEARCH_MAX: usize = 64;

/// The files that `needs` of the file `of` leads to, in its order. `ld_library_path` is the job's
/// `LD_LIBRARY_PATH`.
pub(super) fn find(tree: &Tree, of: Ino, needs: &Needs, ld_library_path: &str) -> Vec<Ino> {
    let origin = tree.directory_of(of);
    let own = needs.search.iter().filter_map(|path| from_origin(tree, origin, path));
    let given = ld_library_path.split(':').filter(|path| path.starts_with('/'));
    let usual = given.chain(DIRECTORIES).filter_map(|path| tree.directory(origin, path.as_bytes()));
    let directories: Vec<Ino> = own.chain(usual).take(SEARCH_MAX).collect();
    let library = |name: &Vec<u8>| {
        if name.contains(&b'/') {
            return tree.file(origin, name);
        }
        directories.iter().find_map(|&directory| tree.file(directory, name))
    };
    needs.libraries.iter().filter_map(library).collect()
}

/// A directory of a RUNPATH, where `$ORIGIN` stands for the file's own.
fn from_origin(tree: &Tree, origin: Ino, path: &[u8]) -> Option<Ino> {
    let rest = path.strip_prefix(b"$ORIGIN").or_else(|| path.strip_prefix(b"${ORIGIN}"));
    match rest {
        Some(rest) => tree.directory(origin, rest.strip_prefix(b"/").unwrap_or(rest)),
        None if path.starts_with(b"/") => tree.directory(origin, path),
        None => None,
    }
}
