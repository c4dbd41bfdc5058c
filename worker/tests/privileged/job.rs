//! Jobs in real containers, on a plain directory tree instead of a mounted image.
//!
//! The tree is a small Debian with Python: `SWAY_TEST_ROOTFS`, or what `setup/base-image.sh` makes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use sway_core::api::jobs::OutputStream;
use sway_core::job::{Cause, JobFile, JobSpec, Limits, Program};
use sway_core::manifest::{
    FileContent, Manifest, Metadata, NodeId, NodeKind, RunConfig, Timestamp, Tree,
};
use sway_worker::account::Accounts;
use sway_worker::id_map::IdMaps;
use sway_worker::job::output::OutputLog;
use sway_worker::job::{
    Go, Lower, MountedDataset, Overlays, Owners, PoolBounds, PoolUse, Rootfs, RunOutcome,
    RunRequest, Runner, RunnerConfig, Sandbox,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Nothing in these tests takes that long; where it does, something hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// A tree of the host in the place of a mounted image.
#[derive(Debug)]
pub(crate) struct PlainRootfs {
    path: PathBuf,
    manifest: Arc<Manifest>,
    owners: Owners,
    overlays: Overlays,
}

impl Rootfs for PlainRootfs {
    fn manifest(&self) -> &Arc<Manifest> {
        &self.manifest
    }

    fn owners(&self) -> &Owners {
        &self.owners
    }

    fn lower(&self, _ids: &IdMaps) -> BoxFuture<'_, io::Result<Lower>> {
        Box::pin(async { Ok(Lower::ToMap(self.path.clone())) })
    }

    fn overlays(&self) -> &Overlays {
        &self.overlays
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
        Self::of(path, Arc::new(manifest))
    }

    fn of(path: &Path, manifest: Arc<Manifest>) -> Arc<Self> {
        let (owners, overlays) = (Owners::of(&manifest), Overlays::default());
        Arc::new(Self { path: path.to_owned(), manifest, owners, overlays })
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

/// The tree: `SWAY_TEST_ROOTFS`, else the base image of the test apps, unpacked once.
pub(crate) fn base() -> &'static Path {
    static BASE: LazyLock<PathBuf> = LazyLock::new(|| {
        #[expect(clippy::disallowed_methods, reason = "the test's own setting")]
        let given = std::env::var_os("SWAY_TEST_ROOTFS").map(PathBuf::from);
        given.unwrap_or_else(|| unpacked(Path::new("/var/cache/sway-test")))
    });
    &BASE
}

fn unpacked(cache: &Path) -> PathBuf {
    let tree = cache.join("python-3.11-bookworm-r1");
    if tree.exists() {
        return tree;
    }
    let tar = cache.join("python-3.11-bookworm-r1.tar");
    if !tar.exists() {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../setup/base-image.sh");
        let made = Command::new(&script).env("SWAY_BASE_IMAGE", "local").status().unwrap();
        assert!(made.success() && tar.exists(), "{} makes {}", script.display(), tar.display());
    }
    // Under another name until it is whole; whoever is first wins.
    let making = tempfile::tempdir_in(cache).unwrap();
    let root = making.path().join("root");
    fs_err::create_dir(&root).unwrap();
    let options = ["--xattrs", "--numeric-owner", "-xpf"];
    let done = Command::new("tar").arg("-C").arg(&root).args(options).arg(&tar).status().unwrap();
    assert!(done.success(), "unpack {}", tar.display());
    if let Err(error) = fs_err::rename(&root, &tree) {
        assert!(tree.exists(), "{error}");
    }
    tree
}

/// The tree as an image that no other run uses.
pub(crate) fn image() -> Arc<PlainRootfs> {
    static IMAGE: LazyLock<Arc<PlainRootfs>> =
        LazyLock::new(|| PlainRootfs::new(base(), RunConfig::default()));
    PlainRootfs::of(base(), Arc::clone(&IMAGE.manifest))
}

/// What creates containers without runc.
pub(crate) fn sway() -> Sandbox {
    Sandbox::Sway { program: env!("CARGO_BIN_EXE_sway-worker").into() }
}

/// What creates the containers of tests: `SWAY_TEST_SANDBOX`, runc or sway.
fn sandbox() -> Sandbox {
    #[expect(clippy::disallowed_methods, reason = "the test's own setting")]
    match std::env::var("SWAY_TEST_SANDBOX").as_deref() {
        Err(_) | Ok("" | "runc") => Sandbox::Runc,
        Ok("sway") => sway(),
        Ok(other) => panic!("SWAY_TEST_SANDBOX={other}"),
    }
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
    pub(crate) datasets: Vec<MountedDataset>,
    pub(crate) stdin: Option<mpsc::Receiver<Bytes>>,
    pub(crate) cancel: CancellationToken,
    pub(crate) pool: Option<PoolUse>,
}

impl Order {
    pub(crate) fn new(program: Program) -> Self {
        Self {
            run_id: 1,
            spec: JobSpec::new(Some("base".parse().unwrap()), program),
            limits: Limits { timeout_ms: 30_000, cpus_milli: 2000, ..Limits::DIRECT },
            mount: image(),
            datasets: vec![],
            stdin: None,
            cancel: CancellationToken::new(),
            pool: None,
        }
    }

    pub(crate) fn python(source: &str) -> Self {
        let file = JobFile { path: "app.py".into(), content: source.into(), executable: false };
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
        Self::with_accounts(Arc::default())
    }

    pub(crate) fn with_accounts(accounts: Arc<Accounts>) -> Self {
        Self::with(accounts, None, sandbox())
    }

    /// With so many containers that may wait. To be drained.
    pub(crate) fn with_pool(bounds: PoolBounds) -> Self {
        Self::with(Arc::default(), Some(bounds), sandbox())
    }

    pub(crate) fn with_sandbox(sandbox: Sandbox) -> Self {
        Self::with(Arc::default(), None, sandbox)
    }

    fn with(accounts: Arc<Accounts>, pool: Option<PoolBounds>, sandbox: Sandbox) -> Self {
        let data = tempfile::tempdir().unwrap();
        let worker_id = format!("test-{}", uuid::Uuid::new_v4().simple());
        let runner = runner(data.path(), &worker_id, accounts, pool, sandbox);
        Self { data, runner, worker_id }
    }

    pub(crate) async fn run(&self, order: Order) -> Ran {
        self.run_and_tell(order, oneshot::channel().0).await
    }

    pub(crate) async fn run_and_tell(&self, order: Order, started: oneshot::Sender<()>) -> Ran {
        let Order { run_id, spec, limits, mount, datasets, stdin, cancel, pool } = order;
        let path = self.data.path().join(format!("output-{run_id}"));
        let output = Arc::new(OutputLog::create(&path, limits.output_bytes).unwrap());
        let (leave, go) = oneshot::channel();
        // Leave is there before it is asked for.
        let (ready, _) = oneshot::channel();
        let archive = self.archive(run_id);
        let usage = watch::Sender::default();
        leave.send(Go { run_id, stdin, output: Arc::clone(&output), usage, archive }).unwrap();
        let job_id = format!("job-{run_id}");
        let request =
            RunRequest { job_id, spec, limits, mount, datasets, pool, ready, go, cancel, started };
        let outcome = tokio::time::timeout(PATIENCE, self.runner.run(request)).await.unwrap();
        self.runner.settled().await;
        let text = async |stream| {
            let bytes = output.read_all(stream, u64::MAX).await.unwrap();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let stdout = text(OutputStream::Stdout).await;
        let stderr = text(OutputStream::Stderr).await;
        Ran { outcome, stdout, stderr }
    }

    /// Where what a run leaves in `/output` is packed.
    pub(crate) fn archive(&self, run_id: i64) -> PathBuf {
        self.data.path().join(format!("{run_id}.tar"))
    }

    /// Whatever runs leave on the host, without overlays that wait for the next one.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        let mut left = Vec::new();
        let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap();
        let data = self.data.path().to_str().unwrap();
        left.extend(
            mounts
                .lines()
                .filter(|line| line.contains(&self.worker_id) || line.contains(data))
                .filter(|line| !line.contains("/overlay-"))
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

/// Waits until an output log has `text` in one piece: Python writes a line and its end apart.
pub(crate) async fn shows(log: &Path, text: &[u8]) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !fs_err::read(log).is_ok_and(|bytes| bytes.windows(text.len()).any(|at| at == text)) {
        let bytes = fs_err::read(log).unwrap_or_default();
        let log = String::from_utf8_lossy(&bytes);
        assert!(std::time::Instant::now() < deadline, "the log has {log:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn runner(
    data: &Path,
    worker_id: &str,
    accounts: Arc<Accounts>,
    pool: Option<PoolBounds>,
    sandbox: Sandbox,
) -> Runner {
    let config = RunnerConfig {
        dir: data.join("jobs"),
        worker_id: worker_id.to_owned(),
        sandbox,
        runc: "runc".into(),
        runc_root: data.join("runc"),
        allow_container_root: false,
        init: sway_worker::job::find_init(),
        pool,
    };
    Runner::new(config, accounts).unwrap()
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

#[tokio::test]
async fn output_is_stored_as_it_is_written() {
    let bench = Bench::new();
    let path = bench.data.path().join("output-1");
    let mut order = Order::python(
        "import sys\nprint('first')\nprint('got', sys.stdin.readline().strip())\n\
         print('rest', sys.stdin.read())\n",
    );
    let (input, source) = mpsc::channel(4);
    order.spec.stdin = true;
    order.stdin = Some(source);
    let job = bench.run(order);
    // The job goes on only when its first line has been seen.
    let answer = async {
        shows(&path, b"first").await;
        input.send("a line\nand ".into()).await.unwrap();
        input.send("more".into()).await.unwrap();
        drop(input);
    };
    let (ran, ()) = tokio::join!(job, answer);
    assert_eq!(ran.stdout, "first\ngot a line\nrest and more\n", "{ran:?}");
}

#[tokio::test]
async fn a_job_that_reads_no_input_is_not_held_up_by_it() {
    let bench = Bench::new();
    let mut order = Order::shell("exec sleep 0.2");
    let (input, source) = mpsc::channel(4);
    order.spec.stdin = true;
    order.stdin = Some(source);
    let flood = async { while input.send(vec![0; 1 << 16].into()).await.is_ok() {} };
    let (ran, ()) = tokio::join!(bench.run(order), flood);
    assert_eq!((ran.outcome.cause, ran.outcome.exit_code), (Cause::Exited, Some(0)), "{ran:?}");
}

#[tokio::test]
async fn a_job_that_ignores_sigterm_ends_with_its_time_and_its_children_too() {
    let bench = Bench::new();
    let order =
        Order::shell("trap '' TERM; (while :; do sleep 1; done) & while :; do sleep 1; done")
            .limits(|limits| limits.timeout_ms = 700);
    let ran = bench.run(order).await;
    assert_eq!(ran.outcome.cause, Cause::Timeout, "{ran:?}");
    assert_eq!(ran.outcome.exit_code, Some(137));
    assert!(ran.outcome.duration >= Duration::from_millis(700));
    assert_eq!(bench.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_cancelled_job_ends_and_leaves_nothing() {
    let bench = Bench::new();
    let order = Order::shell("exec sleep 60");
    let cancel = order.cancel.clone();
    let (tell, started) = oneshot::channel();
    let (ran, ()) = tokio::join!(bench.run_and_tell(order, tell), async {
        started.await.unwrap();
        cancel.cancel();
    });
    assert_eq!(ran.outcome.cause, Cause::Cancelled, "{ran:?}");
    assert_eq!(bench.leftovers(), [""; 0]);

    let order = Order { run_id: 2, ..Order::shell("true") };
    order.cancel.cancel();
    let ran = bench.run(order).await;
    assert_eq!((ran.outcome.cause, ran.outcome.started_at), (Cause::Cancelled, None), "{ran:?}");
    assert_eq!(bench.leftovers(), [""; 0]);
}

#[tokio::test]
async fn too_much_output_is_cut_and_the_job_goes_on_unless_it_asked_to_fail() {
    let bench = Bench::new();
    let noisy =
        "import sys\nfor _ in range(64): print('x' * 65535)\nprint('end', file=sys.stderr)\n";
    let order = Order::python(noisy).limits(|limits| limits.output_bytes = 100_000);
    let ran = bench.run(order).await;
    assert_eq!((ran.outcome.cause, ran.outcome.exit_code), (Cause::Exited, Some(0)), "{ran:?}");
    assert_eq!((ran.stdout.len(), ran.stderr.as_str()), (100_000, "end\n"));
    assert!(ran.outcome.stdout_truncated && !ran.outcome.stderr_truncated);

    let order = Order::python(noisy).limits(|limits| limits.output_bytes = 100_000);
    let mut order = Order { run_id: 2, ..order };
    order.spec.fail_on_output_limit = true;
    order.spec.program = Program::Command { argv: vec!["yes".into()] };
    let ran = bench.run(order).await;
    assert_eq!(ran.outcome.cause, Cause::OutputLimit);
    assert_eq!(ran.stdout.len(), 100_000);
}

#[tokio::test]
async fn eight_jobs_at_once_keep_their_outputs_and_codes_apart() {
    let bench = Bench::new();
    let runs = futures::future::join_all((1..=8).map(|run_id| {
        let order =
            Order::shell(&format!("echo out {run_id}; echo err {run_id} >&2; exit {run_id}"));
        bench.run(Order { run_id, ..order })
    }));
    for (ran, n) in runs.await.iter().zip(1..) {
        assert_eq!(ran.stdout, format!("out {n}\n"), "{ran:?}");
        assert_eq!(ran.stderr, format!("err {n}\n"));
        assert_eq!(ran.outcome.exit_code, Some(n));
    }
    assert_eq!(bench.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_program_that_the_image_lacks_ends_as_in_a_shell() {
    let bench = Bench::new();
    let ran = bench.run(Order::new(Program::Command { argv: vec!["no-such".into()] })).await;
    assert_eq!((ran.outcome.cause, ran.outcome.exit_code), (Cause::Exited, Some(127)));
    assert_eq!(ran.stderr, "sway: no-such: not found in the image\n");
    assert_eq!(ran.outcome.started_at, None);
    assert_eq!(bench.leftovers(), [""; 0]);
}

#[tokio::test]
async fn a_signal_shows_in_the_exit_code() {
    let bench = Bench::new();
    let kill = "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\nprint('still here')\n";
    let ran = bench.run(Order::python(kill)).await;
    assert_eq!((ran.outcome.exit_code, ran.stdout.as_str()), (Some(137), ""), "{ran:?}");
    let abort = Order { run_id: 3, ..Order::python("import os\nos.abort()\n") };
    assert_eq!(bench.run(abort).await.outcome.exit_code, Some(134));
    let child = Order::shell("sh -c 'kill -9 $$'; echo $?");
    assert_eq!(bench.run(Order { run_id: 2, ..child }).await.stdout, "137\n");
}

#[tokio::test]
async fn the_images_user_environment_and_directory_hold() {
    let bench = Bench::new();
    let config = RunConfig {
        user: "games".into(),
        working_dir: "/srv/new/work".into(),
        env: vec!["FROM_IMAGE=1".into(), "OMP_NUM_THREADS=7".into()],
        ..RunConfig::default()
    };
    let mut order = Order::python(
        "import os\nprint(os.getuid(), os.getgid(), os.getcwd(), os.listdir('.'))\n\
         print([os.environ[n] for n in ('FROM_IMAGE', 'OMP_NUM_THREADS', 'MINE', 'MKL_NUM_THREADS')])\n",
    );
    order.mount = PlainRootfs::new(base(), config);
    order.spec.env = [("MINE".to_owned(), "a=b".to_owned())].into();
    let ran = bench.run(order).await;
    assert_eq!(ran.stdout, "5 60 /srv/new/work ['app.py']\n['1', '7', 'a=b', '2']\n", "{ran:?}");
}

#[tokio::test]
async fn directories_that_the_skeleton_covers_look_as_in_the_image() {
    let bench = Bench::new();
    let stat = "import os\nfor path in ('/', '/etc', '/usr'):\n    s = os.stat(path)\n    \
                print(path, oct(s.st_mode), s.st_uid, s.st_gid, s.st_mtime_ns)\n";
    let ran = bench.run(Order::python(stat)).await;
    let expected = ["/", "/etc", "/usr"].map(|path| {
        let stat = fs_err::metadata(base().join(path.trim_start_matches('/'))).unwrap();
        let mtime = i128::from(stat.mtime()) * 1_000_000_000 + i128::from(stat.mtime_nsec());
        format!("{path} 0o{:o} {} {} {mtime}\n", stat.mode(), stat.uid(), stat.gid())
    });
    assert_eq!(ran.stdout, expected.concat(), "{ran:?}");
}

#[tokio::test]
async fn a_container_that_can_not_be_made_leaves_nothing() {
    let data = tempfile::tempdir().unwrap();
    let config = RunnerConfig {
        dir: data.path().join("jobs"),
        worker_id: format!("test-{}", uuid::Uuid::new_v4().simple()),
        sandbox: Sandbox::Runc,
        runc: "/bin/false".into(),
        runc_root: data.path().join("runc"),
        allow_container_root: false,
        init: sway_worker::job::find_init(),
        pool: None,
    };
    let worker_id = config.worker_id.clone();
    let runner = Runner::new(config, Arc::new(Accounts::default())).unwrap();
    let bench = Bench { data, runner, worker_id };
    let ran = bench.run(Order::shell("true")).await;
    assert_eq!(ran.outcome.cause, Cause::Infrastructure, "{ran:?}");
    assert!(ran.outcome.started_at.is_none() && ran.stderr.contains("runc create failed"));
    assert_eq!(bench.leftovers(), [""; 0]);
}

#[tokio::test]
async fn what_a_killed_worker_left_is_removed_at_the_next_start() {
    let bench = Bench::new();
    let (tell, started) = oneshot::channel();
    {
        // Dropping a run half-way leaves what a worker that was killed leaves.
        let job = bench.run_and_tell(Order::shell("sleep 60 & sleep 60"), tell);
        tokio::pin!(job);
        tokio::select! {
            ran = &mut job => panic!("{ran:?}"),
            result = started => result.unwrap(),
        }
    }
    assert!(bench.leftovers().len() > 3, "{:?}", bench.leftovers());
    let next = runner(bench.data.path(), &bench.worker_id, Arc::default(), None, sandbox());
    next.recover().await.unwrap();
    assert_eq!(bench.leftovers(), [""; 0]);
    let order = Order { run_id: 2, ..Order::shell("echo well") };
    assert_eq!(bench.run(order).await.stdout, "well\n");
    drop(next);
}
