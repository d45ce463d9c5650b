//! What a fetch does in a world with a given cast.

use std::time::Duration;

use super::super::*;
use super::world::{Nature, OriginPlay, Player, World};
use p2p_cache_protocol::{GROUP_BYTES, GroupRange, GroupSet, group_count};
use proptest::prelude::*;

const MIB: u64 = 1 << 20;
const MS: Duration = Duration::from_millis(1);

fn finished() -> Event {
    Event::Lookup(LookupPhase::Finished)
}

fn origin(bytes_per_second: f64) -> OriginPlay {
    OriginPlay { bytes_per_second, ..OriginPlay::default() }
}

fn starts(world: &World) -> Vec<Duration> {
    let started =
        |(at, action): &(Duration, Action)| matches!(action, Action::StartOrigin { .. }).then_some(*at);
    world.log.iter().filter_map(started).collect()
}

#[test]
fn the_empty_blob_is_complete_with_the_first_event() {
    let mut scheduler = FetchScheduler::new(SchedulerConfig::default(), 0, 1);
    assert_eq!(scheduler.on_event(Duration::ZERO, Event::Tick), [Action::Complete]);
    assert_eq!(scheduler.on_event(Duration::ZERO, Event::Tick), []);
}

#[test]
fn four_equal_peers_are_used_together() {
    let mut world = World::new(64 * MIB, 1, vec![Player::honest(10e6); 4], None);
    let took = world.run();
    let ideal = 64.0 * MIB as f64 / 40e6;
    assert!(world.completed() && took.as_secs_f64() < ideal * 1.05, "{took:?} of {ideal}");
    assert_eq!(world.watched.duplicate_bytes, 0);
}

#[test]
fn a_fast_and_a_slow_peer_finish_together() {
    let mut world = World::new(64 * MIB, 1, vec![Player::honest(20e6), Player::honest(1e6)], None);
    let took = world.run();
    let ideal = 64.0 * MIB as f64 / 21e6;
    assert!(world.completed() && took.as_secs_f64() < ideal * 1.08, "{took:?} of {ideal}");
}

#[test]
fn far_peers_are_filled_within_a_few_round_trips() {
    let mut far = Player::honest(40e6);
    far.rtt = MS * 100;
    let mut world = World::new(256 * MIB, 1, vec![far; 2], None);
    let took = world.run();
    let ideal = 256.0 * MIB as f64 / 80e6;
    assert!(world.completed() && took.as_secs_f64() < ideal * 1.3, "{took:?} of {ideal}");
}

#[test]
fn a_silent_peer_holds_a_reader_up_only_for_a_moment() {
    let cast = vec![Player::honest(10e6), Player::honest(10e6), Player::with(Nature::Silent(40), 10e6)];
    let mut world = World::new(128 * MIB, 1, cast, None);
    world.at(Duration::ZERO, Event::ReaderAt { reader: ReaderId(1), offset_bytes: 0 });
    let (mut position, mut since, mut longest) = (0, Duration::ZERO, Duration::ZERO);
    while world.step() {
        let reached = world.watched.present.prefix() * GROUP_BYTES;
        if reached > position {
            (position, longest) = (reached, longest.max(world.now - since));
            since = world.now;
            world.at(world.now, Event::ReaderAt { reader: ReaderId(1), offset_bytes: position });
        }
    }
    assert!(world.completed() && longest < MS * 250, "{longest:?}");
}

#[test]
fn a_reader_in_the_middle_gets_its_bytes_first() {
    let mut world = World::new(256 * MIB, 3, vec![Player::honest(10e6); 2], None);
    world.at(Duration::ZERO, Event::ReaderAt { reader: ReaderId(1), offset_bytes: 100 * MIB + 5 });
    // The peers join at the same instant, so the reader's place is known before anything else happens.
    assert!(world.step() && world.step());
    let early = world.log.iter().filter(|(_, action)| matches!(action, Action::Request { .. })).count();
    let mut asked = Vec::new();
    while asked.len() < early + 8 && world.step() {
        asked = world
            .log
            .iter()
            .filter_map(|(_, action)| match action {
                Action::Request { extent, .. } => Some(*extent),
                _ => None,
            })
            .collect();
    }
    let first = 100 * MIB / GROUP_BYTES;
    // Requests that went out before the reader came are not taken back.
    let ahead: Vec<u64> = asked.iter().skip(early).map(|extent| extent.start).collect();
    assert_eq!(ahead.first(), Some(&first));
    assert!(ahead.windows(2).all(|pair| pair[0] < pair[1]), "in order: {ahead:?}");
}

#[test]
fn a_liar_is_banned_and_what_it_owed_is_fetched_elsewhere() {
    let cast = vec![Player::honest(10e6), Player::with(Nature::Liar(3), 10e6)];
    let mut world = World::new(16 * MIB, 1, cast, None);
    world.run();
    assert!(world.completed());
    let bans = world.log.iter().filter(|(_, action)| matches!(action, Action::BanSource { .. })).count();
    assert_eq!(bans, 1);
}

#[test]
fn a_silent_peer_delays_the_fetch_by_less_than_two_seconds() {
    let mut honest = World::new(64 * MIB, 1, vec![Player::honest(10e6); 2], None);
    let alone = {
        let mut world = World::new(64 * MIB, 1, vec![Player::honest(10e6)], None);
        world.run()
    };
    honest.run();
    let cast = vec![Player::honest(10e6), Player::with(Nature::Silent(20), 10e6)];
    let mut world = World::new(64 * MIB, 1, cast, None);
    let took = world.run();
    assert!(world.completed() && took < alone, "{took:?}, alone {alone:?}");
}

#[test]
fn a_peer_that_closes_again_and_again_is_dropped_after_three_faults() {
    let cast = vec![Player::honest(1e6), Player::with(Nature::Closes(2), 10e6)];
    let mut world = World::new(16 * MIB, 1, cast, None);
    world.run();
    assert!(world.completed());
    let dropped = (SourceId(1), DropReason::Faults);
    assert!(world.log.iter().any(|(_, action)| {
        matches!(action, Action::DropSource { source, reason } if (*source, *reason) == dropped)
    }));
}

#[test]
fn without_a_peer_the_origin_starts_at_once_when_the_near_lookup_is_over() {
    let mut world = World::new(8 * MIB, 1, vec![], Some(origin(5e6)));
    world.at(MS * 3, Event::Lookup(LookupPhase::Wide));
    world.run();
    assert!(world.completed());
    assert_eq!(starts(&world), [MS * 3]);
}

#[test]
fn a_near_lookup_that_never_ends_holds_the_origin_back_only_for_its_patience() {
    let mut world = World::new(8 * MIB, 1, vec![], Some(origin(5e6)));
    world.run();
    assert!(world.completed());
    assert_eq!(starts(&world), [SchedulerConfig::default().origin_patience]);
}

#[test]
fn good_peers_leave_the_origin_alone() {
    let mut world = World::new(64 * MIB, 1, vec![Player::honest(10e6); 2], Some(origin(5e6)));
    world.at(Duration::ZERO, finished());
    world.run();
    assert!(world.completed());
    assert!(starts(&world).is_empty());
}

#[test]
fn the_origin_joins_peers_that_are_much_slower_than_it() {
    let mut world = World::new(64 * MIB, 1, vec![Player::honest(1e6)], Some(origin(20e6)));
    world.at(Duration::ZERO, finished());
    let took = world.run();
    assert!(world.completed() && took < Duration::from_secs(6), "{took:?}");
    assert_eq!(starts(&world).len(), 1);
}

#[test]
fn a_stream_and_peers_meet_and_the_stream_stops_there() {
    let mut late = Player::honest(10e6);
    late.joins_at = MS * 500;
    let mut world = World::new(64 * MIB, 1, vec![late], Some(origin(10e6)));
    world.at(Duration::ZERO, finished());
    let took = world.run();
    assert!(world.completed());
    let ideal = 0.5 + (64.0 * MIB as f64 - 4.7e6) / 20e6;
    assert!(took.as_secs_f64() < ideal * 1.08, "{took:?} of {ideal}");
    let peer = world.bytes_from[&SourceId(0)];
    assert!(world.origin_bytes + peer < 66 * MIB, "origin {} peer {peer}", world.origin_bytes);
}

#[test]
fn a_stream_is_stopped_when_peers_have_become_much_faster() {
    let mut late = Player::honest(50e6);
    late.joins_at = MS * 500;
    let mut world = World::new(256 * MIB, 1, vec![late], Some(origin(5e6)));
    world.at(Duration::ZERO, finished());
    world.run();
    assert!(world.completed());
    assert!(world.origin_bytes < 8 * MIB, "{}", world.origin_bytes);
}

#[test]
fn peers_take_over_from_an_origin_that_fails_and_the_other_way_round() {
    let mut failing = origin(10e6);
    failing.fails_at = Some(5 * MIB);
    let mut late = Player::honest(10e6);
    late.joins_at = MS * 900;
    let mut world = World::new(16 * MIB, 1, vec![late], Some(failing));
    world.at(MS, Event::Lookup(LookupPhase::Wide));
    world.at(MS * 1200, finished());
    world.run();
    assert!(world.completed());

    let cast = vec![Player::with(Nature::Leaves(8), 10e6)];
    let mut world = World::new(16 * MIB, 1, cast, Some(origin(10e6)));
    world.at(Duration::ZERO, finished());
    world.run();
    assert!(world.completed());
    assert_eq!(starts(&world).len(), 1);
}

#[test]
fn a_fetch_fails_only_when_the_lookup_is_over_and_everybody_is_gone() {
    let mut failing = origin(10e6);
    failing.fails_at = Some(MIB);
    let mut world = World::new(16 * MIB, 1, vec![Player::with(Nature::Leaves(2), 10e6)], Some(failing));
    world.at(MS * 3000, finished());
    assert_eq!(world.run(), MS * 3000);
    assert_eq!(world.watched.outcome, Some(Action::Failed(FailReason::SourcesLost)));

    let mut world = World::new(16 * MIB, 1, vec![], None);
    world.at(MS * 10, finished());
    world.run();
    assert_eq!(world.watched.outcome, Some(Action::Failed(FailReason::NoSource)));
}

#[test]
fn peers_that_hold_nothing_of_use_are_let_go_in_the_end() {
    let mut player = Player::honest(10e6);
    player.holds = Some(GroupSet::new(group_count(4 * MIB)));
    let mut world = World::new(4 * MIB, 1, vec![player], None);
    world.at(Duration::ZERO, finished());
    let took = world.run();
    assert_eq!(world.watched.outcome, Some(Action::Failed(FailReason::SourcesLost)));
    assert!(took >= SchedulerConfig::default().max_idle);
}

#[test]
fn rare_blocks_are_asked_for_before_common_ones() {
    let size = 64 * MIB;
    let common = GroupRange { start: 0, end: 40 * MIB / GROUP_BYTES };
    let mut holder = Player::honest(10e6);
    holder.holds = Some({
        let mut set = GroupSet::new(group_count(size));
        set.insert(common);
        set
    });
    let mut world = World::new(size, 5, vec![holder, Player::honest(10e6)], None);
    world.run();
    assert!(world.completed());
    let by_complete = world.log.iter().filter_map(|(_, action)| match action {
        Action::Request { source: SourceId(1), extent } => Some(*extent),
        _ => None,
    });
    let first: Vec<GroupRange> = by_complete.take(20).collect();
    assert!(first.iter().all(|extent| extent.start >= common.end), "{first:?}");
}

#[test]
fn resumed_groups_are_not_asked_for() {
    let mut scheduler = FetchScheduler::new(SchedulerConfig::default(), 4 * MIB, 9);
    scheduler.on_event(Duration::ZERO, Event::Present { groups: GroupRange { start: 3, end: 256 } });
    let kind = SourceKind::Peer { holdings: Holdings::Complete, rtt: None, prefix: None };
    let actions = scheduler.on_event(Duration::ZERO, Event::SourceAdded { source: SourceId(7), kind });
    let extent = GroupRange { start: 0, end: 3 };
    assert_eq!(actions.first(), Some(&Action::Request { source: SourceId(7), extent }));
    let actions = scheduler.on_event(MS, Event::ExtentDone { source: SourceId(7), extent, timing: None });
    assert_eq!(actions, [Action::Complete]);
}

#[test]
fn what_a_liar_delivers_late_bans_it_still() {
    let mut scheduler = FetchScheduler::new(SchedulerConfig::default(), 4 * MIB, 9);
    let source = SourceId(7);
    let kind = SourceKind::Peer { holdings: Holdings::Complete, rtt: None, prefix: None };
    scheduler.on_event(Duration::ZERO, Event::SourceAdded { source, kind: kind.clone() });
    let extent = GroupRange { start: 0, end: 1 };
    let lie = Event::ExtentFailed { source, extent, fault: Fault::Corrupt };
    assert!(scheduler.on_event(MS, lie).contains(&Action::BanSource { source }));
    let back = scheduler.on_event(MS, Event::SourceAdded { source, kind });
    assert_eq!(back, [Action::DropSource { source, reason: DropReason::Banned }]);
}

#[test]
fn nobody_stands_back_for_a_peer_that_holds_only_a_part_of_the_block() {
    let mut part = Player::honest(800_000.0);
    part.holds = Some({
        let mut set = GroupSet::new(37);
        set.insert(GroupRange { start: 0, end: 33 });
        set
    });
    let mut world = World::new(600_000, 2, vec![part, Player::honest(500_000.0)], None);
    world.at(MS * 100, finished());
    assert!(world.run() < MS * 1500 && world.completed(), "{:?}", world.now);
}

fn nature() -> impl Strategy<Value = Nature> {
    let n = 0u32..12;
    prop_oneof![
        2 => Just(Nature::Honest),
        1 => n.clone().prop_map(Nature::Silent),
        1 => n.clone().prop_map(Nature::Liar),
        1 => n.clone().prop_map(Nature::Closes),
        1 => n.clone().prop_map(Nature::Denies),
        1 => n.clone().prop_map(Nature::Busy),
        1 => n.prop_map(Nature::Leaves),
    ]
}

fn player(size: u64) -> impl Strategy<Value = Player> {
    let groups = group_count(size);
    let part = prop::option::weighted(0.4, (0..=groups, 0..=groups));
    (nature(), 200_000u64..50_000_000, 0u64..150, part, 0u64..3000).prop_map(
        move |(nature, rate, rtt, part, at)| Player {
            nature,
            bytes_per_second: rate as f64,
            rtt: Duration::from_millis(rtt),
            holds: part.map(|(start, end)| {
                let mut set = GroupSet::new(groups);
                set.insert(GroupRange { start, end });
                set
            }),
            joins_at: Duration::from_millis(at),
            prefix: (at % 2 == 0).then_some(at % 3),
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    /// Whoever else takes part: one honest peer is enough, every missing extent is asked for, and the bytes fetched
    /// twice stay within the budget.
    #[test]
    fn one_honest_source_completes_the_fetch(
        (size, cast) in (1u64..24_000_000).prop_flat_map(|size| {
            (Just(size), prop::collection::vec(player(size), 0..7))
        }),
        seed in any::<u64>(),
        honest_rate in 300_000u64..50_000_000,
        reader in prop::option::of(0u64..24_000_000),
        with_origin in any::<bool>(),
    ) {
        let mut cast = cast;
        cast.push(Player::honest(honest_rate as f64));
        let play = OriginPlay { fails_at: Some(size / 3), ..origin(3e6) };
        let mut world = World::new(size, seed, cast, with_origin.then_some(play));
        world.at(MS * 100, finished());
        if let Some(offset_bytes) = reader {
            world.at(MS, Event::ReaderAt { reader: ReaderId(1), offset_bytes });
        }
        world.run();
        prop_assert!(world.completed(), "{:?}", world.watched.outcome);
        let budget = world.watched.scheduler.stats().hedge_budget_bytes;
        if !with_origin {
            prop_assert!(world.watched.duplicate_bytes <= budget);
        }
    }

    /// Peers alike in speed: none is asked for anything behind a window while it could be asked for a part of it.
    #[test]
    fn readers_are_not_starved(
        seed in any::<u64>(),
        offset in 0u64..32_000_000,
        parts in prop::collection::vec(prop::option::of((0u64..2000, 0u64..2000)), 1..5),
    ) {
        let size = 32_000_000;
        let cast = parts.into_iter().map(|part| {
            let mut player = Player::honest(5e6);
            player.holds = part.map(|(start, end)| {
                let mut set = GroupSet::new(group_count(size));
                set.insert(GroupRange { start, end });
                set
            });
            player
        }).chain([Player::honest(5e6)]).collect();
        let mut world = World::new(size, seed, cast, None);
        world.at(Duration::ZERO, Event::ReaderAt { reader: ReaderId(1), offset_bytes: offset });
        let mut position = offset;
        loop {
            let before = world.log.len();
            if !world.step() {
                break;
            }
            let scheduler = &world.watched.scheduler;
            let Some(reader) = scheduler.readers.iter().next() else { continue };
            let window = reader.window(&scheduler.config);
            for (_, action) in &world.log[before..] {
                let Action::Request { source, extent } = action else { continue };
                if extent.start * GROUP_BYTES >= window.end || extent.end * GROUP_BYTES <= window.start {
                    let groups = window.start / GROUP_BYTES..window.end.div_ceil(GROUP_BYTES);
                    if scheduler.peers[source].is_suspect() {
                        continue;
                    }
                    let held = scheduler.peers[source].held.as_ref();
                    let wanted = scheduler.map.first_wanted(groups, held);
                    prop_assert_eq!(wanted, None, "{} for {}", source, extent);
                }
            }
            let reached = world.watched.present.prefix_from(position / GROUP_BYTES) * GROUP_BYTES;
            if reached > position + 256 * 1024 {
                position = reached;
                world.at(world.now, Event::ReaderAt { reader: ReaderId(1), offset_bytes: position });
            }
        }
        prop_assert!(world.completed());
    }
}
