//! The stack over a real fileserver, with a network in between that breaks.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use sway_client::{Client, ClientConfig};
use sway_core::chunk::CHUNK_LEN;
use sway_server::token::Token;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::*;

/// A fileserver of this process; a new one may take over its directory and its port.
struct Server {
    dir: PathBuf,
    addr: SocketAddr,
    stop: CancellationToken,
    tasks: Tasks,
}

impl Server {
    async fn start(dir: &Path, addr: SocketAddr) -> Self {
        let listener = std::net::TcpListener::bind(addr).unwrap();
        let addr = listener.local_addr().unwrap();
        let token = Token::load_or_create(dir, None).unwrap();
        let config = sway_fileserver::Config::new(dir.to_owned(), token);
        let (stop, tasks) = (CancellationToken::new(), Tasks::new());
        let stopped = stop.clone();
        tasks.spawn("fileserver", async move {
            sway_fileserver::run(config, listener, stopped).await.unwrap();
        });
        Self { dir: dir.to_owned(), addr, stop, tasks }
    }

    /// Stops without waiting for connections that clients keep open.
    async fn stop(self) {
        self.stop.cancel();
        self.tasks.shutdown(Duration::from_millis(100)).await;
    }

    fn client(&self, addr: SocketAddr) -> Client {
        let mut config = ClientConfig::new(format!("http://{addr}").parse().unwrap());
        let token = std::fs::read_to_string(self.dir.join("token")).unwrap();
        config.token = Some(token.trim().to_owned());
        Client::new(&config).unwrap()
    }

    async fn put(&self, raw: &[u8]) -> ChunkRef {
        let digest = self.client(self.addr).blobs().put(raw).await.unwrap();
        ChunkRef { digest, len: u32::try_from(raw.len()).unwrap() }
    }
}

/// A network that passes at most so many bytes of each connection's answers, then breaks it.
struct Network {
    addr: SocketAddr,
    limit: Arc<AtomicUsize>,
    _tasks: Tasks,
}

impl Network {
    async fn to(server: SocketAddr, limit: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let limit = Arc::new(AtomicUsize::new(limit));
        let (tasks, shared) = (Tasks::new(), Arc::clone(&limit));
        let connections = tasks.clone();
        tasks.spawn("network", async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let limit = shared.load(Ordering::SeqCst);
                connections.spawn("connection", async move {
                    // A connection that breaks is what this is for.
                    let _ = Self::pass(near, server, limit).await;
                });
            }
        });
        Self { addr, limit, _tasks: tasks }
    }

    async fn pass(near: TcpStream, server: SocketAddr, limit: usize) -> std::io::Result<()> {
        let far = TcpStream::connect(server).await?;
        let (mut near_read, mut near_write) = near.into_split();
        let (far_read, mut far_write) = far.into_split();
        let mut answers = far_read.take(limit as u64);
        tokio::select! {
            done = tokio::io::copy(&mut near_read, &mut far_write) => done.map(drop),
            done = tokio::io::copy(&mut answers, &mut near_write) => done.map(drop),
        }?;
        near_write.shutdown().await
    }
}

fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed * 2 + 1;
    let bytes = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    });
    bytes.take(CHUNK_LEN as usize).collect()
}

fn chunks_over(client: Client, deadline: Duration) -> Arc<Chunks> {
    let fetch = FetchConfig { deadline, ..FetchConfig::default() };
    let config = ChunksConfig { fetch, ..ChunksConfig::default() };
    Chunks::new(config, Arc::new(client), Tasks::new()).unwrap()
}

async fn read_all(chunks: &Arc<Chunks>, refs: &[ChunkRef]) -> Result<Vec<Blob>, FetchError> {
    let part = |chunk: &ChunkRef| Part { chunk: *chunk, bytes: u64::from(chunk.len) };
    chunks.read(&refs.iter().map(part).collect::<Vec<_>>(), &Arc::default()).await
}

const ANY: SocketAddr =
    SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, 0));

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_within_blobs_costs_retries_and_no_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), ANY).await;
    let mut refs = Vec::new();
    for seed in 0..12 {
        refs.push(server.put(&noise(seed)).await);
    }
    // Each connection brings a chunk and a half, so one request needs many.
    let network = Network::to(server.addr, 200_000).await;
    let chunks = chunks_over(server.client(network.addr), PATIENCE);
    let blobs = read_all(&chunks, &refs).await.unwrap();
    for (seed, blob) in (0..).zip(&blobs) {
        assert_eq!(blob.as_ref(), noise(seed));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_carries_nothing_ends_reads_at_the_deadline_and_heals() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), ANY).await;
    let chunk = server.put(&noise(1)).await;
    let network = Network::to(server.addr, 0).await;
    let chunks = chunks_over(server.client(network.addr), Duration::from_millis(300));
    let error = read_all(&chunks, &[chunk]).await.unwrap_err();
    assert!(matches!(error, FetchError::Deadline { .. }), "{error}");
    network.limit.store(usize::MAX, Ordering::SeqCst);
    let healed = async {
        while read_all(&chunks, &[chunk]).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, healed).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_restarts_within_the_deadline_costs_only_time() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), ANY).await;
    let refs = [server.put(&noise(1)).await, server.put(&noise(2)).await];
    let addr = server.addr;
    let chunks = chunks_over(server.client(addr), PATIENCE);
    read_all(&chunks, &refs[..1]).await.unwrap();
    server.stop().await;
    let (blobs, server) = tokio::join!(read_all(&chunks, &refs), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        Server::start(dir.path(), addr).await
    });
    assert_eq!(blobs.unwrap()[1].as_ref(), noise(2));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_the_server_s_store_is_never_shown_and_an_upload_heals_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), ANY).await;
    let chunk = server.put(&noise(1)).await;
    let stored = find(dir.path(), &chunk.digest.to_hex());
    let mut bytes = std::fs::read(&stored).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&stored, bytes).unwrap();
    let chunks = chunks_over(server.client(server.addr), PATIENCE);
    let error = read_all(&chunks, &[chunk]).await.unwrap_err();
    assert!(
        matches!(error, FetchError::Missing { .. } | FetchError::Corrupt { .. }),
        "the server put its bad copy aside: {error}"
    );
    server.put(&noise(1)).await;
    assert_eq!(read_all(&chunks, &[chunk]).await.unwrap()[0].as_ref(), noise(1));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_know_the_token_is_not_asked_until_the_deadline() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::start(dir.path(), ANY).await;
    let chunk = server.put(&noise(1)).await;
    let mut config = ClientConfig::new(format!("http://{}", server.addr).parse().unwrap());
    config.token = Some("somebody else's".to_owned());
    let chunks = chunks_over(Client::new(&config).unwrap(), PATIENCE);
    let error = read_all(&chunks, &[chunk]).await.unwrap_err();
    assert!(matches!(error, FetchError::Refused { .. }), "{error}");
    server.stop().await;
}

/// The file whose path, without its slashes, ends in `hex` or whose name holds it.
fn find(dir: &Path, hex: &str) -> PathBuf {
    let walk = walkdir::WalkDir::new(dir).into_iter().filter_map(Result::ok);
    let mut files = walk.filter(|entry| entry.file_type().is_file());
    let found = files.find(|entry| {
        entry.path().to_string_lossy().replace('/', "").contains(hex)
            || entry.path().to_string_lossy().contains(hex)
    });
    found.unwrap().into_path()
}
