//! Whether two samples of times tell their sources apart.

use std::cmp::Ordering;
use std::fmt;
use std::time::Duration;

/// Of so many times in a row the shortest counts: the others met with what else the machine was doing.
const BATCH: usize = 5;
/// The chance that a time of one sample is longer than one of the other is a half when they are alike. With a thousand
/// times in each it strays by about 0.01.
const MAX_BIAS: f64 = 0.1;

/// Two samples beside each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Median of the shortest times of the first and of the second.
    pub shortest: (Duration, Duration),
    /// The chance that a time of the first is longer than one of the second (Mann-Whitney's U over its maximum).
    pub longer: f64,
}

impl Comparison {
    /// Of two samples in the order in which they were taken, neither of them empty.
    pub fn of(first: &[Duration], second: &[Duration]) -> Self {
        let shortest = (median_of_shortest(first), median_of_shortest(second));
        Self { shortest, longer: chance_of_longer(first, second) }
    }

    /// Which of the two somebody who sees the times would call the longer: `Equal` when neither the shortest are
    /// further apart than `max_gap`, nor one sample is longer more often.
    pub fn verdict(&self, max_gap: Duration) -> Ordering {
        let (first, second) = self.shortest;
        if first.abs_diff(second) > max_gap {
            first.cmp(&second)
        } else if (self.longer - 0.5).abs() > MAX_BIAS {
            self.longer.total_cmp(&0.5)
        } else {
            Ordering::Equal
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, second) = self.shortest;
        write!(f, "{first:.3?} and {second:.3?} at least, longer with a chance of {:.3}", self.longer)
    }
}

fn median_of_shortest(sample: &[Duration]) -> Duration {
    let mut shortest: Vec<_> = sample.chunks(BATCH).filter_map(|batch| batch.iter().min()).collect();
    shortest.sort_unstable();
    *shortest[shortest.len() / 2]
}

/// By ranks; equal times share the mean of theirs.
fn chance_of_longer(first: &[Duration], second: &[Duration]) -> f64 {
    let mut all: Vec<_> =
        first.iter().map(|time| (time, true)).chain(second.iter().map(|time| (time, false))).collect();
    all.sort_unstable_by_key(|(time, _)| **time);
    let (mut ranks_of_first, mut below) = (0.0, 0);
    for equal in all.chunk_by(|one, other| one.0 == other.0) {
        let rank = below as f64 + (equal.len() + 1) as f64 / 2.0;
        ranks_of_first += rank * equal.iter().filter(|(_, is_first)| *is_first).count() as f64;
        below += equal.len();
    }
    let (n, m) = (first.len() as f64, second.len() as f64);
    (ranks_of_first - n * (n + 1.0) / 2.0) / (n * m)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GAP: Duration = Duration::from_micros(100);

    fn micros(times: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        times.into_iter().map(Duration::from_micros).collect()
    }

    #[test]
    fn the_chance_of_longer_is_that_of_counting_pairs() {
        assert_eq!(chance_of_longer(&micros([4, 5, 6]), &micros([1, 2, 3])), 1.0);
        assert_eq!(chance_of_longer(&micros([1, 2]), &micros([3])), 0.0);
        assert_eq!(chance_of_longer(&micros([2]), &micros([1, 2, 3])), 0.5);
        assert_eq!(chance_of_longer(&micros([7; 10]), &micros([7; 4])), 0.5);
        // 2 > 1, 3 > 1, 3 = 3 of 4 pairs.
        assert_eq!(chance_of_longer(&micros([2, 3]), &micros([1, 3])), 2.5 / 4.0);
    }

    #[test]
    fn a_small_shift_shows_in_the_chance_and_a_larger_one_through_any_noise() {
        // A tail as on a busy machine, up to ten times as long as the least.
        let busy =
            |salt: u64| (0..1500).map(move |n: u64| 450 + (n * 7919 + salt) % 211 + (n * n + salt) % 4001);
        let alike = Comparison::of(&micros(busy(0)), &micros(busy(5)));
        assert_eq!(alike.verdict(GAP), Ordering::Equal, "{alike}");
        let shifted = Comparison::of(&micros(busy(0)), &micros(busy(5).map(|time| time + 200)));
        assert_eq!(shifted.verdict(GAP), Ordering::Less, "{shifted}");

        let quiet = |salt: u64| (0..1500).map(move |n: u64| 450 + (n * 7919 + salt) % 211);
        let shifted = Comparison::of(&micros(quiet(0)), &micros(quiet(5).map(|time| time + 50)));
        assert_eq!(shifted.verdict(GAP), Ordering::Less, "{shifted}");
    }
}
