//! A TCP proxy that makes loopback behave like the network of `link`.
//!
//! Each direction of a connection reads what the sender wrote, asks the model when it leaves and
//! arrives, and delivers it then. A connection's first bytes wait one round trip more, for the
//! handshake.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::link::{Flow, Link, Network, SEGMENT_LEN};

/// Buffers on their way in one direction of one connection: more than twice the
/// bandwidth-delay product of the models, so that the model is what limits.
const ON_THE_WAY_MAX: usize = 1024;

/// Bytes moved at once: eleven segments, so that the proxy's own system calls cost the machine
/// little beside what it measures.
const BUFFER_LEN: usize = 11 * SEGMENT_LEN as usize;

/// What went through, in both directions together.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    /// Connections made.
    pub(crate) connections: AtomicU64,
    /// HTTP requests: pieces from a client that begin as one.
    pub(crate) requests: AtomicU64,
    /// Bytes from the server to its clients.
    pub(crate) bytes_down: AtomicU64,
    /// Bytes from the clients to the server.
    pub(crate) bytes_up: AtomicU64,
}

/// A proxy that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    /// Where clients connect.
    pub(crate) address: SocketAddr,
    /// What went through so far.
    pub(crate) traffic: Arc<Traffic>,
    _accepting: JoinSet<()>,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    network: Network,
    epoch: Instant,
    up: Mutex<Link>,
    down: Mutex<Link>,
}

impl Proxy {
    /// Listens on a free loopback port and forwards to `server`.
    pub(crate) async fn start(network: Network, server: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let traffic = Arc::new(Traffic::default());
        let shared = Arc::new(Shared {
            network,
            epoch: Instant::now(),
            up: Mutex::default(),
            down: Mutex::default(),
        });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, server, shared, Arc::clone(&traffic)));
        Ok(Self { address, traffic, _accepting: accepting })
    }
}

async fn accept(
    listener: TcpListener,
    server: SocketAddr,
    shared: Arc<Shared>,
    traffic: Arc<Traffic>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, _)) = accepted else { return };
                traffic.connections.fetch_add(1, Ordering::Relaxed);
                let (shared, traffic) = (Arc::clone(&shared), Arc::clone(&traffic));
                connections.spawn(async move {
                    // A connection that breaks is the client's to notice, as on a real network.
                    let _broken = connect(client, server, &shared, &traffic).await;
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connect(
    client: TcpStream,
    server: SocketAddr,
    shared: &Shared,
    traffic: &Traffic,
) -> Result<()> {
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    tokio::time::sleep(shared.network.rtt).await;
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let up = |piece: &[u8]| {
        traffic.bytes_up.fetch_add(piece.len() as u64, Ordering::Relaxed);
        traffic.requests.fetch_add(u64::from(begins_request(piece)), Ordering::Relaxed);
    };
    let down = |piece: &[u8]| {
        traffic.bytes_down.fetch_add(piece.len() as u64, Ordering::Relaxed);
    };
    tokio::try_join!(
        carry(client_read, server_write, shared, &shared.up, &up),
        carry(server_read, client_write, shared, &shared.down, &down),
    )?;
    Ok(())
}

/// Whether these bytes are the beginning of an HTTP/1.1 request. A body that is cut where a
/// method's name stands would count too; no body of ours holds one.
fn begins_request(piece: &[u8]) -> bool {
    [&b"GET /"[..], b"POST /", b"PUT /", b"HEAD /", b"DELETE /"]
        .iter()
        .any(|method| piece.starts_with(method))
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    link: &Mutex<Link>,
    count: &(dyn Fn(&[u8]) + Sync),
) -> Result<()> {
    let (sender, mut receiver) = mpsc::channel::<(Duration, Vec<u8>)>(ON_THE_WAY_MAX);
    let send = async move {
        let mut flow = Flow::new(shared.network);
        let mut buffer = vec![0u8; BUFFER_LEN];
        loop {
            let len = from.read(&mut buffer).await?;
            if len == 0 {
                return anyhow::Ok(());
            }
            count(&buffer[..len]);
            let (mut sent, mut arrival) = (shared.epoch.elapsed(), Duration::ZERO);
            let mut left = &buffer[..len];
            let mut leaving = 0;
            while leaving < left.len() {
                let segment = (left.len() - leaving).min(SEGMENT_LEN as usize);
                let result = {
                    let mut link = link.lock().unwrap_or_else(PoisonError::into_inner);
                    flow.send(&mut link, sent, segment as u64)
                };
                match result {
                    Ok(times) => {
                        (sent, arrival) = times;
                        leaving += segment;
                    }
                    Err(room) => {
                        let gone = left.split_off(..leaving).unwrap_or_default();
                        leaving = 0;
                        if !gone.is_empty() && sender.send((arrival, gone.to_vec())).await.is_err()
                        {
                            return Ok(());
                        }
                        wait_until(shared.epoch, room).await;
                        sent = sent.max(room);
                    }
                }
            }
            if sender.send((arrival, left.to_vec())).await.is_err() {
                return Ok(());
            }
            wait_until(shared.epoch, sent).await;
        }
    };
    let deliver = async move {
        while let Some((arrival, segment)) = receiver.recv().await {
            wait_until(shared.epoch, arrival).await;
            to.write_all(&segment).await?;
        }
        to.shutdown().await?;
        anyhow::Ok(())
    };
    tokio::try_join!(send, deliver)?;
    Ok(())
}

/// Waits to within the timer's grain of 1 ms; shorter waits are not worth one, and the model's
/// clock does not drift by them, because it counts from `epoch`.
async fn wait_until(epoch: Instant, time: Duration) {
    let left = time.saturating_sub(epoch.elapsed());
    if left > Duration::from_millis(1) {
        tokio::time::sleep(left).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_told_from_bodies() {
        assert!(begins_request(b"GET /v1/start HTTP/1.1\r\n"));
        assert!(begins_request(b"POST /v1/blobs/fetch HTTP/1.1\r\n"));
        assert!(!begins_request(b"[\"da39a3ee\"]"));
        assert!(!begins_request(b"GET"));
    }
}
