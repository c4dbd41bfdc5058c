//! Reads layers: once to name their chunks, and again to send those that the fileserver lacks.
//!
//! Two readings, because nothing may be sent before the whole image is known to be sound, and
//! because which chunks are needed is known only when all layers lie on one another. The second
//! one skips layers of which nothing is missing. Both run on a blocking thread with a queue of
//! bounded length to whatever works on the chunks.

use std::collections::HashSet;
use std::io::Read;
use std::num::NonZero;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use sway_core::chunk::CutChunk;
use sway_core::digest::Digest;
use sway_core::image::{Draft, Layer, LayerError, LayerPlan, read_layer};
use tokio::sync::mpsc::Sender;

use super::error::ExportError;
use super::read::OpenImage;

/// Chunks that wait for each hashing thread, of at most 128 KiB.
const QUEUE_LEN: usize = 16;

/// A chunk on its way to the fileserver.
pub(crate) type RawChunk = (Digest, Vec<u8>);

/// A wrapper around what is read from disk, for progress.
pub(crate) type Watch<'a> = &'a (dyn Fn(Box<dyn Read + Send>) -> Box<dyn Read + Send> + Sync);

/// One layer among those of its image, for messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Position {
    /// From 0, lowest first.
    pub(crate) index: usize,
    /// How many layers there are.
    pub(crate) count: usize,
}

/// Reads and checks a layer and names its chunks, on all cores.
pub(crate) fn name_chunks(
    image: &OpenImage,
    layer: &LayerPlan,
    position: Position,
    watch: Watch<'_>,
) -> Result<Layer, ExportError> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let (sender, receiver) = sync_channel::<(usize, Vec<u8>)>(threads * QUEUE_LEN);
    let receiver = Arc::new(Mutex::new(receiver));
    let (draft, mut named) = thread::scope(|scope| {
        let hashing: Vec<_> = (0..threads)
            .map(|_| {
                let receiver = Arc::clone(&receiver);
                scope.spawn(move || hash_all(&receiver))
            })
            .collect();
        let mut next = 0;
        let draft = read(image, layer, position, watch, |bytes| {
            let sent = sender.send((next, bytes)).is_ok();
            next += 1;
            sent
        });
        drop(sender);
        let named: Vec<_> = hashing
            .into_iter()
            .flat_map(|thread| thread.join().expect("hashing does not panic"))
            .collect();
        (draft, named)
    });
    named.sort_unstable_by_key(|(number, _)| *number);
    Ok(draft?.finish(named.into_iter().map(|(_, chunk)| chunk)))
}

/// Names chunks until there are no more.
fn hash_all(chunks: &Mutex<Receiver<(usize, Vec<u8>)>>) -> Vec<(usize, CutChunk)> {
    let mut named = Vec::new();
    loop {
        let next = chunks.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok((number, bytes)) = next else { return named };
        named.push((number, CutChunk::of(&bytes)));
    }
}

/// Reads a layer again and hands on those of its chunks that are `wanted`, each once. Ends early
/// where nobody takes them any more.
pub(crate) fn send_chunks(
    image: &OpenImage,
    plan: &LayerPlan,
    layer: &Layer,
    position: Position,
    wanted: &mut HashSet<Digest>,
    watch: Watch<'_>,
    chunks: &Sender<RawChunk>,
) -> Result<(), ExportError> {
    let mut names = layer.chunks().map(|cut| cut.chunk);
    let mut same = true;
    let result = read(image, plan, position, watch, |bytes| match names.next() {
        Some(chunk) if chunk.len as usize == bytes.len() => {
            !wanted.remove(&chunk.digest) || chunks.blocking_send((chunk.digest, bytes)).is_ok()
        }
        _ => {
            same = false;
            false
        }
    });
    match result {
        _ if !same => Err(ExportError::Changed(image.origin().to_owned())),
        Err(ExportError::Layer { source: LayerError::Stopped, .. }) | Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

fn read(
    image: &OpenImage,
    layer: &LayerPlan,
    position: Position,
    watch: Watch<'_>,
    on_chunk: impl FnMut(Vec<u8>) -> bool,
) -> Result<Draft, ExportError> {
    image.read_layer(layer, watch, |stream| {
        read_layer(stream, on_chunk).map_err(|source| ExportError::Layer {
            origin: image.origin().to_owned(),
            number: position.index + 1,
            count: position.count,
            source,
        })
    })
}
