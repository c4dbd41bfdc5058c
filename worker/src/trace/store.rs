//! Traces on the fileserver: a ref, its bundle, the trace in it.

use sway_client::ClientError;
use sway_client::refs::{Expect, REF_CONFLICT};
use sway_core::bundle::Bundle;
use sway_core::digest::Digest;
use sway_core::name::RefName;
use sway_core::trace::{Trace, trace_ref};

use super::{RecordError, Subject, Traces};

/// A trace that a ref leads to.
#[derive(Debug)]
pub(super) struct Stored {
    /// What the ref points to.
    pub(super) bundle: Digest,
    /// None where it is not a trace that this worker reads.
    pub(super) trace: Option<Trace>,
}

impl Traces {
    /// The trace of `subject`; none where it has none.
    pub(super) async fn stored(&self, subject: &Subject) -> Result<Option<Stored>, RecordError> {
        self.stored_at(&ref_of(subject)).await
    }

    pub(super) async fn stored_at(&self, name: &RefName) -> Result<Option<Stored>, RecordError> {
        let Some(bundle) = self.client.refs().get(name).await? else { return Ok(None) };
        let trace = match self.trace_of(bundle).await {
            Ok(trace) => trace,
            // Its blobs are gone, or nonsense: the next trace takes its place.
            Err(RecordError::Client(ClientError::Missing(_) | ClientError::Corrupt(_))) => None,
            Err(error) => return Err(error),
        };
        Ok(Some(Stored { bundle, trace }))
    }

    /// The trace of a bundle: its first member, or its second behind the page roots.
    async fn trace_of(&self, bundle: Digest) -> Result<Option<Trace>, RecordError> {
        let blob = self.client.blobs().get(bundle).await?;
        let Ok(bundle) = Bundle::decode(blob.as_ref()) else { return Ok(None) };
        // The trace is the smaller of both and mostly the second.
        for member in bundle.members.iter().take(2).rev() {
            let blob = self.client.blobs().get(*member).await?;
            if let Ok(trace) = Trace::decode(blob.as_ref()) {
                return Ok(Some(trace));
            }
        }
        Ok(None)
    }

    /// Stores trace and bundle, whose frames are stored already, and moves the ref. Tells whether
    /// the ref was as expected.
    pub(super) async fn publish(
        &self,
        subject: &Subject,
        page_roots: Option<Digest>,
        trace: &Trace,
        expect: Expect,
    ) -> Result<bool, RecordError> {
        let trace_blob = self.client.blobs().put(&trace.encode()).await?;
        let bundle = trace.to_bundle(page_roots, trace_blob).encode();
        let bundle = bundle.map_err(|error| RecordError::Content(error.to_string()))?;
        let bundle = self.client.blobs().put(&bundle).await?;
        self.move_ref(&ref_of(subject), bundle, expect).await
    }

    async fn move_ref(
        &self,
        name: &RefName,
        bundle: Digest,
        expect: Expect,
    ) -> Result<bool, RecordError> {
        match self.client.refs().put(name, bundle, expect).await {
            Ok(()) => Ok(true),
            Err(ClientError::Refused { code, .. }) if code == REF_CONFLICT => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

pub(super) fn ref_of(subject: &Subject) -> RefName {
    trace_ref(&subject.user, subject.manifest, &subject.key)
}
