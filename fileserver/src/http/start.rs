//! Route of starts: what a cold start needs, in one answer, in the order in which it needs it.
//!
//! The body is one stream of frames, sent in stripes.

use std::collections::HashSet;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use sway_core::api::blobs::FRAMES_MEDIA_TYPE;
use sway_core::api::start::{
    START_BASE_HEADER, START_BUNDLE_HEADER, START_HAVE_MAX, START_IMAGE_HEADER,
    START_MANIFEST_HEADER, START_NAMES_MAX, parse_start_etag, start_etag,
};
use sway_core::bundle::Bundle;
use sway_core::digest::Digest;
use sway_core::name::{RefName, UserName};
use sway_core::trace::{TraceKey, trace_ref};
use sway_server::error::{Query, ServerError};
use sway_server::guard::Identity;

use super::bundles::load;
use super::refs::ref_not_found;
use super::stripe::{self, StripeOf};
use super::{App, blocking};

/// `GET /v1/start`
pub(super) async fn get(
    State(app): State<App>,
    identity: Identity,
    Query(pairs): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Result<Response, ServerError> {
    let asked = Asked::read(&pairs, &identity)?;
    let (image, manifest) = asked.resolve(&app)?;
    let trace = asked.trace(&app, manifest).await?;

    let etag = start_etag(manifest, trace.as_ref().map(|(digest, _)| *digest));
    let unchanged = known(&headers).any(|known| known == etag);
    let mut head = HeaderMap::new();
    let text = |text: String| HeaderValue::try_from(text).expect("refs and digests are ASCII");
    head.insert(header::ETAG, text(etag));
    head.insert(START_MANIFEST_HEADER, text(manifest.to_hex()));
    if let Some(image) = image {
        head.insert(START_IMAGE_HEADER, text(image.to_string()));
    }
    if let Some((bundle, _)) = &trace {
        head.insert(START_BUNDLE_HEADER, text(bundle.to_hex()));
    }
    if unchanged {
        return Ok((StatusCode::NOT_MODIFIED, head, Body::empty()).into_response());
    }
    head.insert(header::CONTENT_TYPE, HeaderValue::from_static(FRAMES_MEDIA_TYPE));
    let mut have: HashSet<Digest> = asked.have.iter().copied().collect();
    if asked.changes
        && trace.is_some()
        && let Some((base, bundle)) = base(&app, manifest, &headers).await?
    {
        head.insert(START_BASE_HEADER, text(base.to_hex()));
        have.extend([manifest].into_iter().chain(bundle.members));
    }
    let members = trace.map_or_else(Vec::new, |(_, bundle)| bundle.members);
    let mut blobs: Vec<Digest> = [manifest].into_iter().chain(members).collect();
    blobs.retain(|digest| !have.contains(digest));
    let body = stripe::frames(&app, blobs, HashSet::new(), asked.stripe, false).await?;
    Ok((head, body).into_response())
}

/// The query.
#[derive(Debug)]
struct Asked {
    images: Vec<RefName>,
    manifest: Option<Digest>,
    user: UserName,
    keys: Vec<TraceKey>,
    have: Vec<Digest>,
    changes: bool,
    stripe: StripeOf,
}

impl Asked {
    fn read(pairs: &[(String, String)], identity: &Identity) -> Result<Self, ServerError> {
        let mut asked = Self {
            images: Vec::new(),
            manifest: None,
            user: identity.user.clone(),
            keys: Vec::new(),
            have: Vec::new(),
            changes: false,
            stripe: StripeOf::WHOLE,
        };
        for (name, value) in pairs {
            match name.as_str() {
                "image" => asked.images.push(parsed(name, value.parse())?),
                "manifest" => asked.manifest = Some(parsed(name, value.parse())?),
                "user" => asked.user = parsed(name, UserName::from_ref_part(value))?,
                "key" => asked.keys.push(parsed(name, value.parse())?),
                "have" => asked.have.push(parsed(name, value.parse())?),
                "changes" => asked.changes = parsed(name, value.parse())?,
                "stripe" => asked.stripe.number = parsed(name, value.parse())?,
                "stripes" => asked.stripe.of = parsed(name, value.parse())?,
                _ => return Err(malformed(format!("there is no parameter {name:?}"))),
            }
        }
        if asked.images.is_empty() == asked.manifest.is_none() {
            return Err(malformed("give image, or manifest"));
        }
        asked.stripe.check().map_err(malformed)?;
        if asked.images.len().max(asked.keys.len()) > START_NAMES_MAX {
            return Err(malformed(format!("at most {START_NAMES_MAX} images and keys")));
        }
        if asked.have.len() > START_HAVE_MAX {
            return Err(malformed(format!("at most {START_HAVE_MAX} times have")));
        }
        Ok(asked)
    }

    /// The first of the images that is there, and the manifest.
    fn resolve(&self, app: &App) -> Result<(Option<&RefName>, Digest), ServerError> {
        if let Some(manifest) = self.manifest {
            return Ok((None, manifest));
        }
        let found = self.images.iter().find_map(|name| Some((name, app.refs.get(name)?.digest)));
        match (found, self.images.first()) {
            (Some((name, manifest)), _) => Ok((Some(name), manifest)),
            (None, Some(first)) => Err(ref_not_found(first)),
            (None, None) => Err(malformed("give image, or manifest")),
        }
    }

    /// The bundle of the first key that has one. One that can't be read is as if not there: a
    /// start without a trace is slower, and that is all.
    async fn trace(
        &self,
        app: &App,
        manifest: Digest,
    ) -> Result<Option<(Digest, Bundle)>, ServerError> {
        let refs = self.keys.iter().map(|key| trace_ref(&self.user, manifest, key));
        let found: Vec<_> = refs.filter_map(|name| app.refs.get(&name)).collect();
        if found.is_empty() {
            return Ok(None);
        }
        let store = Arc::clone(&app.blobs);
        blocking(move || {
            Ok::<_, ServerError>(found.into_iter().find_map(|entry| {
                match load(&*store, entry.digest) {
                    Ok(bundle) => Some((entry.digest, bundle)),
                    Err(error) => {
                        tracing::warn!(ref.name = %entry.name, %error, "a trace is not readable");
                        None
                    }
                }
            }))
        })
        .await
    }
}

fn parsed<T, E: std::fmt::Display>(name: &str, value: Result<T, E>) -> Result<T, ServerError> {
    value.map_err(|error| malformed(format!("parameter {name}: {error}")))
}

fn malformed(message: impl Into<String>) -> ServerError {
    ServerError::bad_request("malformed_query", message)
        .hint("see GET /v1/start in docs/http-api.md")
}

/// The bundle that the caller has of this manifest, as `If-None-Match` names it. One that can't be
/// read is as if not there.
async fn base(
    app: &App,
    manifest: Digest,
    headers: &HeaderMap,
) -> Result<Option<(Digest, Bundle)>, ServerError> {
    let mut named = known(headers).filter_map(parse_start_etag);
    let Some(base) = named.find_map(|(of, bundle)| bundle.filter(|_| of == manifest)) else {
        return Ok(None);
    };
    let store = Arc::clone(&app.blobs);
    let load = move || load(&*store, base).ok().map(|bundle| (base, bundle));
    blocking(move || Ok::<_, ServerError>(load())).await
}

/// What `If-None-Match` names (RFC 9110, 13.1.2).
fn known(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let known = headers.get_all(header::IF_NONE_MATCH).into_iter();
    known.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).map(|known| {
        let known = known.trim();
        known.strip_prefix("W/").unwrap_or(known)
    })
}
