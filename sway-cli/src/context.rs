//! What every command works with: settings, the two servers, the way to print.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sway_client::passes::WorkerPasses;
use sway_client::retry::Retries;
use sway_client::{Client, ClientConfig};
use sway_core::access::{Scope, Scopes};
use sway_core::api::users::is_of_user;
use sway_core::name::UserName;
use url::Url;

use crate::config::Settings;
use crate::output::Output;

/// A person waits: a server that is not there is told within half a second.
const RETRIES: Retries = Retries {
    times: 2,
    first_pause: Duration::from_millis(100),
    longest_pause: Duration::from_millis(300),
};

const NO_FILESERVER: &str = "can't set up the connection to the fileserver";

/// Given to every command.
pub(crate) struct Context {
    /// Checked settings.
    pub(crate) settings: Settings,
    /// The way to print.
    pub(crate) output: Output,
}

/// The fileserver, and as whom we come.
pub(crate) struct Fileserver {
    /// The way to it.
    pub(crate) client: Client,
    /// Whose refs are own ones.
    pub(crate) user: UserName,
}

impl Context {
    /// The fileserver, for what `scopes` allow. A user's token is the worker's to see and nobody
    /// else's: it makes passes of it. The operator's is shown to both servers.
    pub(crate) async fn fileserver(&self, scopes: &[Scope]) -> anyhow::Result<Fileserver> {
        let token = self.settings.token()?;
        if !token.as_deref().is_some_and(is_of_user) {
            let user = self.settings.user.clone();
            return Ok(Fileserver { client: self.plain_fileserver()?, user });
        }
        let passes = WorkerPasses::new(self.worker()?, Scopes::of(scopes));
        let first = passes.begin().await.context("no pass for the fileserver")?;
        let mut config = self.config(&self.settings.fileserver_url);
        config.pin.clone_from(&self.settings.fileserver_pin);
        config.passes = Some(Arc::new(passes));
        let client = Client::new(&config).context(NO_FILESERVER)?;
        Ok(Fileserver { client, user: first.user })
    }

    /// The fileserver, for what `scope` allows with refs of `owner`; of the caller where there is
    /// none. Only an operator has a pass for what is somebody else's.
    pub(crate) async fn fileserver_for(
        &self,
        owner: Option<&UserName>,
        scope: Scope,
    ) -> anyhow::Result<Fileserver> {
        let own = self.fileserver(&[scope]).await?;
        match owner.filter(|owner| **owner != own.user) {
            Some(_) => self.fileserver(&[scope, Scope::Admin]).await,
            None => Ok(own),
        }
    }

    /// The fileserver with the operator's token, or none, whether or not it is there.
    pub(crate) fn plain_fileserver(&self) -> anyhow::Result<Client> {
        let mut config = self.config(&self.settings.fileserver_url);
        config.pin.clone_from(&self.settings.fileserver_pin);
        config.token = self.settings.token()?.filter(|token| !is_of_user(token));
        config.user = Some(self.settings.user.clone());
        Client::new(&config).context(NO_FILESERVER)
    }

    /// The worker, whether or not it is there.
    pub(crate) fn worker(&self) -> anyhow::Result<Client> {
        let mut config = self.config(&self.settings.worker_url);
        config.pin.clone_from(&self.settings.worker_pin);
        config.token = self.settings.token()?;
        config.user = Some(self.settings.user.clone());
        Client::new(&config).context("can't set up the connection to the worker")
    }

    fn config(&self, base: &Url) -> ClientConfig {
        ClientConfig { retries: RETRIES, ..ClientConfig::new(base.clone()) }
    }
}
