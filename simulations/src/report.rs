//! What a run came to: a table for people, JSON for scripts.

use std::fmt;

use serde::Serialize;

const MIB: f64 = 1024.0 * 1024.0;

/// How a fetch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// All bytes arrived and were verified.
    Complete,
    /// The scheduler gave up.
    Failed,
    /// Nothing ended it within the virtual time allowed.
    Stuck,
}

/// What one source gave.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SourceReport {
    /// `peer 0`, `origin`.
    pub name: String,
    /// What the scenario makes of it.
    pub fate: String,
    /// Bytes that arrived from it, useful or not.
    pub received_bytes: u64,
    /// Bytes of them that were missing when they arrived and fitted the hash tree.
    pub useful_bytes: u64,
    /// `used`, `dropped`, `banned`, `gone`.
    pub end: &'static str,
}

/// The result of one run. Equal scenario and seed give equal reports.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Name of the scenario.
    pub scenario: String,
    /// Its seed.
    pub seed: u64,
    /// Size of the blob.
    pub size_bytes: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// When it ended.
    pub seconds: f64,
    /// The least that any scheduler could need.
    pub ideal_seconds: f64,
    /// `seconds / ideal_seconds`.
    pub ratio: f64,
    /// When the reader had its first byte.
    pub first_byte_seconds: Option<f64>,
    /// The longest time in which the reader got nothing.
    pub longest_wait_seconds: f64,
    /// Bytes that arrived and were of no use: fetched twice, cancelled too late, corrupt.
    pub wasted_bytes: u64,
    /// Extents asked of a second peer.
    pub hedges: u64,
    /// Bytes charged to the budget for duplicates.
    pub hedged_bytes: u64,
    /// That budget.
    pub hedge_budget_bytes: u64,
    /// Per source.
    pub sources: Vec<SourceReport>,
}

impl Report {
    /// The command that plays this run again.
    pub fn replay(&self) -> String {
        format!("cargo run -p p2p-cache-simulations -- --scenario {} --seed {}", self.scenario, self.seed)
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / MIB
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let outcome = match self.outcome {
            Outcome::Complete => "complete",
            Outcome::Failed => "FAILED",
            Outcome::Stuck => "STUCK",
        };
        writeln!(f, "{}, seed {}: {:.1} MiB {outcome}", self.scenario, self.seed, mib(self.size_bytes))?;
        writeln!(f)?;
        writeln!(
            f,
            "  time         {:>9.3} s   ideal {:.3} s   ratio {:.3}",
            self.seconds, self.ideal_seconds, self.ratio
        )?;
        match self.first_byte_seconds {
            Some(first) => writeln!(f, "  first byte   {first:>9.3} s")?,
            None => writeln!(f, "  first byte       never")?,
        }
        writeln!(f, "  longest wait {:>9.3} s   of a reader from the front", self.longest_wait_seconds)?;
        writeln!(
            f,
            "  wasted       {:>9.2} MiB {:.2} %",
            mib(self.wasted_bytes),
            100.0 * self.wasted_bytes as f64 / self.size_bytes.max(1) as f64
        )?;
        writeln!(
            f,
            "  hedged       {:>9.2} MiB in {} extents, budget {:.2} MiB",
            mib(self.hedged_bytes),
            self.hedges,
            mib(self.hedge_budget_bytes)
        )?;
        writeln!(f)?;
        writeln!(
            f,
            "  {:<10} {:>14} {:>12} {:>8}  {:<8} fate",
            "source", "received MiB", "useful MiB", "share", "end"
        )?;
        for source in &self.sources {
            let share = 100.0 * source.useful_bytes as f64 / self.size_bytes.max(1) as f64;
            writeln!(
                f,
                "  {:<10} {:>14.2} {:>12.2} {share:>6.1} %  {:<8} {}",
                source.name,
                mib(source.received_bytes),
                mib(source.useful_bytes),
                source.end,
                source.fate
            )?;
        }
        Ok(())
    }
}
