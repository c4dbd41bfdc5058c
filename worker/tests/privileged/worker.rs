//! A whole worker: its program, a real fileserver, real mounts, real containers, through HTTP.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use sha2::{Digest as _, Sha256};
use sway_client::refs::Expect;
use sway_client::{Client, ClientConfig};
use sway_core::api::jobs::{JobEvent, JobView, OutputStream, RunView};
use sway_core::job::{Cause, JobFile, JobSpec, JobState, LimitsRequest, Program};
use sway_server::token::Token;
use tokio_util::sync::CancellationToken;

use crate::mount_fixture::{Store, export, mounted_below};

/// Longer than anything takes, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const TOKEN: &str = "test-token";

/// A worker process and its fileserver; both end with it.
pub(crate) struct Site {
    data: tempfile::TempDir,
    fileserver: FileserverHandle,
    worker: Child,
    url: String,
}

pub(crate) struct FileserverHandle {
    pub(crate) addr: std::net::SocketAddr,
    pub(crate) shutdown: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.fileserver.shutdown.cancel();
        terminate(&mut self.worker);
    }
}

pub(crate) fn terminate(worker: &mut Child) {
    let pid = nix::unistd::Pid::from_raw(worker.id().try_into().unwrap());
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
    let _ = worker.wait();
}

impl Site {
    /// With the image `tiny` stored for all.
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(more: &[&str]) -> Self {
        let data = tempfile::tempdir().unwrap();
        let fileserver = start_fileserver(&data.path().join("fileserver"), None).await;
        store_image(&fileserver).await;
        let (worker, url) = start_worker(
            data.path(),
            &fileserver,
            &[&["--max-concurrent-jobs", "8"], more].concat(),
        );
        let site = Self { data, fileserver, worker, url };
        site.ready().await;
        site
    }

    async fn ready(&self) {
        let begun = Instant::now();
        while self.client().health().await.is_err() {
            assert!(begun.elapsed() < PATIENCE, "the worker does not come up");
        }
    }

    pub(crate) fn client(&self) -> Client {
        client(&self.url)
    }

    pub(crate) fn fileserver_url(&self) -> String {
        format!("http://{}", self.fileserver.addr)
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) fn worker_dir(&self) -> PathBuf {
        self.data.path().join("worker")
    }

    pub(crate) fn kill(&mut self) {
        self.worker.kill().unwrap();
        self.worker.wait().unwrap();
    }

    /// The most memory that the worker ever had, in bytes.
    pub(crate) fn memory_peak_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.worker.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() << 10
    }

    pub(crate) async fn restart(&mut self) {
        (self.worker, self.url) = start_worker(self.data.path(), &self.fileserver, &[]);
        self.ready().await;
    }
}

pub(crate) fn client(url: &str) -> Client {
    let mut config = ClientConfig::new(url.parse().unwrap());
    config.token = Some(TOKEN.to_owned());
    config.user = Some("ada".parse().unwrap());
    Client::new(&config).unwrap()
}

pub(crate) async fn start_fileserver(data: &Path, port: Option<u16>) -> FileserverHandle {
    let token = Token::parse(TOKEN).unwrap();
    let config = sway_fileserver::Config::new(data.to_owned(), token);
    let listener = TcpListener::bind(("127.0.0.1", port.unwrap_or(0))).unwrap();
    let addr = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    #[expect(clippy::disallowed_methods, reason = "`Site` waits for it")]
    let ended = tokio::spawn(async move {
        sway_fileserver::run(config, listener, stop).await.unwrap();
    });
    FileserverHandle { addr, shutdown, ended }
}

pub(crate) fn start_worker(
    data: &Path,
    fileserver: &FileserverHandle,
    more: &[&str],
) -> (Child, String) {
    // Free a moment ago; nobody else takes ports of this range by number.
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let worker = Command::new(env!("CARGO_BIN_EXE_sway-worker"))
        .args(["--data", data.join("worker").to_str().unwrap()])
        .args(["--listen", &addr.to_string()])
        .args(["--fileserver", &format!("http://{}", fileserver.addr)])
        .args(more)
        .env("SWAY_TOKEN", TOKEN)
        .env("SWAY_LOG", "warn")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    (worker, format!("http://{addr}"))
}

/// The shell and some programs of this machine, with the libraries that they need.
pub(crate) async fn store_image(fileserver: &FileserverHandle) {
    store_version(fileserver, "one\n").await;
}

/// The same with a file that tells its version.
async fn store_version(fileserver: &FileserverHandle, version: &str) {
    let root = tempfile::tempdir().unwrap();
    for program in ["sh", "cat", "sleep", "id", "seq", "head", "tr", "true"] {
        let path = ["/bin", "/usr/bin"].map(|dir| Path::new(dir).join(program));
        let path = path.iter().find(|path| path.exists()).unwrap();
        copy(path, root.path());
        let listed = Command::new("ldd").arg(path).output().unwrap().stdout;
        let listed = String::from_utf8(listed).unwrap();
        for library in listed.split_whitespace().filter(|word| word.starts_with('/')) {
            copy(Path::new(library), root.path());
        }
    }
    fs::write(root.path().join("version"), version).unwrap();
    // Read by nothing but the test that wants a read to wait.
    fs::write(root.path().join("unread"), vec![7; 300_000]).unwrap();
    for dir in ["tmp", "proc", "dev", "etc"] {
        fs::create_dir(root.path().join(dir)).unwrap();
    }
    let store = Store::default();
    let manifest = export(root.path(), &store);
    let client = client(&format!("http://{}", fileserver.addr));
    for raw in store.all() {
        client.blobs().put(&raw).await.unwrap();
    }
    let name = "images/library/tiny:latest".parse().unwrap();
    client.refs().put(&name, manifest, Expect::Any).await.unwrap();
}

/// Copies a file to its own path below `root`, with what its links lead to.
pub(crate) fn copy(path: &Path, root: &Path) {
    let to = root.join(path.strip_prefix("/").unwrap());
    if !to.exists() {
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(path, &to).unwrap();
    }
}

pub(crate) fn script(text: &str) -> JobSpec {
    let file = JobFile {
        path: "app.sh".to_owned(),
        content: format!("#!/bin/sh\n{text}\n").into_bytes(),
        executable: true,
    };
    JobSpec {
        limits: LimitsRequest { timeout_ms: Some(60_000), ..LimitsRequest::default() },
        detach: true,
        ..JobSpec::new(Some("tiny".parse().unwrap()), Program::Script { file })
    }
}

/// Submits, waits for the end, and tells the run with its outputs.
pub(crate) async fn ended(client: &Client, spec: &JobSpec) -> RunView {
    let job = client.jobs().submit(spec).await.unwrap();
    let mut events = client.jobs().events(&job.id, None);
    while let Some(event) = tokio::time::timeout(PATIENCE, events.next()).await.unwrap() {
        event.unwrap();
    }
    client.jobs().run(&job.id).await.unwrap()
}

pub(crate) async fn job_when(
    client: &Client,
    id: &str,
    good: impl Fn(&JobView) -> bool,
) -> JobView {
    let begun = Instant::now();
    loop {
        let job = client.jobs().job(id).await.unwrap();
        if good(&job) {
            return job;
        }
        assert!(begun.elapsed() < PATIENCE, "{job:?}");
    }
}

/// Cgroups of a worker's runs, in any hierarchy.
pub(crate) fn cgroups_of(worker_dir: &Path) -> Vec<PathBuf> {
    let path = fs::canonicalize(worker_dir).unwrap();
    let name = hex::encode(&Sha256::digest(path.as_os_str().as_encoded_bytes())[..6]);
    let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().map(|entry| entry.unwrap().path());
    let all = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]);
    let runs = all.filter_map(|root| fs::read_dir(root.join("sway").join(&name)).ok()).flatten();
    runs.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_runs_in_an_image_that_was_never_downloaded() {
    let site = Site::start().await;
    let client = site.client();
    let run = ended(&client, &script("echo hello; echo oops >&2; exit 3")).await;
    assert_eq!((run.stdout.as_deref(), run.stderr.as_deref()), (Some("hello\n"), Some("oops\n")));
    assert_eq!((run.exit_code, run.cause), (Some(3), Some(Cause::Exited)));
    assert!(run.server_fetches > 0 && run.bytes_fetched > 0, "{run:?}");
    let again = ended(&client, &script("echo hello")).await;
    assert_eq!((again.exit_code, again.server_fetches), (Some(0), 0), "{again:?}");
    assert!(again.first_output_ms.is_some());
    let stored = fs::read_dir(site.worker_dir().join("mounts")).unwrap().count();
    assert_eq!(stored, 1, "one mount for both");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_other_users_is_closed_in_an_open_data_directory() {
    use std::os::unix::fs::PermissionsExt as _;
    let data = tempfile::tempdir().unwrap();
    let own = ["jobs", "runc", "mounts", "outputs", "cache"];
    // As an earlier worker left them.
    for dir in own.map(|name| data.path().join("worker").join(name)) {
        fs::create_dir_all(&dir).unwrap();
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let fileserver = start_fileserver(&data.path().join("fileserver"), None).await;
    store_image(&fileserver).await;
    let (worker, url) = start_worker(data.path(), &fileserver, &[]);
    let site = Site { data, fileserver, worker, url };
    site.ready().await;
    // The job's user walks none of them.
    let run = ended(&site.client(), &script("echo hello")).await;
    assert_eq!(run.stdout.as_deref(), Some("hello\n"), "{run:?}");
    for name in own {
        let mode = fs::metadata(site.worker_dir().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn others_of_the_host_do_not_see_the_files_of_a_running_job() {
    let site = Site::start().await;
    let client = site.client();
    let job = client.jobs().submit(&script("sleep 1000")).await.unwrap();
    job_when(&client, &job.id, |job| job.state == JobState::Running).await;
    let data = fs::canonicalize(site.worker_dir()).unwrap();
    let worker = hex::encode(&Sha256::digest(data.as_os_str().as_encoded_bytes())[..6]);
    let places = fs::read_dir(Path::new("/run/sway").join(worker)).unwrap();
    let mut files = places.map(|place| place.unwrap().path().join("rootfs/app.sh"));
    let file = files.find(|file| file.exists()).unwrap();
    let reads = |program: &mut Command| program.arg(&file).output().unwrap().status.success();
    assert!(reads(&mut Command::new("cat")));
    let stranger = ["--reuid=65534", "--regid=65534", "--clear-groups", "cat"];
    assert!(!reads(Command::new("setpriv").args(stranger)));
    client.jobs().cancel(&job.id).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_jobs_at_once_each_get_their_own() {
    let site = Site::start().await;
    let client = site.client();
    let one = async |n: i32| {
        let run = ended(&client, &script(&format!("seq {n} {}; exit {n}", n + 50))).await;
        let expected: String = (n..=n + 50).map(|line| format!("{line}\n")).collect();
        assert_eq!(run.stdout, Some(expected));
        assert_eq!(run.exit_code, Some(n));
        run
    };
    let runs = futures::future::join_all((1..=8).map(one)).await;
    let ids: std::collections::HashSet<i64> = runs.iter().map(|run| run.id).collect();
    assert_eq!(ids.len(), 8);
    assert!(runs.iter().any(|run| run.server_fetches > 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn output_arrives_while_the_job_runs_and_input_reaches_it() {
    let site = Site::start().await;
    let client = site.client();
    let job = client.jobs().submit(&JobSpec { stdin: true, ..script("exec cat") }).await.unwrap();
    let (mut input, sent) = futures::channel::mpsc::channel(1);
    let jobs = client.jobs();
    let talk = async {
        let mut events = client.jobs().events(&job.id, None);
        for line in ["one\n", "two\n"] {
            input.send(Ok(Bytes::from(line))).await.unwrap();
            loop {
                let next = tokio::time::timeout(PATIENCE, events.next()).await.unwrap();
                if let (_, JobEvent::Output { stream: OutputStream::Stdout, data }) =
                    next.unwrap().unwrap()
                {
                    assert_eq!(data, line.as_bytes());
                    break;
                }
            }
        }
        drop(input);
        while let Some(event) = events.next().await {
            event.unwrap();
        }
    };
    let (fed, ()) = futures::join!(jobs.send_stdin(&job.id, sent), talk);
    fed.unwrap();
    assert_eq!(client.jobs().run(&job.id).await.unwrap().exit_code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_uses_is_told_while_it_runs_and_kept_with_its_run() {
    const HELD: i64 = 20 << 20;
    let site = Site::start().await;
    let client = site.client();
    // A shell that holds a text of 20 MiB, sleeps, and counts for a second and a half.
    let mut spec = script(&format!(
        "held=$(head -c {HELD} /dev/zero | tr '\\0' x); sleep 1.2; echo held; \
         while :; do :; done"
    ));
    spec.limits.timeout_ms = Some(6_000);
    spec.limits.cpus_milli = Some(500);
    let job = client.jobs().submit(&spec).await.unwrap();
    let mut events = client.jobs().events(&job.id, None);
    let mut used = Vec::new();
    while let Some(event) = tokio::time::timeout(PATIENCE, events.next()).await.unwrap() {
        if let (_, JobEvent::Usage(usage)) = event.unwrap() {
            used.push(usage);
        }
    }
    assert!((4..=14).contains(&used.len()), "about two a second: {used:?}");
    assert!(used.is_sorted_by_key(|usage| (usage.elapsed_ms, usage.cpu_ms)), "{used:?}");
    assert!(used.iter().any(|usage| usage.memory_bytes >= HELD.unsigned_abs()), "{used:?}");
    let run = client.jobs().run(&job.id).await.unwrap();
    assert_eq!(run.cause, Some(Cause::Timeout));
    assert!(run.memory_peak_bytes.unwrap() >= HELD, "{run:?}");
    let (cpu_ms, peak) = (run.cpu_ms.unwrap(), run.cpus_peak_milli.unwrap());
    assert_eq!(used.last().unwrap().cpu_ms, cpu_ms.unsigned_abs());
    // The quota is half a CPU in each tenth of a second, one of which may count twice.
    assert!((200..=3_600).contains(&cpu_ms) && (200..=700).contains(&peak), "{cpu_ms} {peak}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_job_and_one_that_is_late_leave_nothing() {
    let site = Site::start().await;
    let client = site.client();
    let job = client.jobs().submit(&script("trap '' TERM; sleep 1000")).await.unwrap();
    job_when(&client, &job.id, |job| job.state == JobState::Running).await;
    assert_eq!(client.jobs().cancel(&job.id).await.unwrap().state, JobState::Cancelled);
    let mut late = script("trap '' TERM; sleep 1000");
    late.limits.timeout_ms = Some(300);
    assert_eq!(ended(&client, &late).await.cause, Some(Cause::Timeout));
    // An end is told before it is cleaned up.
    let begun = std::time::Instant::now();
    while fs::read_dir(site.worker_dir().join("jobs")).unwrap().count() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(20), "a run's directory stays");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A counter of the worker's metrics, by its label.
fn counted(site: &Site, metric: &str, label: &str) -> u64 {
    let mut connection = TcpStream::connect(site.url.strip_prefix("http://").unwrap()).unwrap();
    let host = &site.url["http://".len()..];
    write!(
        connection,
        "GET /metrics HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {TOKEN}\r\n\
         connection: close\r\n\r\n"
    )
    .unwrap();
    let mut text = String::new();
    connection.read_to_string(&mut text).unwrap();
    let line = text.lines().find(|line| line.starts_with(metric) && line.contains(label));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_made_ready_ahead_and_thrown_away_where_the_image_has_moved() {
    let site = Site::start().await;
    let run = async || ended(&site.client(), &script("cat /version; cat")).await.stdout.unwrap();
    let ahead = |used: &str| counted(&site, "sway_runs_ahead_total", used);
    for _ in 0..3 {
        assert_eq!(run().await, "one\n");
    }
    assert_eq!((ahead("used=\"true\""), ahead("used=\"false\"")), (2, 0));
    store_version(&site.fileserver, "two\n").await;
    for _ in 0..2 {
        assert_eq!(run().await, "two\n");
    }
    assert_eq!((ahead("used=\"true\""), ahead("used=\"false\"")), (3, 1));
    // An image that is gone has no run at all, and nothing is left of what was made ready for it.
    let name = "images/library/tiny:latest".parse().unwrap();
    client(&format!("http://{}", site.fileserver.addr))
        .refs()
        .delete(&name, Expect::Any)
        .await
        .unwrap();
    site.client().jobs().submit(&script("cat /version")).await.unwrap_err();
    assert_eq!(ahead("used=\"false\""), 2);
    let begun = Instant::now();
    let runs = || {
        let groups = cgroups_of(&site.worker_dir()).into_iter();
        groups.filter(|path| path.to_str().unwrap().contains("/run-")).collect::<Vec<_>>()
    };
    while !runs().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "{:?}", runs());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_leaves_nothing_to_the_next_one() {
    let mut site = Site::start().await;
    let client = site.client();
    let before = ended(&client, &script("true")).await;
    let jobs = [script("echo begun; sleep 1000"), script("echo begun; sleep 1000")];
    let mut ids = Vec::new();
    for spec in &jobs {
        ids.push(client.jobs().submit(spec).await.unwrap().id);
    }
    for id in &ids {
        let mut events = client.jobs().events(id, None);
        while !matches!(events.next().await, Some(Ok((_, JobEvent::Output { .. })))) {}
    }
    site.kill();
    let held = mounted_below(&site.worker_dir());
    assert!(!held.is_empty(), "a killed worker cleans nothing up");
    assert!(cgroups_of(&site.worker_dir()).len() >= 2);

    site.restart().await;
    let client = site.client();
    assert_eq!(mounted_below(&site.worker_dir()), Vec::<String>::new());
    // The one that the new worker keeps for itself.
    let groups = cgroups_of(&site.worker_dir());
    assert!(groups.iter().all(|group| group.ends_with("quota")), "{groups:?}");
    assert_eq!(fs::read_dir(site.worker_dir().join("jobs")).unwrap().count(), 0);
    for id in &ids {
        let run = client.jobs().run(id).await.unwrap();
        assert_eq!(run.cause, Some(Cause::Infrastructure));
        assert_eq!(run.stdout.as_deref(), Some("begun\n"));
    }
    let after = ended(&client, &script("echo works")).await;
    assert_eq!(after.stdout.as_deref(), Some("works\n"));
    assert!(after.id > before.id);
    // Its chunks came from the disk cache of its predecessor.
    assert_eq!(after.server_fetches, 0, "{after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_fileserver_cached_reads_go_on_and_others_end() {
    // The background would bring what nobody read.
    let mut site = Site::start_with(&["--background", "off"]).await;
    let client = site.client();
    let text = "cat /bin/true > /dev/null; echo ready; read line; cat /bin/true > /dev/null \
                && echo cached; cat /unread > /dev/null || echo refused";
    let mut spec = JobSpec { stdin: true, ..script(text) };
    // The read may wait for a third of this.
    spec.limits.timeout_ms = Some(9_000);
    let job = client.jobs().submit(&spec).await.unwrap();
    let mut events = client.jobs().events(&job.id, None);
    while !matches!(events.next().await, Some(Ok((_, JobEvent::Output { .. })))) {}
    let port = site.fileserver.addr.port();
    site.fileserver.shutdown.cancel();
    (&mut site.fileserver.ended).await.unwrap();
    let line = futures::stream::iter([Ok(Bytes::from("go\n"))]);
    client.jobs().send_stdin(&job.id, line).await.unwrap();
    while let Some(event) = events.next().await {
        event.unwrap();
    }
    let run = client.jobs().run(&job.id).await.unwrap();
    assert_eq!(run.stdout.as_deref(), Some("ready\ncached\nrefused\n"), "{run:?}");
    assert_eq!(run.cause, Some(Cause::Exited));
    let (stderr, message) = (run.stderr.unwrap(), run.message.unwrap());
    assert!(stderr.contains("/unread") && message.contains("/unread"), "{stderr} {message}");

    // It comes back, and nobody has to restart anything.
    let data = site.data.path().join("fileserver");
    site.fileserver = start_fileserver(&data, Some(port)).await;
    let run = ended(&client, &script("head -c 3 /unread > /dev/null && echo read")).await;
    assert_eq!(run.stdout.as_deref(), Some("read\n"), "{run:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_stopped_leaves_no_mount_behind() {
    let mut site = Site::start().await;
    ended(&site.client(), &script("true")).await;
    assert!(!mounted_below(&site.worker_dir()).is_empty());
    terminate(&mut site.worker);
    assert_eq!(mounted_below(&site.worker_dir()), Vec::<String>::new());
    assert_eq!(cgroups_of(&site.worker_dir()), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_can_map_owners_without_the_kernel() {
    let site = Site::start_with(&["--id-mapping", "shift"]).await;
    let run = ended(&site.client(), &script("id -u; cat /proc/self/uid_map")).await;
    assert_eq!(run.cause, Some(Cause::Exited), "{run:?}");
    let mounts = mounted_below(&site.worker_dir());
    assert!(mounts.iter().any(|path| path.contains("/ids-")), "{mounts:?}");
}
