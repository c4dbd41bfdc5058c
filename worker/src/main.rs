//! `sway-worker`: arguments in, exit code out; everything else is the library's.

use std::process::ExitCode;

use clap::Parser as _;
use sway_server::telemetry::{LogFormat, init_logging};
use sway_worker::config::{Arguments, Process, load};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    sway_worker::job::sandbox::enter_if_asked();
    let ended = load(Arguments::parse()).and_then(|process| {
        init_logging(process.log_filter.as_deref(), process.log_format);
        serve(process)
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Where the arguments were wrong, nobody has said yet how to log.
            init_logging(None, LogFormat::Text);
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn serve(process: Process) -> anyhow::Result<()> {
    let listener = process.listen.bind()?;
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = shutdown.clone();
    let signals = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
        std::future::pending::<()>().await
    };
    tokio::select! {
        served = sway_worker::run(process.config, listener, shutdown) => served,
        () = signals => Ok(()),
    }
}
