//! `sway-fileserver`: serves a data directory until SIGTERM or SIGINT.

use std::process::ExitCode;

use clap::Parser as _;
use sway_fileserver::config::Args;
use sway_server::telemetry;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

fn main() -> ExitCode {
    let args = Args::parse();
    telemetry::init_logging(args.log.as_deref(), args.log_format);
    match serve(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn serve(args: Args) -> anyhow::Result<()> {
    let (config, listen) = args.check()?;
    let listener = listen.bind()?;
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
        served = sway_fileserver::run(config, listener, shutdown) => served,
        () = signals => Ok(()),
    }
}
