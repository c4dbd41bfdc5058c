//! The first process of a container: a small init from the host.
//!
//! The kernel shields process 1 of a PID namespace from signals that it does not handle: a
//! program that kills itself would go on and end as if nothing had happened, and what it leaves
//! behind would stay as zombies (`pid_namespaces(7)`). So process 1 is an init, bound into the
//! container, that starts the job's program, reaps, and ends with its exit code, 128 + signal
//! where a signal ended it. It must be linked statically, because an image may have no libraries.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// Where a container finds it.
const TARGET: &str = "/dev/init";

/// Where distributions and container engines put theirs. All take `-- PROGRAM ARGUMENTS`.
const PLACES: [&str; 6] = [
    "/usr/bin/tini-static",
    "/usr/local/bin/tini-static",
    "/usr/bin/docker-init",
    "/usr/libexec/docker/docker-init",
    "/usr/bin/catatonit",
    "/usr/libexec/podman/catatonit",
];

/// An init on this machine; none where there is none.
pub fn find_init() -> Option<PathBuf> {
    PLACES.into_iter().map(PathBuf::from).find(|path| path.is_file())
}

/// Arguments that start `argv` under the init.
pub(crate) fn arguments(argv: &[String]) -> Vec<String> {
    let init = [TARGET, "--"].map(str::to_owned);
    init.into_iter().chain(argv.iter().cloned()).collect()
}

/// The mount that brings it into the container.
pub(crate) fn mount(init: &Path) -> Value {
    json!({
        "destination": TARGET, "type": "bind", "source": init,
        "options": ["bind", "ro", "nosuid", "nodev"],
    })
}
