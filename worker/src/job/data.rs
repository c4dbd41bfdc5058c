//! What a job reads and writes beside its image: datasets below `/data`, and `/output`.
//!
//! A dataset is a mount like an image's, shared by its jobs; each job has a read-only bind of it
//! with its own ids. `/output` is a tmpfs of its own size and number of files. What lies in it
//! counts against the memory of the job's group, so the group gets as much more; a file system on a
//! loop device would cost ten times the time and two writes to the disk.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::mount::{MountFlags, MountPropagationFlags};
use sway_core::job::{Dataset, DatasetKind, JobSpec, Limits, OutputLimits};
use sway_core::manifest::{Ino, Manifest};

use super::bundle::Bundle;
use super::ids::IdRange;
use super::kernel;
use super::skeleton::{Owner, Skeleton, names};
use super::{Lower, Rootfs, RunError};
use crate::id_map::IdMaps;

/// Where datasets go.
const DATA: &str = "/data";

/// Where a job's files that are to be kept go.
const OUTPUT: &str = "/output";

/// How the places of datasets on the host begin, in a run's directory.
const PLACE_OF_DATA: &str = "data-";

/// The place of `/output` on the host, in a run's directory.
const PLACE_OF_OUTPUT: &str = "output";

/// A dataset that a job reads, mounted. They are in the order of the job's own.
#[derive(Clone, Debug)]
pub struct MountedDataset {
    /// Its tree. Kept until the run has ended.
    pub mount: Arc<dyn Rootfs>,
    /// What it is.
    pub kind: DatasetKind,
}

/// What [`lay`] needs to know.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Of the spec.
    pub(crate) datasets: Vec<PlannedDataset>,
    pub(crate) output: Option<PlannedOutput>,
}

#[derive(Debug)]
pub(crate) struct PlannedDataset {
    lower: Lower,
    /// Within its mount: the file itself, or nothing.
    inner: PathBuf,
    kind: DatasetKind,
    target: String,
}

#[derive(Debug)]
pub(crate) struct PlannedOutput {
    pub(crate) limits: OutputLimits,
    /// Ids of the host.
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Where a dataset is in the job.
fn target(dataset: &Dataset) -> String {
    match &dataset.name {
        Some(name) => format!("{DATA}/{name}"),
        None => DATA.to_owned(),
    }
}

/// Variables that tell the job where its data is, and its time in seconds; none for a job without.
pub(crate) fn environment(spec: &JobSpec, limits: &Limits) -> Vec<(&'static str, String)> {
    let mut env = Vec::new();
    match spec.datasets.as_slice() {
        [] => {}
        [only] => env.push(("DATA_PATH", target(only))),
        _ => env.push(("DATA_PATH", DATA.to_owned())),
    }
    if limits.output.is_some() {
        env.push(("OUTPUT_DIR", OUTPUT.to_owned()));
    }
    if !env.is_empty() {
        let (seconds, rest) = (limits.timeout_ms / 1000, limits.timeout_ms % 1000);
        let timeout = match rest {
            0 => seconds.to_string(),
            rest => format!("{seconds}.{rest:03}").trim_end_matches('0').to_owned(),
        };
        env.push(("TIMEOUT", timeout));
    }
    env
}

/// Adds the mount points. `cwd` is where the job's program runs.
pub(crate) fn mount_points(
    spec: &JobSpec,
    limits: &Limits,
    cwd: &str,
    skeleton: &mut Skeleton<'_>,
) -> Result<(), RunError> {
    let covered = [(DATA, !spec.datasets.is_empty()), (OUTPUT, limits.output.is_some())];
    for (directory, _) in covered.iter().filter(|(_, is_used)| *is_used) {
        if Path::new(cwd).starts_with(directory) {
            return Err(RunError::Refused(format!(
                "the image's working directory {cwd} is where {directory} goes"
            )));
        }
    }
    if let [Dataset { name: None, .. }] = spec.datasets.as_slice() {
        skeleton.directory_with(&names(DATA), 0o755)?;
    } else if !spec.datasets.is_empty() {
        skeleton.own_directory(&names(DATA), Owner::ROOT)?;
        for dataset in &spec.datasets {
            let at = names(&target(dataset));
            match dataset.kind {
                DatasetKind::Folder => skeleton.directory_with(&at, 0o755)?,
                DatasetKind::File => skeleton.file(&at, Vec::new(), 0o444, Owner::ROOT)?,
            }
        }
    }
    if limits.output.is_some() {
        skeleton.directory_with(&names(OUTPUT), 0o755)?;
    }
    Ok(())
}

/// Looks up where a job's datasets are mounted for its ids.
pub(crate) async fn planned(
    spec: &JobSpec,
    mounted: &[MountedDataset],
    ids: &IdMaps,
) -> Result<Vec<PlannedDataset>, RunError> {
    let mut planned = Vec::new();
    for (dataset, MountedDataset { mount, kind }) in spec.datasets.iter().zip(mounted) {
        let inner = match kind {
            DatasetKind::Folder => PathBuf::new(),
            DatasetKind::File => only_file(mount.manifest()).ok_or_else(|| {
                RunError::Refused(format!("the dataset {} is not one file", dataset.dataset))
            })?,
        };
        let lower = mount.lower(ids).await.map_err(|source| RunError::Stage {
            what: "mount a dataset with the job's owners",
            source,
        })?;
        planned.push(PlannedDataset { lower, inner, kind: *kind, target: target(dataset) });
    }
    Ok(planned)
}

/// The name of the only entry of a dataset's root, if that is a regular file.
fn only_file(manifest: &Manifest) -> Option<PathBuf> {
    let mut entries = manifest.entries(Ino::ROOT)?;
    let (name, ino) = entries.next().filter(|_| entries.len() == 0)?;
    manifest.inode(ino)?.is_regular().then(|| PathBuf::from(std::ffi::OsStr::from_bytes(name)))
}

/// Makes the job's mounts in its directory `home`, and has the container get them. What is made
/// before an error stays for [`unmount`]. Blocks.
pub(crate) fn lay(
    plan: &Plan,
    home: &Path,
    ids: &IdMaps,
    range: &IdRange,
    bundle: &mut Bundle<'_>,
) -> Result<(), RunError> {
    let step = |what: &'static str| move |source| RunError::Stage { what, source };
    for (number, dataset) in plan.datasets.iter().enumerate() {
        let bound = dataset.bind(&home.join(format!("{PLACE_OF_DATA}{number}")), ids, range);
        let source = bound.map_err(step("bind a dataset"))?;
        bundle.bind(&source, &dataset.target, "ro");
    }
    if let Some(output) = &plan.output {
        let at = output_of(home);
        output.mount(&at).map_err(step("make the job's output directory"))?;
        bundle.bind(&at, OUTPUT, "rw");
    }
    Ok(())
}

impl PlannedDataset {
    /// What the container is to bind: the dataset with the job's ids.
    fn bind(&self, at: &Path, ids: &IdMaps, range: &IdRange) -> io::Result<PathBuf> {
        let inside = |mount: &Path| match self.kind {
            DatasetKind::Folder => mount.to_owned(),
            DatasetKind::File => mount.join(&self.inner),
        };
        match &self.lower {
            Lower::Mapped(mount) => Ok(inside(mount)),
            Lower::ToMap(mount) => {
                match self.kind {
                    DatasetKind::Folder => DirBuilder::new().mode(0o700).create(at)?,
                    DatasetKind::File => fs_err::write(at, "")?,
                }
                let namespace = range.user_namespace(ids)?;
                kernel::bind_idmapped(&inside(mount), at, namespace.as_fd())?;
                Ok(at.to_owned())
            }
        }
    }
}

impl PlannedOutput {
    fn mount(&self, at: &Path) -> io::Result<()> {
        DirBuilder::new().mode(0o700).create(at)?;
        let Self { limits, uid, gid } = self;
        // The directory itself is one.
        let inodes = limits.files + 1;
        let options =
            format!("size={},nr_inodes={inodes},mode=0755,uid={uid},gid={gid}", limits.bytes);
        let options = std::ffi::CString::new(options)?;
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        rustix::mount::mount("sway", at, "tmpfs", flags, options.as_c_str())?;
        Ok(rustix::mount::mount_change(at, MountPropagationFlags::PRIVATE)?)
    }
}

/// Where `/output` of the run with this directory is on the host.
pub(crate) fn output_of(home: &Path) -> PathBuf {
    home.join(PLACE_OF_OUTPUT)
}

/// Whether all bytes, and whether all files of a run's `/output` are used up. Blocks.
pub(crate) fn used_up(output: &Path) -> io::Result<(bool, bool)> {
    let found = rustix::fs::statvfs(output)?;
    Ok((found.f_bavail == 0, found.f_ffree == 0))
}

/// Unmounts what [`lay`] has mounted in a run's directory, if anything. Blocks.
pub(crate) fn unmount(home: &Path) -> io::Result<()> {
    let entries = match fs_err::read_dir(home) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if name == PLACE_OF_OUTPUT || name.as_bytes().starts_with(PLACE_OF_DATA.as_bytes()) {
            super::stage::unmount(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use sway_core::job::Program;

    use super::*;

    #[test]
    fn a_job_is_told_where_its_data_is() {
        let told = |datasets: &[(Option<&str>, DatasetKind)], output, timeout_ms| {
            let mut spec =
                JobSpec::new(Some("x".parse().unwrap()), Program::Command { argv: vec![] });
            spec.datasets.extend(datasets.iter().map(|&(name, kind)| Dataset {
                name: name.map(str::to_owned),
                kind,
                dataset: "d".parse().unwrap(),
            }));
            let limits = Limits { output, timeout_ms, ..Limits::DIRECT };
            let env = environment(&spec, &limits);
            env.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        use DatasetKind::{File, Folder};
        let output = Some(OutputLimits::DEFAULT);
        assert_eq!(told(&[], None, 10_000), "");
        assert_eq!(told(&[(None, Folder)], None, 10_000), "DATA_PATH=/data TIMEOUT=10");
        assert_eq!(
            told(&[(Some("a.txt"), File)], output, 1_500),
            "DATA_PATH=/data/a.txt OUTPUT_DIR=/output TIMEOUT=1.5"
        );
        let two = [(Some("a"), Folder), (Some("b"), File)];
        assert_eq!(told(&two, None, 50), "DATA_PATH=/data TIMEOUT=0.05");
        assert_eq!(told(&[], output, 60_000), "OUTPUT_DIR=/output TIMEOUT=60");
    }
}
