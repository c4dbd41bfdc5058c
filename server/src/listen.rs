//! Listening: where a server may, and how it stops.
//!
//! An address that others can reach needs TLS; this is checked before the socket is bound and
//! again before it is served. A stop lets requests that run finish within [`DRAIN_DEADLINE`].

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum_server::Handle;
use axum_server::accept::Accept;
use axum_server::tls_rustls::{RustlsAcceptor, RustlsConfig};
use hyper_util::rt::TokioTimer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::tls::{Tls, TlsError};

/// How long requests may go on once a stop was asked for.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// Connections at a time; further ones are closed at once.
pub const CONNECTIONS_MAX: usize = 4096;

/// How long a connection may take to send a request's head, which is also how long it may idle.
const HEAD_DEADLINE: Duration = Duration::from_secs(60);

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
    let service = router.into_make_service();
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
            Ok(permit) => {
                stream.set_nodelay(true).map(|()| (Counted { stream, _permit: permit }, service))
            }
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
    stream: TcpStream,
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

#[cfg(test)]
mod tests {
    use super::*;

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
