//! containerd: the whole image is pulled and unpacked, then runs from overlayfs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use fs_err as fs;

use super::native::{environment, interpreter};
use super::registry::Registry;
use super::{CPUS, MEMORY_BYTES, Peers, Wire, given, version};
use crate::images::{Program, Workload};
use crate::link::Network;
use crate::machine::{drop_caches, remove};
use crate::process::{Daemon, Meter, output};
use crate::row::Sample;

/// A containerd with nothing in it.
#[derive(Debug)]
pub(crate) struct Containerd {
    daemon: Daemon,
    socket: PathBuf,
    search: std::ffi::OsString,
}

impl Containerd {
    /// Starts one with empty stores below `folder`; `more` is added to its configuration.
    pub(crate) fn start(program: &Path, folder: &Path, more: &str) -> Result<Self> {
        let bin = program.parent().context("containerd has no folder")?;
        let mut search = bin.as_os_str().to_owned();
        search.push(":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        fs::create_dir_all(folder)?;
        let folder = fs::canonicalize(folder)?;
        let socket = folder.join("c.sock");
        let config = folder.join("config.toml");
        fs::write(
            &config,
            format!(
                "version = 2\nroot = {:?}\nstate = {:?}\n\
                 disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n\
                 [grpc]\naddress = {:?}\n{more}",
                folder.join("root"),
                folder.join("state"),
                socket
            ),
        )?;
        let mut command = Command::new(program);
        command.arg("--config").arg(&config).env("PATH", &search);
        let mut daemon = Daemon::start(&mut command, &folder.join("log"))?;
        daemon.wait_until("containerd", || {
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        })?;
        Ok(Self { daemon, socket, search })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// A client of it.
    pub(crate) fn client(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.arg("--address").arg(&self.socket).env("PATH", &self.search);
        command
    }

    /// `ctr run` of a program with the limits of every arm.
    pub(crate) fn run(
        &self,
        client: &Path,
        snapshotter: &str,
        reference: &str,
        program: &Program,
    ) -> Command {
        let mut command = self.client(client);
        command.args(["run", "--rm", "--snapshotter", snapshotter]);
        command.args(["--cpus", &CPUS.to_string(), "--memory-limit", &MEMORY_BYTES.to_string()]);
        for variable in environment() {
            command.args(["--env", &variable]);
        }
        let script = format!("/tmp/{}", program.name());
        command.arg("--mount").arg(format!(
            "type=bind,src={},dst={script},options=rbind:ro",
            program.script.display()
        ));
        command.args([reference, "sway-bench", interpreter(program), &script]);
        command
    }
}

/// Whether there is all that `cold` needs.
pub(crate) fn check(peers: &Peers) -> Result<()> {
    given(peers.containerd.as_ref(), "--containerd")?;
    given(peers.ctr.as_ref(), "--ctr").map(drop)
}

/// A full pull on an empty containerd, then a run.
pub(crate) fn cold(
    peers: &Peers,
    registry: &Registry,
    network: Network,
    workload: &Workload,
    scratch: &Path,
) -> Result<Sample> {
    let program = given(peers.containerd.as_ref(), "--containerd")?;
    let client = given(peers.ctr.as_ref(), "--ctr")?;
    let folder = scratch.join("containerd");
    remove(&folder)?;
    let containerd = Containerd::start(program, &folder, "")?;
    let wire = Wire::new(network, registry.address)?;
    let reference = format!("{}/{}:latest", wire.proxy.address, workload.image.name);
    let version = version(program);
    drop_caches()?;
    let sample = wire.count(|| {
        let meter = Meter::start(&[containerd.pid()]);
        output(containerd.client(client).args(["images", "pull", "--plain-http", &reference]))?;
        let run = output(&mut containerd.run(client, "overlayfs", &reference, &workload.program))?;
        let sample = Sample { program: version, ..meter.stop() };
        workload.program.check(&run.stdout)?;
        Ok(sample)
    });
    drop(containerd);
    remove(&folder)?;
    sample
}
