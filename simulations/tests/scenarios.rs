//! Every scenario, for several seeds: it goes as expected, repeats exactly, and comes close to the ideal. Those with
//! many nodes are played with fewer of them.
// Helpers of tests may panic as tests may.
#![allow(clippy::unwrap_used)]

use p2p_cache_simulations::report::{NodeReport, Outcome, Report};
use p2p_cache_simulations::scenario::{Params, SCENARIOS, Scenario};
use p2p_cache_simulations::world;

const SEEDS: std::ops::Range<u64> = 1..13;
/// Of scenarios with many nodes.
const FEW_SEEDS: std::ops::Range<u64> = 1..4;
/// A reader that waits this long would be noticed.
const LONGEST_WAIT_SECONDS: f64 = 0.3;

/// Plays a scenario as it is, with one node that fetches.
fn each(name: &str, check: impl Fn(&Report, &NodeReport)) {
    let scenario = Scenario::find(name).unwrap();
    for seed in SEEDS {
        let report = world::run(scenario, seed, &Params::default());
        assert!(report.failures.is_empty(), "{}\n{report}", report.replay);
        let fetcher = report.fetchers().next().unwrap();
        assert_eq!(fetcher.outcome, Some(Outcome::Complete), "{}", report.replay);
        assert_eq!(fetcher.useful_bytes, report.size_bytes, "{}", report.replay);
        assert!(fetcher.hedged_bytes <= fetcher.hedge_budget_bytes, "{}", report.replay);
        assert!(fetcher.longest_wait_seconds < LONGEST_WAIT_SECONDS, "{}\n{report}", report.replay);
        check(&report, fetcher);
    }
}

/// Plays a scenario with so many nodes and MiB.
fn small(name: &str, nodes: usize, size_mib: u64, check: impl Fn(&Report)) {
    let scenario = Scenario::find(name).unwrap();
    let params = Params { nodes: Some(nodes), size_mib: Some(size_mib), ..Params::default() };
    for seed in FEW_SEEDS {
        let report = world::run(scenario, seed, &params);
        assert!(report.failures.is_empty(), "{}\n{report}", report.replay);
        for node in report.fetchers().filter(|node| node.survives) {
            assert_eq!(node.useful_bytes, report.size_bytes, "{}", report.replay);
        }
        check(&report);
    }
}

fn ratio_at_most(limit: f64) -> impl Fn(&Report, &NodeReport) {
    move |report, fetcher| assert!(fetcher.ratio <= limit, "{}\n{report}", report.replay)
}

fn wasted_bytes(fetcher: &NodeReport) -> u64 {
    fetcher.received_bytes - fetcher.useful_bytes
}

#[test]
fn a_seed_repeats_exactly_and_another_one_differs() {
    let params = Params { nodes: Some(6), size_mib: Some(8), ..Params::default() };
    for scenario in SCENARIOS {
        let report = world::run(scenario, 3, &params);
        assert_eq!(report, world::run(scenario, 3, &params));
        assert_ne!(report.seconds, world::run(scenario, 4, &params).seconds);
    }
}

#[test]
fn four_sources_add_up() {
    each("four-sources", |report, fetcher| {
        ratio_at_most(1.03)(report, fetcher);
        assert!(wasted_bytes(fetcher) * 50 <= report.size_bytes, "{report}");
    });
}

#[test]
fn a_peer_that_dies_costs_its_share_and_little_more() {
    each("one-dies", ratio_at_most(1.05));
}

#[test]
fn a_peer_that_falls_silent_costs_its_share_and_little_more() {
    each("one-falls-silent", ratio_at_most(1.10));
}

#[test]
fn a_straggler_does_not_hold_up_the_end() {
    each("straggler", ratio_at_most(1.10));
}

#[test]
fn a_liar_is_banned_and_does_not_hold_up_the_end() {
    each("liar", |report, fetcher| {
        ratio_at_most(1.03)(report, fetcher);
        let banned: Vec<usize> =
            report.nodes.iter().filter(|node| node.banned_by > 0).map(|node| node.node).collect();
        assert_eq!(banned, [0], "{}", report.replay);
    });
}

#[test]
fn the_origin_alone_costs_no_more_than_itself() {
    each("origin-only", |report, fetcher| {
        ratio_at_most(1.01)(report, fetcher);
        assert_eq!(wasted_bytes(fetcher), 0, "{}", report.replay);
    });
}

#[test]
fn a_late_peer_and_the_origin_meet() {
    each("origin-and-late-peer", |report, fetcher| {
        ratio_at_most(1.05)(report, fetcher);
        assert!(wasted_bytes(fetcher) * 50 <= report.size_bytes, "{}\n{report}", report.replay);
    });
}

#[test]
fn a_cold_office_asks_the_origin_once_and_is_hardly_later_than_one_node_alone() {
    small("office", 30, 16, |report| {
        assert!((1.0..=1.05).contains(&report.origin_copies), "{}\n{report}", report.replay);
        assert!(report.ratio.max <= 1.05, "{}\n{report}", report.replay);
    });
    small("calibration", 8, 16, |report| assert!(report.ratio.max <= 1.05, "{}\n{report}", report.replay));
}

#[test]
fn a_leader_that_dies_is_replaced_without_a_fetch_that_fails() {
    small("office-leader-dies", 20, 48, |report| {
        let died = report.fetchers().filter(|node| node.outcome == Some(Outcome::Died)).count();
        assert_eq!(died, 1, "{}", report.replay);
    });
}

#[test]
fn a_swarm_takes_from_its_one_holder_hardly_more_than_one_copy() {
    small("swarm", 8, 48, |report| {
        let sent = report.nodes[0].sent_bytes as f64 / report.size_bytes as f64;
        assert!(sent <= 1.35, "{sent} copies\n{}\n{report}", report.replay);
    });
}

#[test]
fn stragglers_hold_up_only_themselves() {
    small("stragglers", 16, 32, |report| {
        assert!(report.completion_seconds.median * 2.0 < report.completion_seconds.max, "{report}");
    });
}

#[test]
fn half_of_the_peers_may_be_killed() {
    small("churn", 16, 32, |report| {
        let died = report.fetchers().filter(|node| node.outcome == Some(Outcome::Died)).count();
        assert!(died >= 5, "{}\n{report}", report.replay);
    });
}

#[test]
fn only_liars_are_banned_and_every_other_node_completes() {
    small("liars", 16, 32, |report| assert!(report.bans > 0, "{}\n{report}", report.replay));
}
