//! The scenarios and the casts they play with.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

const MIB: u64 = 1 << 20;
/// 100 Mbit/s in bytes per second.
const FAST_ETHERNET: f64 = 12.5e6;
/// 1 Gbit/s in bytes per second.
const GIGABIT: f64 = 125e6;

/// What becomes of a peer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fate {
    /// It serves to the end.
    Steady,
    /// Its process is killed: connections close.
    Dies {
        /// When.
        at: Duration,
    },
    /// It says nothing any more, and its connection stays open.
    FallsSilent {
        /// When.
        at: Duration,
    },
    /// Its uplink becomes slower.
    Slows {
        /// When.
        at: Duration,
        /// To how many bytes per second.
        to_bytes_per_second: f64,
    },
    /// It answers some requests with bytes that do not fit the hash tree.
    Lies {
        /// Which share of them, 0 to 1.
        share: f64,
    },
}

/// One peer of a cast, which holds all of the blob.
#[derive(Debug, Clone)]
pub struct PeerSpec {
    /// When it is found.
    pub joins_at: Duration,
    /// Rate of its uplink.
    pub bytes_per_second: f64,
    /// Round trip to it.
    pub rtt: Duration,
    /// What becomes of it.
    pub fate: Fate,
}

/// The origin of a cast.
#[derive(Debug, Clone)]
pub struct OriginSpec {
    /// Rate of its stream, in bytes of the blob.
    pub bytes_per_second: f64,
    /// Time to its first byte.
    pub first_byte: Duration,
}

/// Everything that takes part in one fetch.
#[derive(Debug, Clone)]
pub struct Cast {
    /// Size of the blob.
    pub size_bytes: u64,
    /// Rate of the fetching node's downlink.
    pub downlink_bytes_per_second: f64,
    /// The peers.
    pub peers: Vec<PeerSpec>,
    /// The origin, if there is one.
    pub origin: Option<OriginSpec>,
    /// When the connected peers have all answered the look-up.
    pub near_lookup_ends: Duration,
    /// When the look-up is over.
    pub lookup_ends: Duration,
}

/// A named cast, drawn with a seed.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens in it, in one line.
    pub about: &'static str,
    draw: fn(&mut StdRng) -> Cast,
}

impl Scenario {
    /// The scenario of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        SCENARIOS.iter().find(|scenario| scenario.name == name)
    }

    /// Draws the cast: rates, round trips and times of faults vary with the seed within what the scenario is about.
    pub fn cast(&self, random: &mut StdRng) -> Cast {
        (self.draw)(random)
    }
}

/// All scenarios.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "four-sources",
        about: "256 MiB from four peers with 100 Mbit/s each",
        draw: |random| peers_only(four(random)),
    },
    Scenario {
        name: "one-dies",
        about: "the same, and one of the four is killed in mid-transfer",
        draw: |random| peers_only(with_fate(four(random), Fate::Dies { at: mid_transfer(random) })),
    },
    Scenario {
        name: "one-falls-silent",
        about: "the same, and one of the four says nothing any more without closing",
        draw: |random| peers_only(with_fate(four(random), Fate::FallsSilent { at: mid_transfer(random) })),
    },
    Scenario {
        name: "straggler",
        about: "the same, and one of the four becomes fifty times slower in mid-transfer",
        draw: |random| {
            let at = mid_transfer(random);
            peers_only(with_fate(four(random), Fate::Slows { at, to_bytes_per_second: FAST_ETHERNET / 50.0 }))
        },
    },
    Scenario {
        name: "liar",
        about: "the same, and one of the four sends corrupt extents now and then",
        draw: |random| {
            let share = random.random_range(0.05..0.5);
            peers_only(with_fate(four(random), Fate::Lies { share }))
        },
    },
    Scenario {
        name: "origin-only",
        about: "64 MiB that no peer holds, from an origin with 100 Mbit/s",
        draw: |random| with_origin(64 * MIB, Vec::new(), random),
    },
    Scenario {
        name: "origin-and-late-peer",
        about: "256 MiB from an origin with 100 Mbit/s, and from one peer as fast that is found after a while",
        draw: |random| {
            let mut late = steady(random);
            late.joins_at = Duration::from_millis(random.random_range(500..2500));
            with_origin(256 * MIB, vec![late], random)
        },
    },
];

fn steady(random: &mut StdRng) -> PeerSpec {
    PeerSpec {
        joins_at: Duration::from_micros(random.random_range(200..3000)),
        bytes_per_second: FAST_ETHERNET * random.random_range(0.95..1.05),
        rtt: Duration::from_micros(random.random_range(300..4000)),
        fate: Fate::Steady,
    }
}

fn four(random: &mut StdRng) -> Vec<PeerSpec> {
    (0..4).map(|_| steady(random)).collect()
}

fn with_fate(mut peers: Vec<PeerSpec>, fate: Fate) -> Vec<PeerSpec> {
    if let Some(first) = peers.first_mut() {
        first.fate = fate;
    }
    peers
}

/// Some time within a fetch of 256 MiB at 400 Mbit/s, which takes 5.4 s.
fn mid_transfer(random: &mut StdRng) -> Duration {
    Duration::from_millis(random.random_range(1500..4000))
}

fn peers_only(peers: Vec<PeerSpec>) -> Cast {
    Cast {
        size_bytes: 256 * MIB,
        downlink_bytes_per_second: GIGABIT,
        peers,
        origin: None,
        near_lookup_ends: Duration::from_millis(5),
        lookup_ends: Duration::from_millis(800),
    }
}

fn with_origin(size_bytes: u64, peers: Vec<PeerSpec>, random: &mut StdRng) -> Cast {
    let first_byte = Duration::from_millis(random.random_range(40..160));
    let origin = OriginSpec { bytes_per_second: FAST_ETHERNET, first_byte };
    let lookup_ends = Duration::from_secs(3);
    Cast { size_bytes, origin: Some(origin), lookup_ends, ..peers_only(peers) }
}

impl Cast {
    /// The least time that any scheduler could need: all that serve truly, from their first possible byte on, at
    /// their full rates into the downlink, with nothing fetched twice. A liar counts as no source, because what it
    /// delivers before it is found out depends on chance.
    pub fn ideal(&self) -> Duration {
        let mut changes: Vec<(Duration, f64)> = Vec::new();
        for peer in &self.peers {
            let rate = peer.bytes_per_second;
            let from = peer.joins_at + peer.rtt;
            let served = |at: Duration| at.max(peer.joins_at) + peer.rtt / 2;
            match peer.fate {
                Fate::Lies { .. } => continue,
                Fate::Steady => {}
                Fate::Dies { at } | Fate::FallsSilent { at } => changes.push((served(at), -rate)),
                Fate::Slows { at, to_bytes_per_second } => {
                    changes.push((served(at), to_bytes_per_second - rate))
                }
            }
            changes.push((from, rate));
        }
        if let Some(origin) = &self.origin {
            changes.push((origin.first_byte, origin.bytes_per_second));
        }
        changes.sort_by_key(|change| change.0);
        self.fluid_time(&changes)
    }

    fn fluid_time(&self, changes: &[(Duration, f64)]) -> Duration {
        let (mut left, mut rate, mut now) = (self.size_bytes as f64, 0.0f64, Duration::ZERO);
        for (at, change) in changes {
            let through = rate.min(self.downlink_bytes_per_second) * at.saturating_sub(now).as_secs_f64();
            if through >= left {
                break;
            }
            left -= through;
            now = *at;
            rate += change;
        }
        let through = rate.min(self.downlink_bytes_per_second);
        if through <= 0.0 { Duration::MAX } else { now + Duration::from_secs_f64(left / through) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn names_are_unique_and_found() {
        for scenario in SCENARIOS {
            assert_eq!(SCENARIOS.iter().filter(|other| other.name == scenario.name).count(), 1);
            assert!(Scenario::find(scenario.name).is_some());
        }
        assert!(Scenario::find("no-such").is_none());
    }

    #[test]
    fn the_ideal_time_follows_the_rates_and_the_faults() {
        let random = &mut StdRng::seed_from_u64(1);
        let mut cast = peers_only(four(random));
        for peer in &mut cast.peers {
            (peer.bytes_per_second, peer.joins_at, peer.rtt) = (10e6, Duration::ZERO, Duration::ZERO);
        }
        cast.size_bytes = 80_000_000;
        assert_eq!(cast.ideal(), Duration::from_secs(2));
        cast.peers[0].fate = Fate::Dies { at: Duration::from_secs(1) };
        cast.peers[1].fate = Fate::Slows { at: Duration::from_secs(1), to_bytes_per_second: 0.0 };
        assert_eq!(cast.ideal(), Duration::from_secs(3));
        cast.downlink_bytes_per_second = 20e6;
        assert_eq!(cast.ideal(), Duration::from_secs(4));
        cast.peers.clear();
        assert_eq!(cast.ideal(), Duration::MAX);
    }
}
