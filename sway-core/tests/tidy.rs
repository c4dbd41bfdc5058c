//! Keeps the promises of ARCHITECTURE.md that no compiler checks: who may name which library,
//! where processes start, that every file says what it is for, that links in the docs lead
//! somewhere.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// Folders that hold no source of ours.
const SKIPPED: [&str; 5] = ["target", ".git", "node_modules", "out", "fixtures"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

fn files_with(extension: &str) -> Vec<PathBuf> {
    fn walk(directory: &Path, extension: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap_or_default();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() && !SKIPPED.contains(&name.as_str()) {
                walk(&entry.path(), extension, found);
            } else if kind.is_file() && name.ends_with(extension) {
                found.push(entry.path());
            }
        }
    }
    let mut found = Vec::new();
    walk(&root(), extension, &mut found);
    found.sort();
    assert!(!found.is_empty(), "no {extension} files below {}", root().display());
    found
}

/// Sources as (path from the root, text without comments).
fn sources() -> Vec<(String, String)> {
    let root = root();
    files_with(".rs")
        .into_iter()
        .map(|path| {
            let text = fs::read_to_string(&path).unwrap();
            let code: Vec<&str> =
                text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            let path = path.strip_prefix(&root).unwrap().to_str().unwrap().to_owned();
            (path, code.join("\n"))
        })
        .collect()
}

fn is_test(path: &str) -> bool {
    path.contains("/tests/") || path.contains("/examples/") || path.contains("/benches/")
}

/// Asserts that `word` stands only in files that `allowed` accepts.
fn only_in(word: &str, allowed: impl Fn(&str) -> bool) {
    let strays: Vec<String> = sources()
        .into_iter()
        .filter(|(path, code)| !allowed(path) && !path.ends_with("tidy.rs") && code.contains(word))
        .map(|(path, _)| path)
        .collect();
    assert!(strays.is_empty(), "`{word}` does not belong in {strays:#?}");
}

#[test]
fn the_core_does_no_io() {
    let forbidden = [
        "std::fs",
        "std::net",
        "std::thread",
        "std::process",
        "std::env",
        "Instant::now",
        "SystemTime::now",
        "tokio",
        "fs_err",
    ];
    for (path, code) in sources() {
        if !path.starts_with("sway-core/src") {
            continue;
        }
        for word in forbidden {
            assert!(
                !code.contains(word),
                "{path} names {word}: the core takes values, not the world"
            );
        }
    }
}

#[test]
fn the_core_depends_on_nothing_that_does_io() {
    let allowed = [
        "base64",
        "flate2",
        "jiff",
        "oci-spec",
        "serde",
        "serde_json",
        "sha1",
        "sha2",
        "syntect",
        "tar",
        "thiserror",
        "utoipa",
        "zstd",
    ];
    let text = fs::read_to_string(root().join("sway-core/Cargo.toml")).unwrap();
    let section = text.split("[dependencies]").nth(1).unwrap();
    let section = section.split("\n[").next().unwrap();
    for line in section.lines().filter(|line| !line.trim().is_empty()) {
        let name = line.split(['.', ' ', '=']).next().unwrap();
        assert!(allowed.contains(&name), "sway-core must not depend on {name}");
    }
}

#[test]
fn only_the_adapter_speaks_fuse() {
    only_in("use fuser", |path| path.starts_with("worker/src/fuse/"));
    only_in("fuser::", |path| {
        // The name of its log lines.
        path.starts_with("worker/src/fuse/") || path == "server/src/telemetry.rs"
    });
}

#[test]
fn sql_stays_in_the_database_module() {
    only_in("rusqlite", |path| path.starts_with("worker/src/db/") || is_test(path));
}

#[test]
fn http_ends_at_the_servers() {
    only_in("axum", |path| {
        path.starts_with("server/")
            || path.starts_with("fileserver/src/http/")
            || path.starts_with("worker/src/http/")
            || is_test(path)
    });
    only_in("reqwest", |path| path.starts_with("sway-client/"));
}

#[test]
fn processes_start_in_few_places() {
    only_in("Command::new(", |path| {
        [
            "worker/src/job/runc.rs",
            "worker/src/job/sandbox/mod.rs",
            "worker/src/job/network.rs",
            "sway-cli/src/export/build.rs",
            "sway-cli/src/commands/doctor.rs",
        ]
        .contains(&path)
            || path.starts_with("bench/")
            || is_test(path)
    });
}

#[test]
fn the_environment_is_read_in_config_alone() {
    for word in ["env::var(", "env::var_os(", "env::vars("] {
        only_in(word, |path| {
            path.ends_with("/config.rs") || path.starts_with("bench/") || is_test(path)
        });
    }
}

#[test]
fn every_source_file_says_what_it_is_for() {
    for path in files_with(".rs") {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//!"), "{} has no //! header", path.display());
    }
}

#[test]
fn links_in_the_docs_lead_somewhere() {
    for path in files_with(".md") {
        let text = fs::read_to_string(&path).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = target.split('#').next().unwrap();
            if file.is_empty() || file.contains("://") || file.contains(' ') {
                continue;
            }
            let linked = path.parent().unwrap().join(file);
            assert!(linked.exists(), "{} links to {target}, which is not there", path.display());
        }
    }
}

/// In the tables of promises, every name in code font that reads like a test's must be one.
#[test]
fn every_promise_names_tests_that_exist() {
    let root = root();
    let functions: String = sources().into_iter().map(|(_, code)| code).collect();
    for document in ["docs/semantics.md", "docs/security.md"] {
        let text = fs::read_to_string(root.join(document)).unwrap();
        let rows = text.lines().filter(|line| line.starts_with('|'));
        for name in rows.flat_map(|row| row.split('`').skip(1).step_by(2)) {
            let name = name.rsplit("::").next().unwrap();
            let reads_like_a_test = name.matches('_').count() >= 3
                && name
                    .bytes()
                    .all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit());
            if reads_like_a_test {
                let function = format!("fn {name}(");
                assert!(functions.contains(&function), "{document} names {name}, which is no test");
            }
        }
    }
}

#[test]
fn no_words_without_meaning() {
    for (path, _) in sources() {
        for word in ["util", "helper", "manager", "common", "misc"] {
            let stem = Path::new(&path).file_stem().unwrap().to_str().unwrap();
            assert!(!stem.contains(word), "{path}: say what it is instead of {word}");
        }
    }
}
