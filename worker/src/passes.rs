//! Passes for the fileserver: the worker knows its users, the fileserver believes the worker.
//!
//! A pass is made for whoever shows a token that opens something, at the moment when it is asked
//! for, so a revoked one gets none. It names the fileserver that the worker uses, by the id that
//! this tells of itself.

use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use sway_client::passes::{KeptPass, Passes};
use sway_client::{Client, ClientError};
use sway_core::access::{Scope, Scopes};
use sway_core::api::users::MadePass;
use sway_server::guard::{Identity, OPERATOR};
use sway_server::pass::{PASS_LIFETIME, PassKey, PublicKey};

/// Whom the worker's own passes speak for.
pub const WORKER: &str = "worker";

/// Makes passes. Clones share the key.
#[derive(Clone, Debug)]
pub struct PassDesk(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    key: PassKey,
    /// To the fileserver, without credentials.
    fileserver: Client,
}

impl PassDesk {
    /// Passes that `key` signs, for the server behind `fileserver`.
    pub fn new(key: PassKey, fileserver: Client) -> Self {
        Self(Arc::new(Inner { key, fileserver }))
    }

    /// What checks them.
    pub fn public_key(&self) -> PublicKey {
        self.0.key.public()
    }

    /// A pass of the caller's with `scopes`, which are among the caller's own.
    pub async fn make(&self, caller: &Identity, scopes: Scopes) -> Result<MadePass, ClientError> {
        let audience = self.audience().await?;
        let user = caller.user.clone();
        let token = caller.token.as_deref().unwrap_or(OPERATOR).to_owned();
        let pass = self.0.key.make(user.clone(), scopes, audience, token);
        tracing::debug!(%user, %scopes, "pass made");
        Ok(MadePass { pass, user, scopes, expires_in_s: PASS_LIFETIME.as_secs() })
    }

    /// The id of the fileserver.
    async fn audience(&self) -> Result<String, ClientError> {
        let fileserver = &self.0.fileserver;
        let health = fileserver.health().await?;
        let id = health["id"].as_str().map(str::to_owned);
        id.ok_or_else(|| ClientError::Protocol {
            url: fileserver.base().to_owned(),
            message: "it tells no id: is it a fileserver, and as new as the worker?".to_owned(),
        })
    }
}

/// The worker's own passes: with the scope `worker` and no other.
#[derive(Debug)]
pub struct OwnPasses {
    desk: PassDesk,
    kept: KeptPass,
    /// The fileserver's id as it was told, until a pass is refused: a renewal asks nobody.
    audience: Mutex<Option<String>>,
}

impl OwnPasses {
    /// Passes of `desk`'s worker.
    pub fn new(desk: PassDesk) -> Self {
        Self { desk, kept: KeptPass::default(), audience: Mutex::default() }
    }

    fn known_audience(&self) -> Option<String> {
        self.audience.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note_audience(&self, audience: Option<String>) {
        *self.audience.lock().unwrap_or_else(PoisonError::into_inner) = audience;
    }
}

impl Passes for OwnPasses {
    fn pass(&self) -> BoxFuture<'_, Result<String, ClientError>> {
        Box::pin(self.kept.get(async || {
            let audience = match self.known_audience() {
                Some(known) => known,
                None => self.desk.audience().await?,
            };
            self.note_audience(Some(audience.clone()));
            let worker = WORKER.parse().expect("a good user name");
            let scopes = Scopes::of(&[Scope::Worker]);
            let pass = self.desk.0.key.make(worker, scopes, audience, WORKER.to_owned());
            Ok((pass, PASS_LIFETIME))
        }))
    }

    fn forget(&self, pass: &str) {
        self.note_audience(None);
        self.kept.forget(pass);
    }
}
