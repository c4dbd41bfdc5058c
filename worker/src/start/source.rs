//! Where starts come from: the fileserver, or a test's stand-in.

use std::fmt::Debug;

use futures::future::BoxFuture;
use sway_client::blobs::FrameStream;
use sway_client::start::{StartAnswer, StartQuery};
use sway_client::{Client, ClientError};
use sway_core::api::start::STRIPES_MAX;
use sway_core::digest::Digest;

/// A server of starts.
pub trait StartSource: Debug + Send + Sync + 'static {
    /// Asks for all that a start needs, once.
    fn start(&self, query: StartQuery) -> BoxFuture<'_, Result<StartAnswer, ClientError>>;

    /// Keeps connections open for starts until it is dropped; ends where there is nothing to keep.
    fn keep_warm(&self, _connections: u8) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }

    /// Asks for blobs, in this order, once. Frames are not verified.
    fn blobs(&self, digests: &[Digest]) -> FrameStream;
}

impl StartSource for Client {
    fn start(&self, query: StartQuery) -> BoxFuture<'_, Result<StartAnswer, ClientError>> {
        Box::pin(Self::start(self, query))
    }

    fn keep_warm(&self, connections: u8) -> BoxFuture<'static, ()> {
        let client = self.clone();
        Box::pin(async move { match Self::keep_warm(&client, connections).await {} })
    }

    fn blobs(&self, digests: &[Digest]) -> FrameStream {
        Self::blobs(self).fetch_striped(digests, STRIPES_MAX)
    }
}
