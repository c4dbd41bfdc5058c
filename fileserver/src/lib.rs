//! The fileserver: blobs and refs over HTTP.
//!
//! Modules are listed in the order in which data flows: a blob comes in, is verified once and
//! kept whole or not at all; a ref makes it findable, and readable to those who may read the ref
//! (`reach`); both go out over HTTP. [`run`] is the
//! server's life from start to stop, for `main` and for programs that embed it.

#![forbid(unsafe_code)]

pub mod config;
pub mod data;
pub mod blobs;
pub mod refs;
pub mod holdings;
pub mod reach;
pub mod http;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sway_server::listen;
use tokio_util::sync::CancellationToken;

pub use config::Config;

use crate::blobs::disk::DiskStore;
use crate::data::DataDir;
use crate::refs::Refs;

/// Serves the data directory of `config` on `listener` until `shutdown`.
pub async fn run(
    config: Config,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let addr = listener.local_addr().context("no local address")?;
    let opening = {
        let path = config.data.clone();
        tokio::task::spawn_blocking(move || {
            let data = DataDir::open(&path)?;
            let blobs = DiskStore::open(&data)?;
            let refs = Refs::open(&data)?;
            let id = data.id()?;
            anyhow::Ok((data, blobs, refs, id))
        })
    };
    // The directory stays locked until the server has stopped.
    let (data, blobs, refs, id) = opening.await.context("opening the data directory")??;
    let app = http::App::new(Arc::new(blobs), refs, id);
    let tasks = app.tasks().clone();
    let router = http::router(app, &config, addr);
    tracing::info!(
        listen.addr = %addr,
        data.path = %data.path().display(),
        tls = !matches!(config.tls, sway_server::tls::Tls::Off),
        "fileserver is listening"
    );
    listen::serve(listener, router, &config.tls, shutdown).await?;
    tasks.shutdown(Duration::from_secs(2)).await;
    tracing::info!("fileserver has stopped");
    Ok(())
}
