//! Who reads a file from front to back, and what to bring for them in advance.
//!
//! There are no open files here (the kernel keeps them to itself), so a sequence is a property
//! of the inode. It takes two chunks read in a row to be believed; from then on a window is kept
//! ahead of the reader that grows from one chunk to eight. Anything else, such as the page faults
//! of a program that is being loaded, reads nothing ahead.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use sway_core::manifest::Ino;

/// Chunks to be read in a row before any is read ahead.
const BELIEF_CHUNKS: u64 = 2;

/// The widest window, in chunks: 1 MiB of 128 KiB chunks, which one request brings.
const WINDOW_MAX: u64 = 8;

/// Sequences that are remembered at once; all are forgotten when there are more.
const SEQUENCES_MAX: usize = 1024;

/// The sequences of one rootfs.
#[derive(Debug)]
pub(super) struct Sequences {
    chunk_len: u64,
    by_ino: Mutex<HashMap<Ino, Sequence>>,
}

#[derive(Clone, Copy, Debug)]
struct Sequence {
    /// Where it began, in bytes.
    start: u64,
    /// Where the next read is expected.
    next: u64,
    /// Up to where was read ahead.
    ahead: u64,
    /// Chunks to read ahead the next time.
    window: u64,
}

impl Sequences {
    pub(super) fn new(chunk_len: u64) -> Self {
        Self { chunk_len, by_ino: Mutex::default() }
    }

    /// Notes a read and tells which bytes to bring now, if any; the end of the file is the
    /// caller's to see.
    pub(super) fn observe(&self, ino: Ino, offset: u64, len: u64) -> Option<Range<u64>> {
        let end = offset.saturating_add(len);
        let mut by_ino = self.by_ino.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = Sequence { start: offset, next: end, ahead: 0, window: 1 };
        let Some(sequence) = by_ino.get_mut(&ino) else {
            if by_ino.len() >= SEQUENCES_MAX {
                by_ino.clear();
            }
            by_ino.insert(ino, begun);
            return None;
        };
        // The kernel sends its reads side by side, so neighbours may arrive in any order.
        let follows = offset <= sequence.next.saturating_add(self.chunk_len)
            && end.saturating_add(self.chunk_len) >= sequence.next;
        if !follows {
            *sequence = begun;
            return None;
        }
        sequence.start = sequence.start.min(offset);
        sequence.next = sequence.next.max(end);
        if sequence.next - sequence.start < BELIEF_CHUNKS * self.chunk_len {
            return None;
        }
        let next_chunk = sequence.next.div_ceil(self.chunk_len).saturating_mul(self.chunk_len);
        let from = sequence.ahead.max(next_chunk);
        if from - next_chunk > sequence.window / 2 * self.chunk_len {
            return None;
        }
        let to = from.saturating_add(sequence.window * self.chunk_len);
        sequence.ahead = to;
        sequence.window = (sequence.window * 2).min(WINDOW_MAX);
        Some(from..to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: u64 = 128 << 10;
    const INO: Ino = Ino(7);

    /// All that is read ahead for reads of `len` bytes at `offsets`, in chunks.
    fn ahead(offsets: impl IntoIterator<Item = u64>, len: u64) -> Vec<Range<u64>> {
        let sequences = Sequences::new(CHUNK);
        let observed = offsets.into_iter().filter_map(|at| sequences.observe(INO, at, len));
        observed.map(|range| range.start / CHUNK..range.end / CHUNK).collect()
    }

    #[test]
    fn a_sequence_is_read_ahead_in_growing_windows_without_gaps() {
        let windows = ahead((0..40).map(|chunk| chunk * CHUNK), CHUNK);
        assert_eq!(windows[..3], [2..3, 3..5, 5..9]);
        assert!(windows.windows(2).all(|pair| pair[0].end == pair[1].start), "{windows:?}");
        assert!(windows.iter().all(|window| window.end - window.start <= WINDOW_MAX));
        let reach = windows.last().unwrap().end;
        assert!((41..=40 + 2 * WINDOW_MAX).contains(&reach), "{reach}");
    }

    #[test]
    fn a_file_of_two_chunks_or_less_is_never_read_ahead() {
        assert_eq!(ahead([0, 4096, 65536, 131_072], 4096), []);
    }

    #[test]
    fn random_reads_bring_nothing() {
        let offsets = [90, 3, 77, 12, 50, 31, 5, 99, 60, 20, 40, 70].map(|chunk| chunk * CHUNK);
        assert_eq!(ahead(offsets, 4096), []);
    }

    #[test]
    fn neighbours_that_arrive_in_the_wrong_order_are_one_sequence() {
        let windows = ahead([1, 0, 3, 2, 5, 4].map(|chunk| chunk * CHUNK), CHUNK);
        assert!(!windows.is_empty());
    }

    #[test]
    fn a_jump_ends_the_sequence() {
        let sequences = Sequences::new(CHUNK);
        for chunk in 0..4 {
            sequences.observe(INO, chunk * CHUNK, CHUNK);
        }
        assert_eq!(sequences.observe(INO, 1000 * CHUNK, CHUNK), None);
        assert_eq!(sequences.observe(INO, u64::MAX - 5, 100), None);
    }

    #[test]
    fn files_don_t_mix() {
        let sequences = Sequences::new(CHUNK);
        for chunk in 0..20 {
            assert_eq!(
                sequences.observe(Ino(u32::try_from(chunk).unwrap() + 2), chunk * CHUNK, CHUNK),
                None
            );
        }
    }
}
