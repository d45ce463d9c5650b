//! A set of small integers with the scans that the scheduler needs, a word of 64 at a time.
//!
//! Kept in chunks that are allocated when they become mixed: the memory follows what has happened, not the size that
//! somebody claims a blob to have.

use std::ops::Range;

const WORD_BITS: u64 = 64;
const CHUNK_WORDS: usize = 64;
const CHUNK_BITS: u64 = WORD_BITS * CHUNK_WORDS as u64;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Chunk {
    Empty,
    /// Also the last chunk of a bitmap, when all positions that it has are set.
    Full,
    Mixed(Box<[u64; CHUNK_WORDS]>),
}

impl Chunk {
    fn word(&self, index: usize) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Full => u64::MAX,
            Self::Mixed(words) => words[index],
        }
    }

    /// Sets or clears the positions of a mask in one word.
    fn change(&mut self, index: usize, mask: u64, value: bool) {
        if !matches!(self, Self::Mixed(_)) {
            *self = Self::Mixed(Box::new([self.word(0); CHUNK_WORDS]));
        }
        if let Self::Mixed(words) = self {
            words[index] = if value { words[index] | mask } else { words[index] & !mask };
        }
    }

    /// Gives the memory back when all words are alike.
    fn settle(&mut self) {
        if let Self::Mixed(words) = self {
            if words.iter().all(|word| *word == 0) {
                *self = Self::Empty;
            } else if words.iter().all(|word| *word == u64::MAX) {
                *self = Self::Full;
            }
        }
    }
}

/// A fixed-length bitmap. Positions at or past `len` are never set; ranges are cut to the length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Bitmap {
    chunks: Vec<Chunk>,
    len: u64,
    ones: u64,
}

impl Bitmap {
    pub(super) fn new(len: u64) -> Self {
        let chunks = usize::try_from(len.div_ceil(CHUNK_BITS)).unwrap_or(0);
        Self { chunks: vec![Chunk::Empty; chunks], len, ones: 0 }
    }

    pub(super) fn full(len: u64) -> Self {
        let mut map = Self::new(len);
        map.set_range(0..len);
        map
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// How many positions are set.
    pub(super) fn ones(&self) -> u64 {
        self.ones
    }

    pub(super) fn is_full(&self) -> bool {
        self.ones == self.len
    }

    pub(super) fn get(&self, at: u64) -> bool {
        at < self.len && self.word(at / WORD_BITS) >> (at % WORD_BITS) & 1 == 1
    }

    /// 64 positions from `64 * index` on; those past the end have no meaning.
    pub(super) fn word(&self, index: u64) -> u64 {
        let (chunk, word) = (index as usize / CHUNK_WORDS, index as usize % CHUNK_WORDS);
        self.chunks.get(chunk).map_or(0, |chunk| chunk.word(word))
    }

    /// Sets a range and returns how many positions of it were clear.
    pub(super) fn set_range(&mut self, range: Range<u64>) -> u64 {
        let range = range.start..range.end.min(self.len);
        let new = range.end.saturating_sub(range.start) - self.count(range.clone());
        if new > 0 {
            self.change(range, true);
            self.ones += new;
        }
        new
    }

    /// Clears a range and returns how many positions of it were set.
    pub(super) fn clear_range(&mut self, range: Range<u64>) -> u64 {
        let range = range.start..range.end.min(self.len);
        let old = self.count(range.clone());
        if old > 0 {
            self.change(range, false);
            self.ones -= old;
        }
        old
    }

    pub(super) fn assign(&mut self, at: u64, value: bool) {
        if value {
            self.set_range(at..at.saturating_add(1));
        } else {
            self.clear_range(at..at.saturating_add(1));
        }
    }

    fn change(&mut self, range: Range<u64>, value: bool) {
        let mut at = range.start;
        while at < range.end {
            let index = at / CHUNK_BITS;
            let chunk_end = ((index + 1) * CHUNK_BITS).min(self.len);
            let stop = range.end.min(chunk_end);
            let chunk = &mut self.chunks[index as usize];
            if at == index * CHUNK_BITS && stop == chunk_end {
                *chunk = if value { Chunk::Full } else { Chunk::Empty };
            } else {
                for_words(at - index * CHUNK_BITS..stop - index * CHUNK_BITS, |word, mask| {
                    chunk.change(word as usize, mask, value);
                });
                chunk.settle();
            }
            at = stop;
        }
    }

    /// How many positions of a range are set.
    pub(super) fn count(&self, range: Range<u64>) -> u64 {
        let end = range.end.min(self.len);
        let mut at = range.start;
        let mut total = 0;
        while at < end {
            let stop = end.min((at / CHUNK_BITS + 1) * CHUNK_BITS);
            match &self.chunks[(at / CHUNK_BITS) as usize] {
                Chunk::Empty => {}
                Chunk::Full => total += stop - at,
                Chunk::Mixed(_) => {
                    for_words(at..stop, |word, mask| {
                        total += u64::from((self.word(word) & mask).count_ones())
                    });
                }
            }
            at = stop;
        }
        total
    }

    /// The n-th position that is set, counted from 0.
    pub(super) fn nth_set(&self, mut n: u64) -> Option<u64> {
        for index in 0..self.len.div_ceil(WORD_BITS) {
            let mut word = self.word(index);
            let ones = u64::from(word.count_ones());
            if n < ones {
                (0..n).for_each(|_| word &= word - 1);
                return Some(index * WORD_BITS + u64::from(word.trailing_zeros()))
                    .filter(|at| *at < self.len);
            }
            n -= ones;
        }
        None
    }

    /// The first clear position of a range.
    pub(super) fn first_clear(&self, range: Range<u64>) -> Option<u64> {
        let skip = |chunk: u64| matches!(self.chunks[chunk as usize], Chunk::Full);
        first(range.start..range.end.min(self.len), skip, |word| !self.word(word))
    }

    /// The last clear position of a range.
    pub(super) fn last_clear(&self, range: Range<u64>) -> Option<u64> {
        let skip = |chunk: u64| matches!(self.chunks[chunk as usize], Chunk::Full);
        last(range.start..range.end.min(self.len), skip, |word| !self.word(word))
    }

    /// The first position of a range that is set here and, if given, in `mask` too.
    pub(super) fn first_set(&self, range: Range<u64>, mask: Option<&Bitmap>) -> Option<u64> {
        let skip = |chunk: u64| self.chunk_is_empty(chunk) || mask.is_some_and(|m| m.chunk_is_empty(chunk));
        first(range.start..range.end.min(self.len), skip, |word| self.masked(word, mask))
    }

    /// The last position of a range that is set here and, if given, in `mask` too.
    pub(super) fn last_set(&self, range: Range<u64>, mask: Option<&Bitmap>) -> Option<u64> {
        let skip = |chunk: u64| self.chunk_is_empty(chunk) || mask.is_some_and(|m| m.chunk_is_empty(chunk));
        last(range.start..range.end.min(self.len), skip, |word| self.masked(word, mask))
    }

    fn chunk_is_empty(&self, chunk: u64) -> bool {
        self.chunks.get(chunk as usize).is_none_or(|chunk| matches!(chunk, Chunk::Empty))
    }

    fn masked(&self, word: u64, mask: Option<&Bitmap>) -> u64 {
        self.word(word) & mask.map_or(u64::MAX, |mask| mask.word(word))
    }
}

/// `count` (1 to 64) bits from bit `from` on; the two never reach past bit 63.
fn mask_of(from: u64, count: u64) -> u64 {
    (u64::MAX >> (WORD_BITS - count)) << from
}

/// Calls `visit` with each word of a range and the mask of its positions.
fn for_words(range: Range<u64>, mut visit: impl FnMut(u64, u64)) {
    let mut at = range.start;
    while at < range.end {
        let stop = range.end.min((at / WORD_BITS + 1) * WORD_BITS);
        visit(at / WORD_BITS, mask_of(at % WORD_BITS, stop - at));
        at = stop;
    }
}

fn first(range: Range<u64>, skip: impl Fn(u64) -> bool, word: impl Fn(u64) -> u64) -> Option<u64> {
    let mut at = range.start;
    while at < range.end {
        if at.is_multiple_of(CHUNK_BITS) && skip(at / CHUNK_BITS) {
            at += CHUNK_BITS;
            continue;
        }
        let stop = range.end.min((at / WORD_BITS + 1) * WORD_BITS);
        let found = word(at / WORD_BITS) & mask_of(at % WORD_BITS, stop - at);
        if found != 0 {
            return Some(at / WORD_BITS * WORD_BITS + u64::from(found.trailing_zeros()));
        }
        at = stop;
    }
    None
}

fn last(range: Range<u64>, skip: impl Fn(u64) -> bool, word: impl Fn(u64) -> u64) -> Option<u64> {
    let mut end = range.end;
    while range.start < end {
        let chunk = (end - 1) / CHUNK_BITS;
        if skip(chunk) {
            end = chunk * CHUNK_BITS;
            continue;
        }
        let base = (end - 1) / WORD_BITS * WORD_BITS;
        let from = range.start.max(base);
        let found = word(base / WORD_BITS) & mask_of(from - base, end - from);
        if found != 0 {
            return Some(base + WORD_BITS - 1 - u64::from(found.leading_zeros()));
        }
        end = from;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_like_a_set_of_integers(
            len in 0u64..9000,
            changes in prop::collection::vec((0u64..9100, 0u64..9100, any::<bool>()), 0..12),
            scan in (0u64..9100, 0u64..9100),
        ) {
            let mut map = Bitmap::new(len);
            let mut model = BTreeSet::new();
            for (a, b, set) in changes {
                let inside: Vec<u64> = (a..b.min(len)).collect();
                let expected = inside.iter().filter(|at| model.contains(*at) != set).count() as u64;
                if set {
                    prop_assert_eq!(map.set_range(a..b), expected);
                    model.extend(inside);
                } else {
                    prop_assert_eq!(map.clear_range(a..b), expected);
                    inside.iter().for_each(|at| { model.remove(at); });
                }
            }
            let (a, b) = scan;
            let all = || a..b.min(len);
            prop_assert_eq!(map.ones(), model.len() as u64);
            prop_assert_eq!(map.is_full(), model.len() as u64 == len);
            prop_assert_eq!(map.count(a..b), all().filter(|at| model.contains(at)).count() as u64);
            prop_assert_eq!(map.nth_set(a), model.iter().nth(a as usize).copied());
            prop_assert_eq!(map.first_clear(a..b), all().find(|at| !model.contains(at)));
            prop_assert_eq!(map.last_clear(a..b), all().rfind(|at| !model.contains(at)));
            prop_assert_eq!(map.first_set(a..b, None), all().find(|at| model.contains(at)));
            prop_assert_eq!(map.last_set(a..b, None), all().rfind(|at| model.contains(at)));
            let mut odd = Bitmap::new(len);
            (0..len).filter(|at| at % 2 == 1).for_each(|at| odd.assign(at, true));
            prop_assert_eq!(map.first_set(a..b, Some(&odd)), all().find(|at| model.contains(at) && at % 2 == 1));
            prop_assert_eq!(map.last_set(a..b, Some(&odd)), all().rfind(|at| model.contains(at) && at % 2 == 1));
        }
    }
}
