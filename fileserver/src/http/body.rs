//! Bodies between the async side and blocking threads, with bounded memory and bounded waits.

use std::io::{self, BufReader, Read, Write};
use std::time::Duration;

use axum::body::Body;
pub(super) use axum::body::Bytes;
use futures::TryStreamExt as _;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::{StreamReader, SyncIoBridge};

/// How long a peer may neither send nor take anything.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of a piece of an answer; with the pieces that wait, all that a stream holds in memory.
pub(super) const PIECE_LEN: usize = 64 << 10;

const PIECES_WAITING: usize = 4;

/// A request's body for a blocking thread to read.
pub(super) fn reader(body: Body) -> impl Read + Send {
    let idle = || io::Error::new(io::ErrorKind::TimedOut, "the sender stopped sending");
    let pieces = body
        .into_data_stream()
        .map_err(io::Error::other)
        .timeout(IDLE_TIMEOUT)
        .map(move |piece| piece.unwrap_or_else(|_| Err(idle())));
    // Small reads must not each wake the runtime.
    BufReader::with_capacity(PIECE_LEN, SyncIoBridge::new(StreamReader::new(Box::pin(pieces))))
}

/// An answer's body, and the writer for a blocking thread to fill it.
pub(super) fn channel() -> (Body, BodyWriter) {
    let (sender, receiver) = mpsc::channel(PIECES_WAITING);
    let writer = BodyWriter { sender, runtime: Handle::current() };
    (Body::from_stream(ReceiverStream::new(receiver)), writer)
}

/// Sends what is written to it; give it a buffer of [`PIECE_LEN`]. Fails once the peer is gone or
/// takes nothing any more.
#[derive(Debug)]
pub(super) struct BodyWriter {
    sender: mpsc::Sender<io::Result<Bytes>>,
    runtime: Handle,
}

impl BodyWriter {
    fn send(&self, piece: io::Result<Bytes>) -> io::Result<()> {
        // Within `async`, since a timeout needs the runtime from its first moment.
        let sending = async { tokio::time::timeout(IDLE_TIMEOUT, self.sender.send(piece)).await };
        match self.runtime.block_on(sending) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::ErrorKind::BrokenPipe.into()),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    }

    /// Sends `piece` as it is, without a copy; waits while the peer is slower.
    pub(super) fn send_piece(&self, piece: Bytes) -> io::Result<()> {
        let len = piece.len();
        self.send(Ok(piece))?;
        metrics::counter!("sway_fileserver_sent_bytes_total").increment(len as u64);
        Ok(())
    }

    /// Breaks the answer off, so that the peer sees that it is not whole.
    pub(super) fn abort(&self, reason: io::Error) {
        let _ = self.send(Err(reason));
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send_piece(Bytes::copy_from_slice(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
