//! Passes: what shows a fileserver whom a worker takes the caller for.
//!
//! A pass lasts minutes. It is kept in memory, and renewed when half of its time is over.

use std::fmt;
use std::future::Future;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use sway_core::access::Scopes;
use sway_core::api::users::{MadePass, NewPass};
use tokio::sync::Mutex;

use crate::client::Client;
use crate::error::ClientError;

/// Where the passes of a client come from.
pub trait Passes: fmt::Debug + Send + Sync {
    /// One that is good now and for a while.
    fn pass(&self) -> BoxFuture<'_, Result<String, ClientError>>;

    /// A server did not take this one: the next is to be another.
    fn forget(&self, pass: &str);
}

/// A pass as long as half of its time has not gone. Who asks meanwhile waits for the one that is
/// being made.
#[derive(Debug, Default)]
pub struct KeptPass(Mutex<Option<Kept>>);

struct Kept {
    pass: String,
    until: Instant,
}

impl fmt::Debug for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("until", &self.until).finish_non_exhaustive()
    }
}

impl KeptPass {
    /// The pass that is kept, else what `make` makes: a pass and how long it lasts.
    pub async fn get<Making>(&self, make: impl FnOnce() -> Making) -> Result<String, ClientError>
    where
        Making: Future<Output = Result<(String, Duration), ClientError>>,
    {
        let mut kept = self.0.lock().await;
        if let Some(kept) = kept.as_ref().filter(|kept| Instant::now() < kept.until) {
            return Ok(kept.pass.clone());
        }
        let (pass, lifetime) = make().await?;
        *kept = Some(Kept { pass: pass.clone(), until: Instant::now() + lifetime / 2 });
        Ok(pass)
    }

    /// Keeps this one no longer. One that is being made is another.
    pub fn forget(&self, pass: &str) {
        if let Ok(mut kept) = self.0.try_lock() {
            kept.take_if(|kept| kept.pass == pass);
        }
    }
}

/// Passes that a worker makes for the holder of a token.
#[derive(Debug)]
pub struct WorkerPasses {
    worker: Client,
    scopes: Scopes,
    kept: KeptPass,
}

impl WorkerPasses {
    /// Passes for these scopes from `worker`.
    pub fn new(worker: Client, scopes: Scopes) -> Self {
        Self { worker, scopes, kept: KeptPass::default() }
    }

    /// Makes a first pass, which tells whom the worker takes the caller for.
    pub async fn begin(&self) -> Result<MadePass, ClientError> {
        let made = self.make().await?;
        let lifetime = Duration::from_secs(made.expires_in_s);
        self.kept.get(|| std::future::ready(Ok((made.pass.clone(), lifetime)))).await?;
        Ok(made)
    }

    async fn make(&self) -> Result<MadePass, ClientError> {
        self.worker.users().pass(&NewPass { scopes: Some(self.scopes) }).await
    }
}

impl Passes for WorkerPasses {
    fn pass(&self) -> BoxFuture<'_, Result<String, ClientError>> {
        let make = async || {
            let made = self.make().await?;
            Ok((made.pass, Duration::from_secs(made.expires_in_s)))
        };
        Box::pin(self.kept.get(make))
    }

    fn forget(&self, pass: &str) {
        self.kept.forget(pass);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn a_pass_is_kept_for_half_of_its_time_or_until_it_is_refused() {
        let (kept, made) = (KeptPass::default(), Cell::new(0));
        let get = async |lifetime| {
            kept.get(async || {
                made.set(made.get() + 1);
                Ok((made.get().to_string(), lifetime))
            })
            .await
            .unwrap()
        };
        let long = Duration::from_secs(3600);
        assert_eq!(get(long).await, "1");
        assert_eq!(get(long).await, "1");
        kept.forget("another");
        assert_eq!(get(long).await, "1");
        kept.forget("1");
        assert_eq!(get(Duration::ZERO).await, "2");
        assert_eq!(get(long).await, "3");
        assert!(!format!("{kept:?}").contains("pass: "));
    }

    #[tokio::test]
    async fn a_pass_that_can_not_be_made_is_an_error_and_made_again() {
        let kept = KeptPass::default();
        let broken = async || Err(ClientError::Config("no".to_owned()));
        assert!(kept.get(broken).await.is_err());
        let good = async || Ok(("1".to_owned(), Duration::from_secs(60)));
        assert_eq!(kept.get(good).await.unwrap(), "1");
    }
}
