//! The arms of the comparison: the same program natively and through Sway, each checked for its
//! output before its time counts.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use fs_err as fs;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Both arms run with these limits.
const CPUS: u32 = 2;
const MEMORY_BYTES: u64 = 2 << 30;

/// How long a server may take to answer.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// One measured run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    /// What was measured, such as `sway cold`.
    pub(crate) arm: String,
    /// Network, or `none`.
    pub(crate) network: String,
    /// From start to exit, as the user sees it.
    pub(crate) wall_s: f64,
    /// Bytes from the fileserver, where there is one.
    pub(crate) bytes_down: Option<u64>,
    /// Chunks fetched, where there are any.
    pub(crate) server_fetches: Option<i64>,
}

/// A program with the output that it must have.
#[derive(Debug)]
pub(crate) struct Program {
    /// The script.
    pub(crate) script: PathBuf,
    /// Lines that its output must begin with.
    pub(crate) expected: Vec<String>,
}

impl Program {
    fn check(&self, stdout: &[u8]) -> Result<()> {
        let text = String::from_utf8_lossy(stdout);
        for line in &self.expected {
            ensure!(text.contains(line.as_str()), "the output lacks {line:?}: {text}");
        }
        Ok(())
    }
}

/// Writes dirty pages back, then empties page, dentry and inode caches.
pub(crate) fn drop_caches() -> Result<()> {
    ensure!(Command::new("sync").status()?.success(), "sync failed");
    fs::write("/proc/sys/vm/drop_caches", "3").context("emptying the page cache needs root")
}

/// `runc run` on a plain directory.
pub(crate) fn run_native(rootfs: &Path, scratch: &Path, program: &Program) -> Result<f64> {
    let bundle = scratch.join("native");
    fs::create_dir_all(&bundle)?;
    let script = fs::canonicalize(&program.script)?;
    fs::write(bundle.join("config.json"), native_config(rootfs, &script).to_string())?;
    let id = format!("sway-bench-{}", std::process::id());
    let start = Instant::now();
    let output = Command::new("runc")
        .args(["run", "--bundle"])
        .arg(&bundle)
        .arg(&id)
        .stdin(Stdio::null())
        .output()
        .context("runc is not installed")?;
    let wall = start.elapsed().as_secs_f64();
    ensure!(
        output.status.success(),
        "native run failed: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    program.check(&output.stdout)?;
    Ok(wall)
}

fn native_config(rootfs: &Path, script: &Path) -> Value {
    let namespaces: Vec<Value> = ["pid", "network", "ipc", "uts", "mount"]
        .map(|namespace| json!({ "type": namespace }))
        .to_vec();
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": ["python3", "/tmp/app.py"],
            "env": [
                "PATH=/usr/local/bin:/usr/bin:/bin",
                "PYTHONUNBUFFERED=1",
                "PYTHONDONTWRITEBYTECODE=1",
                format!("OMP_NUM_THREADS={CPUS}"),
                format!("OPENBLAS_NUM_THREADS={CPUS}"),
            ],
            "cwd": "/",
            "noNewPrivileges": true,
        },
        "root": { "path": rootfs, "readonly": true },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" },
            { "destination": "/tmp/app.py", "type": "bind", "source": script,
              "options": ["bind", "ro"] },
        ],
        "linux": {
            "namespaces": namespaces,
            "resources": {
                "memory": { "limit": MEMORY_BYTES },
                "cpu": { "quota": 100_000 * CPUS, "period": 100_000 },
            },
        },
    })
}

/// Where the binaries are and how they know each other.
#[derive(Debug)]
pub(crate) struct Installation {
    /// Folder with `sway`, `sway-worker` and `sway-fileserver`.
    pub(crate) binaries: PathBuf,
    /// The one token of all three.
    pub(crate) token: String,
}

/// A server that ends with this value.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    /// Where it listens.
    pub(crate) address: SocketAddr,
}

impl Drop for Server {
    fn drop(&mut self) {
        // SIGTERM lets a worker unmount; the wait is bounded by its own shutdown deadline.
        let _sent = Command::new("kill").arg(self.child.id().to_string()).status();
        let _status = self.child.wait();
    }
}

impl Installation {
    /// Starts a fileserver on a free port.
    pub(crate) fn fileserver(&self, data: &Path) -> Result<Server> {
        self.serve("sway-fileserver", data, &[])
    }

    /// Starts a worker that fetches from `fileserver`.
    pub(crate) fn worker(&self, data: &Path, fileserver: SocketAddr) -> Result<Server> {
        self.serve("sway-worker", data, &["--fileserver".into(), format!("http://{fileserver}")])
    }

    fn serve(&self, program: &str, data: &Path, more: &[String]) -> Result<Server> {
        fs::create_dir_all(data)?;
        let address = free_address()?;
        let log = fs::File::create(data.join("log"))?;
        let child = Command::new(self.binaries.join(program))
            .arg("--data")
            .arg(data)
            .args(["--listen", &address.to_string()])
            .args(more)
            .env("SWAY_TOKEN", &self.token)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.into_parts().0)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let server = Server { child, address };
        let deadline = Instant::now() + START_DEADLINE;
        while std::net::TcpStream::connect(address).is_err() {
            if Instant::now() > deadline {
                bail!("{program} does not answer: see {}", data.join("log").display());
            }
            std::thread::yield_now();
        }
        Ok(server)
    }

    /// Exports an OCI layout under `name`.
    pub(crate) fn export(&self, layout: &Path, name: &str, fileserver: SocketAddr) -> Result<f64> {
        let start = Instant::now();
        let output = self
            .sway(fileserver, fileserver)
            .args(["export", "--json", "--name", name, "--from"])
            .arg(format!("oci:{}", layout.display()))
            .output()?;
        ensure!(
            output.status.success(),
            "export failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(start.elapsed().as_secs_f64())
    }

    /// `sway run`, from its start to its exit.
    pub(crate) fn run(&self, name: &str, worker: SocketAddr, program: &Program) -> Result<f64> {
        let start = Instant::now();
        let output = self
            .sway(worker, worker)
            .args(["run", "--image", name, "--timeout", "600"])
            .args(["--cpus", &CPUS.to_string(), "--memory", &MEMORY_BYTES.to_string()])
            .arg(&program.script)
            .stdin(Stdio::null())
            .output()?;
        let wall = start.elapsed().as_secs_f64();
        ensure!(
            output.status.success(),
            "sway run failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        program.check(&output.stdout)?;
        Ok(wall)
    }

    /// The chunks that the last run fetched.
    pub(crate) fn last_fetches(&self, worker: SocketAddr) -> Result<Option<i64>> {
        let output = self.sway(worker, worker).args(["runs", "--json", "--limit", "1"]).output()?;
        let runs: Value = serde_json::from_slice(&output.stdout)?;
        Ok(runs[0]["server_fetches"].as_i64())
    }

    fn sway(&self, fileserver: SocketAddr, worker: SocketAddr) -> Command {
        let mut command = Command::new(self.binaries.join("sway"));
        command
            .env("SWAY_TOKEN", &self.token)
            .env("FILESERVER_URL", format!("http://{fileserver}"))
            .env("WORKER_URL", format!("http://{worker}"));
        command
    }
}

fn free_address() -> Result<SocketAddr> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
