//! What a Node.js program requires, and where an image has it. Pure.
//!
//! The text is scanned for `require("…")`, `from "…"` and `import "…"` and not parsed: a name in
//! a comment is a wrong guess, one that is built at run time is missed.

use std::collections::HashSet;

use sway_core::manifest::Ino;

use super::tree::Tree;

/// Names taken from one file.
const NAMES_MAX: usize = 512;

/// The longest name.
const NAME_LEN_MAX: usize = 256;

/// Directories upwards that may have `node_modules`.
const DEPTH_MAX: usize = 64;

/// Where a package begins unless it says something else.
const MAINS: [&str; 5] = ["index.js", "index.mjs", "index.cjs", "lib/index.js", "dist/index.js"];

/// The modules that a source names, in its order.
pub(super) fn imports(source: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for mark in [&b"require("[..], b"from", b"import"] {
        let mut at = 0;
        while let Some(next) = find(&source[at..], mark) {
            at += next + mark.len();
            if found.len() >= NAMES_MAX {
                break;
            }
            let rest = source[at..].trim_ascii_start();
            let rest = rest.strip_prefix(b"(").unwrap_or(rest);
            let Some((&quote @ (b'"' | b'\''), rest)) = rest.split_first() else { continue };
            let rest = &rest[..rest.len().min(NAME_LEN_MAX)];
            let Some(len) = rest.iter().position(|&byte| byte == quote) else { continue };
            if let Ok(name) = std::str::from_utf8(&rest[..len])
                && !name.is_empty()
                && !name.starts_with("node:")
            {
                found.push((at, name.to_owned()));
            }
        }
    }
    found.sort();
    let mut seen = HashSet::new();
    found.into_iter().map(|(_, name)| name).filter(|name| seen.insert(name.clone())).collect()
}

/// What a `package.json` says where the package begins.
pub(super) fn main_of(package: &[u8]) -> Option<String> {
    let package: serde_json::Value = serde_json::from_slice(package).ok()?;
    let main = package.get("main").or_else(|| package.get("module"))?.as_str()?;
    (main.len() <= NAME_LEN_MAX).then(|| main.to_owned())
}

/// The files that the module `name` may be read from, where a file in `directory` asks for it.
pub(super) fn files(tree: &Tree, directory: Ino, name: &str) -> Vec<Ino> {
    if name.starts_with("./") || name.starts_with("../") || name.starts_with('/') {
        return at(tree, directory, name);
    }
    let mut from = directory;
    for _ in 0..DEPTH_MAX {
        let found = at(tree, from, &format!("node_modules/{name}"));
        if !found.is_empty() {
            return found;
        }
        match tree.manifest().parent(from) {
            Some(parent) if parent != from => from = parent,
            _ => break,
        }
    }
    let global = ["/usr/lib/node_modules", "/usr/local/lib/node_modules", "/usr/share/nodejs"];
    let found = global.iter().map(|place| at(tree, Ino::ROOT, &format!("{place}/{name}")));
    found.into_iter().find(|found| !found.is_empty()).unwrap_or_default()
}

/// A file, with an ending or without, or a package's directory.
fn at(tree: &Tree, from: Ino, path: &str) -> Vec<Ino> {
    let endings = ["", ".js", ".mjs", ".cjs", ".json", ".node"];
    let mut files =
        endings.iter().filter_map(|ending| tree.file(from, format!("{path}{ending}").as_bytes()));
    if let Some(file) = files.next() {
        return vec![file];
    }
    let Some(directory) = tree.directory(from, path.as_bytes()) else { return Vec::new() };
    let description = tree.file(directory, b"package.json");
    let main = MAINS.iter().find_map(|main| tree.file(directory, main.as_bytes()));
    description.into_iter().chain(main).collect()
}

fn find(bytes: &[u8], mark: &[u8]) -> Option<usize> {
    bytes.windows(mark.len()).position(|window| window == mark)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_form_of_an_import_is_seen_once_and_in_order() {
        let source = b"const a = require('a');\nimport b from \"./b.js\";\nimport 'c';\n\
                       const d = await import(\"d\");\nrequire( \"a\" ); import fs from 'node:fs';";
        assert_eq!(imports(source), ["a", "./b.js", "c", "d"]);
    }

    #[test]
    fn a_package_says_where_it_begins() {
        assert_eq!(main_of(br#"{"main": "lib/x.js"}"#).unwrap(), "lib/x.js");
        assert_eq!(main_of(b"{"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(source in prop::collection::vec(any::<u8>(), 0..500)) {
            imports(&source);
            main_of(&source);
        }
    }
}
