//! A server in this process, and ways to speak to it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use sway_client::{Client, ClientConfig};
use sway_core::api::error::ErrorBody;
use sway_core::blob::{self, FrameHeader};
use sway_core::digest::Digest;
use sway_fileserver::Config;
use sway_server::token::Token;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub(crate) const TOKEN: &str = "test-token";

pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) data: tempfile::TempDir,
    shutdown: CancellationToken,
    running: JoinSet<anyhow::Result<()>>,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(adjust: impl FnOnce(&mut Config)) -> Self {
        let data = tempfile::tempdir().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let mut config = Config::new(data.path().to_owned(), Token::parse(TOKEN).unwrap());
        adjust(&mut config);
        let shutdown = CancellationToken::new();
        let mut running = JoinSet::new();
        running.spawn(sway_fileserver::run(config, listener, shutdown.clone()));
        let server = Self { addr, data, shutdown, running };
        server.client().health().await.unwrap();
        server
    }

    pub(crate) fn client(&self) -> Client {
        client(&format!("http://{}", self.addr))
    }

    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        self.running.join_next().await.unwrap().unwrap().unwrap();
    }

    /// Sends `request`, whose lines may end in `\n`, with the token, and reads the answer.
    pub(crate) async fn send(&self, request: &str, body: &[u8]) -> Answer {
        self.send_as(TOKEN, request, body).await
    }

    /// Likewise, with another token or a pass.
    pub(crate) async fn send_as(&self, secret: &str, request: &str, body: &[u8]) -> Answer {
        let credentials = format!("authorization: Bearer {secret}\n");
        self.send_bare(&format!("{}\n{credentials}", request.trim_end()), body).await
    }

    /// Likewise, without the token.
    pub(crate) async fn send_bare(&self, request: &str, body: &[u8]) -> Answer {
        let mut head = request.trim_end().replace('\n', "\r\n");
        if !head.to_ascii_lowercase().contains("\r\nhost:") {
            head.push_str(&format!("\r\nhost: {}", self.addr));
        }
        let lower = head.to_ascii_lowercase();
        let has_length = lower.contains("\r\ncontent-length:") || lower.contains("chunked");
        if !body.is_empty() && !has_length {
            head.push_str(&format!("\r\ncontent-length: {}", body.len()));
        }
        head.push_str("\r\nconnection: close\r\n\r\n");
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(body).await.unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).await.unwrap();
        Answer::parse(&bytes)
    }

    /// Files below a folder of the data directory.
    pub(crate) fn files(&self, folder: &str) -> usize {
        count_files(&self.data.path().join(folder))
    }
}

pub(crate) fn count_files(dir: &Path) -> usize {
    let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { count_files(&path) } else { 1 }).sum()
}

pub(crate) fn client(base: &str) -> Client {
    client_as(TOKEN, base)
}

pub(crate) fn client_as(secret: &str, base: &str) -> Client {
    let mut config = ClientConfig::new(base.parse().unwrap());
    config.token = Some(secret.to_owned());
    Client::new(&config).unwrap()
}

/// Stands between a client and servers: connection after connection goes to the next of them.
pub(crate) struct Between {
    pub(crate) addr: SocketAddr,
    connections: Arc<AtomicUsize>,
    _running: JoinSet<()>,
}

impl Between {
    pub(crate) async fn start(servers: Vec<SocketAddr>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&connections);
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut copies = JoinSet::new();
            for server in servers.into_iter().cycle() {
                let (mut from, _) = listener.accept().await.unwrap();
                counter.fetch_add(1, Ordering::SeqCst);
                copies.spawn(async move {
                    let mut to = TcpStream::connect(server).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut from, &mut to).await;
                });
            }
        });
        Self { addr, connections, _running: running }
    }

    /// How many were made so far.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap().to_ascii_lowercase();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head, body: bytes[end + 4..].to_vec() }
    }

    pub(crate) fn error(&self) -> (String, Option<String>) {
        let body: ErrorBody = serde_json::from_slice(&self.body).unwrap();
        (body.error.code, body.error.hint)
    }
}

pub(crate) fn frame(raw: &[u8]) -> (FrameHeader, Bytes) {
    let encoded = blob::encode(raw);
    (FrameHeader::new(Digest::of(raw), raw.len(), encoded.len()), encoded.into())
}

/// The bytes of a body of frames.
pub(crate) fn body_of(frames: &[(FrameHeader, Bytes)]) -> Vec<u8> {
    frames.iter().flat_map(|(header, encoded)| [&header.to_bytes()[..], encoded].concat()).collect()
}
