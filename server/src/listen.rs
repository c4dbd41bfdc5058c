//! Listening: where a server may, and how it stops.
//!
//! An address that others can reach needs TLS; this is checked before the socket is bound and
//! again before it is served. A stop lets requests that run finish within [`DRAIN_DEADLINE`]. A
//! handler that panics answers like any other failure; a peer that takes nothing is cut off.

use std::any::Any;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse as _, Response};
use axum_server::Handle;
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use crate::error::ServerError;
use crate::tls::{Tls, TlsError};

/// How long requests may go on once a stop was asked for.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// Connections at a time; further ones are closed at once.
pub const CONNECTIONS_MAX: usize = 4096;

/// How long a connection may take to send a request's head, which is also how long it may idle.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);

/// How long a peer may take nothing of what is sent to it: an answer that nobody reads would
/// otherwise be kept, with its connection, for as long as the peer likes.
const WRITE_DEADLINE: Duration = Duration::from_secs(60);

/// Not listening.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Others could read along.
    #[error(
        "refusing to listen on {0} without TLS: give --tls-cert and --tls-key, or \
         --tls-self-signed, or listen on a loopback address"
    )]
    NeedsTls(SocketAddr),
    /// The socket.
    #[error("can't listen on {addr}")]
    Bind {
        /// The address asked for.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The certificate.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The accept loop.
    #[error("can't serve")]
    Serve(#[source] io::Error),
}

/// Where to listen, and how.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Address and port; port 0 takes a free one.
    pub addr: SocketAddr,
    /// Encryption.
    pub tls: Tls,
}

impl Listen {
    /// Whether this address may be used with this encryption.
    pub fn check(&self) -> Result<(), ListenError> {
        check(self.addr, &self.tls)
    }

    /// Checks, then binds.
    pub fn bind(&self) -> Result<TcpListener, ListenError> {
        self.check()?;
        TcpListener::bind(self.addr).map_err(|source| ListenError::Bind { addr: self.addr, source })
    }
}

fn check(addr: SocketAddr, tls: &Tls) -> Result<(), ListenError> {
    if addr.ip().to_canonical().is_loopback() || !matches!(tls, Tls::Off) {
        Ok(())
    } else {
        Err(ListenError::NeedsTls(addr))
    }
}

/// Serves `router` on `listener` until `shutdown`, then drains for at most [`DRAIN_DEADLINE`].
pub async fn serve(
    listener: TcpListener,
    router: Router,
    tls: &Tls,
    shutdown: CancellationToken,
) -> Result<(), ListenError> {
    let addr = listener.local_addr().map_err(ListenError::Serve)?;
    check(addr, tls)?;
    let config = tls.server_config()?;
    listener.set_nonblocking(true).map_err(ListenError::Serve)?;

    let handle = Handle::new();
    let mut server =
        axum_server::from_tcp(listener).map_err(ListenError::Serve)?.handle(handle.clone());
    let http = server.http_builder();
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(Some(Duration::from_secs(20)))
        .keep_alive_timeout(Duration::from_secs(20));

    let bounded = Bounded(Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    let router = router.layer(CatchPanicLayer::custom(panicked));
    // Who is at the other end: the audit tells it, and wrong tokens are counted by it.
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let serving = async {
        match config {
            Some(config) => {
                let acceptor =
                    RustlsAcceptor::new(RustlsConfig::from_config(config)).acceptor(bounded);
                server.acceptor(acceptor).serve(service).await
            }
            None => server.acceptor(bounded).serve(service).await,
        }
    };
    let stopping = async {
        shutdown.cancelled().await;
        handle.graceful_shutdown(Some(DRAIN_DEADLINE));
        std::future::pending::<()>().await
    };
    tokio::select! {
        served = serving => served.map_err(ListenError::Serve),
        () = stopping => Ok(()),
    }
}

/// What the caller of a handler that panicked sees.
#[expect(clippy::needless_pass_by_value, reason = "the signature that the layer calls")]
fn panicked(panic: Box<dyn Any + Send>) -> Response {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    tracing::error!(panic = text.unwrap_or("no text"), "a request's handler panicked");
    ServerError::internal("the server failed; its log says why").into_response()
}

/// Accepts a bounded number of connections, without Nagle's delay: output is streamed in small
/// pieces.
#[derive(Clone, Debug)]
struct Bounded(Arc<Semaphore>);

impl<S: Send + 'static> Accept<TcpStream, S> for Bounded {
    type Stream = Counted;
    type Service = S;
    type Future = std::future::Ready<io::Result<(Counted, S)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        std::future::ready(match Arc::clone(&self.0).try_acquire_owned() {
            Ok(permit) => stream.set_nodelay(true).map(|()| {
                (Counted { stream: Patient::new(stream, WRITE_DEADLINE), _permit: permit }, service)
            }),
            Err(_) => {
                tracing::warn!(connections = CONNECTIONS_MAX, "too many connections; closing one");
                Err(io::Error::other("too many connections"))
            }
        })
    }
}

/// A connection that holds one of the permits.
#[derive(Debug)]
struct Counted {
    stream: Patient<TcpStream>,
    _permit: OwnedSemaphorePermit,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// A stream whose writes fail once its peer has taken nothing for so long.
#[derive(Debug)]
struct Patient<S> {
    stream: S,
    patience: Duration,
    /// Runs while a write waits.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, deadline: None }
    }

    fn bounded<T>(
        &mut self,
        context: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.deadline = None;
            return written;
        }
        let patience = self.patience;
        let start = || Box::pin(tokio::time::sleep(patience));
        ready!(self.deadline.get_or_insert_with(start).as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bounded(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.bounded(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn panicking() -> Response {
        panic!("on purpose")
    }

    #[tokio::test]
    async fn a_handler_that_panics_answers_500_in_the_one_shape() {
        let router = Router::new().route("/", get(|| async { panicking() }));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = serve(listener, router, &Tls::Off, stop.clone());
        let asking = async {
            let mut stream = TcpStream::connect(addr).await.unwrap();
            let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            stop.cancel();
            answer
        };
        let (served, answer) = tokio::join!(serving, asking);
        served.unwrap();
        assert!(answer.starts_with("HTTP/1.1 500 "), "{answer}");
        assert!(answer.contains(r#"{"error":{"code":"internal","#), "{answer}");
        assert!(!answer.contains("on purpose"), "{answer}");
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_cut_off() {
        let (mut near, ours) = tokio::io::duplex(1);
        let mut ours = Patient::new(ours, Duration::from_millis(50));
        ours.write_all(b"a").await.unwrap();
        let sent = ours.write_all(b"b").await;
        assert_eq!(sent.unwrap_err().kind(), io::ErrorKind::TimedOut);
        // The time of one wait does not count for the next.
        assert_eq!(near.read_u8().await.unwrap(), b'a');
        ours.write_all(b"c").await.unwrap();
        assert!(ours.deadline.is_none());
    }

    #[test]
    fn an_address_that_others_can_reach_needs_tls() {
        for (addr, loopback) in [
            ("127.0.0.1:0", true),
            ("127.8.8.8:0", true),
            ("[::1]:0", true),
            ("[::ffff:127.0.0.1]:0", true),
            ("0.0.0.0:0", false),
            ("[::]:0", false),
            ("192.0.2.1:0", false),
        ] {
            let listen = Listen { addr: addr.parse().unwrap(), tls: Tls::Off };
            assert_eq!(listen.check().is_ok(), loopback, "{addr}");
            let listen = Listen { tls: Tls::SelfSigned { dir: "unused".into() }, ..listen };
            assert!(listen.check().is_ok(), "{addr}");
        }
    }
}
