//! A registry on this machine, which the peers pull from.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use fs_err as fs;

use crate::process::{Daemon, free_address, output};

/// A running registry.
#[derive(Debug)]
pub(crate) struct Registry {
    _daemon: Daemon,
    /// Where it listens, without any network in between.
    pub(crate) address: SocketAddr,
}

impl Registry {
    /// Starts one on a free port with its data in `data`.
    pub(crate) fn start(program: &Path, data: &Path) -> Result<Self> {
        fs::create_dir_all(data)?;
        let address = free_address()?;
        let config = data.join("config.yml");
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {address}}}\n",
                data.join("store").display()
            ),
        )?;
        let mut command = Command::new(program);
        let mut daemon =
            Daemon::start(command.arg("serve").arg(&config), &data.with_extension("log"))?;
        daemon.wait_for_port("the registry", address)?;
        Ok(Self { _daemon: daemon, address })
    }

    /// Copies an OCI layout into it, as `name`.
    pub(crate) fn push(&self, layout: &Path, name: &str) -> Result<()> {
        let mut command = Command::new("skopeo");
        command.args(["copy", "--quiet", "--dest-tls-verify=false"]);
        command.arg(format!("oci:{}:latest", layout.display()));
        command.arg(format!("docker://{}/{name}:latest", self.address));
        output(&mut command).map(drop)
    }

    /// Copies what it has as `name` into an OCI layout.
    pub(crate) fn pull(&self, name: &str, layout: &Path) -> Result<()> {
        let mut command = Command::new("skopeo");
        command.args(["copy", "--quiet", "--src-tls-verify=false"]);
        command.arg(format!("docker://{}/{name}:latest", self.address));
        command.arg(format!("oci:{}:latest", layout.display()));
        output(&mut command).map(drop)
    }

    /// Stores a file as a blob of `repository`; its digest.
    pub(crate) fn push_blob(&self, repository: &str, file: &Path) -> Result<String> {
        let sum = output(Command::new("sha256sum").arg(file))?.stdout;
        let sum = String::from_utf8_lossy(&sum);
        let digest = format!("sha256:{}", sum.split(' ').next().context("no sum")?);
        let url = format!("http://{}/v2/{repository}/blobs/uploads/?digest={digest}", self.address);
        let upload = output(Command::new("curl").args([
            "--silent",
            "--fail",
            "--request",
            "POST",
            "--output",
            "/dev/null",
            "--write-out",
            "%{redirect_url}%header{location}",
            &url,
        ]))?;
        let location = String::from_utf8_lossy(&upload.stdout).into_owned();
        let separator = if location.contains('?') { '&' } else { '?' };
        let mut command = Command::new("curl");
        command.args(["--silent", "--fail", "--request", "PUT"]);
        command.args(["--header", "Content-Type: application/octet-stream", "--upload-file"]);
        command.arg(file).arg(format!("{location}{separator}digest={digest}"));
        output(&mut command)?;
        Ok(digest)
    }
}
