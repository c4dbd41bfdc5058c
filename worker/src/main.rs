//! `sway-worker`: arguments in, exit code out; everything else is the library's.

use clap::Parser as _;
use sway_server::telemetry::init_logging;
use sway_worker::config::{Arguments, load};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let process = load(Arguments::parse())?;
    init_logging(process.log_filter.as_deref(), process.log_format);
    let listener = process.listen.bind()?;
    let shutdown = CancellationToken::new();
    let mut terminated = signal(SignalKind::terminate())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let asked = async {
        tokio::select! {
            _ = terminated.recv() => {}
            _ = interrupted.recv() => {}
        }
        shutdown.cancel();
        std::future::pending().await
    };
    tokio::select! {
        ended = sway_worker::run(process.config, listener, shutdown.clone()) => ended,
        () = asked => Ok(()),
    }
}
