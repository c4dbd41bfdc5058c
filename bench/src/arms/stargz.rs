//! eStargz: containerd with stargz' snapshotter, the image optimised for the very program or not.

use std::path::Path;
use std::process::Command;

use anyhow::Result;
use fs_err as fs;

use super::containerd::Containerd;
use super::native::interpreter;
use super::registry::Registry;
use super::{Peers, Wire, given, version};
use crate::images::Workload;
use crate::link::Network;
use crate::machine::{drop_caches, remove};
use crate::process::{Daemon, Meter, output};
use crate::row::Sample;

/// What a conversion takes to be the same as an earlier one.
fn recipe(version: &str, workload: &Workload, optimised: bool) -> Result<String> {
    let index = fs::read_to_string(workload.image.layout.join("index.json"))?;
    let program =
        if optimised { fs::read_to_string(&workload.program.script)? } else { String::new() };
    Ok(format!("{version}\n{index}\n{program}"))
}

/// Converts an image, optimised for its program by running it or not, and pushes the result; its
/// name. Takes minutes, so the result is kept in `kept` for later runs.
pub(crate) fn convert(
    peers: &Peers,
    registry: &Registry,
    workload: &Workload,
    scratch: &Path,
    kept: &Path,
    optimised: bool,
) -> Result<String> {
    let snapshotter = given(peers.stargz.as_ref(), "--stargz")?;
    let client = given(peers.ctr_remote.as_ref(), "--ctr-remote")?;
    let containerd = given(peers.containerd.as_ref(), "--containerd")?;
    let suffix = if optimised { "-estargz-optimised" } else { "-estargz" };
    let name = format!("{}{suffix}", workload.image.name);
    let kept = kept.join(&name);
    let recipe = recipe(&version(snapshotter).unwrap_or_default(), workload, optimised)?;
    if fs::read_to_string(kept.join("recipe")).is_ok_and(|text| text == recipe) {
        registry.push(&kept.join("oci"), &name)?;
        return Ok(name);
    }
    let folder = scratch.join("containerd");
    remove(&folder)?;
    let containerd = Containerd::start(containerd, &folder, "")?;
    let from = format!("{}/{}:latest", registry.address, workload.image.name);
    let to = format!("{}/{name}:latest", registry.address);
    output(containerd.client(client).args(["images", "pull", "--plain-http", &from]))?;
    let mut optimise = containerd.client(client);
    optimise.args(["images", "optimize", "--oci"]);
    if optimised {
        let script = format!("/tmp/{}", workload.program.name());
        optimise.args(["--wait-on-signal=false", "--period", "20"]);
        optimise.args(["--entrypoint", &format!("[\"{}\"]", interpreter(&workload.program))]);
        optimise.args(["--args", &format!("[\"{script}\"]"), "--mount"]);
        optimise.arg(format!(
            "type=bind,src={},dst={script},options=rbind:ro",
            workload.program.script.display()
        ));
    } else {
        optimise.arg("--no-optimize");
    }
    output(optimise.args([&from, &to]))?;
    output(containerd.client(client).args(["images", "push", "--plain-http", &to]))?;
    drop(containerd);
    remove(&folder)?;
    remove(&kept)?;
    fs::create_dir_all(&kept)?;
    registry.pull(&name, &kept.join("oci"))?;
    fs::write(kept.join("recipe"), recipe)?;
    Ok(name)
}

/// A start on an empty snapshotter.
pub(crate) fn cold(
    peers: &Peers,
    registry: &Registry,
    network: Network,
    workload: &Workload,
    converted: &str,
    scratch: &Path,
) -> Result<Sample> {
    let client = given(peers.ctr_remote.as_ref(), "--ctr-remote")?;
    let folder = scratch.join("stargz");
    remove(&folder)?;
    fs::create_dir_all(&folder)?;
    let folder = fs::canonicalize(&folder)?;
    let socket = folder.join("s.sock");
    let wire = Wire::new(network, registry.address)?;
    let config = folder.join("stargz.toml");
    // Prefetch is on by default; nothing else is changed.
    fs::write(&config, "")?;
    let program = given(peers.stargz.as_ref(), "--stargz")?;
    let version = version(program);
    let mut command = Command::new(program);
    command.args(["--log-level", "error", "--address"]).arg(&socket);
    command.arg("--config").arg(&config).arg("--root").arg(folder.join("root"));
    let mut snapshotter = Daemon::start(&mut command, &folder.join("stargz.log"))?;
    snapshotter
        .wait_until("stargz", || std::os::unix::net::UnixStream::connect(&socket).is_ok())?;
    let more = format!("[proxy_plugins.stargz]\ntype = \"snapshot\"\naddress = {socket:?}\n");
    let containerd = given(peers.containerd.as_ref(), "--containerd")?;
    let containerd = Containerd::start(containerd, &folder.join("containerd"), &more)?;
    let reference = format!("{}/{converted}:latest", wire.proxy.address);
    drop_caches()?;
    let sample = wire.count(|| {
        let meter = Meter::start(&[containerd.pid(), snapshotter.pid()]);
        let mut pull = containerd.client(client);
        output(pull.args(["images", "rpull", "--plain-http", &reference]))?;
        let run = output(&mut containerd.run(client, "stargz", &reference, &workload.program))?;
        let sample = Sample { program: version, ..meter.stop() };
        workload.program.check(&run.stdout)?;
        Ok(sample)
    });
    drop(containerd);
    drop(snapshotter);
    remove(&folder)?;
    sample
}
