//! What watches the worker asks for.

use axum::extract::State;
use axum::http::header;
use axum::response::IntoResponse;
use serde_json::{Value, json};
use sway_server::error::Json;

use super::App;
use super::compat::{MEMORY_MIB_MAX, TIMEOUT_S_MAX};
use super::openapi::Guarded;

/// For load balancers: the worker answers, and these are its numbers.
#[utoipa::path(get, path = "/healthz", tag = "worker", security(()),
    responses((status = 200, description = "It works.", body = Object)))]
pub(super) async fn healthz(State(app): State<App>) -> Json<Value> {
    let (waiting, running) = app.queue.counts();
    Json(json!({
        "status": "ok",
        "service": "sway-worker",
        "version": env!("CARGO_PKG_VERSION"),
        "jobs": { "waiting": waiting, "running": running },
    }))
}

/// The shape of `PyRunner`'s health.
pub(super) async fn health(app: &App) -> Json<Value> {
    let libraries = app.libraries.names().await;
    Json(json!({
        "service": "Sway",
        "status": "healthy",
        "version": env!("CARGO_PKG_VERSION"),
        "capabilities": {
            "max_timeout": (app.maxima.timeout_ms / 1000).min(TIMEOUT_S_MAX),
            "max_memory_mb": (app.maxima.memory_bytes >> 20).min(MEMORY_MIB_MAX),
            "libraries": libraries,
        },
    }))
}

/// Figures in Prometheus' text format.
#[utoipa::path(get, path = "/metrics", tag = "worker",
    responses((status = 200, description = "Since the worker's start.", body = String), Guarded))]
#[expect(clippy::cast_precision_loss, reason = "gauges are floats; jobs are few")]
pub(super) async fn metrics(State(app): State<App>) -> impl IntoResponse {
    let (waiting, running) = app.queue.counts();
    metrics::gauge!("sway_jobs_waiting").set(waiting as f64);
    metrics::gauge!("sway_jobs_running").set(running as f64);
    // Reads that no run caused keep the sums honest.
    let figures = app.accounts.unattributed().figures();
    for (tier, chunks, bytes) in [
        ("memory", figures.memory_hits, figures.memory_bytes),
        ("disk", figures.disk_hits, figures.disk_bytes),
        ("server", figures.fetches, figures.fetched_bytes),
    ] {
        metrics::counter!("sway_unattributed_chunks_total", "tier" => tier).absolute(chunks);
        metrics::counter!("sway_unattributed_bytes_total", "tier" => tier).absolute(bytes);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], app.metrics.render())
}
