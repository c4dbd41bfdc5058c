//! Style, scripts and icon of the pages: files of the binary, under a path that their content gives.
//!
//! The path has a hash of all of them, so that a browser may keep what it has for ever, and scripts
//! import one another by relative names.

use std::sync::LazyLock;

use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest as _, Sha256};
use sway_server::error::ServerError;

const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// Name, media type and content.
const FILES: [(&str, &str, &str); 10] = [
    ("style.css", CSS, include_str!("assets/style.css")),
    ("icon.svg", SVG, include_str!("assets/icon.svg")),
    ("page.js", JS, include_str!("assets/page.js")),
    ("sign-in.js", JS, include_str!("assets/sign-in.js")),
    ("list.js", JS, include_str!("assets/list.js")),
    ("run.js", JS, include_str!("assets/run.js")),
    ("output.js", JS, include_str!("assets/output.js")),
    ("usage.js", JS, include_str!("assets/usage.js")),
    ("decide.js", JS, include_str!("assets/decide.js")),
    ("form.js", JS, include_str!("assets/form.js")),
];

struct Asset {
    path: String,
    media_type: &'static str,
    content: &'static str,
}

static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
    let version = &VERSION[..16];
    let asset = |(name, media_type, content)| Asset {
        path: format!("/assets/{version}/{name}"),
        media_type,
        content,
    };
    FILES.map(asset).into()
});

static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut hash = Sha256::new();
    for (name, _, content) in FILES {
        hash.update(name.as_bytes());
        hash.update([0]);
        hash.update(content.as_bytes());
        hash.update([0]);
    }
    hex::encode(hash.finalize())
});

/// The paths of all of them.
pub(super) fn paths() -> impl Iterator<Item = &'static str> {
    ASSETS.iter().map(|asset| asset.path.as_str())
}

/// Where a file of this name is.
pub(super) fn path(name: &str) -> &'static str {
    let is_named = |path: &&str| path.rsplit('/').next() == Some(name);
    paths().find(is_named).expect("pages name files that are there")
}

/// `GET /assets/{version}/{name}`.
pub(super) async fn show(request: Request) -> Response {
    let path = request.uri().path();
    let Some(asset) = ASSETS.iter().find(|asset| asset.path == path) else {
        return ServerError::not_found("no_such_route", "there is no such file").into_response();
    };
    let etag = HeaderValue::try_from(format!("\"{}\"", &VERSION[..16])).expect("hex");
    let known = request.headers().get(header::IF_NONE_MATCH) == Some(&etag);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.media_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable")),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::ETAG, etag),
    ];
    match known {
        true => (StatusCode::NOT_MODIFIED, headers).into_response(),
        false => (headers, asset.content).into_response(),
    }
}
