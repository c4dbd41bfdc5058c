//! Starting `sway` so that nothing of the machine's own settings shows through.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use assert_cmd::Command as AssertCommand;
use tempfile::TempDir;

/// An empty home directory with a script in it, and the way to start `sway` there.
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("app.py"), "print('hello')\n").unwrap();
        Self(directory)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Writes a file, and the folders that lead to it.
    pub(crate) fn write(&self, path: &str, content: &str) {
        let path = self.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    fn prepare(&self, command: &mut Command, worker: &str) {
        command
            .env_clear()
            .env("HOME", self.path())
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("SWAY_USERNAME", "ada")
            .env("SWAY_TOKEN", "secret")
            .env("WORKER_URL", worker)
            .env("FILESERVER_URL", "http://127.0.0.1:1")
            .current_dir(self.path());
    }

    /// `sway` with arguments, to be run to its end.
    pub(crate) fn sway(&self, worker: &str, args: &[&str]) -> AssertCommand {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("sway"));
        self.prepare(&mut command, worker);
        command.args(args);
        AssertCommand::from_std(command)
    }

    /// `sway` as a child with pipes.
    pub(crate) fn start(&self, worker: &str, args: &[&str]) -> Child {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("sway"));
        self.prepare(&mut command, worker);
        command
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
}

/// Nobody listens there: port 1 is reserved.
pub(crate) const NOBODY: &str = "http://127.0.0.1:1";

/// What was written, as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The last line of stderr, which says how it ended.
pub(crate) fn last_line(stderr: &[u8]) -> String {
    text(stderr).lines().last().unwrap_or_default().to_owned()
}
