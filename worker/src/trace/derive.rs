//! Traces for images that nobody has run: of their predecessors, and of images that have the same
//! files.

use std::sync::Arc;

use futures::FutureExt as _;
use futures::future::BoxFuture;
use sway_client::refs::Expect;
use sway_core::digest::Digest;
use sway_core::manifest::Manifest;
use sway_core::name::UserName;
use sway_core::trace::touches::{ADDED_BYTES_MIN, Contents};
use sway_core::trace::{Trace, TraceKey};

use super::store::Stored;
use super::{RecordError, Subject, Traces};
use crate::start::{Donor, Donors};

/// A frame of another image's trace is taken where at least one byte in so many is this image's.
pub(super) const DONATED_SHARE: u64 = 3;

/// Of a predecessor's trace, every frame is taken that has anything of this image: most of it has
/// not changed, and what has is dropped when the trace is planned again.
const INHERITED_SHARE: u64 = u64::MAX;

/// Traces of a predecessor that are passed on.
const INHERITED_MAX: usize = 64;

impl Donors for Traces {
    fn donor(
        &self,
        user: UserName,
        manifest: Arc<Manifest>,
        key: TraceKey,
    ) -> BoxFuture<'_, Option<Donor>> {
        async move {
            match self.best_for(&user, &manifest, &key).await {
                Ok(best) => best.map(|trace| Donor {
                    frames: trace.frames().iter().map(|frame| frame.digest).collect(),
                    trace: Arc::new(trace),
                }),
                Err(error) => {
                    tracing::warn!(%error, "no trace of other images is used");
                    None
                }
            }
        }
        .boxed()
    }
}

impl Traces {
    /// The known trace that has most of this image; one of the same key counts twice.
    async fn best_for(
        &self,
        user: &UserName,
        manifest: &Arc<Manifest>,
        key: &TraceKey,
    ) -> Result<Option<Trace>, RecordError> {
        let users = (!self.shares).then(|| vec![user.clone(), UserName::library()]);
        let known = self.db.traces(users).await?;
        if known.is_empty() {
            return Ok(None);
        }
        let (manifest, key) = (Arc::clone(manifest), key.clone());
        let choosing = tokio::task::spawn_blocking(move || {
            let contents = Contents::of(&manifest);
            let candidates = known.iter().filter_map(|known| {
                let trace = Trace::decode(&known.trace).ok()?;
                let covered = contents.coverage(&trace);
                let weight = if known.key == key { covered.saturating_mul(2) } else { covered };
                (covered > ADDED_BYTES_MIN).then_some((weight, trace))
            });
            // Rows come newest first; of equals, the newest.
            let best = candidates.reduce(|best, next| if next.0 > best.0 { next } else { best })?;
            contents.restrict(&best.1, DONATED_SHARE)
        });
        choosing.await.map_err(|_| RecordError::Stopping)
    }

    /// Gives an image the traces of its predecessor, as far as it has their contents, and else,
    /// as its default, the best that is known of other images. Traces that it has are left alone.
    /// Returns the keys that it got.
    pub(super) async fn derive(
        &self,
        user: &UserName,
        image: Digest,
        manifest: &Arc<Manifest>,
        previous: Option<Digest>,
    ) -> Result<Vec<TraceKey>, RecordError> {
        let mut derived = Vec::new();
        let subject = |key: TraceKey| Subject { user: user.clone(), manifest: image, key };
        let previous = previous.filter(|previous| *previous != image);
        for (key, trace) in self.inherited(user, manifest, previous).await? {
            if self.give(&subject(key.clone()), manifest, &trace).await? {
                derived.push(key);
            }
        }
        let any = TraceKey::any();
        if !derived.contains(&any)
            && self.stored(&subject(any.clone())).await?.is_none()
            && let Some(trace) = self.best_for(user, manifest, &any).await?
            && self.give(&subject(any.clone()), manifest, &trace).await?
        {
            derived.push(any);
        }
        Ok(derived)
    }

    /// The traces of a predecessor that are worth something to an image.
    async fn inherited(
        &self,
        user: &UserName,
        manifest: &Manifest,
        previous: Option<Digest>,
    ) -> Result<Vec<(TraceKey, Trace)>, RecordError> {
        let Some(previous) = previous else { return Ok(Vec::new()) };
        let prefix = format!("traces/{}/{previous}/", user.to_ref_part());
        let entries = self.client.refs().list(&prefix).await?;
        let contents = Contents::of(manifest);
        let mut inherited = Vec::new();
        for entry in entries.into_iter().take(INHERITED_MAX) {
            let key = entry.name.as_ref().rsplit('/').next().and_then(|key| key.parse().ok());
            let stored = self.stored_at(&entry.name).await?;
            if let (Some(key), Some(Stored { trace: Some(trace), .. })) = (key, stored)
                && let Some(trace) = contents.restrict(&trace, INHERITED_SHARE)
            {
                inherited.push((key, trace));
            }
        }
        Ok(inherited)
    }

    /// Makes `trace`, whose frames are stored, a trace of the image unless it has one.
    async fn give(
        &self,
        subject: &Subject,
        manifest: &Manifest,
        trace: &Trace,
    ) -> Result<bool, RecordError> {
        let given = self.publish(subject, manifest.page_roots(), trace, Expect::Absent).await?;
        if given {
            self.remember(subject, trace).await?;
        }
        Ok(given)
    }
}
