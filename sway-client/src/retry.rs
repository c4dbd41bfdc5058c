//! Repeating calls that may be repeated: a bounded number of times, with growing pauses.

use std::future::Future;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable as _};

use crate::error::ClientError;

/// How often to repeat, and the first and longest pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// Repetitions after the first try.
    pub times: usize,
    /// The first pause; doubled each time, with jitter.
    pub first_pause: Duration,
    /// The longest pause.
    pub longest_pause: Duration,
}

impl Retries {
    /// One try: for callers that have a deadline of their own.
    pub const NONE: Self =
        Self { times: 0, first_pause: Duration::ZERO, longest_pause: Duration::ZERO };
}

impl Default for Retries {
    /// About three seconds in all: a server that restarts is back by then.
    fn default() -> Self {
        Self {
            times: 4,
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(2),
        }
    }
}

/// Runs `operation` until it succeeds, fails for good, or was repeated often enough.
pub async fn retry<T, F, Fut>(retries: Retries, operation: F) -> Result<T, ClientError>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, ClientError>>,
{
    let pauses = ExponentialBuilder::default()
        .with_max_times(retries.times)
        .with_min_delay(retries.first_pause)
        .with_max_delay(retries.longest_pause)
        .with_jitter();
    operation
        .retry(pauses)
        .when(ClientError::is_transient)
        .notify(|error, pause| tracing::debug!(%error, ?pause, "trying again"))
        .await
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    async fn tries(error: fn() -> ClientError) -> usize {
        let tries = Cell::new(0);
        let retries = Retries { times: 3, ..Retries::NONE };
        let result: Result<(), _> = retry(retries, || {
            tries.set(tries.get() + 1);
            async { Err(error()) }
        })
        .await;
        assert!(result.is_err());
        tries.get()
    }

    fn refused(status: u16) -> ClientError {
        ClientError::Refused { status, code: String::new(), message: String::new(), hint: None }
    }

    #[tokio::test]
    async fn only_what_can_change_is_repeated() {
        assert_eq!(tries(|| refused(503)).await, 4);
        assert_eq!(tries(|| refused(429)).await, 4);
        assert_eq!(tries(|| refused(404)).await, 1);
        let timeout = || ClientError::Timeout { url: String::new(), after: Duration::ZERO };
        assert_eq!(tries(timeout).await, 4);
    }
}
