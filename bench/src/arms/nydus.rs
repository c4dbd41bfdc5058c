//! Nydus: the image converted to RAFS v6, its daemon on a mount, runc on that.
//!
//! As its snapshotter does it, a start fetches the bootstrap (the metadata) from the registry,
//! then mounts; the daemon itself runs already, as Sway's worker does.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use fs_err as fs;
use serde_json::json;

use super::native::Native;
use super::registry::Registry;
use super::{Peers, Wire, given, version};
use crate::images::{Image, Workload};
use crate::link::Network;
use crate::machine::{drop_caches, remove};
use crate::process::{Daemon, Meter, output};
use crate::row::Sample;

/// An image that was converted and pushed.
#[derive(Debug)]
pub(crate) struct Converted {
    repository: String,
    /// Digest of the gzipped bootstrap.
    bootstrap: String,
    prefetch: bool,
}

/// `nydus-image create` on a directory. `list` names the files to prefetch, in order.
pub(crate) fn create(
    peers: &Peers,
    image: &Image,
    folder: &Path,
    list: Option<&[String]>,
    dictionary: Option<&Path>,
) -> Result<Sample> {
    let program = given(peers.nydus_image.as_ref(), "--nydus-image")?;
    remove(folder)?;
    fs::create_dir_all(folder.join("blobs"))?;
    let mut command = Command::new(program);
    command.args(["create", "--log-level", "error", "--type", "dir-rafs", "--fs-version", "6"]);
    command.arg("--blob-dir").arg(folder.join("blobs"));
    command.arg("--bootstrap").arg(folder.join("bootstrap"));
    if let Some(dictionary) = dictionary {
        command.arg("--chunk-dict").arg(format!("bootstrap={}", dictionary.display()));
    }
    if let Some(list) = list {
        // The list is read from standard input.
        let file = folder.join("prefetch");
        fs::write(&file, list.join("\n"))?;
        command.args(["--prefetch-policy", "fs"]);
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec \"$0\" \"$@\" <\"$LIST\""]).env("LIST", file);
        shell.arg(command.get_program()).args(command.get_args());
        command = shell;
    }
    command.arg(&image.rootfs);
    let meter = Meter::start(&[]);
    output(&mut command)?;
    Ok(meter.stop())
}

/// Converts an image and pushes the result, for a daemon that is given.
pub(crate) fn convert(
    peers: &Peers,
    registry: &Registry,
    image: &Image,
    scratch: &Path,
    list: Option<&[String]>,
) -> Result<Converted> {
    given(peers.nydusd.as_ref(), "--nydusd")?;
    let folder = scratch.join("nydus-image");
    create(peers, image, &folder, list, None)?;
    let repository = format!("{}-nydus", image.name);
    for blob in fs::read_dir(folder.join("blobs"))? {
        registry.push_blob(&repository, &blob?.path())?;
    }
    output(Command::new("gzip").arg("--force").arg(folder.join("bootstrap")))?;
    let bootstrap = registry.push_blob(&repository, &folder.join("bootstrap.gz"))?;
    remove(&folder)?;
    Ok(Converted { repository, bootstrap, prefetch: list.is_some() })
}

/// The files that a program reads, in order of use, by the access times that a native run leaves
/// on a mount that keeps them.
pub(crate) fn files_read(workload: &Workload, scratch: &Path) -> Result<Vec<String>> {
    let view = scratch.join("atimes");
    fs::create_dir_all(&view)?;
    let rootfs = &workload.image.rootfs;
    output(Command::new("mount").arg("--bind").arg(rootfs).arg(&view))?;
    let _mounted = Mounted(view.clone());
    output(Command::new("mount").args(["-o", "remount,bind,strictatime"]).arg(&view))?;
    let mark = scratch.join("mark");
    fs::write(&mark, "")?;
    Native::writable(scratch, &view, &workload.program)?.run(&workload.program)?;
    let mut find = Command::new("find");
    find.arg(&view).args(["-xdev", "-type", "f", "-anewer"]).arg(&mark);
    let found = output(find.args(["-printf", "%A@ /%P\\n"]))?;
    let text = String::from_utf8_lossy(&found.stdout);
    let mut files: Vec<(f64, String)> = text
        .lines()
        .filter_map(|line| {
            let (time, path) = line.split_once(' ')?;
            Some((time.parse().ok()?, path.to_owned()))
        })
        .collect();
    ensure!(files.len() > 10, "access times tell of {} files only", files.len());
    files.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(files.into_iter().map(|(_, path)| path).collect())
}

/// Unmounts when it goes.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // A daemon that ended has unmounted it by itself.
        let _output = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

/// A start on an empty daemon.
pub(crate) fn cold(
    peers: &Peers,
    registry: &Registry,
    network: Network,
    workload: &Workload,
    converted: &Converted,
    scratch: &Path,
) -> Result<Sample> {
    let folder = scratch.join("nydusd");
    remove(&folder)?;
    let mountpoint = folder.join("mount");
    fs::create_dir_all(&mountpoint)?;
    fs::create_dir_all(folder.join("cache"))?;
    let wire = Wire::new(network, registry.address)?;
    let (socket, bootstrap) = (folder.join("api.sock"), folder.join("bootstrap"));
    let program = given(peers.nydusd.as_ref(), "--nydusd")?;
    let mut command = Command::new(program);
    // Without the flag it asks for a million open files, which a machine may refuse.
    command.args(["fuse", "--rlimit-nofile", "0", "--log-level", "error"]);
    command.arg("--apisock").arg(&socket);
    command.arg("--mountpoint").arg(&mountpoint);
    let mut daemon = Daemon::start(&mut command, &folder.join("log"))?;
    let _mounted = Mounted(mountpoint.clone());
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let at = mountpoint.to_string_lossy().into_owned();
    daemon.wait_until("nydusd", || {
        mounts().contains(&at) && std::os::unix::net::UnixStream::connect(&socket).is_ok()
    })?;
    let config = json!({
        "device": {
            "backend": { "type": "registry", "config": {
                "scheme": "http",
                "host": wire.proxy.address.to_string(),
                "repo": converted.repository,
            }},
            "cache": { "type": "blobcache", "config": { "work_dir": folder.join("cache") }},
        },
        "mode": "direct",
        // Only the list: the rest of the image would take the bandwidth from what is missing.
        "fs_prefetch": { "enable": converted.prefetch, "prefetch_all": false, "threads_count": 8 },
    });
    let request = json!({ "fs_type": "rafs", "source": bootstrap, "config": config.to_string() });
    let request = request.to_string();
    let url = format!(
        "http://{}/v2/{}/blobs/{}",
        wire.proxy.address, converted.repository, converted.bootstrap
    );
    let native = Native::new(scratch, &mountpoint.join("image"), &workload.program)?;
    let version = version(program);
    drop_caches()?;
    wire.count(|| {
        let meter = Meter::start(&[daemon.pid()]);
        let mut fetch = Command::new("sh");
        fetch.args(["-c", "curl --silent --fail \"$0\" | gzip -dc >\"$1\"", &url]).arg(&bootstrap);
        output(&mut fetch)?;
        let mut mount = Command::new("curl");
        mount.args(["--silent", "--fail-with-body", "--request", "POST", "--unix-socket"]);
        mount.arg(&socket).args(["--data-raw", &request]);
        output(mount.arg("http://localhost/api/v1/mount?mountpoint=/image"))?;
        native.run(&workload.program)?;
        Ok(Sample { program: version, ..meter.stop() })
    })
}
