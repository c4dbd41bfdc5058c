//! SHA-1 that notices collisions, in two thirds of the time that going through every block takes.
//!
//! All known attacks on SHA-1 give two messages the differences in one block that follow from one
//! of few *disturbance vectors*, and one of the two messages is enough to tell (Marc Stevens,
//! "Counter-cryptanalysis", 2013): take the vector's differences to the block's words, begin in
//! the middle, where both messages are in the same state, and follow the other message from there
//! to both ends of the block. Where it ends in the state in which this one ends, they collide.
//! Most vectors are ruled out by a look at bits of the words that no attack with them can avoid
//! (Marc Stevens and Daniel Shumow, "Speeding up detection of SHA-1 collision attacks using
//! unavoidable attack conditions", 2017; the vectors and conditions are theirs).
//!
//! Those bits depend on the block alone and not on what was hashed before it. So several blocks
//! are looked at side by side, and the hash itself is left to the processor's own instructions;
//! only the blocks that remain suspect, one of twenty, are gone through word by word. The verdicts
//! are those of `sha1-checked`, which does all of it for each block in turn.

use std::slice;
use std::sync::LazyLock;

use sha1::block_api::compress;

use crate::digest::{DIGEST_LEN, Digest};

/// Bytes of a block.
const BLOCK_LEN: usize = 64;

/// Blocks that are looked at side by side.
const LANES: usize = 8;

const ROW_LEN: usize = LANES * BLOCK_LEN;

/// The conditions speak of the first words of a block's eighty.
const CONDITION_WORDS: usize = 65;

type Block = [u8; BLOCK_LEN];
type State = [u32; 5];

/// The words of blocks side by side.
type Words = [[u32; LANES]; CONDITION_WORDS];

/// FIPS 180-4, 5.3.1.
const INITIAL_STATE: State = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

/// Bytes that were made to collide with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes with the digest {0} are part of a known kind of SHA-1 collision")]
pub struct Collision(pub Digest);

/// Like [`Hasher`](crate::digest::Hasher), but refuses collisions.
#[derive(Clone, Debug)]
pub struct CheckedHasher {
    state: State,
    /// Bytes so far.
    len: u64,
    /// Bytes that do not fill a row of blocks yet.
    rest: Vec<u8>,
    collides: bool,
}

impl Default for CheckedHasher {
    fn default() -> Self {
        Self { state: INITIAL_STATE, len: 0, rest: Vec::new(), collides: false }
    }
}

impl CheckedHasher {
    /// A hasher that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `bytes`.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len() as u64;
        if !self.rest.is_empty() {
            let (start, after) = bytes.split_at(bytes.len().min(ROW_LEN - self.rest.len()));
            self.rest.extend_from_slice(start);
            bytes = after;
            if self.rest.len() < ROW_LEN {
                return;
            }
            let row = std::mem::take(&mut self.rest);
            self.row(row.as_chunks().0);
        }
        let (rows, rest) = bytes.as_chunks::<ROW_LEN>();
        for row in rows {
            self.row(row.as_chunks().0);
        }
        self.rest.extend_from_slice(rest);
    }

    /// The digest of all that was added, unless it collides.
    pub fn finish(mut self) -> Result<Digest, Collision> {
        let mut end = std::mem::take(&mut self.rest);
        end.push(0x80);
        // The length in bits fills the last block.
        let blocks = (end.len() + 8).div_ceil(BLOCK_LEN);
        end.resize(blocks * BLOCK_LEN - 8, 0);
        end.extend_from_slice(&(self.len * 8).to_be_bytes());
        for row in end.as_chunks().0.chunks(LANES) {
            self.row(row);
        }
        let mut digest = [0; DIGEST_LEN];
        for (bytes, word) in digest.as_chunks_mut().0.iter_mut().zip(self.state) {
            *bytes = word.to_be_bytes();
        }
        let digest = Digest::from_bytes(digest);
        if self.collides { Err(Collision(digest)) } else { Ok(digest) }
    }

    /// Hashes at most [`LANES`] blocks.
    fn row(&mut self, blocks: &[Block]) {
        let suspects = suspects(blocks);
        if suspects == [0; LANES] {
            compress(&mut self.state, blocks);
            return;
        }
        for (block, suspects) in blocks.iter().zip(suspects) {
            let before = self.state;
            compress(&mut self.state, slice::from_ref(block));
            self.collides |= suspects != 0 && collides(block, suspects, before, self.state);
        }
    }
}

/// The words of blocks side by side, up to word `N`.
fn expand<const N: usize, const L: usize>(blocks: &[Block]) -> [[u32; L]; N] {
    let mut words = [[0; L]; N];
    for (lane, block) in blocks.iter().enumerate() {
        for (word, bytes) in words.iter_mut().zip(block.as_chunks().0) {
            word[lane] = u32::from_be_bytes(*bytes);
        }
    }
    for at in 16..N {
        let (before, after) = words.split_at_mut(at);
        let word = |back: usize| &before[at - back];
        let (a, b, c, d) = (word(3), word(8), word(14), word(16));
        for (lane, word) in after[0].iter_mut().enumerate() {
            *word = (a[lane] ^ b[lane] ^ c[lane] ^ d[lane]).rotate_left(1);
        }
    }
    words
}

/// For each block the vectors that its words do not rule out: bit `i` stands for vector `i`.
fn suspects(blocks: &[Block]) -> [u32; LANES] {
    let words = expand::<CONDITION_WORDS, LANES>(blocks);
    let mut suspects = [0; LANES];
    suspects[..blocks.len()].fill(u32::MAX);
    rule_out_most(&words, &mut suspects);
    for (lane, suspects) in suspects.iter_mut().enumerate() {
        for at in bits(*suspects) {
            let holds = |&(a, a_bit, relation, b, b_bit, _): &Condition| {
                (words[a][lane] >> a_bit ^ words[b][lane] >> b_bit) & 1 == relation
            };
            if !MORE.conditions[at].iter().all(holds) {
                *suspects &= !(1 << at);
            }
        }
    }
    suspects
}

/// Takes from each block's suspects the vectors of a condition that its words do not meet.
#[inline(always)]
fn rule_out(
    words: &Words,
    suspects: &mut [u32; LANES],
    (a, a_bit, relation, b, b_bit, vectors): Condition,
) {
    let (a, b) = (&words[a], &words[b]);
    for (lane, suspects) in suspects.iter_mut().enumerate() {
        let sum = (a[lane] << (31 - a_bit)) ^ (b[lane] << (31 - b_bit));
        // All ones where the topmost bit is one.
        let is_other = (sum.cast_signed() >> 31).cast_unsigned();
        *suspects &= !vectors | if relation == OTHER { is_other } else { !is_other };
    }
}

/// The places of the bits that are set.
fn bits(mut word: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let at = word.trailing_zeros();
        word &= word.wrapping_sub(1);
        (at < u32::BITS).then_some(at as usize)
    })
}

/// What is asked seldom, by vector.
struct More {
    conditions: [Vec<Condition>; VECTORS.len()],
    differences: [[u32; 80]; VECTORS.len()],
}

static MORE: LazyLock<More> = LazyLock::new(|| More {
    conditions: std::array::from_fn(|at| {
        MORE_CONDITIONS.into_iter().filter(|(.., vectors)| vectors >> at & 1 == 1).collect()
    }),
    differences: VECTORS.map(Vector::differences),
});

/// Whether a block that leads from the state `before` to `after` has another one, by one of the
/// vectors in `suspects`, that leads to the same state.
fn collides(block: &Block, suspects: u32, before: State, after: State) -> bool {
    let words = expand::<80, 1>(slice::from_ref(block)).map(|[word]| word);
    bits(suspects).any(|at| {
        let middle = VECTORS[at].middle();
        let state = (0..middle).fold(before, |state, at| step(state, at, words[at]));
        let mut other = words;
        for (word, difference) in other.iter_mut().zip(MORE.differences[at]) {
            *word ^= difference;
        }
        let first = (0..middle).rev().fold(state, |state, at| step_back(state, at, other[at]));
        let last = (middle..80).fold(state, |state, at| step(state, at, other[at]));
        (0..5).all(|at| first[at].wrapping_add(last[at]) == after[at])
    })
}

/// What a step adds to its word and the oldest part of the state.
fn mix(a: u32, b: u32, c: u32, d: u32, at: usize) -> u32 {
    let (f, k) = match at {
        0..20 => (b & c | !b & d, 0x5a82_7999),
        20..40 => (b ^ c ^ d, 0x6ed9_eba1),
        40..60 => (b & c | b & d | c & d, 0x8f1b_bcdc),
        _ => (b ^ c ^ d, 0xca62_c1d6_u32),
    };
    a.rotate_left(5).wrapping_add(f).wrapping_add(k)
}

fn step([a, b, c, d, e]: State, at: usize, word: u32) -> State {
    [mix(a, b, c, d, at).wrapping_add(e).wrapping_add(word), a, b.rotate_left(30), c, d]
}

fn step_back([next, a, b, c, d]: State, at: usize, word: u32) -> State {
    let b = b.rotate_right(30);
    [a, b, c, d, next.wrapping_sub(mix(a, b, c, d, at)).wrapping_sub(word)]
}

/// A disturbance vector I(k, b) or II(k, b): sixteen words from word `k` on, rotated by `b`,
/// from which all others follow as a message's do.
#[derive(Clone, Copy, Debug)]
enum Vector {
    One(usize, u32),
    Two(usize, u32),
}

impl Vector {
    /// The step at which both messages are in the same state.
    fn middle(self) -> usize {
        let (Self::One(k, _) | Self::Two(k, _)) = self;
        if k < 50 { 58 } else { 65 }
    }

    /// What distinguishes the words of the two messages: each bit of the vector is a disturbance,
    /// and five more make up for it.
    fn differences(self) -> [u32; 80] {
        // Those of the first words were disturbed before the block's first step.
        const BEFORE: usize = 5;
        let mut words = [0u32; BEFORE + 80];
        let (k, b) = match self {
            Self::One(k, b) | Self::Two(k, b) => (BEFORE + k, b),
        };
        words[k + 15] = 1;
        if let Self::Two(..) = self {
            words[k + 1] = 1 << 31;
            words[k + 3] = 1 << 31;
        }
        for word in &mut words[k..k + 16] {
            *word = word.rotate_left(b);
        }
        for at in k + 16..words.len() {
            words[at] =
                (words[at - 3] ^ words[at - 8] ^ words[at - 14] ^ words[at - 16]).rotate_left(1);
        }
        for at in (0..k).rev() {
            words[at] =
                words[at + 16].rotate_right(1) ^ words[at + 13] ^ words[at + 8] ^ words[at + 2];
        }
        std::array::from_fn(|step| {
            let word = |back: usize| words[BEFORE + step - back];
            let late = word(3) ^ word(4) ^ word(5);
            word(0) ^ word(1).rotate_left(5) ^ word(2) ^ late.rotate_left(30)
        })
    }
}

use Vector::{One, Two};

/// Those that an attack could use.
#[rustfmt::skip]
const VECTORS: [Vector; 32] = [
    One(43, 0), One(44, 0), One(45, 0), One(46, 0), One(46, 2), One(47, 0), One(47, 2), One(48, 0),
    One(48, 2), One(49, 0), One(49, 2), One(50, 0), One(50, 2), One(51, 0), One(51, 2), One(52, 0),
    Two(45, 0), Two(46, 0), Two(46, 2), Two(47, 0), Two(48, 0), Two(49, 0), Two(49, 2), Two(50, 0),
    Two(50, 2), Two(51, 0), Two(51, 2), Two(52, 0), Two(53, 0), Two(54, 0), Two(55, 0), Two(56, 0),
];

/// How two bits relate: their sum without carry.
const EQUAL: u32 = 0;
const OTHER: u32 = 1;

/// Word and bit, relation, word and bit, vectors: where the bits do not relate so, the block is no
/// part of a collision by these vectors.
type Condition = (usize, u32, u32, usize, u32, u32);

/// Rules vectors out by the conditions that rule out most, one after the other, so that the
/// compiler knows each.
#[rustfmt::skip]
fn rule_out_most(words: &Words, suspects: &mut [u32; LANES]) {
    macro_rules! rule_out {
        ($($condition:expr,)*) => { $(rule_out(words, suspects, $condition);)* };
    }
    rule_out! {
        (44, 29, EQUAL, 45, 29, 0x0283_a080),
        (46, 29, EQUAL, 47, 29, 0x1818_0801),
        (45, 4, EQUAL, 48, 29, 0x2020_2224),
        (49, 29, EQUAL, 50, 29, 0xc281_0008),
        (44, 4, EQUAL, 47, 29, 0x1010_088a),
        (45, 6, EQUAL, 47, 6, 0x0000_4440),
        (44, 6, EQUAL, 46, 6, 0x0000_1110),
        (43, 4, EQUAL, 46, 29, 0x0808_0225),
        (48, 29, EQUAL, 49, 29, 0x60a0_8004),
        (41, 1, OTHER, 42, 6, 0x0404_0100),
        (40, 29, EQUAL, 41, 29, 0x800a_00a2),
        (40, 1, OTHER, 41, 6, 0x0100_4040),
        (39, 1, OTHER, 40, 6, 0x0040_1010),
        (47, 29, EQUAL, 48, 29, 0x3030_2002),
        (45, 29, EQUAL, 46, 29, 0x0a0a_8200),
        (46, 4, EQUAL, 49, 29, 0x4080_8888),
        (47, 4, EQUAL, 50, 29, 0x8201_2220),
        (42, 6, EQUAL, 43, 1, 0x0404_0000),
        (47, 6, EQUAL, 49, 6, 0x0000_4400),
        (46, 6, EQUAL, 47, 1, 0x0100_0010),
        (40, 6, EQUAL, 41, 1, 0x0040_1000),
        (41, 4, EQUAL, 44, 29, 0x0081_2025),
        (53, 29, EQUAL, 54, 29, 0x6022_0800),
        (36, 1, OTHER, 37, 6, 0x0004_1040),
        (42, 4, EQUAL, 45, 29, 0x0202_808a),
        (52, 29, EQUAL, 53, 29, 0x3011_0200),
        (47, 6, EQUAL, 48, 1, 0x0400_0040),
        (44, 1, OTHER, 45, 6, 0x0040_4000),
        (42, 6, EQUAL, 44, 6, 0x0000_0110),
        (40, 4, EQUAL, 43, 29, 0x8020_080a),
        (39, 4, EQUAL, 42, 29, 0x4010_0205),
        (43, 6, EQUAL, 45, 6, 0x0000_0440),
        (41, 6, EQUAL, 42, 1, 0x0100_4000),
        (51, 29, EQUAL, 52, 29, 0x1808_0080),
        (50, 29, EQUAL, 51, 29, 0x8a02_0020),
        (61, 2, OTHER, 62, 7, 0x0004_0010),
        (46, 6, EQUAL, 48, 6, 0x0000_1100),
        (43, 29, EQUAL, 44, 29, 0x00a1_2820),
        (35, 1, OTHER, 36, 6, 0x0000_0410),
        (37, 4, EQUAL, 40, 29, 0x5002_0021),
        (38, 4, EQUAL, 41, 29, 0xa008_0082),
        (55, 6, EQUAL, 56, 1, 0x0400_0000),
        (54, 6, EQUAL, 55, 1, 0x0100_0000),
        (53, 6, EQUAL, 54, 1, 0x0040_0000),
        (42, 29, EQUAL, 43, 29, 0x0030_0a08),
        (50, 6, EQUAL, 51, 1, 0x0004_1000),
        (37, 1, OTHER, 38, 6, 0x0000_4100),
        (48, 4, EQUAL, 51, 29, 0x0802_8880),
        (54, 29, EQUAL, 55, 29, 0xc088_2000),
        (39, 4, OTHER, 41, 4, 0x4000_0005),
        (53, 6, EQUAL, 55, 6, 0x0400_0000),
        (52, 6, EQUAL, 54, 6, 0x0100_0000),
        (51, 6, EQUAL, 53, 6, 0x0040_0000),
        (49, 6, EQUAL, 50, 1, 0x0000_0400),
        (55, 29, EQUAL, 56, 29, 0x8210_8000),
        (49, 4, EQUAL, 52, 29, 0x1009_2200),
        (48, 6, EQUAL, 50, 6, 0x0004_1000),
        (50, 4, EQUAL, 53, 29, 0x2012_8800),
        (45, 29, OTHER, 47, 29, 0x0000_008a),
        (44, 29, OTHER, 46, 29, 0x0000_0025),
    }
}

/// The other conditions.
#[rustfmt::skip]
const MORE_CONDITIONS: [Condition; 96] = [
    (63, 2, OTHER, 64, 7, 0x0000_0100),
    (62, 2, OTHER, 63, 7, 0x0000_0040),
    (52, 1, OTHER, 56, 1, 0x0400_0000),
    (51, 1, OTHER, 55, 1, 0x0100_0000),
    (50, 1, OTHER, 54, 1, 0x0040_0000),
    (42, 1, OTHER, 50, 1, 0x0000_0400),
    (56, 29, OTHER, 59, 29, 0x0a00_0000),
    (36, 4, EQUAL, 40, 29, 0x0011_0208),
    (51, 4, EQUAL, 54, 29, 0x4028_2000),
    (38, 4, OTHER, 40, 4, 0xa000_0002),
    (37, 4, OTHER, 39, 4, 0x5000_0001),
    (54, 4, EQUAL, 57, 29, 0x0880_0000),
    (51, 6, EQUAL, 52, 1, 0x0000_4000),
    (48, 6, EQUAL, 49, 1, 0x0000_0100),
    (47, 1, OTHER, 51, 1, 0x0004_0000),
    (46, 1, OTHER, 48, 1, 0x0400_0000),
    (45, 6, EQUAL, 46, 1, 0x0040_0000),
    (45, 1, OTHER, 47, 1, 0x0100_0000),
    (41, 29, EQUAL, 42, 29, 0x0018_0284),
    (41, 6, EQUAL, 43, 6, 0x0000_0040),
    (40, 6, EQUAL, 42, 6, 0x0000_0010),
    (39, 6, EQUAL, 40, 1, 0x0000_0400),
    (52, 4, EQUAL, 55, 29, 0x8090_8000),
    (40, 4, OTHER, 42, 4, 0x8000_000a),
    (63, 1, OTHER, 64, 6, 0x0001_0004),
    (58, 29, EQUAL, 59, 29, 0x2200_0000),
    (56, 29, EQUAL, 57, 29, 0x0820_0000),
    (49, 6, EQUAL, 51, 6, 0x0000_4000),
    (43, 1, OTHER, 51, 1, 0x0000_1000),
    (39, 5, EQUAL, 43, 30, 0x0400_0000),
    (38, 5, EQUAL, 42, 30, 0x0100_0000),
    (38, 1, OTHER, 40, 1, 0x0000_0400),
    (37, 5, EQUAL, 41, 30, 0x0040_0000),
    (57, 29, EQUAL, 58, 29, 0x1080_0000),
    (51, 29, OTHER, 54, 29, 0x000a_0800),
    (50, 29, OTHER, 52, 29, 0x0001_2200),
    (53, 29, OTHER, 56, 29, 0x0030_8000),
    (46, 29, OTHER, 48, 29, 0x0000_0224),
    (61, 1, OTHER, 62, 6, 0x0000_0001),
    (56, 4, EQUAL, 59, 29, 0x2800_0000),
    (55, 4, EQUAL, 58, 29, 0x1200_0000),
    (47, 29, OTHER, 49, 29, 0x0000_0888),
    (38, 0, OTHER, 43, 30, 0x0400_0000),
    (37, 1, EQUAL, 37, 6, 0x0000_4000),
    (37, 0, OTHER, 42, 30, 0x0100_0000),
    (36, 0, OTHER, 41, 30, 0x0040_0000),
    (48, 29, OTHER, 50, 29, 0x0000_2220),
    (62, 1, OTHER, 63, 6, 0x0000_0002),
    (61, 0, OTHER, 62, 5, 0x0002_0008),
    (60, 0, OTHER, 61, 5, 0x0001_0004),
    (59, 5, EQUAL, 63, 30, 0x0000_0001),
    (53, 4, EQUAL, 56, 29, 0x0220_0000),
    (49, 29, OTHER, 51, 29, 0x0000_8880),
    (36, 4, OTHER, 38, 4, 0x2800_0000),
    (35, 5, EQUAL, 39, 30, 0x0000_4000),
    (38, 4, EQUAL, 42, 29, 0x0080_2000),
    (35, 4, EQUAL, 39, 29, 0x0008_0084),
    (60, 5, EQUAL, 64, 30, 0x0000_0002),
    (59, 4, EQUAL, 63, 29, 0x4000_0000),
    (58, 29, OTHER, 61, 29, 0x1000_0000),
    (58, 0, OTHER, 63, 30, 0x0000_0001),
    (39, 4, EQUAL, 43, 29, 0x0200_8000),
    (62, 0, OTHER, 63, 5, 0x0008_0020),
    (37, 4, EQUAL, 41, 29, 0x0020_0800),
    (60, 4, EQUAL, 64, 29, 0x8000_0000),
    (59, 29, EQUAL, 60, 29, 0x0800_0000),
    (59, 0, OTHER, 64, 30, 0x0000_0002),
    (58, 4, EQUAL, 62, 29, 0x2000_0000),
    (57, 4, EQUAL, 61, 29, 0x1000_0000),
    (57, 4, EQUAL, 59, 29, 0x4000_0000),
    (55, 29, OTHER, 58, 29, 0x0080_0000),
    (48, 29, OTHER, 55, 29, 0x0000_a000),
    (63, 0, OTHER, 64, 5, 0x0010_0080),
    (44, 4, EQUAL, 48, 29, 0x8000_0000),
    (43, 4, EQUAL, 47, 29, 0x4000_0000),
    (42, 4, EQUAL, 46, 29, 0x2000_0000),
    (41, 4, EQUAL, 45, 29, 0x1000_0000),
    (40, 4, EQUAL, 44, 29, 0x0800_0000),
    (39, 3, EQUAL, 43, 28, 0x0200_0000),
    (38, 3, EQUAL, 42, 28, 0x0080_0000),
    (37, 3, EQUAL, 41, 28, 0x0020_0000),
    (35, 3, EQUAL, 39, 28, 0x0008_2000),
    (44, 3, EQUAL, 48, 28, 0x8000_0000),
    (43, 3, EQUAL, 47, 28, 0x4000_0000),
    (42, 3, EQUAL, 46, 28, 0x2000_0000),
    (41, 3, EQUAL, 45, 28, 0x1000_0000),
    (40, 3, EQUAL, 44, 28, 0x0800_0000),
    (38, 30, OTHER, 43, 28, 0x0200_0000),
    (38, 4, OTHER, 39, 4, 0x0000_8000),
    (37, 30, OTHER, 42, 28, 0x0080_0000),
    (36, 30, OTHER, 41, 28, 0x0020_0000),
    (36, 4, OTHER, 37, 4, 0x0000_0800),
    (36, 3, EQUAL, 40, 28, 0x0010_0000),
    (39, 30, OTHER, 44, 28, 0x0800_0000),
    (37, 4, OTHER, 38, 4, 0x0000_2000),
    (35, 30, OTHER, 40, 28, 0x0010_0000),
];

#[cfg(test)]
mod tests {
    use sha1::{Digest as _, Sha1};

    use super::*;
    use crate::digest::Hasher;

    /// The first 320 bytes of the two files of <https://shattered.io>: one SHA-1, other bytes.
    const SHATTERED: [&[u8]; 2] = [
        include_bytes!("../tests/data/shattered-1.bin"),
        include_bytes!("../tests/data/shattered-2.bin"),
    ];

    fn hash(bytes: &[u8], piece_len: usize) -> Result<Digest, Collision> {
        let mut hasher = CheckedHasher::new();
        bytes.chunks(piece_len).for_each(|piece| hasher.update(piece));
        hasher.finish()
    }

    /// Bytes that are the same on every machine.
    fn bytes(seed: u8, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        for at in 0u32.. {
            let mut hasher = Hasher::new();
            hasher.update(&[seed]);
            hasher.update(&at.to_le_bytes());
            bytes.extend_from_slice(hasher.finish().as_bytes());
            if bytes.len() >= len {
                break;
            }
        }
        bytes.truncate(len);
        bytes
    }

    #[test]
    fn the_digest_is_that_of_the_plain_hash() {
        let bytes = bytes(1, 3000);
        for len in (0..1200).chain([2999, 3000]) {
            for piece_len in [1, 7, 64, 511, 512, 513, 4096] {
                let expected = Digest::of(&bytes[..len]);
                assert_eq!(hash(&bytes[..len], piece_len), Ok(expected), "{len} by {piece_len}");
            }
        }
    }

    #[test]
    fn both_sides_of_a_collision_are_told_whatever_surrounds_them() {
        for raw in SHATTERED {
            for piece_len in [1, 64, 320] {
                assert_eq!(hash(raw, piece_len), Err(Collision(Digest::of(raw))));
            }
            let followed = [raw, &bytes(2, 5000)].concat();
            assert_eq!(hash(&followed, 1000), Err(Collision(Digest::of(&followed))));
        }
    }

    #[test]
    fn the_verdicts_are_those_of_the_library_that_goes_through_every_block() {
        let verdict = |raw: &[u8]| {
            let mut hasher = sha1_checked::Sha1::builder().safe_hash(false).build();
            sha1_checked::Digest::update(&mut hasher, raw);
            hasher.try_finalize().has_collision()
        };
        let mut raws: Vec<_> = SHATTERED.map(<[u8]>::to_vec).into();
        for at in 0..320 {
            raws.push(SHATTERED[at % 2].to_vec());
            raws.last_mut().unwrap()[at] ^= 0x10;
            // The pair stands elsewhere in its row of blocks, and in another state.
            raws.push([&bytes(3, at * 8), SHATTERED[0]].concat());
            raws.push([SHATTERED[1], &bytes(4, at * 8)].concat());
        }
        raws.push(bytes(5, 1 << 20));
        let mut collisions = 0;
        for raw in raws {
            let is_collision = hash(&raw, 1000) == Err(Collision(Digest::of(&raw)));
            assert_eq!(is_collision, verdict(&raw));
            collisions += u32::from(is_collision);
        }
        assert_eq!(collisions, 323);
    }

    #[test]
    fn a_step_back_undoes_a_step() {
        for at in 0..80 {
            let word = 0x0123_4567u32.rotate_left(u32::try_from(at).unwrap());
            let state = step(INITIAL_STATE, at, word);
            assert_eq!(step_back(state, at, word), INITIAL_STATE);
        }
    }

    #[test]
    fn the_differences_and_conditions_are_those_of_the_papers() {
        // Hashes of what the library of the papers' authors has for all vectors, and of its
        // verdicts on some blocks, dense ones and sparse ones.
        let mut differences = Sha1::new();
        for vector in VECTORS {
            for difference in vector.differences() {
                differences.update(difference.to_be_bytes());
            }
        }
        let mut verdicts = Sha1::new();
        for seed in 0..64 {
            let (mut row, mask) = (bytes(seed, ROW_LEN), bytes(seed + 64, ROW_LEN));
            for (byte, mask) in row.iter_mut().zip(mask) {
                match seed % 4 {
                    0 => {}
                    1 => *byte &= mask,
                    2 => *byte |= mask,
                    _ => *byte = 0xff * (mask & 1),
                }
            }
            for verdict in suspects(row.as_chunks().0) {
                verdicts.update(verdict.to_be_bytes());
            }
        }
        assert_eq!(
            Digest::from_bytes(differences.finalize().into()).to_hex(),
            "daef9404f955b4eb37998d4164fcc71e031205d1"
        );
        assert_eq!(
            Digest::from_bytes(verdicts.finalize().into()).to_hex(),
            "2ab6b9f9718c0b4cab19df2c470fc2475c537250"
        );
    }
}
