//! The HTTP API (`docs/http-api.md`): each route decodes, calls one function, encodes.

mod access;
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

use axum::routing::{MethodRouter, delete, get, head, post, put};
use axum::{Router, middleware};
use sway_core::access::{Scope, Scopes};
use sway_server::error::ServerError;
use sway_server::guard::{self, Guard, GuardOptions, protect};
use sway_server::pass::PassGate;
use sway_server::tasks::Tasks;
use sway_server::telemetry::{self, Metrics};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::blobs::BlobStore;
use crate::config::Config;
use crate::holdings::Holdings;
use crate::reach::Reach;
use crate::refs::Refs;

/// Uploads at a time: each holds a thread and a batch.
const UPLOADS_MAX: usize = 16;

/// Streamed answers at a time: each holds a thread.
const DOWNLOADS_MAX: usize = 256;

/// Requests of users at a time for which manifests are read: each may hold one of 64 MiB.
const LOOKUPS_MAX: usize = 4;

/// How long a request waits for one of these places.
const PLACE_DEADLINE: Duration = Duration::from_secs(20);

/// What the routes share.
#[derive(Clone, Debug)]
pub struct App {
    blobs: Arc<dyn BlobStore>,
    refs: Arc<Refs>,
    uploads: Arc<Semaphore>,
    downloads: Arc<Semaphore>,
    lookups: Arc<Semaphore>,
    holdings: Arc<Holdings>,
    reach: Arc<Reach>,
    id: Arc<str>,
    tasks: Tasks,
    metrics: Metrics,
}

impl App {
    /// An app over these stores, on the current runtime; `id` is what passes name it by.
    pub fn new(blobs: Arc<dyn BlobStore>, refs: Refs, id: String) -> Self {
        Self {
            blobs,
            refs: Arc::new(refs),
            uploads: Arc::new(Semaphore::new(UPLOADS_MAX)),
            downloads: Arc::new(Semaphore::new(DOWNLOADS_MAX)),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            holdings: Arc::default(),
            reach: Arc::default(),
            id: id.into(),
            tasks: Tasks::new(),
            metrics: Metrics::install(),
        }
    }

    /// The tasks that stream answers.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }
}

/// Whom a route admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admits {
    /// Anybody, without a token.
    Anybody,
    /// Tokens and passes with one of these scopes.
    For(&'static [Scope]),
}

use Admits::{Anybody, For};
use Scope::{Export, Read, Run, Worker};

/// Every route, with whom it admits: what is not here is not served.
pub const ROUTES: [(&str, &str, Admits); 14] = [
    ("POST", "/v1/blobs", For(&[Run, Export, Worker])),
    ("POST", "/v1/blobs/missing", For(&[Run, Export, Worker])),
    ("POST", "/v1/blobs/fetch", For(&[Read, Worker])),
    ("GET", "/v1/blobs/{digest}", For(&[Worker])),
    ("HEAD", "/v1/blobs/{digest}", For(&[Worker])),
    ("PUT", "/v1/blobs/{digest}", For(&[Worker])),
    ("GET", "/v1/refs", For(&[Read, Run, Export, Worker])),
    ("GET", "/v1/refs/{*name}", For(&[Read, Run, Export, Worker])),
    ("PUT", "/v1/refs/{*name}", For(&[Run, Export, Worker])),
    ("DELETE", "/v1/refs/{*name}", For(&[Export, Worker])),
    ("GET", "/v1/bundles/{*name}", For(&[Worker])),
    ("GET", "/v1/start", For(&[Worker])),
    ("GET", "/healthz", Anybody),
    ("GET", "/metrics", For(&[Worker])),
];

/// What answers a route of [`ROUTES`].
fn handler(method: &str, path: &str) -> MethodRouter<App> {
    match (method, path) {
        ("POST", "/v1/blobs") => post(blobs::upload),
        ("POST", "/v1/blobs/missing") => post(blobs::missing),
        ("POST", "/v1/blobs/fetch") => post(blobs::fetch),
        ("GET", "/v1/blobs/{digest}") => get(blobs::get),
        ("HEAD", "/v1/blobs/{digest}") => head(blobs::head),
        ("PUT", "/v1/blobs/{digest}") => put(blobs::put),
        ("GET", "/v1/refs") => get(refs::list),
        ("GET", "/v1/refs/{*name}") => get(refs::get),
        ("PUT", "/v1/refs/{*name}") => put(refs::put),
        ("DELETE", "/v1/refs/{*name}") => delete(refs::delete),
        ("GET", "/v1/bundles/{*name}") => get(bundles::get),
        ("GET", "/v1/start") => get(start::get),
        ("GET", "/healthz") => get(health::healthz),
        ("GET", "/metrics") => get(health::metrics),
        _ => unreachable!("{method} {path} is listed and not handled"),
    }
}

/// All routes, guarded, for a server that listens on `addr`.
pub fn router(app: App, config: &Config, addr: SocketAddr) -> Router {
    let mut routes = Router::new();
    for (method, path, admits) in ROUTES {
        let mut handler = handler(method, path);
        if let For(scopes) = admits {
            let check = middleware::from_fn_with_state(Scopes::of(scopes), guard::needs);
            handler = handler.route_layer(check);
        }
        routes = routes.route(path, handler);
    }
    let gate = PassGate::new(config.token.clone(), app.id.to_string(), config.workers.clone());
    let routes = routes
        .fallback(|| async { ServerError::not_found("no_such_route", "there is no such route") })
        .method_not_allowed_fallback(|| async { error::method_not_allowed() })
        .with_state(app);
    let options = GuardOptions {
        names: config.names.clone(),
        requests_per_second: config.requests_per_second,
        ..GuardOptions::new(addr)
    };
    protect(telemetry::measured(routes), Guard::new(Arc::new(gate), options))
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
