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

use super::FetchError;

type Landing = Option<Result<Blob, FetchError>>;

/// All blobs that are on their way.
#[derive(Debug, Default)]
pub struct Flights {
    in_the_air: Mutex<HashMap<Digest, watch::Receiver<Landing>>>,
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
        landed: impl FnOnce() -> Option<Blob>,
    ) -> Boarding {
        match self.lock().entry(digest) {
            Entry::Occupied(entry) => {
                Boarding::Joined(Ticket { digest, landing: entry.get().clone() })
            }
            Entry::Vacant(entry) => {
                if let Some(blob) = landed() {
                    return Boarding::Landed(blob);
                }
                let (sender, landing) = watch::channel(None);
                entry.insert(landing.clone());
                let flight = Flight { digest, sender, flights: Arc::clone(self) };
                Boarding::First(flight, Ticket { digest, landing })
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Digest, watch::Receiver<Landing>>> {
        self.in_the_air.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One blob on its way.
#[derive(Debug)]
pub struct Flight {
    digest: Digest,
    sender: watch::Sender<Landing>,
    flights: Arc<Flights>,
}

impl Flight {
    /// The blob.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Tells all askers how it ended.
    pub fn land(self, outcome: Result<Blob, FetchError>) {
        self.sender.send_replace(Some(outcome));
    }
}

impl Drop for Flight {
    /// Askers that come later start anew.
    fn drop(&mut self) {
        self.flights.lock().remove(&self.digest);
    }
}

/// The right to wait for a flight.
#[derive(Clone, Debug)]
pub struct Ticket {
    digest: Digest,
    landing: watch::Receiver<Landing>,
}

impl Ticket {
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
        let (flight, ticket) = first(flights.board(blob.digest(), || None));
        let Boarding::Joined(second) = flights.board(blob.digest(), || None) else { panic!() };
        drop(ticket);
        flight.land(Ok(blob.clone()));
        assert_eq!(second.landed().await.unwrap(), blob);
        assert!(flights.lock().is_empty());
    }

    #[tokio::test]
    async fn a_dropped_flight_tells_its_askers() {
        let flights = Arc::new(Flights::default());
        let digest = Digest::of(b"bytes");
        let (flight, ticket) = first(flights.board(digest, || None));
        drop(flight);
        assert!(matches!(ticket.landed().await, Err(FetchError::Abandoned { .. })));
        first(flights.board(digest, || None));
    }

    #[test]
    fn what_landed_in_the_meantime_is_not_fetched_again() {
        let flights = Arc::new(Flights::default());
        let blob = Blob::new(*b"bytes");
        let boarding = flights.board(blob.digest(), || Some(blob.clone()));
        assert!(matches!(boarding, Boarding::Landed(landed) if landed == blob));
    }
}
