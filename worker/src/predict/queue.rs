//! What was predicted and not yet asked for, most urgent first; each chunk once. Pure.

use std::collections::{BTreeMap, HashMap};

/// How likely and how soon a chunk is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// The program can't go on without it: modules that it imports, what its loader reads.
    Needed,
    /// Code of libraries: some of it is run.
    Code,
    /// It lies next to what was missed.
    Near,
    /// Imports that wait in functions.
    Later,
}

/// Where something stands in the order in which a program would come to it: the place among what
/// the job names, then among what that names, and so on.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Order(Vec<u16>);

/// How deep an order goes; what is deeper stands with its ancestor.
const DEPTH_MAX: usize = 48;

impl Order {
    /// The place of the `number`th thing that this one names.
    pub(super) fn then(&self, number: usize) -> Self {
        let mut order = self.clone();
        if order.0.len() < DEPTH_MAX {
            order.0.push(u16::try_from(number).unwrap_or(u16::MAX));
        }
        order
    }
}

type Place = (Class, Order, u64);

/// Chunks by their index in the manifest.
#[derive(Debug)]
pub(super) struct Queue {
    wanted: BTreeMap<Place, u32>,
    places: HashMap<u32, Place>,
    /// One bit for each chunk that was taken out.
    taken: Vec<u64>,
    next: u64,
}

impl Queue {
    /// An empty queue for a manifest with so many chunks.
    pub(super) fn new(chunks: usize) -> Self {
        Self {
            wanted: BTreeMap::new(),
            places: HashMap::new(),
            taken: vec![0; chunks.div_ceil(64)],
            next: 0,
        }
    }

    /// Queues a chunk, or moves it forward if it is queued already. What was taken out once does
    /// not come again.
    pub(super) fn want(&mut self, chunk: u32, class: Class, order: &Order) {
        if self.was_taken(chunk) {
            return;
        }
        let place = (class, order.clone(), self.next);
        if let Some(queued) = self.places.get(&chunk) {
            if (queued.0, &queued.1) <= (class, order) {
                return;
            }
            self.wanted.remove(queued);
        }
        self.next += 1;
        self.wanted.insert(place.clone(), chunk);
        self.places.insert(chunk, place);
    }

    /// Takes out the first chunks until they have `bytes_max`, of the lengths that `len` tells; at
    /// least one, if there is any.
    pub(super) fn take(&mut self, bytes_max: u64, len: impl Fn(u32) -> u64) -> Vec<u32> {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        while let Some((_, &chunk)) = self.wanted.first_key_value() {
            bytes += len(chunk);
            if bytes > bytes_max && !taken.is_empty() {
                break;
            }
            self.wanted.pop_first();
            self.places.remove(&chunk);
            self.note_taken(chunk);
            taken.push(chunk);
        }
        taken
    }

    /// Notes that somebody else asks for a chunk; false where it was taken before.
    pub(super) fn note_taken(&mut self, chunk: u32) -> bool {
        if let Some(place) = self.places.remove(&chunk) {
            self.wanted.remove(&place);
        }
        let Some(word) = self.taken.get_mut(chunk as usize / 64) else { return false };
        let bit = 1 << (chunk % 64);
        let before = *word & bit != 0;
        *word |= bit;
        !before
    }

    pub(super) fn was_taken(&self, chunk: u32) -> bool {
        self.taken.get(chunk as usize / 64).is_none_or(|word| word & (1 << (chunk % 64)) != 0)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.wanted.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(queue: &mut Queue) -> Vec<u32> {
        queue.take(u64::MAX, |_| 1)
    }

    #[test]
    fn the_most_urgent_comes_first_in_the_order_of_the_program() {
        let mut queue = Queue::new(100);
        let (first, second) = (Order::default().then(0), Order::default().then(1));
        queue.want(1, Class::Code, &first);
        queue.want(2, Class::Needed, &second);
        queue.want(3, Class::Needed, &first.then(7));
        queue.want(4, Class::Needed, &first);
        assert_eq!(all(&mut queue), [4, 3, 2, 1]);
    }

    #[test]
    fn a_chunk_is_asked_for_once_and_moves_forward_only() {
        let mut queue = Queue::new(100);
        let order = Order::default();
        queue.want(1, Class::Near, &order);
        queue.want(2, Class::Code, &order);
        queue.want(2, Class::Needed, &order);
        queue.want(2, Class::Later, &order);
        assert_eq!(all(&mut queue), [2, 1]);
        queue.want(1, Class::Needed, &order);
        assert!(queue.is_empty());
        assert!(queue.was_taken(1) && !queue.was_taken(3));
        assert!(queue.was_taken(100_000), "a chunk that the manifest lacks is never asked for");
    }

    #[test]
    fn a_batch_is_bounded_in_bytes_and_never_empty() {
        let mut queue = Queue::new(100);
        (0..10).for_each(|chunk| queue.want(chunk, Class::Near, &Order::default()));
        assert_eq!(queue.take(3, |_| 1), [0, 1, 2]);
        assert_eq!(queue.take(3, |_| 100), [3]);
    }
}
