//! From a job and an image to an OCI bundle: what creates its container is told, and what lies above
//! the image.
//!
//! Pure, and the place where isolation is decided; each line's reason is in `docs/security.md`,
//! with the test that tries to break it.

use std::net::Ipv4Addr;
use std::path::Path;

use serde_json::{Value, json};
use sway_core::job::{JobSpec, Limits, Network};
use sway_core::manifest::Manifest;

use super::RunError;
use super::data;
use super::init;
use super::program::{self, Process};
use super::seccomp;
use super::skeleton::{Owner, Skeleton, names};
use super::user::User;
use crate::id_map::IdMaps;

/// Docker's default.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Bytes of `/dev/shm` at most; they count against the job's memory like all of its tmpfs.
const SHM_BYTES: u64 = 64 << 20;

/// Bytes of a tmpfs per inode that it may have: filling it with empty files must not cost the
/// kernel more than filling it with bytes.
const TMPFS_BYTES_PER_INODE: u64 = 4096;

/// Length of a period of the CPU quota, in microseconds: the kernel's default.
pub(crate) const CPU_PERIOD_US: u64 = 100_000;

/// What a container that waits gets of busy processors, beside a job's 1024 (`cpu.shares` of
/// cgroup v1; runc translates it).
const WAITING_SHARES: u32 = 128;

/// Tasks that runc itself needs in the container until it starts the job's program.
pub(crate) const RUNC_TASKS: u32 = 24;

/// All kinds of namespaces that runc 1.1 knows.
const NAMESPACES: [&str; 7] = ["user", "pid", "ipc", "uts", "mount", "network", "cgroup"];

/// What the host can limit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Host {
    /// cgroup v2, alone.
    pub(crate) unified: bool,
    /// Swap can be limited; where it can't, there is either none or it is unlimited.
    pub(crate) swap_limit: bool,
}

/// A job and all that is decided about it before it is planned.
#[derive(Debug)]
pub(crate) struct Request<'a> {
    pub(crate) spec: &'a JobSpec,
    pub(crate) limits: &'a Limits,
    pub(crate) manifest: &'a Manifest,
    pub(crate) user: &'a User,
    pub(crate) ids: &'a IdMaps,
    pub(crate) cgroup: &'a str,
    pub(crate) hostname: &'a str,
    /// The name server that the job can reach.
    pub(crate) name_server: Option<Ipv4Addr>,
    pub(crate) host: Host,
    /// The host's init, if it has one.
    pub(crate) init: Option<&'a Path>,
}

/// What is to be carried out.
#[derive(Debug)]
pub(crate) struct Bundle<'a> {
    /// `config.json`.
    pub(crate) config: Value,
    pub(crate) skeleton: Skeleton<'a>,
    /// What its init starts.
    pub(crate) process: Process,
}

impl Bundle<'_> {
    /// Says where the rootfs is.
    pub(crate) fn set_rootfs(&mut self, path: &Path) {
        self.config["root"]["path"] = json!(path);
    }

    /// Adds a file or directory of the host that stands in the place of one of the rootfs, `ro` or
    /// `rw`.
    pub(crate) fn bind(&mut self, source: &Path, target: &str, access: &str) {
        let mounts = self.config["mounts"].as_array_mut().expect("a bundle has mounts");
        mounts.push(json!({
            "destination": target, "type": "bind", "source": source,
            "options": ["bind", access, "nosuid", "nodev"],
        }));
    }
}

/// Plans a job.
pub(crate) fn plan<'a>(request: &Request<'a>) -> Result<Bundle<'a>, RunError> {
    let (mut skeleton, env) = (common(request)?, environment(request));
    let search = env.iter().find_map(|(name, value)| (name == "PATH").then_some(value.as_str()));
    let owner = Owner { uid: request.user.uid, gid: request.user.gid };
    let process = program::plan(
        request.spec,
        request.manifest,
        search.unwrap_or_default(),
        owner,
        &mut skeleton,
    )?;
    data::mount_points(request.spec, request.limits, &process.cwd, &mut skeleton)?;
    Ok(Bundle { config: config(request, &process, &env), skeleton, process })
}

/// Plans a container that waits for its job: `process` instead of what the job brings.
pub(crate) fn plan_waiting<'a>(
    request: &Request<'a>,
    process: Process,
) -> Result<Bundle<'a>, RunError> {
    let (skeleton, env) = (common(request)?, environment(request));
    let mut config = config(request, &process, &env);
    config["linux"]["resources"]["cpu"]["shares"] = json!(WAITING_SHARES);
    Ok(Bundle { config, skeleton, process })
}

/// What every job on the image has above it.
fn common<'a>(request: &Request<'a>) -> Result<Skeleton<'a>, RunError> {
    let mut skeleton = Skeleton::new(request.manifest);
    for directory in ["/proc", "/dev"] {
        skeleton.directory_with(&names(directory), 0o755)?;
    }
    // runc 1.1 takes the mode of a tmpfs from the directory that it covers.
    skeleton.directory_with(&names("/tmp"), 0o1777)?;
    let etc = skeleton.canonical("/etc").unwrap_or_else(|| names("/etc"));
    let hostname = request.hostname;
    for (name, content) in [
        ("hostname", format!("{hostname}\n")),
        ("hosts", format!("127.0.0.1 localhost {hostname}\n::1 localhost\n")),
        ("resolv.conf", resolv_conf(request.name_server)),
    ] {
        let at = [etc.as_slice(), &[name.as_bytes().to_vec()]].concat();
        skeleton.file(&at, content.into_bytes(), 0o644, Owner::ROOT)?;
    }
    skeleton.end_of_common();
    Ok(skeleton)
}

fn resolv_conf(name_server: Option<Ipv4Addr>) -> String {
    match name_server {
        Some(address) => format!("nameserver {address}\n"),
        None => "# no network\n".to_owned(),
    }
}

/// The job's environment: the image's, then what is missing of the defaults, then the caller's.
fn environment(request: &Request<'_>) -> Vec<(String, String)> {
    let image = request.manifest.config().env.iter();
    let mut env: Vec<(String, String)> = image
        .filter(|pair| !pair.contains('\0'))
        .filter_map(|pair| pair.split_once('='))
        .filter(|(name, _)| !name.is_empty())
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    // Numeric libraries start a thread per core of the host, not of the job.
    let threads = request.limits.cpus_milli.div_ceil(1000).max(1).to_string();
    for (name, value) in [
        ("PATH", PATH),
        ("HOME", home(request)),
        ("HOSTNAME", request.hostname),
        ("PYTHONUNBUFFERED", "1"),
        ("PYTHONDONTWRITEBYTECODE", "1"),
        ("OMP_NUM_THREADS", &threads),
        ("OPENBLAS_NUM_THREADS", &threads),
        ("MKL_NUM_THREADS", &threads),
    ] {
        if !env.iter().any(|(other, _)| other == name) {
            env.push((name.to_owned(), value.to_owned()));
        }
    }
    let told = data::environment(request.spec, request.limits);
    let told = told.iter().map(|(name, value)| (*name, value));
    let asked = request.spec.env.iter().map(|(name, value)| (name.as_str(), value));
    for (name, value) in told.chain(asked) {
        env.retain(|(other, _)| other != name);
        env.push((name.to_owned(), value.clone()));
    }
    env
}

/// A directory that exists: the user's own if the image has it, else `/tmp`, which can be written.
fn home<'a>(request: &Request<'a>) -> &'a str {
    let own = request.user.home.as_deref().filter(|home| {
        let found = request.manifest.resolve_following(home.as_bytes());
        let inode = found.and_then(|ino| request.manifest.inode(ino));
        home.starts_with('/') && inode.is_some_and(|inode| inode.is_directory())
    });
    own.unwrap_or("/tmp")
}

fn config(request: &Request<'_>, process: &Process, env: &[(String, String)]) -> Value {
    let Limits { memory_bytes, cpus_milli, pids, tmp_bytes, output, .. } = *request.limits;
    let User { uid, gid, additional_gids, .. } = request.user;
    let env: Vec<String> = env.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let none: [&str; 0] = [];
    let (arguments, init_mount) = match request.init {
        Some(host_init) => (init::arguments(&process.argv), Some(init::mount(host_init))),
        None => (process.argv.clone(), None),
    };
    // What lies in `/output` counts against the group's memory, and not against the job's.
    let group_bytes = memory_bytes + output.map_or(0, |output| output.bytes);
    // A file on a tmpfs can't be longer than it; this bounds what is sparse.
    let file_bytes = match output {
        Some(output) if output.file_bytes < output.bytes => output.file_bytes,
        _ => tmp_bytes.max(SHM_BYTES).max(output.map_or(0, |output| output.bytes)) + (1 << 20),
    };
    let mut resources = json!({
        "devices": [{"allow": false, "access": "rwm"}],
        "memory": {"limit": group_bytes},
        "cpu": {"quota": u64::from(cpus_milli) * CPU_PERIOD_US / 1000, "period": CPU_PERIOD_US},
        "pids": {"limit": pids.max(RUNC_TASKS)},
    });
    if request.host.swap_limit {
        // Memory and swap together: no swap beyond the limit.
        resources["memory"]["swap"] = json!(group_bytes);
    }
    if request.host.unified {
        // Who exceeds the limit ends as a whole.
        resources["unified"] = json!({"memory.oom.group": "1"});
    }
    let mut config = json!({
        "ociVersion": "1.0.2",
        "root": {"readonly": true},
        "hostname": request.hostname,
        "process": {
            "terminal": false,
            "user": {"uid": uid, "gid": gid, "additionalGids": additional_gids, "umask": 0o022},
            "args": arguments,
            "env": env,
            "cwd": process.cwd,
            "noNewPrivileges": true,
            "oomScoreAdj": 500,
            "capabilities": {
                "bounding": none, "effective": none, "inheritable": none, "permitted": none,
                "ambient": none,
            },
            "rlimits": [
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
                {"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096},
                {"type": "RLIMIT_FSIZE", "soft": file_bytes, "hard": file_bytes},
            ],
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc",
             "options": ["nosuid", "nodev", "noexec"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "noexec", "strictatime", "mode=755", "size=64k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5",
                         "max=64"]},
            {"destination": "/dev/shm", "type": "tmpfs", "source": "tmpfs",
             "options": tmpfs(SHM_BYTES.min(memory_bytes), &["nosuid", "nodev", "noexec"])},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs",
             "options": tmpfs(tmp_bytes, &["nosuid", "nodev"])},
        ],
        "linux": {
            "namespaces": NAMESPACES.map(|kind| json!({"type": kind})),
            "uidMappings": request.ids.uids.json(),
            "gidMappings": request.ids.gids.json(),
            "cgroupsPath": request.cgroup,
            "resources": resources,
            "seccomp": seccomp::profile(),
            "rootfsPropagation": "rprivate",
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kallsyms", "/proc/kcore",
                "/proc/keys", "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi",
                "/proc/timer_list", "/proc/timer_stats", "/proc/vmallocinfo",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
        },
    });
    if let (Some(mount), Some(mounts)) = (init_mount, config["mounts"].as_array_mut()) {
        mounts.push(mount);
    }
    config
}

/// Options of a bounded tmpfs that everybody may write to.
fn tmpfs(bytes: u64, flags: &[&str]) -> Vec<String> {
    let inodes = (bytes / TMPFS_BYTES_PER_INODE).max(16);
    let mut options: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
    options.extend([
        "mode=1777".to_owned(),
        format!("size={bytes}"),
        format!("nr_inodes={inodes}"),
    ]);
    options
}

/// Whether a job with such a network can be planned at all, and its name server.
pub(crate) fn name_server(network: Network) -> Option<Ipv4Addr> {
    match network {
        Network::None => None,
        Network::Isolated => Some(super::network::NAME_SERVER),
    }
}
