//! `runc run` on a plain directory: what every other arm is compared with.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use fs_err as fs;
use serde_json::{Value, json};

use super::{CPUS, MEMORY_BYTES};
use crate::images::Program;
use crate::process::{Meter, output, outputs};
use crate::row::Sample;

/// A directory that runc can run.
#[derive(Debug)]
pub(crate) struct Native {
    bundle: PathBuf,
    id: String,
}

impl Native {
    /// Writes a bundle below `scratch` that runs `program` in `rootfs`.
    pub(crate) fn new(scratch: &Path, rootfs: &Path, program: &Program) -> Result<Self> {
        Self::with_config(scratch, &config(rootfs, program))
    }

    /// One that runs a line of Python instead of the program.
    pub(crate) fn of_code(
        scratch: &Path,
        rootfs: &Path,
        program: &Program,
        code: &str,
    ) -> Result<Self> {
        let mut config = config(rootfs, program);
        config["process"]["args"] = json!(["python3", "-c", code]);
        Self::with_config(scratch, &config)
    }

    /// The same, with a root that may be written: atimes are kept on those only.
    pub(crate) fn writable(scratch: &Path, rootfs: &Path, program: &Program) -> Result<Self> {
        let mut config = config(rootfs, program);
        config["root"]["readonly"] = json!(false);
        Self::with_config(scratch, &config)
    }

    fn with_config(scratch: &Path, config: &Value) -> Result<Self> {
        let bundle = scratch.join("bundle");
        fs::create_dir_all(&bundle)?;
        fs::write(bundle.join("config.json"), config.to_string())?;
        Ok(Self { bundle, id: format!("sway-bench-{}", std::process::id()) })
    }

    /// Runs it once.
    pub(crate) fn run(&self, program: &Program) -> Result<Sample> {
        let meter = Meter::start(&[]);
        let output = output(&mut self.command(0))?;
        let sample = meter.stop();
        program.check(&output.stdout)?;
        Ok(sample)
    }

    /// Runs it and gives its output instead of checking it.
    pub(crate) fn run_for_output(&self) -> Result<String> {
        Ok(String::from_utf8_lossy(&output(&mut self.command(0))?.stdout).into_owned())
    }

    /// Runs it `count` times at once; the time until the last has ended.
    pub(crate) fn run_many(&self, program: &Program, count: u32) -> Result<Sample> {
        let commands = (0..count).map(|number| self.command(number)).collect();
        let meter = Meter::start(&[]);
        let outputs = outputs(commands)?;
        let sample = meter.stop();
        for output in outputs {
            program.check(&output.stdout)?;
        }
        Ok(sample)
    }

    /// Runs it once, the one of that number at a time; it has to say hi.
    pub(crate) fn say_hi(&self, number: u32) -> Result<()> {
        let output = output(&mut self.command(number))?;
        ensure!(output.stdout == b"hi\n", "the output is {:?}", output.stdout);
        Ok(())
    }

    fn command(&self, number: u32) -> Command {
        let mut command = Command::new("runc");
        command.args(["run", "--bundle"]).arg(&self.bundle);
        command.arg(format!("{}-{number}", self.id));
        command
    }
}

/// What runs a script, by its name.
pub(crate) fn interpreter(program: &Program) -> &'static str {
    if program.name().ends_with(".sh") { "/bin/sh" } else { "python3" }
}

/// The environment of every arm.
pub(crate) fn environment() -> Vec<String> {
    vec![
        "PATH=/usr/local/bin:/usr/bin:/bin".to_owned(),
        "PYTHONUNBUFFERED=1".to_owned(),
        "PYTHONDONTWRITEBYTECODE=1".to_owned(),
        format!("OMP_NUM_THREADS={CPUS}"),
        format!("OPENBLAS_NUM_THREADS={CPUS}"),
    ]
}

fn config(rootfs: &Path, program: &Program) -> Value {
    let namespaces: Vec<Value> = ["pid", "network", "ipc", "uts", "mount"]
        .map(|namespace| json!({ "type": namespace }))
        .to_vec();
    let script = format!("/tmp/{}", program.name());
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": [interpreter(program), script],
            "env": environment(),
            "cwd": "/",
            "noNewPrivileges": true,
        },
        "root": { "path": rootfs, "readonly": true },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/tmp", "type": "tmpfs", "source": "tmpfs" },
            { "destination": script, "type": "bind", "source": program.script,
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
