//! Routes that tell how the server is.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde::Serialize;
use sway_server::error::Json;

use super::App;

/// Answer of `GET /healthz`.
#[derive(Debug, Serialize)]
pub(super) struct Health {
    status: &'static str,
    service: &'static str,
    version: &'static str,
    /// What passes for this server name.
    id: String,
}

/// `GET /healthz`
pub(super) async fn healthz(State(app): State<App>) -> Json<Health> {
    Json(Health {
        status: "ok",
        service: "sway-fileserver",
        version: env!("CARGO_PKG_VERSION"),
        id: app.id.to_string(),
    })
}

/// `GET /metrics`
pub(super) async fn metrics(State(app): State<App>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], app.metrics.render())
}
