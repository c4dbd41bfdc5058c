//! eStargz: containerd with stargz' snapshotter, the image optimised for the very program or not.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use fs_err as fs;

use super::containerd::Containerd;
use super::native::interpreter;
use super::registry::Registry;
use super::{Peers, Wire};
use crate::images::Workload;
use crate::link::Network;
use crate::machine::{drop_caches, remove};
use crate::process::{Daemon, Meter, output};
use crate::row::Sample;

/// Name of the image after optimising.
fn optimised(workload: &Workload) -> String {
    format!("{}-estargz", workload.image.name)
}

/// Converts an image for a program, by running it, and pushes the result.
pub(crate) fn optimise(
    peers: &Peers,
    registry: &Registry,
    workload: &Workload,
    scratch: &Path,
) -> Result<()> {
    let client = peers.ctr_remote.as_ref().context("no ctr-remote")?;
    let folder = scratch.join("containerd");
    remove(&folder)?;
    let containerd =
        Containerd::start(peers.containerd.as_ref().context("no containerd")?, &folder, "")?;
    let from = format!("{}/{}:latest", registry.address, workload.image.name);
    let to = format!("{}/{}:latest", registry.address, optimised(workload));
    let script = format!("/tmp/{}", workload.program.name());
    output(containerd.client(client).args(["images", "pull", "--plain-http", &from]))?;
    let mut optimise = containerd.client(client);
    optimise.args(["images", "optimize", "--oci", "--wait-on-signal=false", "--period", "20"]);
    optimise.args(["--entrypoint", &format!("[\"{}\"]", interpreter(&workload.program))]);
    optimise.args(["--args", &format!("[\"{script}\"]"), "--mount"]);
    optimise.arg(format!(
        "type=bind,src={},dst={script},options=rbind:ro",
        workload.program.script.display()
    ));
    output(optimise.args([&from, &to]))?;
    output(containerd.client(client).args(["images", "push", "--plain-http", &to]))?;
    drop(containerd);
    remove(&folder)
}

/// A start on an empty snapshotter.
pub(crate) fn cold(
    peers: &Peers,
    registry: &Registry,
    network: Network,
    workload: &Workload,
    scratch: &Path,
) -> Result<Sample> {
    let client = peers.ctr_remote.as_ref().context("no ctr-remote")?;
    let folder = scratch.join("stargz");
    remove(&folder)?;
    fs::create_dir_all(&folder)?;
    let folder = fs::canonicalize(&folder)?;
    let socket = folder.join("s.sock");
    let wire = Wire::new(network, registry.address)?;
    let config = folder.join("stargz.toml");
    // Prefetch is on by default; nothing else is changed.
    fs::write(&config, "")?;
    let mut command = Command::new(peers.stargz.as_ref().context("no stargz snapshotter")?);
    command.args(["--log-level", "error", "--address"]).arg(&socket);
    command.arg("--config").arg(&config).arg("--root").arg(folder.join("root"));
    let mut snapshotter = Daemon::start(&mut command, &folder.join("stargz.log"))?;
    snapshotter
        .wait_until("stargz", || std::os::unix::net::UnixStream::connect(&socket).is_ok())?;
    let more = format!("[proxy_plugins.stargz]\ntype = \"snapshot\"\naddress = {socket:?}\n");
    let program = peers.containerd.as_ref().context("no containerd")?;
    let containerd = Containerd::start(program, &folder.join("containerd"), &more)?;
    let reference = format!("{}/{}:latest", wire.proxy.address, optimised(workload));
    drop_caches()?;
    registry.warm()?;
    let sample = wire.count(|| {
        let meter = Meter::start(&[containerd.pid(), snapshotter.pid()]);
        let mut pull = containerd.client(client);
        output(pull.args(["images", "rpull", "--plain-http", &reference]))?;
        let run = output(&mut containerd.run(client, "stargz", &reference, &workload.program))?;
        let sample = meter.stop();
        workload.program.check(&run.stdout)?;
        Ok(sample)
    });
    drop(containerd);
    drop(snapshotter);
    remove(&folder)?;
    sample
}
