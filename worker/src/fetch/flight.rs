//! Single flight: many askers of one blob make one request.
//!
//! The first asker of a blob gets a [`Flight`] and has to see to it that it lands; all others get
//! a [`Ticket`] and wait. A flight belongs to the task that carries it out and not to the asker,
//! so that an asker that goes away takes nothing from the others. A flight that is dropped tells
//! its askers.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sway_core::blob::Blob;
use sway_core::digest::Digest;
use tokio::sync::watch;

use super::{FetchError, Urgency};

type Landing = Option<Result<Blob, FetchError>>;

/// All blobs that are on their way.
#[derive(Debug, Default)]
pub struct Flights {
    in_the_air: Mutex<HashMap<Digest, Flying>>,
}

/// A blob that is on its way, possibly twice.
#[derive(Debug)]
struct Flying {
    landing: Arc<watch::Sender<Landing>>,
    /// How many flights bring it.
    carriers: u32,
    /// Whether nobody waited for it when it was asked for.
    ahead: bool,
}

/// How an asker takes part.
#[derive(Debug)]
pub enum Boarding {
    /// It arrived in the meantime.
    Landed(Blob),
    /// Somebody asked before.
    Joined(Ticket),
    /// Nobody did: the asker starts it.
    First(Flight, Ticket),
}

impl Flights {
    /// Takes part in the flight of `digest`. `landed` looks whether it arrived already, under the
    /// lock: a flight ends only after its blob is where `landed` looks, so no blob is fetched
    /// twice by a race.
    pub fn board(
        self: &Arc<Self>,
        digest: Digest,
        urgency: Urgency,
        landed: impl FnOnce() -> Option<Blob>,
    ) -> Boarding {
        match self.lock().entry(digest) {
            Entry::Occupied(entry) => {
                let Flying { landing, ahead, .. } = entry.get();
                Boarding::Joined(Ticket { digest, landing: landing.subscribe(), ahead: *ahead })
            }
            Entry::Vacant(entry) => {
                if let Some(blob) = landed() {
                    return Boarding::Landed(blob);
                }
                let ahead = urgency == Urgency::Ahead;
                let landing = Arc::new(watch::Sender::new(None));
                let ticket = Ticket { digest, landing: landing.subscribe(), ahead };
                entry.insert(Flying { landing: Arc::clone(&landing), carriers: 1, ahead });
                let flight = Flight { digest, landing, flights: Arc::clone(self) };
                Boarding::First(flight, ticket)
            }
        }
    }

    /// A second flight of a blob that is on its way only because it was asked for ahead, for a
    /// reader that can't wait until its turn comes. None where it is not, or was doubled before.
    pub fn double(self: &Arc<Self>, digest: Digest) -> Option<Flight> {
        let mut in_the_air = self.lock();
        let flying = in_the_air.get_mut(&digest).filter(|flying| flying.ahead)?;
        if flying.landing.borrow().is_some() {
            return None;
        }
        flying.ahead = false;
        flying.carriers += 1;
        let landing = Arc::clone(&flying.landing);
        Some(Flight { digest, landing, flights: Arc::clone(self) })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, Flying>> {
        self.in_the_air.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One blob on its way.
#[derive(Debug)]
pub struct Flight {
    digest: Digest,
    landing: Arc<watch::Sender<Landing>>,
    flights: Arc<Flights>,
}

impl Flight {
    /// The blob.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Tells all askers how it ended; a failure only if no other flight brings the blob.
    pub fn land(self, outcome: Result<Blob, FetchError>) {
        let is_last = self.flights.lock().get(&self.digest).is_none_or(|it| it.carriers <= 1);
        self.landing.send_if_modified(|landing| {
            let is_news = match (&landing, &outcome) {
                (Some(Ok(_)), _) => false,
                (_, Ok(_)) => true,
                (_, Err(_)) => is_last,
            };
            if is_news {
                *landing = Some(outcome);
            }
            is_news
        });
    }
}

impl Drop for Flight {
    /// Askers that come later start anew.
    fn drop(&mut self) {
        let mut in_the_air = self.flights.lock();
        let Some(flying) = in_the_air.get_mut(&self.digest) else { return };
        flying.carriers -= 1;
        if flying.carriers == 0 {
            in_the_air.remove(&self.digest);
        }
    }
}

/// The right to wait for a flight.
#[derive(Clone, Debug)]
pub struct Ticket {
    digest: Digest,
    landing: watch::Receiver<Landing>,
    ahead: bool,
}

impl Ticket {
    /// Whether the flight has nobody who waits for it, so that it may take its time.
    pub fn is_ahead(&self) -> bool {
        self.ahead
    }

    /// Waits until the flight ends. Who waits bounds the wait.
    pub async fn landed(mut self) -> Result<Blob, FetchError> {
        let abandoned = FetchError::Abandoned { digest: self.digest };
        match self.landing.wait_for(Option::is_some).await {
            Ok(landing) => landing.clone().unwrap_or(Err(abandoned)),
            Err(_) => Err(abandoned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(boarding: Boarding) -> (Flight, Ticket) {
        match boarding {
            Boarding::First(flight, ticket) => (flight, ticket),
            other => panic!("not the first: {other:?}"),
        }
    }

    #[tokio::test]
    async fn all_askers_get_the_blob_of_one_flight() {
        let flights = Arc::new(Flights::default());
        let blob = Blob::new(*b"bytes");
        let (flight, ticket) = first(flights.board(blob.digest(), Urgency::Now, || None));
        let Boarding::Joined(second) = flights.board(blob.digest(), Urgency::Now, || None) else {
            panic!()
        };
        drop(ticket);
        flight.land(Ok(blob.clone()));
        assert_eq!(second.landed().await.unwrap(), blob);
        assert!(flights.lock().is_empty());
    }

    #[tokio::test]
    async fn a_dropped_flight_tells_its_askers() {
        let flights = Arc::new(Flights::default());
        let digest = Digest::of(b"bytes");
        let (flight, ticket) = first(flights.board(digest, Urgency::Now, || None));
        drop(flight);
        assert!(matches!(ticket.landed().await, Err(FetchError::Abandoned { .. })));
        first(flights.board(digest, Urgency::Now, || None));
    }

    #[tokio::test]
    async fn a_flight_ahead_can_be_doubled_once_and_either_one_brings_the_blob() {
        let flights = Arc::new(Flights::default());
        let blob = Blob::new(*b"bytes");
        let digest = blob.digest();
        let (slow, ticket) = first(flights.board(digest, Urgency::Ahead, || None));
        assert!(ticket.is_ahead());
        let fast = flights.double(digest).unwrap();
        assert!(flights.double(digest).is_none());
        slow.land(Err(FetchError::Missing { digest }));
        fast.land(Ok(blob.clone()));
        assert_eq!(ticket.landed().await.unwrap(), blob);
        assert!(flights.lock().is_empty());
        let (_urgent, _ticket) = first(flights.board(digest, Urgency::Now, || None));
        assert!(flights.double(digest).is_none());
    }

    #[test]
    fn what_landed_in_the_meantime_is_not_fetched_again() {
        let flights = Arc::new(Flights::default());
        let blob = Blob::new(*b"bytes");
        let boarding = flights.board(blob.digest(), Urgency::Now, || Some(blob.clone()));
        assert!(matches!(boarding, Boarding::Landed(landed) if landed == blob));
    }
}
