//! The bodies of submitted jobs in memory: a bound for all, and a share of it for each user.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use sway_core::api::jobs::JOB_BODY_LEN_MAX;
use sway_core::name::UserName;
use sway_server::error::{ServerError, in_time};
use sway_server::guard::Identity;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bodies, of up to 64 MiB each, in memory at a time; other requests wait.
const BODIES_MAX: usize = 8;

/// And at most so many of one user.
const BODIES_OF_USER_MAX: usize = BODIES_MAX / 2;

/// How long a request waits for its place.
const PLACE_DEADLINE: Duration = Duration::from_secs(30);

/// When to try again after that.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// How long a body may take to arrive: a slow sender must not keep others out.
const BODY_DEADLINE: Duration = Duration::from_secs(120);

/// The places of bodies.
#[derive(Debug)]
pub(super) struct Bodies {
    all: Arc<Semaphore>,
    /// Of the users who have a place or wait for one.
    shares: Mutex<HashMap<UserName, Arc<Semaphore>>>,
}

/// The right to hold a body in memory.
#[derive(Clone, Debug)]
pub(super) struct BodyPermit {
    _permits: Arc<[OwnedSemaphorePermit; 2]>,
}

impl Bodies {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { all: Arc::new(Semaphore::new(BODIES_MAX)), shares: Mutex::default() })
    }

    async fn place(&self, user: &UserName, wait: Duration) -> Result<BodyPermit, ServerError> {
        let share = self.share(user);
        let places = async {
            // First the share: who waits for its own keeps no place from others.
            let own = share.acquire_owned().await.expect("nobody closes the semaphore");
            let any = Arc::clone(&self.all).acquire_owned().await;
            [own, any.expect("nobody closes the semaphore")]
        };
        let places = tokio::time::timeout(wait, places).await.map_err(|_| {
            ServerError::too_many("too many jobs are being submitted at once", RETRY_AFTER)
        })?;
        Ok(BodyPermit { _permits: Arc::new(places) })
    }

    fn share(&self, user: &UserName) -> Arc<Semaphore> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        // Permits and those who wait for them hold the semaphore too.
        shares.retain(|_, share| Arc::strong_count(share) > 1);
        let share = shares.entry(user.clone());
        Arc::clone(share.or_insert_with(|| Arc::new(Semaphore::new(BODIES_OF_USER_MAX))))
    }
}

/// Has a request wait for its [`BodyPermit`], then reads its body.
pub(super) async fn permit_body(
    State(bodies): State<Arc<Bodies>>,
    identity: Identity,
    request: Request,
    next: Next,
) -> Result<Response, ServerError> {
    let permit = bodies.place(&identity.user, PLACE_DEADLINE).await?;
    let (mut parts, body) = request.into_parts();
    let body = axum::body::to_bytes(body, JOB_BODY_LEN_MAX);
    // Where the connection broke instead, nobody reads the answer.
    let body = in_time(BODY_DEADLINE, body).await?.map_err(|_| {
        let max = JOB_BODY_LEN_MAX >> 20;
        ServerError::too_large(format!("a job has at most {max} MiB of JSON"))
    })?;
    parts.extensions.insert(permit);
    Ok(next.run(Request::from_parts(parts, Body::from(body))).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nobody_waits_for_ever_and_no_user_has_all_places() {
        const LONG: Duration = Duration::from_secs(60);
        const SHORT: Duration = Duration::from_millis(5);
        let bodies = Bodies::new();
        let [ada, bob, eve] = ["ada", "bob", "eve"].map(|user| user.parse::<UserName>().unwrap());
        let mut places = Vec::new();
        for user in [&ada, &bob] {
            for _ in 0..BODIES_OF_USER_MAX {
                places.push(bodies.place(user, LONG).await.unwrap());
            }
            if user == &ada {
                let refusal = bodies.place(user, SHORT).await.unwrap_err();
                assert_eq!(
                    (refusal.status.as_u16(), refusal.retry_after),
                    (429, Some(RETRY_AFTER))
                );
            }
        }
        assert_eq!(bodies.place(&eve, SHORT).await.unwrap_err().status.as_u16(), 429);
        places.pop();
        places.push(bodies.place(&eve, LONG).await.unwrap());
        places.clear();
        places.push(bodies.place(&ada, LONG).await.unwrap());
        assert_eq!(bodies.shares.lock().unwrap().len(), 1, "only who is here is remembered");
    }
}
