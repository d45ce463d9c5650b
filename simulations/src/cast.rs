//! Who takes part in a run: nodes with their links and fates, an origin, and what is expected of them.

use std::time::Duration;

/// What becomes of a node.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fate {
    /// It works to the end.
    Steady,
    /// Its process is killed: connections close.
    Dies {
        /// When.
        at: Duration,
    },
    /// It says nothing any more, and its connections stay open.
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

/// One node: every node uploads what it has, and those that do not hold the blob download it.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// When it begins: is found, or starts to fetch.
    pub joins_at: Duration,
    /// True for a node that holds all of the blob from the beginning.
    pub holds: bool,
    /// Rate of its uplink.
    pub up_bytes_per_second: f64,
    /// Share of its uplink that its owner allows for uploads, 0 to 1.
    pub upload_share: f64,
    /// Rate of its downlink.
    pub down_bytes_per_second: f64,
    /// Round trip to the middle of the network; that between two nodes is the sum of theirs.
    pub rtt: Duration,
    /// What becomes of it.
    pub fate: Fate,
}

impl NodeSpec {
    /// What it can upload.
    pub fn upload_bytes_per_second(&self) -> f64 {
        self.up_bytes_per_second * self.upload_share
    }

    /// True when it is there to the end, and has to complete if it fetches.
    pub fn survives(&self) -> bool {
        !matches!(self.fate, Fate::Dies { .. } | Fate::FallsSilent { .. })
    }
}

/// The origin of a cast.
#[derive(Debug, Clone)]
pub struct OriginSpec {
    /// Rate of the one link to it, in bytes of the blob; all its streams share it.
    pub bytes_per_second: f64,
    /// Time to its first byte.
    pub first_byte: Duration,
    /// Whether a stream can start anywhere.
    pub ranged: bool,
}

/// What a run has to keep to. Always: whoever survives and fetches completes, and hedging stays within its budget.
#[derive(Debug, Clone, Copy)]
pub struct Expectations {
    /// Time of the slowest surviving node over its ideal.
    pub max_ratio: f64,
    /// Bytes that the origin sends over the size of the blob.
    pub max_origin_copies: f64,
    /// Bytes that arrive in vain over all that arrive.
    pub max_wasted_share: f64,
}

impl Default for Expectations {
    fn default() -> Self {
        Self { max_ratio: 1.25, max_origin_copies: 1.05, max_wasted_share: 0.03 }
    }
}

/// Everything that takes part in one run.
#[derive(Debug, Clone)]
pub struct Cast {
    /// Size of the blob.
    pub size_bytes: u64,
    /// The nodes.
    pub nodes: Vec<NodeSpec>,
    /// The origin, if there is one.
    pub origin: Option<OriginSpec>,
    /// How many others a node is connected to, about.
    pub neighbours: usize,
    /// True: the nodes are one site; its leader alone asks the origin, and the others follow its stream.
    pub is_site: bool,
    /// When, after a node began, the connected peers have all answered its look-up.
    pub near_lookup_ends: Duration,
    /// When its look-up is over.
    pub lookup_ends: Duration,
    /// What the run has to keep to.
    pub expect: Expectations,
}

impl Cast {
    /// The nodes that fetch and live to the end.
    pub fn survivors(&self) -> impl Iterator<Item = (usize, &NodeSpec)> {
        self.nodes.iter().enumerate().filter(|(_, node)| !node.holds && node.survives())
    }

    /// A lower bound of the time that a node needs, with any scheduler: one copy has to leave those that have it and
    /// come through its downlink, and all copies together have to leave somewhere.
    pub fn ideal(&self, node: usize) -> Duration {
        self.first_copy(self.nodes[node].down_bytes_per_second).max(self.all_copies())
    }

    fn all_copies(&self) -> Duration {
        let wanted = self.survivors().count() as f64 * self.size_bytes as f64;
        let nodes: f64 = self.nodes.iter().map(NodeSpec::upload_bytes_per_second).sum();
        let origin = self.origin.as_ref().map_or(0.0, |origin| origin.bytes_per_second);
        let rate = nodes + origin;
        if rate > 0.0 { Duration::from_secs_f64(wanted / rate) } else { Duration::MAX }
    }

    fn first_copy(&self, down_bytes_per_second: f64) -> Duration {
        let mut changes: Vec<(Duration, f64)> = Vec::new();
        for node in self.nodes.iter().filter(|node| node.holds) {
            let rate = node.upload_bytes_per_second();
            let served = |at: Duration| at.max(node.joins_at) + node.rtt / 2;
            match node.fate {
                Fate::Lies { .. } => continue,
                Fate::Steady => {}
                Fate::Dies { at } | Fate::FallsSilent { at } => changes.push((served(at), -rate)),
                Fate::Slows { at, to_bytes_per_second } => {
                    changes.push((served(at), to_bytes_per_second - rate))
                }
            }
            changes.push((node.joins_at + node.rtt, rate));
        }
        if let Some(origin) = &self.origin {
            changes.push((origin.first_byte, origin.bytes_per_second));
        }
        changes.sort_by_key(|change| change.0);
        self.fluid_time(&changes, down_bytes_per_second)
    }

    fn fluid_time(&self, changes: &[(Duration, f64)], limit: f64) -> Duration {
        let (mut left, mut rate, mut now) = (self.size_bytes as f64, 0.0f64, Duration::ZERO);
        for (at, change) in changes {
            let through = rate.min(limit) * at.saturating_sub(now).as_secs_f64();
            if through >= left {
                break;
            }
            left -= through;
            now = *at;
            rate += change;
        }
        let through = rate.min(limit);
        if through <= 0.0 { Duration::MAX } else { now + Duration::from_secs_f64(left / through) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(fate: Fate) -> NodeSpec {
        NodeSpec {
            joins_at: Duration::ZERO,
            holds: true,
            up_bytes_per_second: 10e6,
            upload_share: 1.0,
            down_bytes_per_second: 10e6,
            rtt: Duration::ZERO,
            fate,
        }
    }

    fn cast(nodes: Vec<NodeSpec>) -> Cast {
        Cast {
            size_bytes: 80_000_000,
            nodes,
            origin: None,
            neighbours: 8,
            is_site: false,
            near_lookup_ends: Duration::ZERO,
            lookup_ends: Duration::ZERO,
            expect: Expectations::default(),
        }
    }

    #[test]
    fn the_ideal_time_follows_the_rates_and_the_faults() {
        let second = Duration::from_secs(1);
        let fetcher = NodeSpec { holds: false, down_bytes_per_second: 100e6, ..holder(Fate::Steady) };
        let mut cast = cast(vec![holder(Fate::Steady); 4]);
        cast.nodes.push(NodeSpec { up_bytes_per_second: 0.0, ..fetcher });
        assert_eq!(cast.ideal(4), second * 2);
        cast.nodes[0].fate = Fate::Dies { at: second };
        cast.nodes[1].fate = Fate::Slows { at: second, to_bytes_per_second: 0.0 };
        assert_eq!(cast.ideal(4), second * 3);
        cast.nodes[4].down_bytes_per_second = 20e6;
        assert_eq!(cast.ideal(4), second * 4);
        cast.nodes[2].upload_share = 0.5;
        cast.nodes[3].upload_share = 0.5;
        assert_eq!(cast.ideal(4), second * 7);
    }

    #[test]
    fn the_ideal_time_counts_all_copies() {
        let fetcher = NodeSpec { holds: false, down_bytes_per_second: 1e9, ..holder(Fate::Steady) };
        let mut cast = cast(vec![fetcher; 9]);
        cast.nodes.push(holder(Fate::Steady));
        assert_eq!(cast.ideal(0), Duration::from_secs(8), "one copy through the one uplink");
        cast.nodes.iter_mut().take(9).for_each(|node| node.up_bytes_per_second = 0.0);
        assert_eq!(cast.ideal(0), Duration::from_secs(72), "nine copies through it");
    }
}
