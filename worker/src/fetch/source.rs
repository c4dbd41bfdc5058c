//! Where encoded blobs come from: the fileserver, or a test's stand-in.

use std::error::Error;
use std::fmt::Debug;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use sway_client::{Client, ClientError};
use sway_core::blob::{BlobError, FrameHeader};
use sway_core::digest::Digest;

use super::Wanted;

/// Frames of blobs as they arrive.
pub type Frames = BoxStream<'static, Result<(FrameHeader, Bytes), SourceError>>;

/// A server of blobs.
pub trait BlobSource: Debug + Send + Sync + 'static {
    /// Asks for blobs in one request. The stream ends after the last one or the first error, which
    /// is also a blob that is longer than wanted.
    /// `suspects` are those whose bytes were corrupt the last time: the server is to check its
    /// copy before it sends it again.
    fn fetch(&self, wanted: Vec<Wanted>, suspects: Vec<Digest>) -> Frames;
}

/// Why a request failed, by what to do next.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SourceError {
    /// Another try may succeed.
    #[error("{0}")]
    Unreachable(String),
    /// A blob is not the one that was asked for, as its announcement tells.
    #[error("{reason}")]
    Corrupt {
        /// The blob.
        digest: Digest,
        /// What is wrong.
        reason: String,
    },
    /// Another try would end the same.
    #[error("{0}")]
    Refused(String),
}

impl BlobSource for Client {
    fn fetch(&self, wanted: Vec<Wanted>, suspects: Vec<Digest>) -> Frames {
        let client = self.clone();
        Box::pin(async_stream::stream! {
            for suspect in suspects {
                // The server puts a corrupt copy aside and calls it missing from then on. What
                // this call itself comes to is no matter: the fetch tells.
                if let Err(error) = client.blobs().verify(suspect).await {
                    tracing::debug!(blob.digest = %suspect, %error, "cannot have a blob checked");
                }
            }
            let wanted = wanted.iter().map(|wanted| (wanted.digest, wanted.raw_len_max)).collect();
            let mut frames = client.blobs().fetch_within(wanted);
            while let Some(frame) = frames.next().await {
                yield frame.map_err(|error| SourceError::from(&error));
            }
        })
    }
}

impl From<&ClientError> for SourceError {
    #[deny(clippy::wildcard_enum_match_arm)]
    fn from(error: &ClientError) -> Self {
        let reason = with_sources(error);
        match error {
            ClientError::Refused { .. } if error.is_transient() => Self::Unreachable(reason),
            ClientError::Corrupt(BlobError::TooLong { digest, .. }) => {
                Self::Corrupt { digest: *digest, reason }
            }
            // What breaks off, or is garbled on its way, may be whole the next time.
            ClientError::Unreachable { .. }
            | ClientError::Timeout { .. }
            | ClientError::Corrupt(_)
            | ClientError::Protocol { .. } => Self::Unreachable(reason),
            ClientError::Untrusted { .. }
            | ClientError::Refused { .. }
            | ClientError::Missing(_)
            | ClientError::Config(_) => Self::Refused(reason),
        }
    }
}

/// The error and what caused it, in one line.
fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
