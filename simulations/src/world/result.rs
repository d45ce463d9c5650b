//! What comes out of a run, and whether that was expected.

use super::World;
use super::node::Node;
use crate::cast::Fate;
use crate::report::{NodeReport, Outcome, Report, Spread};
use crate::scenario::{Params, Scenario};

impl World {
    pub(super) fn report(self, scenario: &Scenario, seed: u64, params: &Params) -> Report {
        let nodes: Vec<NodeReport> =
            self.nodes.iter().enumerate().map(|(index, node)| self.node_report(index, node)).collect();
        let done = |node: &&NodeReport| node.survives && node.outcome == Some(Outcome::Complete);
        let of_done = |value: fn(&NodeReport) -> f64| Spread::of(nodes.iter().filter(done).map(value));
        let received: u64 = nodes.iter().map(|node| node.received_bytes).sum();
        let useful: u64 = nodes.iter().map(|node| node.useful_bytes).sum();
        let hedged: u64 = nodes.iter().map(|node| node.hedged_bytes).sum();
        let share = |part: u64, of: u64| part as f64 / of.max(1) as f64;
        let mut report = Report {
            scenario: scenario.name.to_owned(),
            seed,
            replay: Report::replay_of(scenario.name, seed, params),
            size_bytes: self.cast.size_bytes,
            seconds: self.queue.now().as_secs_f64(),
            ratio: of_done(|node| node.ratio),
            completion_seconds: of_done(|node| node.seconds),
            first_byte_seconds: of_done(|node| node.first_byte_seconds.unwrap_or_default()),
            origin_bytes: self.origin_sent_bytes,
            origin_copies: share(self.origin_sent_bytes, self.cast.size_bytes),
            wasted_share: share(received - useful, received),
            hedged_share: share(hedged, useful),
            bans: nodes.iter().map(|node| node.banned_by).sum(),
            failures: Vec::new(),
            nodes,
            progress: self.progress.clone(),
        };
        report.failures = self.failures(&report);
        report
    }

    fn node_report(&self, index: usize, node: &Node) -> NodeReport {
        let stats = node.scheduler.stats();
        let seconds = node.ended_at.saturating_sub(node.joined_at).as_secs_f64();
        let ideal = if node.spec.holds { 0.0 } else { self.cast.ideal(index).as_secs_f64() };
        NodeReport {
            node: index,
            fate: fate_of(node.spec.fate),
            outcome: (!node.spec.holds).then(|| node.outcome.unwrap_or(Outcome::Stuck)),
            survives: node.spec.survives(),
            seconds,
            ideal_seconds: ideal,
            ratio: if ideal > 0.0 { seconds / ideal } else { 0.0 },
            first_byte_seconds: node
                .reader
                .first_byte()
                .map(|at| at.saturating_sub(node.joined_at).as_secs_f64()),
            longest_wait_seconds: node.reader.longest_wait(node.ended_at).as_secs_f64(),
            received_bytes: node.tally.received_bytes,
            useful_bytes: node.tally.useful_bytes,
            sent_bytes: node.tally.sent_bytes,
            sent_useful_bytes: node.tally.sent_useful_bytes,
            hedges: stats.hedges,
            hedged_bytes: stats.hedged_bytes,
            hedge_budget_bytes: stats.hedge_budget_bytes,
            banned_by: node.tally.banned_by,
            dropped_by: node.tally.dropped_by,
        }
    }

    fn failures(&self, report: &Report) -> Vec<String> {
        let (mut failures, expect) = (Vec::new(), &self.cast.expect);
        let lost: Vec<usize> = report
            .fetchers()
            .filter(|node| node.survives && node.outcome != Some(Outcome::Complete))
            .map(|node| node.node)
            .collect();
        if !lost.is_empty() {
            failures.push(format!("nodes {lost:?} never completed"));
        }
        let spenders = report.nodes.iter().filter(|node| node.hedged_bytes > node.hedge_budget_bytes);
        for node in spenders {
            failures.push(format!("node {} fetched more twice than its budget allows", node.node));
        }
        let liars =
            self.nodes.iter().map(|node| matches!(node.spec.fate, Fate::Lies { .. })).collect::<Vec<_>>();
        for node in report.nodes.iter().filter(|node| node.banned_by > 0 && !liars[node.node]) {
            failures.push(format!("node {} was banned and had not lied", node.node));
        }
        let mut at_most = |what: &str, value: f64, limit: f64| {
            if value > limit {
                failures.push(format!("{what} is {value:.3}, above {limit:.3}"));
            }
        };
        at_most("the slowest node's time over its ideal", report.ratio.max, expect.max_ratio);
        at_most(
            "what the origin sent, over the size of the blob,",
            report.origin_copies,
            expect.max_origin_copies,
        );
        at_most("the share of bytes that arrived in vain", report.wasted_share, expect.max_wasted_share);
        failures
    }
}

fn fate_of(fate: Fate) -> String {
    match fate {
        Fate::Steady => "steady".to_owned(),
        Fate::Dies { at } => format!("dies at {:.3} s", at.as_secs_f64()),
        Fate::FallsSilent { at } => format!("falls silent at {:.3} s", at.as_secs_f64()),
        Fate::Slows { at, to_bytes_per_second } => {
            format!("slows to {:.2} MB/s at {:.3} s", to_bytes_per_second / 1e6, at.as_secs_f64())
        }
        Fate::Lies { share } => format!("lies in {:.0} % of its answers", share * 100.0),
    }
}
