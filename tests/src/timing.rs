//! Whether two samples of times tell their sources apart.

use std::fmt;
use std::time::Duration;

/// Medians further apart than this are told apart.
const MAX_MEDIAN_GAP: Duration = Duration::from_micros(100);
/// The chance that a time of one sample is longer than one of the other is a half when they are alike. With a thousand
/// times in each it strays by about 0.01.
const MAX_BIAS: f64 = 0.1;

/// Two samples beside each other.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// Median of the first and of the second.
    pub medians: (Duration, Duration),
    /// The chance that a time of the first is longer than one of the second (Mann-Whitney's U over its maximum).
    pub longer: f64,
}

impl Comparison {
    /// Of two samples, neither of them empty.
    pub fn of(first: &[Duration], second: &[Duration]) -> Self {
        Self { medians: (median(first), median(second)), longer: chance_of_longer(first, second) }
    }

    /// Whether somebody who sees the times cannot tell which is which.
    pub fn is_alike(&self) -> bool {
        self.medians.0.abs_diff(self.medians.1) <= MAX_MEDIAN_GAP && (self.longer - 0.5).abs() <= MAX_BIAS
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, second) = self.medians;
        write!(f, "medians {first:.0?} and {second:.0?}, longer with a chance of {:.3}", self.longer)
    }
}

fn median(sample: &[Duration]) -> Duration {
    let mut sorted = sample.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
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
    fn a_shift_of_a_few_is_told_apart_and_noise_is_not() {
        // Noise with a long tail, as of a busy machine.
        let noise = |salt: u64| {
            (0..1500).map(move |n: u64| 450 + (n * 7919 + salt) % 211 + if n % 13 == 0 { n } else { 0 })
        };
        assert!(Comparison::of(&micros(noise(0)), &micros(noise(5))).is_alike());
        let shifted = micros(noise(5).map(|time| time + 50));
        assert!(!Comparison::of(&micros(noise(0)), &shifted).is_alike());
    }
}
