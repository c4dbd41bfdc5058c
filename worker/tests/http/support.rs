//! A worker on a free port, a fileserver that knows three images, and an actor that plays jobs.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use serde_json::json;
use sway_client::refs::Expect;
use sway_client::{Client, ClientConfig};
use sway_core::api::jobs::{JobEvent, JobView, OutputStream, TraceUse, Usage};
use sway_core::digest::Digest;
use sway_core::job::{Cause, JobFile, JobSpec, Program};
use sway_core::manifest::{Metadata, NodeKind, RunConfig, Tree};
use sway_server::pass::{PassKey, PublicKey};
use sway_server::token::Token;
use sway_worker::account::CacheFigures;
use sway_worker::config::Config;
use sway_worker::job::archive::Packed;
use sway_worker::job::{RunOutcome, Used};
use sway_worker::queue::{RunJob, RunOrder};
use tokio_util::sync::CancellationToken;

pub(crate) const TOKEN: &str = "test-token";

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A worker that runs until it is dropped, and its data.
pub(crate) struct Worker {
    pub(crate) addr: SocketAddr,
    /// Where its fileserver is, which knows its key.
    pub(crate) fileserver: String,
    pub(crate) data: Arc<tempfile::TempDir>,
    pub(crate) shutdown: CancellationToken,
    ended: Option<tokio::task::JoinHandle<anyhow::Result<()>>>,
}

impl Worker {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(adjust: impl FnOnce(&mut Config)) -> Self {
        Self::start_on(Arc::new(tempfile::tempdir().unwrap()), adjust).await
    }

    pub(crate) async fn start_on(
        data: Arc<tempfile::TempDir>,
        adjust: impl FnOnce(&mut Config),
    ) -> Self {
        let shutdown = CancellationToken::new();
        let key = PassKey::load_or_create(data.path()).unwrap().public();
        let fileserver = format!("http://{}", fileserver(key, shutdown.clone()).await);
        let mut config = Config::new(data.path().to_owned(), fileserver.parse().unwrap());
        config.token = Some(TOKEN.to_owned());
        config.running_max = 4;
        config.abandoned_after = Duration::from_millis(300);
        config.stop_grace = Duration::from_millis(100);
        adjust(&mut config);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let running = sway_worker::run_with(config, Arc::new(Actor), listener, shutdown.clone());
        #[expect(clippy::disallowed_methods, reason = "the test waits for it in `stop`")]
        let ended = tokio::spawn(running);
        Self { addr, fileserver, data, shutdown, ended: Some(ended) }
    }

    /// Ends the worker in order, and gives its data back.
    pub(crate) async fn stop(mut self) -> Arc<tempfile::TempDir> {
        self.shutdown.cancel();
        self.ended.take().unwrap().await.unwrap().unwrap();
        Arc::clone(&self.data)
    }

    /// Waits until the worker ends by itself, and gives its data back.
    pub(crate) async fn ended(mut self) -> Arc<tempfile::TempDir> {
        let ended = tokio::time::timeout(PATIENCE, self.ended.take().unwrap());
        ended.await.unwrap().unwrap().unwrap();
        Arc::clone(&self.data)
    }

    /// As if the process had died: nothing is told, nothing is cleaned up.
    pub(crate) async fn kill(mut self) -> Arc<tempfile::TempDir> {
        let ended = self.ended.take().unwrap();
        ended.abort();
        let _ = ended.await;
        Arc::clone(&self.data)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    pub(crate) fn client(&self, user: &str) -> Client {
        let mut config = ClientConfig::new(self.url("/").parse().unwrap());
        config.token = Some(TOKEN.to_owned());
        config.user = Some(user.parse().unwrap());
        Client::new(&config).unwrap()
    }

    pub(crate) fn get(&self, path: &str) -> Request {
        Request::new(self.addr, "GET", path).header("authorization", &format!("Bearer {TOKEN}"))
    }

    pub(crate) fn post(&self, path: &str, body: impl Into<Vec<u8>>) -> Request {
        Request::new(self.addr, "POST", path)
            .header("authorization", &format!("Bearer {TOKEN}"))
            .header("content-type", "application/json")
            .body(body.into())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A request as bytes on a socket: what a client library would refuse to send, too.
pub(crate) struct Request {
    addr: SocketAddr,
    head: String,
    body: Vec<u8>,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.body))
    }

    /// Code, message and hint of an error in the one shape that errors have.
    pub(crate) fn error(&self) -> (String, String) {
        let json = self.json();
        let text = |field: &str| json["error"][field].as_str().unwrap_or_default().to_owned();
        (text("code"), text("message"))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl Request {
    pub(crate) fn new(addr: SocketAddr, method: &str, path: &str) -> Self {
        let head = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n");
        Self { addr, head, body: Vec::new() }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.head.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    pub(crate) fn body(mut self, body: Vec<u8>) -> Self {
        self.body = body;
        self
    }

    pub(crate) async fn send(mut self) -> Answer {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        if !self.head.contains("\r\nhost:") {
            self = Self { head: format!("{}host: {}\r\n", self.head, self.addr), ..self };
        }
        let mut stream = tokio::net::TcpStream::connect(self.addr).await.unwrap();
        let len = self.body.len();
        let head = format!("{}content-length: {len}\r\n\r\n", self.head);
        stream.write_all(head.as_bytes()).await.unwrap();
        // A server may refuse before it has read the body.
        let _ = stream.write_all(&self.body).await;
        let mut answer = Vec::new();
        let reading = stream.read_to_end(&mut answer);
        let _ = tokio::time::timeout(PATIENCE, reading).await.unwrap();
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        let status = head.split(' ').nth(1).unwrap_or_default().parse().unwrap_or_default();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }
}

/// The image `python`: the only one here that is more than a name.
pub(crate) fn python() -> Vec<u8> {
    let mut tree = Tree::new();
    let usr = tree.add(Metadata::default(), NodeKind::Directory(Default::default()));
    tree.entries_mut(Tree::ROOT).unwrap().insert(b"usr".to_vec(), usr);
    tree.to_manifest(RunConfig::default()).unwrap().0.encode().unwrap()
}

/// A fileserver with `scipy`, `science` and `node` in the library, `python` of alice, `own` of ada, `secret` of bob.
async fn fileserver(worker: PublicKey, shutdown: CancellationToken) -> SocketAddr {
    let token = Token::parse(TOKEN).unwrap();
    let data = tempfile::tempdir().unwrap();
    let mut config = sway_fileserver::Config::new(data.path().to_owned(), token);
    config.workers = vec![worker];
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    #[expect(clippy::disallowed_methods, reason = "ends with the worker")]
    tokio::spawn(async move {
        sway_fileserver::run(config, listener, shutdown).await.unwrap();
        drop(data);
    });
    let mut config = ClientConfig::new(format!("http://{addr}").parse().unwrap());
    config.token = Some(TOKEN.to_owned());
    let client = Client::new(&config).unwrap();
    let python = client.blobs().put(&python()).await.unwrap();
    let name = "images/alice/python:latest".parse().unwrap();
    client.refs().put(&name, python, Expect::Any).await.unwrap();
    for (name, content) in [
        ("images/library/scipy:latest", "scipy"),
        ("images/library/science:latest", "science"),
        ("images/library/node:latest", "node"),
        ("images/ada/own:1", "own"),
        ("images/bob/secret:latest", "secret"),
        ("data/alice/weather", "weather"),
        ("data/carol/census", "census"),
    ] {
        let digest = Digest::of(content.as_bytes());
        client.blobs().put(content.as_bytes()).await.unwrap();
        client.refs().put(&name.parse().unwrap(), digest, Expect::Any).await.unwrap();
    }
    addr
}

/// A job whose command the [`Actor`] plays.
pub(crate) fn spec(argv: &[&str]) -> JobSpec {
    let argv = argv.iter().map(|&arg| arg.to_owned()).collect();
    JobSpec::new(Some("scipy".parse().unwrap()), Program::Command { argv })
}

pub(crate) fn json(spec: &JobSpec) -> Vec<u8> {
    serde_json::to_vec(spec).unwrap()
}

/// All events of a job until its end.
pub(crate) async fn events(client: &Client, id: &str, after: Option<u64>) -> Vec<(u64, JobEvent)> {
    let all = client.jobs().events(id, after).map(Result::unwrap).collect();
    tokio::time::timeout(PATIENCE, all).await.unwrap()
}

/// What the events say was written to stdout.
pub(crate) fn stdout(events: &[(u64, JobEvent)]) -> String {
    let bytes = events.iter().filter_map(|(_, event)| match event {
        JobEvent::Output { stream: OutputStream::Stdout, data } => Some(data.clone()),
        JobEvent::Output { .. }
        | JobEvent::State { .. }
        | JobEvent::Truncated { .. }
        | JobEvent::Usage(_)
        | JobEvent::End { .. } => None,
    });
    String::from_utf8(bytes.collect::<Vec<_>>().concat()).unwrap()
}

/// Asks for the job until `good` holds.
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
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The database of a worker that does not run.
pub(crate) fn database(data: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(data.join("worker.db")).unwrap()
}

/// Plays jobs: the command's first word says which part.
///
/// `say TEXT…` writes each text as a piece of its own; `use BYTES…` uses so much memory, then writes it; `exit N`; `hang` waits to be cancelled;
/// `wait` is cancelled before its process starts; `cat` returns its input; `big N` writes N bytes;
/// `fail TEXT…` writes to stderr and exits with 1; `answer RESULT` and `answer error` end as a
/// handler does; `too CAUSE` ends with that cause; `broken` fails as the infrastructure does.
/// `broken` fails as the infrastructure does; `leave PATH TEXT…` leaves files in `/output`.
///
/// What installs packages is a play of their names: `gated` waits for a file `gate` in the worker's
/// data, `once` is installed but once, `there` is there already, `source-only` has no wheel.
#[derive(Debug)]
pub(crate) struct Actor;

impl RunJob for Actor {
    fn run(&self, order: RunOrder) -> BoxFuture<'_, RunOutcome> {
        Box::pin(play(order))
    }
}

fn line(file: &JobFile) -> Vec<String> {
    let text = String::from_utf8(file.content.clone()).unwrap();
    text.split_whitespace().map(str::to_owned).collect()
}

async fn play(order: RunOrder) -> RunOutcome {
    let words = match &order.spec.program {
        Program::Command { argv } => argv.clone(),
        // Scripts, folders and handlers are plays of one line.
        Program::Script { file } => line(file),
        Program::Handler(handler) => line(handler.module_file().unwrap()),
        Program::Folder { files, entry } if entry == "install.py" => {
            let asked = files.iter().find(|file| file.path == "requirements.txt").unwrap();
            [vec!["install".to_owned()], line(asked)].concat()
        }
        Program::Folder { files, entry } => {
            line(files.iter().find(|file| file.path == *entry).unwrap())
        }
    };
    let argv: Vec<&str> = words.iter().map(String::as_str).collect();
    let mut outcome = outcome();
    if argv[0] == "wait" {
        order.cancel.cancelled().await;
        outcome.cause = Cause::Cancelled;
        return outcome;
    }
    order.ready.send(()).unwrap();
    let mut go = order.go.await.unwrap();
    if argv[0] == "be started" {
        // For ever: nobody is told that it has.
        order.cancel.cancelled().await;
        outcome.cause = Cause::Cancelled;
        return outcome;
    }
    outcome.started_at = Some(SystemTime::now());
    order.started.send(()).unwrap();
    outcome.exit_code = Some(0);
    let write = |bytes: &[u8]| go.output.append(OutputStream::Stdout, bytes).unwrap();
    match argv[0] {
        "say" => {
            for text in &argv[1..] {
                write(text.as_bytes());
                tokio::task::yield_now().await;
            }
        }
        "use" => {
            for (at, word) in argv[1..].iter().enumerate() {
                let elapsed_ms = at as u64;
                let memory_bytes = word.parse().unwrap();
                go.usage.send_replace(Some(Usage { elapsed_ms, memory_bytes, cpu_ms: 1 }));
                tokio::time::sleep(Duration::from_millis(100)).await;
                write(word.as_bytes());
            }
            outcome.used.cpu = Some(Duration::from_millis(1));
        }
        "exit" => outcome.exit_code = Some(argv[1].parse().unwrap()),
        "hang" => {
            write(b"hanging\n");
            order.cancel.cancelled().await;
            outcome.cause = Cause::Cancelled;
            outcome.exit_code = Some(137);
        }
        "cat" => {
            let mut stdin = go.stdin.take().unwrap();
            while let Some(piece) = stdin.recv().await {
                write(&piece);
            }
        }
        "big" => {
            write(&vec![b'x'; argv[1].parse().unwrap()]);
        }
        "fail" => {
            let words = argv[1..].join(" ").replace("\\n", "\n");
            go.output.append(OutputStream::Stderr, words.as_bytes()).unwrap();
            outcome.exit_code = Some(1);
        }
        "answer" => {
            let (result, error) = match argv[1] {
                "error" => (None, Some("it failed".to_owned())),
                result => (Some(result.to_owned()), None),
            };
            outcome.exit_code = Some(error.is_some().into());
            outcome.answer = Some(sway_core::handler::Answer { result, error, duration_ms: 7 });
        }
        "too" => outcome.cause = Cause::from_name(argv[1]).unwrap(),
        "install" => {
            let data = go.archive.ancestors().nth(3).unwrap();
            let mut installed = Vec::new();
            for package in &argv[1..] {
                match *package {
                    "gated" => {
                        while !data.join("gate").exists() {
                            let soon = tokio::time::sleep(Duration::from_millis(5));
                            if order.cancel.run_until_cancelled(soon).await.is_none() {
                                outcome.cause = Cause::Cancelled;
                                return outcome;
                            }
                        }
                    }
                    "once" => drop(std::fs::File::create_new(data.join("once")).unwrap()),
                    "source-only" => {
                        go.output.append(OutputStream::Stderr, b"ERROR: no wheel").unwrap();
                        write(br#"{"error": "source-only has to be built from source"}"#);
                        outcome.exit_code = Some(1);
                        return outcome;
                    }
                    "there" => continue,
                    _ => {}
                }
                installed.push(json!({"name": package, "version": "1.0", "sha256": "00"}));
            }
            let files: Vec<String> =
                argv[1..].iter().map(|package| format!("usr/{package}.py")).collect();
            let files: Vec<&str> = files.iter().flat_map(|path| [path.as_str(), "x = 1"]).collect();
            outcome.packed = Some(leave(&go.archive, &files));
            write(json!({ "installed": installed }).to_string().as_bytes());
        }
        "leave" => outcome.packed = Some(leave(&go.archive, &argv[1..])),
        "broken" => {
            outcome.cause = Cause::Infrastructure;
            outcome.exit_code = None;
            outcome.message = Some("no runc".to_owned());
        }
        other => panic!("the actor can't play {other:?}"),
    }
    outcome.stdout_truncated = go.output.is_cut(OutputStream::Stdout);
    go.output.end();
    outcome
}

/// Packs files by path and text, as the runner does.
fn leave(archive: &Path, files: &[&str]) -> Packed {
    let mut builder = tar::Builder::new(std::fs::File::create_new(archive).unwrap());
    let mut packed = Packed::default();
    for file in files.chunks(2) {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        if let Some((folder, _)) = file[0].rsplit_once('/') {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_size(0);
            builder.append_data(&mut header, format!("{folder}/"), std::io::empty()).unwrap();
        }
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(file[1].len() as u64);
        builder.append_data(&mut header, file[0], file[1].as_bytes()).unwrap();
        packed.files += 1;
        packed.bytes += file[1].len() as u64;
    }
    builder.finish().unwrap();
    packed
}

fn outcome() -> RunOutcome {
    RunOutcome {
        cause: Cause::Exited,
        exit_code: None,
        message: None,
        started_at: None,
        duration: Duration::from_millis(5),
        mount: Duration::from_millis(1),
        start: Duration::from_millis(2),
        first_output: None,
        used: Used::default(),
        figures: CacheFigures { memory_hits: 3, memory_bytes: 30, ..CacheFigures::default() },
        account: None,
        trace: TraceUse::None,
        trace_pushed_bytes: 0,
        answer: None,
        stdout_truncated: false,
        stderr_truncated: false,
        packed: None,
        pooled: false,
    }
}
