//! Every scenario, for several seeds: it completes, repeats exactly, and comes close to the ideal.
// Helpers of tests may panic as tests may.
#![allow(clippy::unwrap_used)]

use p2p_cache_simulations::report::{Outcome, Report};
use p2p_cache_simulations::scenario::{SCENARIOS, Scenario};
use p2p_cache_simulations::world;

const SEEDS: std::ops::Range<u64> = 1..13;

fn each(name: &str, check: impl Fn(&Report)) {
    let scenario = Scenario::find(name).unwrap();
    for seed in SEEDS {
        let report = world::run(scenario, seed);
        assert_eq!(report.outcome, Outcome::Complete, "{}\n{report}", report.replay());
        let useful: u64 = report.sources.iter().map(|source| source.useful_bytes).sum();
        assert_eq!(useful, report.size_bytes, "{}", report.replay());
        assert!(report.hedged_bytes <= report.hedge_budget_bytes, "{}", report.replay());
        assert!(report.longest_wait_seconds < LONGEST_WAIT_SECONDS, "{}\n{report}", report.replay());
        check(&report);
    }
}

/// A reader that waits this long would be noticed.
const LONGEST_WAIT_SECONDS: f64 = 0.3;

fn ratio_at_most(limit: f64) -> impl Fn(&Report) {
    move |report| assert!(report.ratio <= limit, "{}\n{report}", report.replay())
}

#[test]
fn a_seed_repeats_exactly_and_another_one_differs() {
    for scenario in SCENARIOS {
        let report = world::run(scenario, 3);
        assert_eq!(report, world::run(scenario, 3));
        assert_ne!(report.seconds, world::run(scenario, 4).seconds);
    }
}

#[test]
fn four_sources_add_up() {
    each("four-sources", |report| {
        ratio_at_most(1.03)(report);
        assert!(report.wasted_bytes * 50 <= report.size_bytes, "{report}");
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
    each("liar", |report| {
        ratio_at_most(1.03)(report);
        let banned: Vec<&str> =
            report.sources.iter().filter(|s| s.end == "banned").map(|s| s.name.as_str()).collect();
        assert_eq!(banned, ["peer 0"], "{}", report.replay());
    });
}

#[test]
fn the_origin_alone_costs_no_more_than_itself() {
    each("origin-only", |report| {
        ratio_at_most(1.01)(report);
        assert_eq!(report.wasted_bytes, 0, "{}", report.replay());
    });
}

#[test]
fn a_late_peer_and_the_origin_meet() {
    each("origin-and-late-peer", |report| {
        ratio_at_most(1.05)(report);
        assert!(report.wasted_bytes * 50 <= report.size_bytes, "{}\n{report}", report.replay());
    });
}
