//! A small HTTP server that answers `POST /run` with a plain process each: no container, nothing
//! isolated. What services without a sandbox do.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use fs_err as fs;

use crate::process::{Daemon, free_address, output};

/// What it does.
const SERVER: &str = include_str!("fastapi.py");

/// The server, while it runs.
#[derive(Debug)]
pub(crate) struct FastApi {
    daemon: Daemon,
    pub(crate) address: SocketAddr,
}

impl FastApi {
    /// Starts it, in an environment of its own in `home`, made once.
    pub(crate) fn start(home: &Path, scratch: &Path) -> Result<Self> {
        let python = home.join("bin/python3");
        if !home.join("bin/uvicorn").exists() {
            output(Command::new("python3").args(["-m", "venv"]).arg(home))
                .context("python3 with venv is needed (apt-get install python3-venv)")?;
            let packages = ["-m", "pip", "install", "--quiet", "fastapi", "uvicorn"];
            output(Command::new(&python).args(packages))?;
        }
        let source = scratch.join("fastapi_server.py");
        fs::write(&source, SERVER)?;
        let address = free_address()?;
        let mut command = Command::new(&python);
        command.args(["-m", "uvicorn", "--no-access-log", "--log-level", "warning"]);
        command.arg("--app-dir").arg(scratch).arg("fastapi_server:app");
        command.args(["--host", "127.0.0.1", "--port", &address.port().to_string()]);
        let mut daemon = Daemon::start(&mut command, &scratch.join("fastapi.log"))?;
        daemon.wait_for_port("the FastAPI server", address)?;
        Ok(Self { daemon, address })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.daemon.pid()
    }
}
