//! Reads a bundle's configuration, the same that runc would read, and nothing else: a field or a
//! value that is not known here, or that could not be carried out, is an error. So isolation is
//! described in one place (`bundle`), and nothing of it is passed over.

use std::path::{Path, PathBuf};

use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};

use super::filter::{Instruction, Profile};
use crate::job::cgroup::Resources;

/// What a configuration asks for and this can't do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// It is none, or has a field that nobody here knows.
    #[error("the bundle's configuration can't be read: {0}")]
    Read(#[from] serde_json::Error),
    /// A value that can't be carried out.
    #[error("the bundle asks for {0}, which `--sandbox sway` can't do: use `--sandbox runc`")]
    Unsupported(String),
}

fn unsupported<T>(what: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError::Unsupported(what.into()))
}

/// A whole configuration, as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(rename = "ociVersion")]
    version: String,
    root: Root,
    hostname: String,
    process: Process,
    mounts: Vec<WrittenMount>,
    linux: Linux,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Root {
    path: PathBuf,
    readonly: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Process {
    terminal: bool,
    user: User,
    args: Vec<String>,
    env: Vec<String>,
    cwd: PathBuf,
    no_new_privileges: bool,
    oom_score_adj: i32,
    capabilities: Capabilities,
    rlimits: Vec<WrittenLimit>,
}

/// Who the program is, by ids inside.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct User {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) additional_gids: Vec<u32>,
    pub(super) umask: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Capabilities {
    bounding: Vec<String>,
    effective: Vec<String>,
    inheritable: Vec<String>,
    permitted: Vec<String>,
    ambient: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenLimit {
    #[serde(rename = "type")]
    kind: String,
    soft: u64,
    hard: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenMount {
    destination: PathBuf,
    #[serde(rename = "type")]
    kind: String,
    source: PathBuf,
    options: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Linux {
    namespaces: Vec<Namespace>,
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
    cgroups_path: String,
    resources: Resources,
    seccomp: Profile,
    rootfs_propagation: String,
    masked_paths: Vec<PathBuf>,
    readonly_paths: Vec<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Mapping {
    #[serde(rename = "containerID")]
    inside: u32,
    #[serde(rename = "hostID")]
    outside: u32,
    size: u32,
}

/// A container as its worker has to prepare it.
#[derive(Debug)]
pub(super) struct Container {
    /// The group of its processes.
    pub(super) cgroup: String,
    pub(super) resources: Resources,
    /// Texts of `/proc/<pid>/uid_map` and `gid_map`.
    pub(super) uid_map: String,
    pub(super) gid_map: String,
    pub(super) oom_score_adj: i32,
    pub(super) rlimits: Vec<(Resource, Rlimit)>,
    pub(super) seccomp: Profile,
    /// What its first process does itself.
    pub(super) inside: Inside,
}

/// What a container's first process does, before it becomes its program.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Inside {
    /// Its session keyring.
    pub(super) keyring: String,
    pub(super) rootfs: PathBuf,
    pub(super) hostname: String,
    pub(super) mounts: Vec<Mount>,
    pub(super) masked_paths: Vec<PathBuf>,
    pub(super) readonly_paths: Vec<PathBuf>,
    pub(super) user: User,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    pub(super) cwd: PathBuf,
    pub(super) filter: Vec<Instruction>,
}

/// One mount, in order.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Mount {
    pub(super) target: PathBuf,
    pub(super) what: Mounted,
    /// `MOUNT_ATTR_*` to set.
    pub(super) attributes: u64,
}

/// What is mounted.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Mounted {
    /// A file or directory of the host.
    Bind(PathBuf),
    /// A file system of its own, with its settings; those without a value are flags.
    New(FileSystem, Vec<(String, Option<String>)>),
}

/// Kinds of file systems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum FileSystem {
    Proc,
    Tmpfs,
    Devpts,
}

impl FileSystem {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Proc => "proc",
            Self::Tmpfs => "tmpfs",
            Self::Devpts => "devpts",
        }
    }
}

/// The namespaces that a container has, each of its own.
const NAMESPACES: [&str; 7] = ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"];

/// Reads the configuration of the container `id`.
pub(super) fn read(id: &str, text: &str) -> Result<Container, ConfigError> {
    let Written { version, root, hostname, process, mounts, linux } = serde_json::from_str(text)?;
    if !version.starts_with("1.") {
        return unsupported(format!("version {version}"));
    }
    if !root.readonly {
        return unsupported("a root that can be written to");
    }
    if process.terminal {
        return unsupported("a terminal");
    }
    if !process.no_new_privileges {
        return unsupported("new privileges");
    }
    let Capabilities { bounding, effective, inheritable, permitted, ambient } =
        process.capabilities;
    if [bounding, effective, inheritable, permitted, ambient].iter().any(|set| !set.is_empty()) {
        return unsupported("capabilities");
    }
    let mut kinds: Vec<&str> = linux.namespaces.iter().map(|it| it.kind.as_str()).collect();
    kinds.sort_unstable();
    if kinds != NAMESPACES {
        return unsupported(format!("the namespaces {}", kinds.join(", ")));
    }
    if linux.rootfs_propagation != "rprivate" {
        return unsupported(format!("the propagation {}", linux.rootfs_propagation));
    }
    let mounts = mounts.into_iter().map(mount).collect::<Result<_, _>>()?;
    let rlimits = process.rlimits.iter().map(rlimit).collect::<Result<_, _>>()?;
    for path in linux.masked_paths.iter().chain(&linux.readonly_paths).chain([&process.cwd]) {
        if !path.is_absolute() {
            return unsupported(format!("the relative path {}", path.display()));
        }
    }
    Ok(Container {
        cgroup: linux.cgroups_path,
        resources: linux.resources,
        uid_map: map(&linux.uid_mappings)?,
        gid_map: map(&linux.gid_mappings)?,
        oom_score_adj: process.oom_score_adj,
        rlimits,
        seccomp: linux.seccomp,
        inside: Inside {
            keyring: format!("_ses.{id}"),
            rootfs: root.path,
            hostname,
            mounts,
            masked_paths: linux.masked_paths,
            readonly_paths: linux.readonly_paths,
            user: process.user,
            args: process.args,
            env: process.env,
            cwd: process.cwd,
            filter: Vec::new(),
        },
    })
}

/// A map as the kernel reads it. None of the host's first ids may be in it.
fn map(mappings: &[Mapping]) -> Result<String, ConfigError> {
    if mappings.is_empty() || mappings.iter().any(|map| map.outside == 0) {
        return unsupported("ids of the host");
    }
    let line = |Mapping { inside, outside, size }: &Mapping| format!("{inside} {outside} {size}\n");
    Ok(mappings.iter().map(line).collect())
}

fn rlimit(limit: &WrittenLimit) -> Result<(Resource, Rlimit), ConfigError> {
    let resource = match limit.kind.as_str() {
        "RLIMIT_CORE" => Resource::Core,
        "RLIMIT_NOFILE" => Resource::Nofile,
        "RLIMIT_FSIZE" => Resource::Fsize,
        other => return unsupported(format!("a limit {other}")),
    };
    Ok((resource, Rlimit { current: Some(limit.soft), maximum: Some(limit.hard) }))
}

fn mount(written: WrittenMount) -> Result<Mount, ConfigError> {
    let WrittenMount { destination, kind, source, options } = written;
    if !destination.is_absolute() || destination == Path::new("/") {
        return unsupported(format!("a mount at {}", destination.display()));
    }
    let (mut attributes, mut settings, mut is_bind) = (0, Vec::new(), false);
    for option in &options {
        match option.as_str() {
            "ro" => attributes |= libc::MOUNT_ATTR_RDONLY,
            "rw" => {}
            "nosuid" => attributes |= libc::MOUNT_ATTR_NOSUID,
            "nodev" => attributes |= libc::MOUNT_ATTR_NODEV,
            "noexec" => attributes |= libc::MOUNT_ATTR_NOEXEC,
            "strictatime" => attributes |= libc::MOUNT_ATTR_STRICTATIME,
            "bind" => is_bind = true,
            other => {
                let (name, value) = match other.split_once('=') {
                    Some((name, value)) => (name, Some(value.to_owned())),
                    None => (other, None),
                };
                settings.push((name.to_owned(), value));
            }
        }
    }
    let (filesystem, known): (_, &[&str]) = match (kind.as_str(), is_bind) {
        ("bind", true) if settings.is_empty() && source.is_absolute() => {
            return Ok(Mount { target: destination, what: Mounted::Bind(source), attributes });
        }
        ("proc", false) => (FileSystem::Proc, &[]),
        ("tmpfs", false) => (FileSystem::Tmpfs, &["mode", "size", "nr_inodes"]),
        ("devpts", false) => {
            (FileSystem::Devpts, &["newinstance", "ptmxmode", "mode", "gid", "max"])
        }
        _ => return unsupported(format!("a mount of {kind} with {}", options.join(","))),
    };
    if let Some((name, _)) = settings.iter().find(|(name, _)| !known.contains(&name.as_str())) {
        return unsupported(format!("the option {name} of {kind}"));
    }
    Ok(Mount { target: destination, what: Mounted::New(filesystem, settings), attributes })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// What a job's bundle has, in short.
    fn written() -> Value {
        let none: [&str; 0] = [];
        json!({
            "ociVersion": "1.0.2",
            "root": {"path": "/rootfs", "readonly": true},
            "hostname": "job",
            "process": {
                "terminal": false,
                "user": {"uid": 1, "gid": 2, "additionalGids": [3], "umask": 18},
                "args": ["/dev/init"], "env": ["A=b"], "cwd": "/", "noNewPrivileges": true,
                "oomScoreAdj": 500,
                "capabilities": {
                    "bounding": none, "effective": none, "inheritable": none, "permitted": none,
                    "ambient": none,
                },
                "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
            },
            "mounts": [
                {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"]},
                {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs",
                 "options": ["nodev", "size=64k"]},
                {"destination": "/data", "type": "bind", "source": "/a", "options": ["bind", "ro"]},
            ],
            "linux": {
                "namespaces": NAMESPACES.map(|kind| json!({"type": kind})),
                "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
                "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 10}],
                "cgroupsPath": "/sway/w/run",
                "resources": {
                    "devices": [{"allow": false, "access": "rwm"}], "memory": {"limit": 1},
                    "cpu": {"quota": 1, "period": 2}, "pids": {"limit": 3},
                },
                "seccomp": crate::job::seccomp::profile(),
                "rootfsPropagation": "rprivate",
                "maskedPaths": ["/proc/keys"], "readonlyPaths": ["/proc/sys"],
            },
        })
    }

    #[test]
    fn what_is_known_is_read() {
        let container = read("run-1", &written().to_string()).unwrap();
        assert_eq!((container.uid_map.as_str(), container.oom_score_adj), ("0 1000 10\n", 500));
        let Inside { keyring, mounts, .. } = container.inside;
        assert_eq!((keyring.as_str(), mounts.len()), ("_ses.run-1", 3));
        assert!(matches!(&mounts[2].what, Mounted::Bind(source) if source == Path::new("/a")));
        assert_eq!(mounts[2].attributes, libc::MOUNT_ATTR_RDONLY);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        let changes: &[(&str, Value)] = &[
            ("/hooks", json!({})),
            ("/root/readonly", json!(false)),
            ("/process/terminal", json!(true)),
            ("/process/apparmorProfile", json!("x")),
            ("/process/noNewPrivileges", json!(false)),
            ("/process/capabilities/ambient", json!(["CAP_KILL"])),
            ("/process/rlimits/0/type", json!("RLIMIT_RTPRIO")),
            ("/process/cwd", json!("tmp")),
            ("/mounts/0/type", json!("sysfs")),
            ("/mounts/0/options", json!(["nosuid", "hidepid=2"])),
            ("/mounts/1/options", json!(["nodev", "huge=always"])),
            ("/mounts/2/options", json!(["rbind"])),
            ("/mounts/2/options", json!(["bind", "shared"])),
            ("/mounts/2/destination", json!("/")),
            ("/linux/namespaces", json!([{"type": "pid"}])),
            ("/linux/namespaces/0", json!({"type": "cgroup", "path": "/proc/1/ns/cgroup"})),
            ("/linux/uidMappings/0/hostID", json!(0)),
            ("/linux/gidMappings", json!([])),
            ("/linux/resources/unified", json!({})),
            ("/linux/resources/blockIO", json!({})),
            ("/linux/rootfsPropagation", json!("rshared")),
            ("/linux/sysctl", json!({})),
            ("/linux/seccomp/flags", json!([])),
        ];
        for (at, value) in changes {
            let mut written = written();
            let (parent, name) = at.rsplit_once('/').unwrap();
            let parent = written.pointer_mut(parent).unwrap();
            match name.parse::<usize>() {
                Ok(index) if parent.is_array() => parent[index] = value.clone(),
                _ => parent[name] = value.clone(),
            }
            assert!(read("run-1", &written.to_string()).is_err(), "{at}");
        }
    }
}
