//! The scenarios and the casts they play with.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use crate::cast::{Cast, Expectations, Fate, NodeSpec, OriginSpec};

const MIB: u64 = 1 << 20;
/// 100 Mbit/s in bytes per second.
const FAST_ETHERNET: f64 = 12.5e6;
/// 1 Gbit/s in bytes per second.
const GIGABIT: f64 = 125e6;
/// Nodes of a swarm know this many others.
const NEIGHBOURS: usize = 16;
/// Nodes of a site know one another.
const SITE_NEIGHBOURS: usize = 64;

/// What may be set from outside; each scenario has its own defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Params {
    /// How many nodes fetch.
    pub nodes: Option<usize>,
    /// Size of the blob in MiB.
    pub size_mib: Option<u64>,
    /// Rate of the origin, or of the one node that holds the blob, in Mbit/s.
    pub origin_mbit: Option<f64>,
    /// Rate of each node's link in Mbit/s, both ways.
    pub link_mbit: Option<f64>,
}

impl Params {
    fn size(&self, mib: u64) -> u64 {
        self.size_mib.unwrap_or(mib) * MIB
    }

    fn origin(&self, bytes_per_second: f64) -> f64 {
        self.origin_mbit.map_or(bytes_per_second, |mbit| mbit * 1e6 / 8.0)
    }

    fn link(&self, bytes_per_second: f64) -> f64 {
        self.link_mbit.map_or(bytes_per_second, |mbit| mbit * 1e6 / 8.0)
    }
}

/// A named cast, drawn with a seed.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens in it, in one line.
    pub about: &'static str,
    draw: fn(&mut StdRng, &Params) -> Cast,
}

impl Scenario {
    /// The scenario of this name.
    pub fn find(name: &str) -> Option<&'static Self> {
        SCENARIOS.iter().find(|scenario| scenario.name == name)
    }

    /// Draws the cast: rates, round trips and times of faults vary with the seed within what the scenario is about.
    pub fn cast(&self, random: &mut StdRng, params: &Params) -> Cast {
        (self.draw)(random, params)
    }
}

/// All scenarios.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "office",
        about: "50 cold nodes on a 1 Gbit/s LAN behind one link of 100 Mbit/s to the origin",
        draw: |random, params| site(random, params, 50, 128),
    },
    Scenario {
        name: "office-leader-dies",
        about: "the same, and the node that asks the origin is killed in mid-transfer",
        draw: |random, params| leader_dies(random, params),
    },
    Scenario {
        name: "stragglers",
        about: "4 nodes hold the blob, 200 fetch it, all with 100 Mbit/s but 10 % with a tenth of that",
        draw: |random, params| {
            let mut cast = swarm(random, params, 200, 4);
            every_tenth(random, &mut cast, 0.10, |node| {
                node.up_bytes_per_second /= 10.0;
                node.down_bytes_per_second /= 10.0;
            });
            cast
        },
    },
    Scenario {
        name: "churn",
        about: "4 nodes hold the blob, 100 fetch it, and half of all are killed in mid-transfer",
        draw: |random, params| {
            let mut cast = swarm(random, params, 100, 4);
            let ideal = cast.ideal(cast.nodes.len() - 1).as_secs_f64();
            for index in (0..cast.nodes.len()).filter(|index| index % 2 == 1) {
                let at = Duration::from_secs_f64(ideal * random.random_range(0.3..0.9));
                cast.nodes[index].fate = Fate::Dies { at };
            }
            cast.expect = Expectations { max_ratio: 2.5, max_wasted_share: 0.10, ..cast.expect };
            cast
        },
    },
    Scenario {
        name: "liars",
        about: "4 nodes hold the blob, 100 fetch it, and 5 % of them send corrupt extents now and then",
        draw: |random, params| {
            let mut cast = swarm(random, params, 100, 4);
            every_tenth(random, &mut cast, 0.05, |node| node.fate = Fate::Lies { share: 0.2 });
            cast
        },
    },
    Scenario {
        name: "swarm",
        about: "one node with 100 Mbit/s holds 256 MiB, 16 with 1 Gbit/s fetch it",
        draw: |random, params| {
            let mut cast = swarm(random, params, 16, 1);
            cast.size_bytes = params.size(256);
            for node in &mut cast.nodes {
                let rate = if node.holds { params.origin(FAST_ETHERNET) } else { params.link(GIGABIT) };
                (node.up_bytes_per_second, node.down_bytes_per_second) = (rate, rate);
                node.rtt = Duration::from_micros(random.random_range(100..300));
            }
            // What is in flight at the end, when nothing else is left to be asked for, is asked for by all: a constant.
            cast.expect.max_ratio = 1.15 + 12.0 * MIB as f64 / cast.size_bytes as f64;
            cast
        },
    },
    Scenario {
        name: "calibration",
        about: "8 cold nodes with 1 Gbit/s and an origin with 100 Mbit/s, to be compared with real daemons",
        draw: |random, params| site(random, params, 8, 64),
    },
    Scenario {
        name: "four-sources",
        about: "256 MiB from four peers with 100 Mbit/s each",
        draw: |random, params| four(random, params, None),
    },
    Scenario {
        name: "one-dies",
        about: "the same, and one of the four is killed in mid-transfer",
        draw: |random, params| {
            let at = mid_transfer(random);
            four(random, params, Some(Fate::Dies { at }))
        },
    },
    Scenario {
        name: "one-falls-silent",
        about: "the same, and one of the four says nothing any more without closing",
        draw: |random, params| {
            let at = mid_transfer(random);
            four(random, params, Some(Fate::FallsSilent { at }))
        },
    },
    Scenario {
        name: "straggler",
        about: "the same, and one of the four becomes fifty times slower in mid-transfer",
        draw: |random, params| {
            let at = mid_transfer(random);
            four(random, params, Some(Fate::Slows { at, to_bytes_per_second: FAST_ETHERNET / 50.0 }))
        },
    },
    Scenario {
        name: "liar",
        about: "the same, and one of the four sends corrupt extents now and then",
        draw: |random, params| {
            let share = random.random_range(0.05..0.5);
            four(random, params, Some(Fate::Lies { share }))
        },
    },
    Scenario {
        name: "origin-only",
        about: "64 MiB that no peer holds, from an origin with 100 Mbit/s",
        draw: |random, params| with_origin(random, params, 64, Vec::new()),
    },
    Scenario {
        name: "origin-and-late-peer",
        about: "256 MiB from an origin with 100 Mbit/s, and from one peer as fast that is found after a while",
        draw: |random, params| {
            let mut late = holder(random);
            late.joins_at = Duration::from_millis(random.random_range(500..2500));
            with_origin(random, params, 256, vec![late])
        },
    },
];

/// A node with 100 Mbit/s that holds the blob.
fn holder(random: &mut StdRng) -> NodeSpec {
    NodeSpec {
        joins_at: Duration::from_micros(random.random_range(200..3000)),
        holds: true,
        up_bytes_per_second: FAST_ETHERNET * random.random_range(0.95..1.05),
        upload_share: 1.0,
        down_bytes_per_second: FAST_ETHERNET,
        rtt: Duration::from_micros(random.random_range(300..4000)),
        fate: Fate::Steady,
    }
}

/// The one node that fetches, with a link that is no limit.
fn fetcher() -> NodeSpec {
    NodeSpec {
        joins_at: Duration::ZERO,
        holds: false,
        up_bytes_per_second: GIGABIT,
        upload_share: 1.0,
        down_bytes_per_second: GIGABIT,
        rtt: Duration::ZERO,
        fate: Fate::Steady,
    }
}

fn cast_of(size_bytes: u64, nodes: Vec<NodeSpec>) -> Cast {
    Cast {
        size_bytes,
        nodes,
        origin: None,
        neighbours: NEIGHBOURS,
        is_site: false,
        near_lookup_ends: Duration::from_millis(5),
        lookup_ends: Duration::from_millis(800),
        expect: Expectations::default(),
    }
}

/// Some time within a fetch of 256 MiB at 400 Mbit/s, which takes 5.4 s.
fn mid_transfer(random: &mut StdRng) -> Duration {
    Duration::from_millis(random.random_range(1500..4000))
}

fn four(random: &mut StdRng, params: &Params, fate: Option<Fate>) -> Cast {
    let mut nodes: Vec<NodeSpec> = (0..4).map(|_| holder(random)).collect();
    if let (Some(first), Some(fate)) = (nodes.first_mut(), fate) {
        first.fate = fate;
    }
    nodes.push(fetcher());
    cast_of(params.size(256), nodes)
}

fn with_origin(random: &mut StdRng, params: &Params, mib: u64, mut nodes: Vec<NodeSpec>) -> Cast {
    nodes.push(fetcher());
    let mut cast = cast_of(params.size(mib), nodes);
    cast.origin = Some(origin(random, params));
    cast.near_lookup_ends = Duration::from_millis(random.random_range(1..20));
    cast.lookup_ends = Duration::from_secs(3);
    cast
}

fn origin(random: &mut StdRng, params: &Params) -> OriginSpec {
    let first_byte = Duration::from_millis(random.random_range(40..160));
    OriginSpec { bytes_per_second: params.origin(FAST_ETHERNET), first_byte, ranged: false }
}

/// Nodes of one LAN that want the same blob at about the same time, and nobody has it.
fn site(random: &mut StdRng, params: &Params, count: usize, mib: u64) -> Cast {
    let link = params.link(GIGABIT);
    let nodes = (0..params.nodes.unwrap_or(count)).map(|_| NodeSpec {
        joins_at: Duration::from_micros(random.random_range(0..20_000)),
        holds: false,
        up_bytes_per_second: link,
        upload_share: 1.0,
        down_bytes_per_second: link,
        rtt: Duration::from_micros(random.random_range(100..300)),
        fate: Fate::Steady,
    });
    let mut cast = cast_of(params.size(mib), nodes.collect());
    cast.origin = Some(origin(random, params));
    cast.neighbours = SITE_NEIGHBOURS;
    cast.is_site = true;
    cast.near_lookup_ends = Duration::from_millis(1);
    cast.lookup_ends = Duration::from_secs(3);
    cast
}

fn leader_dies(random: &mut StdRng, params: &Params) -> Cast {
    let mut cast = site(random, params, 50, 128);
    let ideal = cast.ideal(0).as_secs_f64();
    let at = Duration::from_secs_f64(ideal * random.random_range(0.2..0.8));
    let leader = crate::world::leader_of(&cast);
    cast.nodes[leader].fate = Fate::Dies { at };
    // What was on its way to the dead leader comes again; an origin that always starts at 0 sends all of it again.
    cast.expect = Expectations { max_ratio: 2.1, max_origin_copies: 2.0, max_wasted_share: 0.06 };
    cast
}

/// Nodes with 100 Mbit/s both ways; the first `holders` of them hold the blob.
fn swarm(random: &mut StdRng, params: &Params, count: usize, holders: usize) -> Cast {
    let link = params.link(FAST_ETHERNET);
    let nodes = (0..holders + params.nodes.unwrap_or(count)).map(|index| NodeSpec {
        joins_at: Duration::from_millis(if index < holders { 0 } else { random.random_range(0..300) }),
        holds: index < holders,
        up_bytes_per_second: link * random.random_range(0.95..1.05),
        upload_share: 1.0,
        down_bytes_per_second: link * random.random_range(0.95..1.05),
        rtt: Duration::from_micros(random.random_range(500..15_000)),
        fate: Fate::Steady,
    });
    let mut cast = cast_of(params.size(64), nodes.collect());
    cast.expect = Expectations { max_ratio: 2.0, max_wasted_share: 0.05, ..cast.expect };
    cast
}

/// Changes a share of the nodes that fetch; at least one.
fn every_tenth(random: &mut StdRng, cast: &mut Cast, share: f64, change: impl Fn(&mut NodeSpec)) {
    let fetching: Vec<usize> = (0..cast.nodes.len()).filter(|index| !cast.nodes[*index].holds).collect();
    let count = ((fetching.len() as f64 * share) as usize).max(1);
    for index in rand::seq::index::sample(random, fetching.len(), count.min(fetching.len())) {
        change(&mut cast.nodes[fetching[index]]);
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
    fn every_scenario_can_be_made_small_and_somebody_fetches_in_it() {
        for scenario in SCENARIOS {
            let params = Params { nodes: Some(6), size_mib: Some(8), ..Params::default() };
            let cast = scenario.cast(&mut StdRng::seed_from_u64(1), &params);
            assert_eq!(cast.size_bytes, 8 * MIB);
            let (first, _) = cast.survivors().next().unwrap();
            assert!(cast.ideal(first) < Duration::from_secs(60), "{}", scenario.name);
        }
    }
}
