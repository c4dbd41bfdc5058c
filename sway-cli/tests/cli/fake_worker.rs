//! A worker in miniature: one thread for each connection, one request for each connection, and
//! a job whose course the test decides.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn has_header(&self, line: &str) -> bool {
        self.headers.iter().any(|header| header.eq_ignore_ascii_case(line))
    }
}

/// What the worker says.
#[derive(Clone)]
pub(crate) enum Answer {
    /// A status and a JSON body.
    Json(u16, Value),
    /// Bytes.
    Bytes(Vec<u8>),
    /// Server-sent events, as the test sends them; the stream ends with the sender.
    Events(Arc<Mutex<Receiver<Value>>>),
}

type Answers = Arc<dyn Fn(&Request) -> Answer + Send + Sync>;

/// A listening worker.
pub(crate) struct FakeWorker {
    pub(crate) url: String,
    requests: Receiver<Request>,
}

impl FakeWorker {
    /// Answers every request by `answers`.
    pub(crate) fn new(answers: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (told, requests) = channel();
        let answers: Answers = Arc::new(answers);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (told, answers) = (told.clone(), Arc::clone(&answers));
                std::thread::spawn(move || serve(&stream.unwrap(), &told, &answers));
            }
        });
        Self { url, requests }
    }

    /// A worker whose only job goes through `events`, and ends as the last of them says.
    pub(crate) fn with_job(events: Vec<Value>) -> Self {
        let (sender, worker) = Self::with_live_job();
        for event in events {
            sender.send(event).unwrap();
        }
        worker
    }

    /// The same, with events sent while it runs.
    pub(crate) fn with_live_job() -> (Sender<Value>, Self) {
        Self::with_live_job_ending(with_outputs(run("exited", Some(0))))
    }

    /// The same, with this run on record.
    pub(crate) fn with_live_job_ending(recorded: Value) -> (Sender<Value>, Self) {
        let (sender, events) = channel();
        let events = Arc::new(Mutex::new(events));
        let worker =
            Self::new(move |request| match (request.method.as_str(), request.path.as_str()) {
                ("POST", "/v1/jobs") => Answer::Json(202, job()),
                ("GET", "/v1/jobs/j1/logs") => Answer::Events(Arc::clone(&events)),
                ("POST", "/v1/jobs/j1/cancel") => Answer::Json(200, job()),
                ("POST", "/v1/jobs/j1/stdin") => Answer::Json(200, json!({})),
                ("GET", "/v1/jobs/j1/outputs?format=tar") => Answer::Bytes(archive()),
                ("GET", "/v1/runs/7") => Answer::Json(200, recorded.clone()),
                _ => Answer::Json(404, error("not_found", "no such path", None)),
            });
        (sender, worker)
    }

    /// Waits for the request of this method and path.
    pub(crate) fn request(&self, method: &str, path: &str) -> Request {
        loop {
            let request = self.requests.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
            if request.method == method && request.path == path {
                return request;
            }
        }
    }
}

fn serve(stream: &TcpStream, told: &Sender<Request>, answers: &Answers) {
    let Some(request) = read_request(&mut BufReader::new(stream)) else { return };
    let answer = answers(&request);
    let _ = told.send(request);
    let mut out = stream;
    match answer {
        Answer::Json(status, body) => {
            let body = body.to_string();
            let _ = write!(
                out,
                "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
                 connection: close\r\n\r\n{body}",
                body.len()
            );
        }
        Answer::Bytes(bytes) => {
            let len = bytes.len();
            let _ = write!(out, "HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n");
            let _ = out.write_all(&bytes);
        }
        Answer::Events(events) => {
            let _ = write!(
                out,
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
            );
            let events = events.lock().unwrap();
            let mut id = 0;
            while let Ok(event) = events.recv() {
                id += 1;
                let name = event["event"].as_str().unwrap();
                if write!(out, "id: {id}\nevent: {name}\ndata: {event}\n\n").is_err() {
                    return;
                }
            }
        }
    }
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> Option<Request> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line.trim_end().is_empty() {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let mut first = lines.first()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let value = |name: &str| {
        lines
            .iter()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix(name).map(str::to_owned))
    };
    let mut body = Vec::new();
    if let Some(len) = value("content-length: ") {
        body.resize(len.parse().ok()?, 0);
        reader.read_exact(&mut body).ok()?;
    } else if value("transfer-encoding: chunked").is_some() {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).ok()?;
            let len = usize::from_str_radix(line.trim_end(), 16).ok()?;
            let mut chunk = vec![0; len + 2];
            reader.read_exact(&mut chunk).ok()?;
            if len == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..len]);
        }
    }
    Some(Request { method, path, headers: lines[1..].to_vec(), body })
}

/// Bytes on one of the job's streams.
pub(crate) fn output(stream: &str, data: &[u8]) -> Value {
    json!({"event": "output", "stream": stream, "data": STANDARD.encode(data)})
}

/// The job's end with a run.
pub(crate) fn end(state: &str, run: &Value) -> Value {
    json!({"event": "end", "state": state, "run": run})
}

/// What the job left in `/output`, as a worker packs it.
fn archive() -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, text) in [("result.txt", "42"), ("b.txt", "b")] {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(text.len() as u64);
        builder.append_data(&mut header, path, text.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

/// The error body.
pub(crate) fn error(code: &str, message: &str, hint: Option<&str>) -> Value {
    json!({"error": {"code": code, "message": message, "hint": hint}})
}

fn limits() -> Value {
    json!({
        "timeout_ms": 10_000, "memory_bytes": 256 << 20, "cpus_milli": 500, "pids": 64,
        "output_bytes": 10 << 20, "tmp_bytes": 64 << 20
    })
}

/// Job `j1` of ada, just submitted.
pub(crate) fn job() -> Value {
    json!({
        "id": "j1", "username": "ada", "image": "scipy",
        "manifest": "da39a3ee5e6b4b0d3255bfef95601890afd80709", "filename": "app.py",
        "state": "approved", "limits": limits(), "network": "none",
        "created_at": "2026-01-02T03:04:05Z"
    })
}

/// Run 7 of that job.
pub(crate) fn run(cause: &str, exit_code: Option<i32>) -> Value {
    json!({
        "id": 7, "job_id": "j1", "filename": "app.py", "username": "ada", "image": "scipy",
        "manifest": "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "started_at": "2026-01-02T03:04:05Z", "duration_ms": 412, "exit_code": exit_code,
        "cause": cause, "message": null, "memory_cache_hits": 12, "disk_cache_hits": 3,
        "server_fetches": 5, "memory_cache_bytes": 1000, "disk_cache_bytes": 2000,
        "bytes_fetched": 3000, "memory_peak_bytes": 1 << 20, "limits": limits(),
        "queued_ms": 1, "mount_ms": 20, "start_ms": 30, "first_output_ms": 40,
        "stdout_truncated": false, "stderr_truncated": false
    })
}

/// A run with what it wrote, as `GET /v1/runs/7` tells it.
pub(crate) fn with_outputs(mut run: Value) -> Value {
    run["stdout"] = json!("hello\n");
    run["stderr"] = json!("careful");
    run
}
