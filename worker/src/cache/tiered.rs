//! The whole stack: memory, then disk, then the fileserver.
//!
//! A read asks for the parts of all chunks that it needs at once. What is in memory is there;
//! the rest boards one flight per chunk. The flights that a read starts go together: one visit
//! to the disk, then one request for what is still missing. A flight's task puts the chunk into
//! memory before it lands, and onto the disk after: no reader waits for a disk to write.
//!
//! A chunk that could not be had within the deadline fails again at once for a moment: the kernel
//! asks for a page twice (read-ahead, then the page), and a process must not wait twice as long.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use sway_core::blob::{BLOB_LEN_MAX, Blob};
use sway_core::chunk::ChunkRef;
use sway_core::digest::Digest;
use sway_server::tasks::Tasks;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

use super::{ChunkCache, DiskCache, DiskCacheError, MemoryCache};
use crate::account::RunAccount;
use crate::fetch::{
    BlobSource, Boarding, FetchConfig, FetchError, Fetched, Fetcher, Flight, Flights, Ticket,
    Urgency, Wanted,
};
use crate::predict::PredictConfig;

/// Chunks that may wait to be written to disk: 128 KiB each, so 4 MiB.
const WRITES_MAX: usize = 32;

/// How long a run that waited for a chunk in vain is not made to wait for it again: the kernel
/// asks up to three times for a page that failed. Other runs are not concerned.
const GIVEN_UP_LIFETIME: Duration = Duration::from_secs(3);

/// How long a reader waits for a chunk that was asked for ahead before it asks for it itself:
/// about what its own request would take.
const HURRY_AFTER: Duration = Duration::from_millis(25);

/// What may be fetched twice by that: so many bytes, and this part of all that was fetched.
const DOUBLED_MIN: u64 = 1 << 20;
const DOUBLED_SHARE: u64 = 20;

/// Sizes and limits of [`Chunks`].
#[derive(Clone, Debug)]
pub struct ChunksConfig {
    /// Bytes of chunks in memory.
    pub memory_bytes: u64,
    /// Directory of the disk cache; none for no disk cache.
    pub disk_dir: Option<std::path::PathBuf>,
    /// Bytes of chunks on disk.
    pub disk_bytes: u64,
    /// How blobs are fetched.
    pub fetch: FetchConfig,
    /// What is guessed of the images that are read; none for what is asked for and no more.
    pub predict: Option<PredictConfig>,
}

impl Default for ChunksConfig {
    fn default() -> Self {
        Self {
            memory_bytes: 256 << 20,
            disk_dir: None,
            disk_bytes: 10 << 30,
            fetch: FetchConfig::default(),
            predict: None,
        }
    }
}

/// What a read needs of one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The chunk.
    pub chunk: ChunkRef,
    /// Bytes of it that the read takes, for the account.
    pub bytes: u64,
}

/// All chunks there are, wherever they are.
#[derive(Debug)]
pub struct Chunks {
    memory: MemoryCache,
    memory_limit: u64,
    disk: Option<Arc<DiskCache>>,
    fetcher: Fetcher,
    flights: Arc<Flights>,
    writes: Arc<Semaphore>,
    /// Readers that wait right now.
    waiting: AtomicUsize,
    /// Raw bytes that were fetched, and those of them that were fetched a second time.
    fetched: AtomicU64,
    doubled: AtomicU64,
    predict: Option<PredictConfig>,
    tasks: Tasks,
}

impl Chunks {
    /// The stack over `source`. Work in the background is owned by `tasks`.
    pub fn new(
        config: ChunksConfig,
        source: Arc<dyn BlobSource>,
        tasks: Tasks,
    ) -> Result<Arc<Self>, DiskCacheError> {
        let disk = match &config.disk_dir {
            Some(dir) => Some(Arc::new(DiskCache::open(dir, config.disk_bytes)?)),
            None => None,
        };
        if let Some(disk) = disk.clone() {
            let stopping = tasks.stopping().clone();
            tasks.spawn_blocking("scan disk cache", move || disk.scan(|| stopping.is_cancelled()));
        }
        Ok(Arc::new(Self {
            memory: MemoryCache::new(config.memory_bytes),
            memory_limit: config.memory_bytes,
            disk,
            fetcher: Fetcher::new(source, config.fetch),
            flights: Arc::default(),
            writes: Arc::new(Semaphore::new(WRITES_MAX)),
            waiting: AtomicUsize::new(0),
            fetched: AtomicU64::new(0),
            doubled: AtomicU64::new(0),
            predict: config.predict,
            tasks,
        }))
    }

    /// The memory tier.
    pub fn memory(&self) -> &MemoryCache {
        &self.memory
    }

    /// The disk tier.
    pub fn disk(&self) -> Option<&Arc<DiskCache>> {
        self.disk.as_ref()
    }

    /// Who owns work in the background.
    pub(crate) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// What is guessed, if anything.
    pub(crate) fn predict(&self) -> Option<PredictConfig> {
        self.predict
    }

    /// How many readers wait right now.
    pub(crate) fn readers_waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Bytes that the widest tier keeps.
    pub(crate) fn room(&self) -> u64 {
        self.disk.as_ref().map_or(self.memory_limit, |disk| disk.limit())
    }

    /// Whether a chunk is near, as far as that can be told without reading it.
    pub(crate) fn has(&self, chunk: ChunkRef) -> bool {
        self.disk.as_ref().is_some_and(|disk| disk.has(chunk.digest))
            || self.memory.get(chunk.digest).is_some()
    }

    /// The chunk, if it is in memory. Never blocks and counts nothing.
    pub fn try_memory(&self, chunk: ChunkRef) -> Option<Blob> {
        self.memory.get(chunk.digest)
    }

    /// One chunk, all of it; see [`Chunks::read`].
    pub async fn chunk(
        self: &Arc<Self>,
        chunk: ChunkRef,
        account: &Arc<RunAccount>,
    ) -> Result<Blob, FetchError> {
        let part = Part { chunk, bytes: u64::from(chunk.len) };
        let mut blobs = self.read(&[part], account).await?;
        Ok(blobs.pop().expect("one blob for each part"))
    }

    /// The chunks of `parts`, in their order. Ends within the read deadline. Dropping the future
    /// takes nothing from others that wait for the same chunks.
    pub async fn read(
        self: &Arc<Self>,
        parts: &[Part],
        account: &Arc<RunAccount>,
    ) -> Result<Vec<Blob>, FetchError> {
        let started = Instant::now();
        let patience = account.read_deadline(self.fetcher.config().deadline);
        let deadline = started + patience;
        let _waiting = Waiting::new(&self.waiting);
        let mut seats = self.board(parts, account);
        let mut blobs = Vec::with_capacity(parts.len());
        for (at, part) in parts.iter().enumerate() {
            let digest = part.chunk.digest;
            let blob = loop {
                match std::mem::replace(&mut seats[at], Seat::Taken) {
                    Seat::Memory(blob) => {
                        account.memory_hit(part.bytes);
                        break blob;
                    }
                    Seat::Waiting { ticket, own } => {
                        // A run may have less time than the fetch that it waits for.
                        let waited_before = account.gave_up(digest, GIVEN_UP_LIFETIME);
                        let until = if waited_before { started } else { deadline };
                        if ticket.is_ahead() {
                            self.hurry(&ticket, part, account, until).await;
                        }
                        let Ok(outcome) = timeout_at(until, ticket.landed()).await else {
                            account.give_up(digest);
                            let reason = "still on its way".to_owned();
                            return Err(FetchError::Deadline { digest, waited: patience, reason });
                        };
                        match outcome {
                            Ok(blob) => {
                                if !own {
                                    account.memory_hit(part.bytes);
                                }
                                break blob;
                            }
                            // Somebody else's flight started earlier and had less time left.
                            Err(FetchError::Deadline { .. })
                                if !own && Instant::now() < deadline =>
                            {
                                seats[at] = self
                                    .board(std::slice::from_ref(part), account)
                                    .pop()
                                    .expect("one seat for each part");
                            }
                            Err(error) => {
                                account.give_up(digest);
                                return Err(error);
                            }
                        }
                    }
                    Seat::Taken => unreachable!("each seat is left once"),
                }
            };
            if blob.bytes().len() != part.chunk.len as usize {
                let reason = format!(
                    "it has {} bytes where its manifest says {}",
                    blob.bytes().len(),
                    part.chunk.len
                );
                return Err(FetchError::Corrupt { digest, reason });
            }
            blobs.push(blob);
        }
        Ok(blobs)
    }

    /// Brings chunks into memory that may be read soon, unless too much is read ahead already.
    pub fn prefetch(self: &Arc<Self>, chunks: &[ChunkRef], account: &Arc<RunAccount>) {
        if !self.fetcher.may_prefetch() {
            return;
        }
        let mut departing = Vec::new();
        for chunk in chunks {
            let in_memory = || self.memory.get(chunk.digest);
            let boarding = self.flights.board(chunk.digest, Urgency::Ahead, in_memory);
            if let Boarding::First(flight, _) = boarding {
                departing.push(Departing { flight, len: chunk.len, bytes: None });
            }
        }
        self.depart(departing, account, Urgency::Ahead);
    }

    /// Brings chunks for nobody, all in one request, and hands them over as they arrive; those
    /// that can't be had are left out.
    pub(crate) fn ahead(
        self: &Arc<Self>,
        wanted: &[ChunkRef],
        account: &Arc<RunAccount>,
    ) -> mpsc::UnboundedReceiver<Blob> {
        // As many as are wanted, so the channel is bounded by its use.
        let (sender, arrivals) = mpsc::unbounded_channel();
        let (mut departing, mut joined) = (Vec::new(), Vec::new());
        for chunk in wanted {
            let in_memory = || self.memory.get(chunk.digest);
            match self.flights.board(chunk.digest, Urgency::Ahead, in_memory) {
                Boarding::Landed(blob) => {
                    let _ = sender.send(blob);
                }
                Boarding::Joined(ticket) => joined.push(ticket),
                Boarding::First(flight, _) => {
                    departing.push(Departing { flight, len: chunk.len, bytes: None });
                }
            }
        }
        let (chunks, account) = (Arc::clone(self), Arc::clone(account));
        self.tasks.spawn("bring chunks ahead", async move {
            chunks.bring(departing, &account, Urgency::Ahead, Some(&sender)).await;
            for ticket in joined {
                // Whoever carries it ends within the deadline.
                if let Ok(blob) = ticket.landed().await {
                    let _ = sender.send(blob);
                }
            }
        });
        arrivals
    }

    /// Gives a chunk that was asked for ahead a moment to arrive, then asks for it anew: a reader
    /// does not wait for its turn in a batch. Doubled bytes are few by a bound.
    async fn hurry(
        self: &Arc<Self>,
        ticket: &Ticket,
        part: &Part,
        account: &Arc<RunAccount>,
        until: Instant,
    ) {
        let moment = until.min(Instant::now() + HURRY_AFTER);
        if timeout_at(moment, ticket.clone().landed()).await.is_ok() {
            return;
        }
        let len = u64::from(part.chunk.len);
        let doubled = self.doubled.load(Ordering::Relaxed);
        if doubled + len > DOUBLED_MIN + self.fetched.load(Ordering::Relaxed) / DOUBLED_SHARE {
            return;
        }
        if let Some(flight) = self.flights.double(part.chunk.digest) {
            self.doubled.fetch_add(len, Ordering::Relaxed);
            let departing = Departing { flight, len: part.chunk.len, bytes: Some(part.bytes) };
            self.depart(vec![departing], account, Urgency::Now);
        }
    }

    /// A blob that is not a chunk: a manifest, page roots. Kept on disk, not in memory.
    pub async fn blob(&self, digest: Digest, account: &RunAccount) -> Result<Blob, FetchError> {
        if let Some(blob) = self.on_disk(vec![digest]).await.remove(&digest) {
            account.disk_hit(blob.bytes().len() as u64);
            return Ok(blob);
        }
        let wanted = Wanted { digest, raw_len_max: BLOB_LEN_MAX };
        let mut arrivals = std::pin::pin!(self.fetcher.fetch(vec![wanted], Urgency::Now));
        let (_, outcome) = arrivals.next().await.ok_or(FetchError::Abandoned { digest })?;
        let Fetched { blob, bytes_on_wire } = outcome?;
        account.fetch(bytes_on_wire);
        self.keep_on_disk(&blob).await;
        Ok(blob)
    }

    /// Keeps a blob on disk that came another way.
    pub async fn keep(&self, blob: &Blob) {
        self.keep_on_disk(blob).await;
    }

    /// Finds or boards each part, and sends off the flights that this starts.
    fn board(self: &Arc<Self>, parts: &[Part], account: &Arc<RunAccount>) -> Vec<Seat> {
        let mut departing = Vec::new();
        let mut seats = Vec::with_capacity(parts.len());
        for part in parts {
            let digest = part.chunk.digest;
            if let Some(blob) = self.memory.get(digest) {
                seats.push(Seat::Memory(blob));
                continue;
            }
            seats.push(
                match self.flights.board(digest, Urgency::Now, || self.memory.get(digest)) {
                    Boarding::Landed(blob) => Seat::Memory(blob),
                    Boarding::Joined(ticket) => Seat::Waiting { ticket, own: false },
                    Boarding::First(flight, ticket) => {
                        let bytes = Some(part.bytes);
                        departing.push(Departing { flight, len: part.chunk.len, bytes });
                        Seat::Waiting { ticket, own: true }
                    }
                },
            );
        }
        self.depart(departing, account, Urgency::Now);
        seats
    }

    /// Carries out flights in the background, all in one visit and one request.
    fn depart(
        self: &Arc<Self>,
        departing: Vec<Departing>,
        account: &Arc<RunAccount>,
        urgency: Urgency,
    ) {
        if departing.is_empty() {
            return;
        }
        let (chunks, account) = (Arc::clone(self), Arc::clone(account));
        self.tasks.spawn("bring chunks", async move {
            chunks.bring(departing, &account, urgency, None).await;
        });
    }

    async fn bring(
        &self,
        departing: Vec<Departing>,
        account: &RunAccount,
        urgency: Urgency,
        arrivals: Option<&mpsc::UnboundedSender<Blob>>,
    ) {
        let arrived = |blob: &Blob| {
            // Nobody may be there any more.
            let _ = arrivals.map(|arrivals| arrivals.send(blob.clone()));
        };
        let digests = departing.iter().map(|departing| departing.flight.digest()).collect();
        let mut on_disk = self.on_disk(digests).await;
        let mut in_the_air = HashMap::new();
        let mut wanted = Vec::new();
        for departing in departing {
            let digest = departing.flight.digest();
            if let Some(blob) = on_disk.remove(&digest) {
                if let Some(bytes) = departing.bytes {
                    account.disk_hit(bytes);
                }
                self.memory.put(&blob);
                arrived(&blob);
                departing.flight.land(Ok(blob));
            } else {
                wanted.push(Wanted { digest, raw_len_max: departing.len as usize });
                in_the_air.insert(digest, departing.flight);
            }
        }
        if wanted.is_empty() {
            return;
        }
        let mut arrivals = std::pin::pin!(self.fetcher.fetch(wanted, urgency));
        while let Some((digest, outcome)) = arrivals.next().await {
            let Some(flight) = in_the_air.remove(&digest) else { continue };
            match outcome {
                Ok(Fetched { blob, bytes_on_wire }) => {
                    account.fetch(bytes_on_wire);
                    self.fetched.fetch_add(blob.bytes().len() as u64, Ordering::Relaxed);
                    self.memory.put(&blob);
                    arrived(&blob);
                    flight.land(Ok(blob.clone()));
                    self.keep_on_disk(&blob).await;
                }
                Err(error) => flight.land(Err(error)),
            }
        }
    }

    /// Those of `digests` that are on disk.
    async fn on_disk(&self, digests: Vec<Digest>) -> HashMap<Digest, Blob> {
        let Some(disk) = self.disk.clone() else { return HashMap::new() };
        let visit = tokio::task::spawn_blocking(move || {
            digests.into_iter().filter_map(|digest| Some((digest, disk.get(digest)?))).collect()
        });
        visit.await.unwrap_or_default()
    }

    /// Writes a blob to disk in the background; waits only while too many writes wait.
    async fn keep_on_disk(&self, blob: &Blob) {
        let Some(disk) = self.disk.clone() else { return };
        let permit = Arc::clone(&self.writes).acquire_owned().await;
        let blob = blob.clone();
        self.tasks.spawn_blocking("write chunk", move || {
            disk.put(&blob);
            drop(permit);
        });
    }
}

/// Counts a reader as long as it waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn new(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a part of a read stands.
#[derive(Debug)]
enum Seat {
    Memory(Blob),
    Waiting { ticket: Ticket, own: bool },
    Taken,
}

/// A flight that is about to start.
#[derive(Debug)]
struct Departing {
    flight: Flight,
    len: u32,
    /// Bytes that a read takes; none where nobody waits.
    bytes: Option<u64>,
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod server_tests;
