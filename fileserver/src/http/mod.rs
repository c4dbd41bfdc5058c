//! The HTTP API (`docs/http-api.md`): each route decodes, calls one function, encodes.

mod blobs;
mod body;
mod bundles;
mod error;
mod health;
mod refs;
mod start;
mod stripe;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use sway_server::error::ServerError;
use sway_server::guard::{Guard, GuardOptions, protect};
use sway_server::tasks::Tasks;
use sway_server::telemetry::{self, Metrics};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::blobs::BlobStore;
use crate::config::Config;
use crate::refs::Refs;

/// Uploads at a time: each holds a thread and a batch.
const UPLOADS_MAX: usize = 16;

/// Streamed answers at a time: each holds a thread.
const DOWNLOADS_MAX: usize = 256;

/// How long a request waits for one of these places.
const PLACE_DEADLINE: Duration = Duration::from_secs(20);

/// What the routes share.
#[derive(Clone, Debug)]
pub struct App {
    blobs: Arc<dyn BlobStore>,
    refs: Arc<Refs>,
    uploads: Arc<Semaphore>,
    downloads: Arc<Semaphore>,
    tasks: Tasks,
    metrics: Metrics,
}

impl App {
    /// An app over these stores, on the current runtime.
    pub fn new(blobs: Arc<dyn BlobStore>, refs: Refs) -> Self {
        Self {
            blobs,
            refs: Arc::new(refs),
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
            downloads: Arc::new(Semaphore::new(DOWNLOADS_MAX)),
            tasks: Tasks::new(),
            metrics: Metrics::install(),
        }
    }

    /// The tasks that stream answers.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }
}

/// All routes, guarded, for a server that listens on `addr`.
pub fn router(app: App, config: &Config, addr: SocketAddr) -> Router {
    let routes = Router::new()
        .route("/v1/blobs", post(blobs::upload))
        .route("/v1/blobs/missing", post(blobs::missing))
        .route("/v1/blobs/fetch", post(blobs::fetch))
        .route("/v1/blobs/{digest}", get(blobs::get).head(blobs::head).put(blobs::put))
        .route("/v1/refs", get(refs::list))
        .route("/v1/refs/{*name}", get(refs::get).put(refs::put).delete(refs::delete))
        .route("/v1/bundles/{*name}", get(bundles::get))
        .route("/v1/start", get(start::get))
        .route("/healthz", get(health::healthz))
        .route("/metrics", get(health::metrics))
        .fallback(|| async { ServerError::not_found("no_such_route", "there is no such route") })
        .method_not_allowed_fallback(|| async { error::method_not_allowed() })
        .with_state(app);
    let options = GuardOptions { names: config.names.clone(), ..GuardOptions::new(addr) };
    protect(telemetry::measured(routes), Guard::new(Arc::new(config.token.clone()), options))
}

/// Waits a while for one of the places.
async fn place(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, ServerError> {
    let waiting = Arc::clone(places).acquire_owned();
    match tokio::time::timeout(PLACE_DEADLINE, waiting).await {
        Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
        Err(_) => {
            Err(ServerError::too_many("too many transfers at a time", Duration::from_secs(2)))
        }
    }
}

/// Runs `work` where it may block.
async fn blocking<T, E, F>(work: F) -> Result<T, ServerError>
where
    T: Send + 'static,
    E: Into<ServerError> + Send + 'static,
    F: FnOnce() -> Result<T, E> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => {
            tracing::error!(%error, "a request's work panicked");
            Err(ServerError::internal("the server failed; its log says why"))
        }
    }
}
