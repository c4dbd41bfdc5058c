//! What every command works with: settings, the servers, the way to print.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use sway_client::passes::WorkerPasses;
use sway_client::retry::Retries;
use sway_client::{Client, ClientConfig, ClientError};
use sway_core::access::{Scope, Scopes};
use sway_core::api::users::is_of_user;
use sway_core::name::UserName;
use url::Url;

use crate::config::{Settings, server_url_of};
use crate::output::{Output, chain};
use crate::owners::{Owner, Owners};

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

    /// The worker of the settings, whether or not it is there.
    pub(crate) fn worker(&self) -> anyhow::Result<Client> {
        let mut config = self.config(&self.settings.worker_url);
        config.pin.clone_from(&self.settings.worker_pin);
        config.token = self.settings.token()?;
        config.user = Some(self.settings.user.clone());
        Client::new(&config).context("can't set up the connection to the worker")
    }

    /// Where `owner` decides, and under which label; that of the settings unless `sway owner` knows
    /// another one.
    pub(crate) fn worker_of(&self, owner: &UserName) -> anyhow::Result<(Client, Option<String>)> {
        match self.owners()?.0.remove(owner) {
            Some(owner) => Ok((self.worker_at(&owner)?, owner.queue)),
            None => Ok((self.worker()?, None)),
        }
    }

    /// An owner's worker. The token of the settings goes to their own worker and nowhere else.
    pub(crate) fn worker_at(&self, owner: &Owner) -> anyhow::Result<Client> {
        let url = server_url_of("the owner's worker", &owner.worker_url)?;
        let (token, pin) = match self.is_own(owner)? {
            true => (self.settings.token()?, self.settings.worker_pin.clone()),
            false => (None, None),
        };
        let mut config = self.config(&url);
        config.pin = owner.worker_pin.clone().or(pin);
        config.token = owner.token.clone().or(token);
        config.user = Some(self.settings.user.clone());
        Client::new(&config).with_context(|| format!("can't set up the connection to {url}"))
    }

    /// Whether an owner decides at the worker of the settings.
    pub(crate) fn is_own(&self, owner: &Owner) -> anyhow::Result<bool> {
        Ok(server_url_of("the owner's worker", &owner.worker_url)? == self.settings.worker_url)
    }

    /// The worker of the settings, then those of owners who have others, in the order of their names.
    pub(crate) fn workers(&self) -> anyhow::Result<Vec<Client>> {
        let mut workers = vec![self.worker()?];
        let mut known = BTreeSet::new();
        for owner in self.owners()?.0.values() {
            let is_other = owner.token.is_some() || !self.is_own(owner)?;
            if is_other && known.insert((owner.worker_url.clone(), owner.token.clone())) {
                workers.push(self.worker_at(owner)?);
            }
        }
        Ok(workers)
    }

    /// The worker that has the job whose id begins so: of several, the first.
    pub(crate) async fn worker_with(&self, id: &str) -> anyhow::Result<Client> {
        let mut workers = self.workers()?;
        if workers.len() > 1 {
            for worker in &workers {
                match worker.jobs().job(id).await {
                    Ok(_) => return Ok(worker.clone()),
                    Err(ClientError::Refused { status: 404, .. }) => {}
                    Err(error) => self.is_missing(worker, error),
                }
            }
        }
        // Which says itself that it has none.
        Ok(workers.swap_remove(0))
    }

    /// The worker that has a run, by its job's id; runs with numbers are those of the settings' worker.
    pub(crate) async fn worker_of_run(&self, name: &str) -> anyhow::Result<Client> {
        match name.parse::<i64>() {
            Ok(_) => self.worker(),
            Err(_) => self.worker_with(name).await,
        }
    }

    /// Says that a worker could not be asked: what others have is told all the same.
    pub(crate) fn is_missing(&self, worker: &Client, error: ClientError) {
        let error = chain(&error.into());
        self.output.warning(format_args!("jobs at {} are missing: {error}", worker.base()));
    }

    /// Owners who have workers of their own; none counts where the command line names a worker.
    fn owners(&self) -> anyhow::Result<Owners> {
        match self.settings.worker_is_named {
            true => Ok(Owners::default()),
            false => Ok(Owners::load(&self.settings.data)?),
        }
    }

    fn config(&self, base: &Url) -> ClientConfig {
        ClientConfig { retries: RETRIES, ..ClientConfig::new(base.clone()) }
    }
}
