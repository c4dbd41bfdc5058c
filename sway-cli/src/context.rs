//! What every command works with: settings, the two servers, the way to print.

use std::time::Duration;

use anyhow::Context as _;
use sway_client::retry::Retries;
use sway_client::{Client, ClientConfig};
use url::Url;

use crate::config::Settings;
use crate::output::Output;

/// A person waits: a server that is not there is told within half a second.
const RETRIES: Retries = Retries {
    times: 2,
    first_pause: Duration::from_millis(100),
    longest_pause: Duration::from_millis(300),
};

/// Given to every command.
pub(crate) struct Context {
    /// Checked settings.
    pub(crate) settings: Settings,
    /// The way to print.
    pub(crate) output: Output,
}

impl Context {
    /// The fileserver, whether or not it is there.
    pub(crate) fn fileserver(&self) -> anyhow::Result<Client> {
        self.client(&self.settings.fileserver_url, self.settings.fileserver_pin.as_deref())
            .context("can't set up the connection to the fileserver")
    }

    /// The worker, likewise.
    pub(crate) fn worker(&self) -> anyhow::Result<Client> {
        self.client(&self.settings.worker_url, self.settings.worker_pin.as_deref())
            .context("can't set up the connection to the worker")
    }

    fn client(&self, base: &Url, pin: Option<&str>) -> anyhow::Result<Client> {
        let mut config = ClientConfig::new(base.clone());
        config.token = self.settings.token()?;
        config.user = Some(self.settings.user.clone());
        config.pin = pin.map(str::to_owned);
        config.retries = RETRIES;
        Ok(Client::new(&config)?)
    }
}
