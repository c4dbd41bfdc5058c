//! The machine that all arms share: its caches, and how it is told in the document.

use std::io::ErrorKind;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use fs_err as fs;

use crate::process::{output, pause};

/// How long something that just ended may keep its directory busy.
const REMOVE_DEADLINE: Duration = Duration::from_secs(10);

/// Writes dirty pages back, then empties page, dentry and inode caches.
pub(crate) fn drop_caches() -> Result<()> {
    ensure!(Command::new("sync").status()?.success(), "sync failed");
    fs::write("/proc/sys/vm/drop_caches", "3").context("emptying the page cache needs root")
}

/// Makes an empty directory whose files stay in memory, whatever is dropped: what a server on this
/// machine has there it need not read from a disk, as a remote one would not. `remove` ends it.
pub(crate) fn in_memory(path: &Path) -> Result<()> {
    remove(path)?;
    fs::create_dir_all(path)?;
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=12g,mode=0700", "tmpfs"]).arg(path);
    output(&mut mount).map(drop)
}

/// Reads every file below `root`, so that they lie in the page cache as after a build.
pub(crate) fn warm(root: &Path) -> Result<()> {
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                // Files that a running server has just removed are nothing to read.
                if let Ok(mut file) = fs::File::open(entry.path()) {
                    std::io::copy(&mut file, &mut std::io::sink())?;
                }
            }
        }
    }
    Ok(())
}

/// Removes a directory with all that is in it, if it is there, and what a daemon that was killed
/// left mounted below.
pub(crate) fn remove(path: &Path) -> Result<()> {
    let deadline = Instant::now() + REMOVE_DEADLINE;
    loop {
        unmount_below(path)?;
        match fs::remove_dir_all(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error.into()),
            Err(_) => pause(Duration::from_millis(100)),
        }
    }
}

fn unmount_below(folder: &Path) -> Result<()> {
    // The kernel names them in full.
    let folder = std::path::absolute(folder)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let below: Vec<&str> = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|at| Path::new(at).starts_with(&folder))
        .collect();
    // The newest first: they may lie on one another.
    for at in below.into_iter().rev() {
        let _status = Command::new("umount").args(["--lazy", at]).status()?;
    }
    Ok(())
}

/// The first line that a program prints, if it runs.
pub(crate) fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    String::from_utf8_lossy(&output.stdout).lines().next().map(|line| line.trim().to_owned())
}

/// Today, and the commit of the checkout.
pub(crate) fn measured(project: &Path) -> String {
    let day = first_line(Command::new("date").args(["-u", "+%Y-%m-%d"])).unwrap_or_default();
    let mut git = Command::new("git");
    git.arg("-C").arg(project).args(["describe", "--always", "--dirty"]);
    first_line(&mut git).map_or_else(|| day.clone(), |commit| format!("{day} at {commit}"))
}

/// Processor, cores, memory, kernel, runc: a line each.
pub(crate) fn describe(data: &Path) -> Vec<(String, String)> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = field(&cpu, "model name").unwrap_or_else(|| "unknown".to_owned());
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = field(&memory, "MemTotal")
        .and_then(|text| text.split(' ').next().and_then(|kib| kib.parse::<u64>().ok()));
    let said = |program: &str, arguments: &[&str]| {
        first_line(Command::new(program).args(arguments)).unwrap_or_else(|| "unknown".to_owned())
    };
    let filesystem = Command::new("stat").args(["-f", "-c", "%T"]).arg(data).output();
    let filesystem = filesystem.map_or_else(
        |_| "unknown".to_owned(),
        |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
    );
    vec![
        ("processor".to_owned(), format!("{model}, {cores} cores")),
        (
            "memory".to_owned(),
            kib.map_or_else(|| "unknown".to_owned(), |kib| format!("{} GiB", kib >> 20)),
        ),
        // What follows a dash is whose build it is.
        (
            "kernel".to_owned(),
            said("uname", &["-sr"]).split('-').next().unwrap_or_default().to_owned(),
        ),
        ("filesystem".to_owned(), filesystem),
        ("runc".to_owned(), said("runc", &["--version"])),
    ]
}

/// `name : value` of /proc's lists.
fn field(text: &str, name: &str) -> Option<String> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':'))
        .map(|value| value.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_are_found_by_name() {
        let text = "MemTotal:       24689112 kB\nmodel name\t: A  B\n";
        assert_eq!(field(text, "MemTotal").as_deref(), Some("24689112 kB"));
        assert_eq!(field(text, "model name").as_deref(), Some("A  B"));
        assert_eq!(field(text, "missing"), None);
    }
}
