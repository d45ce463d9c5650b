//! What a run came to: a table for people, JSON for scripts.

use std::fmt;

use serde::Serialize;

use crate::scenario::Params;

const MIB: f64 = 1024.0 * 1024.0;
/// With more nodes than this the table shows their spread only.
const MAX_ROWS: usize = 12;

/// How the fetch of a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// All bytes arrived and were verified.
    Complete,
    /// The scheduler gave up.
    Failed,
    /// Nothing ended it within the virtual time allowed.
    Stuck,
    /// The node was killed, or fell silent, before the end.
    Died,
}

/// One node.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeReport {
    /// Its number in the cast.
    pub node: usize,
    /// What the scenario makes of it.
    pub fate: String,
    /// How its fetch ended; none when it held the blob from the beginning.
    pub outcome: Option<Outcome>,
    /// True when it had to complete.
    pub survives: bool,
    /// How long its fetch took.
    pub seconds: f64,
    /// The least that it could take with any scheduler.
    pub ideal_seconds: f64,
    /// `seconds / ideal_seconds`.
    pub ratio: f64,
    /// When its reader had the first byte.
    pub first_byte_seconds: Option<f64>,
    /// The longest time in which its reader got nothing.
    pub longest_wait_seconds: f64,
    /// Bytes that came.
    pub received_bytes: u64,
    /// Bytes of them that were of use: not fetched twice, not cancelled too late, not corrupt.
    pub useful_bytes: u64,
    /// Bytes that it sent to other nodes.
    pub sent_bytes: u64,
    /// Bytes of them that were of use there.
    pub sent_useful_bytes: u64,
    /// Extents that it asked of a second peer.
    pub hedges: u64,
    /// Bytes charged to its budget for duplicates.
    pub hedged_bytes: u64,
    /// That budget.
    pub hedge_budget_bytes: u64,
    /// Nodes that banned it.
    pub banned_by: usize,
    /// Nodes that let it go as a source.
    pub dropped_by: usize,
}

/// Where all nodes stood at one time, as shares of the blob.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Progress {
    /// When.
    pub seconds: f64,
    /// The one that had least.
    pub least: f64,
    /// The mean of all that fetch and live.
    pub mean: f64,
    /// The one that had most.
    pub most: f64,
}

/// How values are spread.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    /// The smallest.
    pub min: f64,
    /// The middle.
    pub median: f64,
    /// 95 of 100 are at most this.
    pub p95: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// Of some values; zeros when there are none.
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.collect();
        sorted.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let rank = (sorted.len() as f64 * share).ceil() as usize;
            sorted.get(rank.max(1) - 1).copied().unwrap_or(0.0)
        };
        Self { min: at(0.0), median: at(0.5), p95: at(0.95), max: at(1.0) }
    }
}

/// The result of one run. Equal scenario, seed and parameters give equal reports.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Name of the scenario.
    pub scenario: String,
    /// Its seed.
    pub seed: u64,
    /// The command that plays it again.
    pub replay: String,
    /// Size of the blob.
    pub size_bytes: u64,
    /// When the last node was done.
    pub seconds: f64,
    /// Time over the ideal of those that survive and complete.
    pub ratio: Spread,
    /// Their times.
    pub completion_seconds: Spread,
    /// When their readers had the first byte.
    pub first_byte_seconds: Spread,
    /// Bytes that the origin sent.
    pub origin_bytes: u64,
    /// The same over the size of the blob.
    pub origin_copies: f64,
    /// Bytes that arrived in vain, over all that arrived.
    pub wasted_share: f64,
    /// Bytes that hedging fetched, or may have fetched, twice, over all that were of use.
    pub hedged_share: f64,
    /// Bans: pairs of nodes.
    pub bans: usize,
    /// What was expected and did not come true; empty when all is well.
    pub failures: Vec<String>,
    /// Per node.
    pub nodes: Vec<NodeReport>,
    /// Over time.
    pub progress: Vec<Progress>,
}

impl Report {
    /// The nodes that fetch.
    pub fn fetchers(&self) -> impl Iterator<Item = &NodeReport> {
        self.nodes.iter().filter(|node| node.outcome.is_some())
    }

    /// The command that plays a run again.
    pub fn replay_of(scenario: &str, seed: u64, params: &Params) -> String {
        let mut command =
            format!("cargo run --release -p p2p-cache-simulations -- --scenario {scenario} --seed {seed}");
        let options = [
            ("nodes", params.nodes.map(|value| value.to_string())),
            ("size-mib", params.size_mib.map(|value| value.to_string())),
            ("origin-mbit", params.origin_mbit.map(|value| value.to_string())),
            ("link-mbit", params.link_mbit.map(|value| value.to_string())),
        ];
        for (name, value) in options {
            if let Some(value) = value {
                command += &format!(" --{name} {value}");
            }
        }
        command
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fetchers = self.fetchers().count();
        let complete = self.fetchers().filter(|node| node.outcome == Some(Outcome::Complete)).count();
        let verdict = if self.failures.is_empty() { "as expected" } else { "NOT AS EXPECTED" };
        writeln!(
            f,
            "{}, seed {}: {:.0} MiB, {complete} of {fetchers} nodes complete, {verdict}",
            self.scenario,
            self.seed,
            mib(self.size_bytes)
        )?;
        writeln!(f)?;
        writeln!(f, "  {:<22} {:>9} {:>9} {:>9} {:>9}", "", "min", "median", "p95", "max")?;
        let mut spread = |name: &str, s: &Spread| {
            writeln!(f, "  {name:<22} {:>9.3} {:>9.3} {:>9.3} {:>9.3}", s.min, s.median, s.p95, s.max)
        };
        spread("time, s", &self.completion_seconds)?;
        spread("time / ideal", &self.ratio)?;
        spread("first byte, s", &self.first_byte_seconds)?;
        let waits = Spread::of(self.fetchers().map(|node| node.longest_wait_seconds));
        spread("longest wait, s", &waits)?;
        writeln!(f)?;
        writeln!(
            f,
            "  origin {:.1} MiB, {:.3} of the blob   in vain {:.2} %   hedged {:.2} %   bans {}",
            mib(self.origin_bytes),
            self.origin_copies,
            100.0 * self.wasted_share,
            100.0 * self.hedged_share,
            self.bans
        )?;
        if self.nodes.len() <= MAX_ROWS {
            writeln!(f)?;
            self.rows(f)?;
        }
        for failure in &self.failures {
            writeln!(f, "\n  not as expected: {failure}")?;
        }
        Ok(())
    }
}

impl Report {
    fn rows(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  {:<5} {:>9} {:>7} {:>12} {:>12} {:>8}  fate",
            "node", "time, s", "ratio", "received MiB", "sent MiB", "of use"
        )?;
        for node in &self.nodes {
            let (time, ratio) = match node.outcome {
                None => ("holds it".to_owned(), String::new()),
                Some(_) => (format!("{:.3}", node.seconds), format!("{:.3}", node.ratio)),
            };
            let banned = if node.banned_by > 0 { ", banned" } else { "" };
            writeln!(
                f,
                "  {:<5} {time:>9} {ratio:>7} {:>12.2} {:>12.2} {:>6.1} %  {}{banned}",
                node.node,
                mib(node.received_bytes),
                mib(node.sent_bytes),
                100.0 * node.sent_useful_bytes as f64 / node.sent_bytes.max(1) as f64,
                node.fate
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_names_order_statistics() {
        let spread = Spread::of((1..=100).rev().map(f64::from));
        assert_eq!((spread.min, spread.median, spread.p95, spread.max), (1.0, 50.0, 95.0, 100.0));
        assert_eq!(Spread::of(std::iter::empty()).max, 0.0);
    }
}
