//! Jobs in real containers, on a plain directory tree instead of a mounted image.
//!
//! The tree is a small Debian with Python: `SWAY_TEST_ROOTFS`, or what `testapps/base.sh` makes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use sway_core::api::jobs::OutputStream;
use sway_core::job::{Cause, JobFile, JobSpec, Limits, LimitsRequest, Network, Program};
use sway_core::manifest::{
    FileContent, Manifest, Metadata, NodeId, NodeKind, RunConfig, Timestamp, Tree,
};
use sway_worker::account::Accounts;
use sway_worker::job::output::OutputLog;
use sway_worker::job::{Rootfs, RunOutcome, RunRequest, Runner, RunnerConfig};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Nothing in these tests takes that long; where it does, something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A tree of the host in the place of a mounted image.
#[derive(Debug)]
pub(crate) struct PlainRootfs {
    path: PathBuf,
    manifest: Arc<Manifest>,
}

impl Rootfs for PlainRootfs {
    fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    fn path(&self) -> &Path {
        &self.path
    }

    fn read_file(&self, path: &str, _max: usize) -> BoxFuture<'_, io::Result<Vec<u8>>> {
        let path = self.path.join(path.trim_start_matches('/'));
        Box::pin(async move { fs_err::read(path) })
    }
}

impl PlainRootfs {
    pub(crate) fn new(path: &Path, config: RunConfig) -> Arc<Self> {
        let mut tree = Tree::new();
        *tree.metadata_mut(Tree::ROOT) = metadata(path);
        fill(&mut tree, Tree::ROOT, path);
        let (manifest, _) = tree.to_manifest(config).unwrap();
        Arc::new(Self { path: path.to_owned(), manifest: Arc::new(manifest) })
    }
}

fn metadata(path: &Path) -> Metadata {
    let stat = fs_err::symlink_metadata(path).unwrap();
    let nanoseconds = u32::try_from(stat.mtime_nsec()).unwrap();
    Metadata {
        permissions: stat.mode(),
        uid: stat.uid(),
        gid: stat.gid(),
        mtime: Timestamp { seconds: stat.mtime(), nanoseconds },
        ..Metadata::default()
    }
}

fn fill(tree: &mut Tree, directory: NodeId, at: &Path) {
    for entry in fs_err::read_dir(at).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs_err::symlink_metadata(&path).unwrap().file_type();
        let kind = if kind.is_dir() {
            NodeKind::Directory(BTreeMap::new())
        } else if kind.is_symlink() {
            NodeKind::Symlink(fs_err::read_link(&path).unwrap().as_os_str().as_bytes().to_vec())
        } else {
            NodeKind::Regular(FileContent::new())
        };
        let is_directory = matches!(kind, NodeKind::Directory(_));
        let node = tree.add(metadata(&path), kind);
        let name = path.file_name().map(OsStr::as_bytes).unwrap().to_vec();
        tree.entries_mut(directory).unwrap().insert(name, node);
        if is_directory {
            fill(tree, node, &path);
        }
    }
}

/// A directory that a test changes the image with, on top of the base tree.
pub(crate) fn base() -> &'static Path {
    static BASE: LazyLock<PathBuf> = LazyLock::new(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        #[expect(clippy::disallowed_methods, reason = "the test's own setting")]
        let given = std::env::var_os("SWAY_TEST_ROOTFS").map(PathBuf::from);
        let path = given.unwrap_or_else(|| PathBuf::from("/var/cache/sway-test/base"));
        if !path.join("usr/bin/python3").exists() {
            let made = std::process::Command::new(root.join("testapps/base.sh")).status().unwrap();
            assert!(made.success(), "testapps/base.sh makes {}", path.display());
        }
        path
    });
    &BASE
}

pub(crate) fn image() -> Arc<PlainRootfs> {
    static IMAGE: LazyLock<Arc<PlainRootfs>> =
        LazyLock::new(|| PlainRootfs::new(base(), RunConfig::default()));
    Arc::clone(&IMAGE)
}

/// A runner with a data directory of its own.
pub(crate) struct Bench {
    pub(crate) data: tempfile::TempDir,
    pub(crate) runner: Runner,
    pub(crate) worker_id: String,
}

/// A run's outcome and what it wrote.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) outcome: RunOutcome,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// A run to make, with everything at its default.
pub(crate) struct Order {
    pub(crate) run_id: i64,
    pub(crate) spec: JobSpec,
    pub(crate) limits: Limits,
    pub(crate) mount: Arc<dyn Rootfs>,
    pub(crate) stdin: Option<mpsc::Receiver<Bytes>>,
    pub(crate) cancel: CancellationToken,
}

impl Order {
    pub(crate) fn new(program: Program) -> Self {
        let spec = JobSpec {
            image: "base".parse().unwrap(),
            program,
            args: vec![],
            env: BTreeMap::new(),
            limits: LimitsRequest::default(),
            network: Network::None,
            stdin: false,
            detach: false,
            fail_on_output_limit: false,
            labels: BTreeMap::new(),
        };
        Self {
            run_id: 1,
            spec,
            limits: Limits { timeout_ms: 30_000, cpus_milli: 2000, ..Limits::DIRECT },
            mount: image(),
            stdin: None,
            cancel: CancellationToken::new(),
        }
    }

    pub(crate) fn python(source: &str) -> Self {
        let file =
            JobFile { path: "app.py".into(), content: source.into(), executable: false };
        Self::new(Program::Script { file })
    }

    pub(crate) fn shell(line: &str) -> Self {
        let argv = ["sh", "-c", line].map(str::to_owned).to_vec();
        Self::new(Program::Command { argv })
    }

    pub(crate) fn limits(mut self, change: impl FnOnce(&mut Limits)) -> Self {
        change(&mut self.limits);
        self
    }
}

impl Bench {
    pub(crate) fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let worker_id = format!("test-{}", uuid::Uuid::new_v4().simple());
        let runner = runner(data.path(), &worker_id);
        Self { data, runner, worker_id }
    }

    pub(crate) async fn run(&self, order: Order) -> Ran {
        self.run_and_tell(order, oneshot::channel().0).await
    }

    pub(crate) async fn run_and_tell(&self, order: Order, started: oneshot::Sender<()>) -> Ran {
        let Order { run_id, spec, limits, mount, stdin, cancel } = order;
        let path = self.data.path().join(format!("output-{run_id}"));
        let output = Arc::new(OutputLog::create(&path, limits.output_bytes).unwrap());
        let request = RunRequest {
            run_id,
            job_id: format!("job-{run_id}"),
            spec,
            limits,
            mount,
            stdin,
            output: Arc::clone(&output),
            cancel,
            started,
        };
        let outcome = tokio::time::timeout(PATIENCE, self.runner.run(request)).await.unwrap();
        let text = async |stream| {
            let bytes = output.read_all(stream, u64::MAX).await.unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let stdout = text(OutputStream::Stdout).await;
        let stderr = text(OutputStream::Stderr).await;
        Ran { outcome, stdout, stderr }
    }

    /// Whatever runs leave on the host.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap();
        let data = self.data.path().to_str().unwrap();
        left.extend(
            mounts
                .lines()
                .filter(|line| line.contains(&self.worker_id) || line.contains(data))
                .map(str::to_owned),
        );
        let cgroups = walkdir::WalkDir::new("/sys/fs/cgroup").into_iter().flatten();
        let of_run = |path: &Path| path.to_str().is_some_and(|path| path.contains("/run-"));
        left.extend(
            cgroups
                .filter(|entry| entry.file_type().is_dir())
                .map(walkdir::DirEntry::into_path)
                .filter(|path| path.to_str().unwrap().contains(&self.worker_id) && of_run(path))
                .map(|path| path.display().to_string()),
        );
        for directory in ["jobs", "runc"].map(|name| self.data.path().join(name)) {
            left.extend(
                fs_err::read_dir(directory)
                    .unwrap()
                    .map(|entry| entry.unwrap().path().display().to_string()),
            );
        }
        left
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.runner.shutdown();
    }
}

fn runner(data: &Path, worker_id: &str) -> Runner {
    let config = RunnerConfig {
        dir: data.join("jobs"),
        worker_id: worker_id.to_owned(),
        runc: "runc".into(),
        runc_root: data.join("runc"),
        allow_container_root: false,
    };
    Runner::new(config, Arc::new(Accounts::default())).unwrap()
}

#[tokio::test]
async fn a_script_runs_with_its_arguments_and_leaves_nothing() {
    let bench = Bench::new();
    let mut order = Order::python(
        "import sys, os\nprint(sys.argv, sys.path[0], os.getcwd(), os.getuid(), os.environ['HOME'])\n\
         print('to stderr', file=sys.stderr)\nsys.exit(3)\n",
    );
    order.spec.args = vec!["a b".into(), "--flag".into()];
    let ran = bench.run(order).await;
    assert_eq!(ran.stdout, "['app.py', 'a b', '--flag'] / / 65532 /tmp\n", "{ran:?}");
    assert_eq!(ran.stderr, "to stderr\n");
    assert_eq!((ran.outcome.cause, ran.outcome.exit_code), (Cause::Exited, Some(3)));
    assert!(ran.outcome.started_at.is_some() && ran.outcome.first_output.is_some());
    assert_eq!(bench.leftovers(), [""; 0]);
}
