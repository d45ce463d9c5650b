//! Network prefixes, swarms of partial holders, and origins that start anywhere.

use std::time::Duration;

use super::super::*;
use super::world::{Nature, ORIGIN, OriginPlay, Player, World};
use p2p_cache_protocol::{GROUP_BYTES, GroupRange, GroupSet, group_count};
use proptest::prelude::*;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const MS: Duration = Duration::from_millis(1);

fn peer(holdings: Holdings, prefix: Option<u64>) -> SourceKind {
    SourceKind::Peer { holdings, rtt: Some(MS), prefix }
}

fn requests(actions: &[Action]) -> Vec<(SourceId, GroupRange)> {
    let of = |action: &Action| match action {
        Action::Request { source, extent } => Some((*source, *extent)),
        _ => None,
    };
    actions.iter().filter_map(of).collect()
}

fn part(size: u64, groups: std::ops::Range<u64>) -> Holdings {
    let mut set = GroupSet::new(group_count(size));
    set.insert(GroupRange { start: groups.start, end: groups.end });
    Holdings::Partial(set)
}

/// A scheduler whose look-up is over, with one origin that has not been started.
fn with_origin(size: u64, ranged: bool) -> FetchScheduler {
    let mut scheduler = FetchScheduler::new(SchedulerConfig::default(), size, 5);
    let kind = SourceKind::Origin {
        ranged,
        expected_bytes_per_second: Some(10e6),
        expected_first_byte: Some(MS * 30),
        relay: false,
    };
    scheduler.on_event(Duration::ZERO, Event::SourceAdded { source: ORIGIN, kind });
    scheduler
}

fn starts(actions: &[Action]) -> Vec<(SourceId, u64)> {
    let of = |action: &Action| match action {
        Action::StartOrigin { source, from_byte } => Some((*source, *from_byte)),
        _ => None,
    };
    actions.iter().filter_map(of).collect()
}

#[test]
fn the_first_extent_of_a_peer_is_small_and_begins_where_the_reader_stands() {
    let mut scheduler = FetchScheduler::new(SchedulerConfig::default(), 64 * MIB, 5);
    scheduler.on_event(
        Duration::ZERO,
        Event::ReaderAt { reader: ReaderId(0), offset_bytes: 20 * MIB + 100 * KIB },
    );
    let kind = peer(Holdings::Complete, None);
    let asked =
        requests(&scheduler.on_event(Duration::ZERO, Event::SourceAdded { source: SourceId(1), kind }));
    let start = (20 * MIB + 100 * KIB) / GROUP_BYTES;
    assert_eq!(asked[0].1.start, start);
    assert!(asked[0].1.len() * GROUP_BYTES <= 64 * KIB, "{:?}", asked[0]);
    assert!(asked[1].1.len() * GROUP_BYTES > 64 * KIB && asked[1].1.end.is_multiple_of(16), "{:?}", asked[1]);
}

#[test]
fn what_the_connection_measured_sizes_the_next_extents() {
    let sizes = |timing: Option<Timing>| {
        let mut scheduler = FetchScheduler::new(SchedulerConfig::default(), 256 * MIB, 5);
        let (source, kind) = (SourceId(1), peer(Holdings::Complete, None));
        let first = requests(&scheduler.on_event(Duration::ZERO, Event::SourceAdded { source, kind }))[0].1;
        let actions = scheduler.on_event(MS * 102, Event::ExtentDone { source, extent: first, timing });
        requests(&actions).iter().map(|(_, extent)| extent.len()).max()
    };
    // 64 KiB after 102 ms look like 0.6 MB/s; the connection knows that all but 2 ms of it were distance.
    let timing = Timing { first_byte: MS * 100, receiving: MS * 2 };
    assert!(sizes(Some(timing)) >= sizes(None));
    let mut peers =
        [super::super::peer::Peer::new(None, None, None), super::super::peer::Peer::new(None, None, None)];
    for (peer, timing) in peers.iter_mut().zip([Some(timing), None]) {
        peer.sent(Duration::ZERO, 64 * KIB);
        peer.delivered(MS * 102, 64 * KIB, MS * 102, timing);
    }
    assert!(peers[0].rate.get().unwrap() > 20e6 && peers[1].rate.get().unwrap() < 1e6);
}

#[test]
fn a_thousand_silent_addresses_of_one_network_cost_hardly_more_than_a_few() {
    let size = 64 * MIB;
    let mut cast = vec![Player::honest(10e6); 2];
    for index in 0..1000 {
        let mut silent = Player::with(Nature::Silent(0), 10e6);
        silent.prefix = Some(99);
        silent.joins_at = MS * (index / 4);
        cast.push(silent);
    }
    let mut world = World::new(size, 1, cast, None);
    world.at(Duration::ZERO, Event::ReaderAt { reader: ReaderId(0), offset_bytes: 0 });
    let took = world.run();
    assert!(world.completed());
    assert!(took.as_secs_f64() < 1.15 * size as f64 / 20e6, "{took:?}");
    let asked = world
        .log
        .iter()
        .filter(|(_, action)| matches!(action, Action::Request { source, .. } if source.0 > 1));
    let bound = SchedulerConfig::default().max_peers_per_prefix * 4;
    assert!(asked.count() <= bound, "{bound}");
}

#[test]
fn after_a_lie_the_neighbours_have_one_request_together_until_they_have_shown_themselves() {
    let mut scheduler = FetchScheduler::new(SchedulerConfig::default(), 64 * MIB, 5);
    let added = |id| Event::SourceAdded { source: SourceId(id), kind: peer(Holdings::Complete, Some(7)) };
    let (liar, extent) = requests(&scheduler.on_event(Duration::ZERO, added(0)))[0];
    scheduler.on_event(MS, Event::ExtentFailed { source: liar, extent, fault: Fault::Corrupt });
    for id in 1..8 {
        assert_eq!(requests(&scheduler.on_event(MS, added(id))), [], "it pauses");
    }
    let (mut now, mut asked) = (MS * 10, false);
    for _ in 0..600 {
        now += MS * 20;
        scheduler.on_event(now, Event::Tick);
        let busy = scheduler.peers.values().filter(|peer| peer.in_flight > 0).count();
        assert!(busy <= 1, "{busy} of them are asked at once");
        asked |= busy == 1;
    }
    assert!(asked, "one of them may show itself");
}

#[test]
fn an_honest_peer_in_a_bad_network_completes_the_fetch_alone() {
    let mut cast: Vec<Player> = (0..12).map(|n| Player::with(Nature::Liar(n % 3), 5e6)).collect();
    cast.push(Player::honest(5e6));
    cast.iter_mut().for_each(|player| player.prefix = Some(1));
    let mut world = World::new(8 * MIB, 1, cast, None);
    world.at(MS * 50, Event::Lookup(LookupPhase::Finished));
    assert!(world.run() < Duration::from_secs(30) && world.completed(), "{:?}", world.now);
}

#[test]
fn the_origin_is_asked_at_once_when_the_peers_hold_nothing_of_use() {
    let mut scheduler = with_origin(8 * MIB, false);
    let kind = peer(part(8 * MIB, 0..0), None);
    scheduler.on_event(MS, Event::SourceAdded { source: SourceId(1), kind });
    assert_eq!(starts(&scheduler.on_event(MS * 2, Event::Lookup(LookupPhase::Wide))), [(ORIGIN, 0)]);
}

#[test]
fn the_origin_waits_for_peers_that_are_getting_the_blob() {
    let size = 8 * MIB;
    let mut scheduler = with_origin(size, false);
    let source = SourceId(1);
    let added = Event::SourceAdded { source, kind: peer(part(size, 0..0), None) };
    scheduler.on_event(MS, added);
    for step in 1..=16u64 {
        let now = MS * (step as u32) * 100;
        let holdings = part(size, 0..step * 16);
        let mut actions = scheduler.on_event(now, Event::HoldingsChanged { source, holdings });
        if step == 1 {
            actions.extend(scheduler.on_event(now, Event::Lookup(LookupPhase::Wide)));
        }
        for (source, extent) in requests(&actions) {
            let done = Event::ExtentDone { source, extent, timing: None };
            assert!(requests(&scheduler.on_event(now + MS * 5, done)).is_empty());
        }
        assert_eq!(starts(&scheduler.on_event(now + MS * 99, Event::Tick)), []);
    }
    let silent = MS * 1600 + SchedulerConfig::default().relay_patience + MS * 10;
    assert_eq!(starts(&scheduler.on_event(silent, Event::Tick)).len(), 1);
}

#[test]
fn a_stream_that_may_start_anywhere_starts_at_the_readers_gap_and_skips_what_is_there() {
    let mut scheduler = with_origin(64 * MIB, true);
    let present = |from: u64, to: u64| Event::Present {
        groups: GroupRange { start: from / GROUP_BYTES, end: to / GROUP_BYTES },
    };
    scheduler.on_event(Duration::ZERO, Event::ReaderAt { reader: ReaderId(0), offset_bytes: 8 * MIB });
    scheduler.on_event(Duration::ZERO, present(8 * MIB, 10 * MIB));
    let actions = scheduler.on_event(MS, Event::Lookup(LookupPhase::Wide));
    assert_eq!(starts(&actions), [(ORIGIN, 10 * MIB)]);
    let at = |from_byte, offset_bytes| Event::OriginAt { source: ORIGIN, from_byte, offset_bytes };
    scheduler.on_event(MS * 100, at(10 * MIB, 11 * MIB));
    // A short stretch is read through; a long one is not.
    let actions = scheduler.on_event(MS * 200, present(11 * MIB, 11 * MIB + 256 * KIB));
    assert_eq!(starts(&actions), []);
    let actions = scheduler.on_event(MS * 210, present(11 * MIB, 30 * MIB));
    assert_eq!(starts(&actions), [(ORIGIN, 30 * MIB)]);
    // The last words of the stream that was stopped are not those of the new one.
    let before = scheduler.stats().missing_bytes;
    scheduler.on_event(MS * 211, at(10 * MIB, 40 * MIB));
    scheduler.on_event(MS * 211, Event::OriginEnded { source: ORIGIN, from_byte: 10 * MIB, ok: true });
    assert_eq!(scheduler.stats().missing_bytes, before);
    // At the end it turns to what it left behind.
    let actions =
        scheduler.on_event(MS * 900, Event::OriginEnded { source: ORIGIN, from_byte: 30 * MIB, ok: true });
    assert_eq!(starts(&actions), [(ORIGIN, 0)]);
}

#[test]
fn of_two_origins_the_one_that_should_be_done_first_is_asked_and_a_relay_before_both() {
    let mut scheduler = with_origin(64 * MIB, false);
    let add = |source, rate, relay| Event::SourceAdded {
        source: SourceId(source),
        kind: SourceKind::Origin {
            ranged: false,
            expected_bytes_per_second: Some(rate),
            expected_first_byte: Some(MS * 30),
            relay,
        },
    };
    scheduler.on_event(Duration::ZERO, add(1, 50e6, false));
    let mut relayed = with_origin(64 * MIB, false);
    relayed.on_event(Duration::ZERO, add(1, 50e6, false));
    relayed.on_event(Duration::ZERO, add(2, 5e6, true));
    let wide = Event::Lookup(LookupPhase::Wide);
    assert_eq!(starts(&scheduler.on_event(MS, wide.clone())), [(SourceId(1), 0)]);
    assert_eq!(starts(&relayed.on_event(MS, wide)), [(SourceId(2), 0)]);
}

#[test]
fn an_origin_that_was_left_for_a_holder_is_started_again_when_the_holder_gives_nothing() {
    let mut scheduler = with_origin(64 * MIB, false);
    let begun = scheduler.on_event(MS * 60, Event::Tick);
    assert_eq!(starts(&begun), [(ORIGIN, 0)], "the look-up takes long");
    let holder = Event::SourceAdded { source: SourceId(1), kind: peer(Holdings::Complete, None) };
    let left = scheduler.on_events(MS * 2000, [holder, Event::OriginLeft { source: ORIGIN }]);
    assert_eq!(starts(&left), []);
    assert!(!requests(&left).is_empty() && !scheduler.stats().origin_running);
    let patience = SchedulerConfig::default().starve_after;
    assert_eq!(starts(&scheduler.on_event(MS * 1990 + patience, Event::Tick)), []);
    assert_eq!(starts(&scheduler.on_event(MS * 2000 + patience, Event::Tick)), [(ORIGIN, 0)]);
}

#[test]
fn a_silent_relay_is_passed_over_within_two_seconds() {
    let relay = OriginPlay { silent_at: Some(4 * MIB), relay: true, ranged: true, ..OriginPlay::default() };
    let mut world = World::new(16 * MIB, 1, Vec::new(), Some(relay));
    world.add_origin(OriginPlay { ranged: true, ..OriginPlay::default() });
    world.at(MS, Event::Lookup(LookupPhase::Finished));
    let took = world.run();
    let ideal = 16.0 * MIB as f64 / 10e6;
    assert!(world.completed() && took.as_secs_f64() < ideal + 2.0, "{took:?}");
    assert!(world.origin_bytes <= 17 * MIB, "what it gave is not fetched again: {}", world.origin_bytes);
}

#[test]
fn a_relay_that_shows_life_while_it_catches_up_is_not_left() {
    let mut scheduler = with_origin(64 * MIB, false);
    let relay = SourceKind::Origin {
        ranged: true,
        expected_bytes_per_second: None,
        expected_first_byte: None,
        relay: true,
    };
    let source = SourceId(1);
    scheduler.on_event(Duration::ZERO, Event::SourceAdded { source, kind: relay });
    assert_eq!(starts(&scheduler.on_event(MS, Event::Lookup(LookupPhase::Finished))), [(source, 0)]);
    let at = |offset_bytes| Event::OriginAt { source, from_byte: 0, offset_bytes };
    for step in 1..=10u64 {
        assert_eq!(starts(&scheduler.on_event(MS * 100 * step as u32, at(step * MIB))), []);
    }
    for step in 11..=100 {
        assert_eq!(starts(&scheduler.on_event(MS * 100 * step, at(0))), [], "{step}");
    }
    assert_eq!(starts(&scheduler.on_event(MS * 11_600, Event::Tick)), [(ORIGIN, 0)], "silent now");
}

/// Two nodes that fetch from one complete holder, and see what the other has.
#[test]
fn in_a_swarm_the_complete_holder_is_asked_for_what_nobody_else_has() {
    let size = 64 * MIB;
    let mut scheduler = FetchScheduler::new(SchedulerConfig::default(), size, 5);
    let (seeder, other) = (SourceId(1), SourceId(2));
    scheduler.on_event(Duration::ZERO, Event::ReaderAt { reader: ReaderId(0), offset_bytes: 0 });
    scheduler
        .on_event(Duration::ZERO, Event::SourceAdded { source: other, kind: peer(part(size, 0..0), None) });
    let half = group_count(size) / 2;
    scheduler.on_event(MS, Event::HoldingsChanged { source: other, holdings: part(size, 0..half) });
    let added = Event::SourceAdded { source: seeder, kind: peer(Holdings::Complete, None) };
    let asked = requests(&scheduler.on_event(MS, added));
    assert!(
        !asked.is_empty() && asked.iter().all(|(source, extent)| *source == seeder && extent.start >= half)
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Origins of all kinds, that fail or fall silent, beside one honest peer or one honest origin.
    #[test]
    fn one_honest_source_of_any_kind_completes_the_fetch(
        size in 1u64..24_000_000,
        seed in any::<u64>(),
        origin_is_honest in any::<bool>(),
        plays in (any::<(bool, bool, bool, bool)>(), 0u64..24_000_000),
        liars in prop::collection::vec(0u32..6, 0..5),
        reader in prop::option::of(0u64..24_000_000),
    ) {
        let ((ranged, second_ranged, relay, fails), at) = plays;
        let first = OriginPlay {
            fails_at: fails.then_some(at),
            silent_at: (!fails).then_some(at),
            ranged,
            relay,
            ..OriginPlay::default()
        };
        let mut cast: Vec<Player> =
            liars.into_iter().map(|after| Player::with(Nature::Liar(after), 3e6)).collect();
        cast.iter_mut().for_each(|player| player.prefix = Some(3));
        if !origin_is_honest {
            cast.push(Player::honest(3e6));
        }
        let mut world = World::new(size, seed, cast, Some(first));
        if origin_is_honest {
            world.add_origin(OriginPlay { ranged: second_ranged, ..OriginPlay::default() });
        }
        world.at(MS * 100, Event::Lookup(LookupPhase::Finished));
        if let Some(offset_bytes) = reader {
            world.at(MS, Event::ReaderAt { reader: ReaderId(1), offset_bytes });
        }
        world.run();
        prop_assert!(world.completed(), "{:?}", world.watched.outcome);
    }
}
