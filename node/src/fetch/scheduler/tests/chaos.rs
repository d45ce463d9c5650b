//! Any order of any events, sensible or not.

use std::time::Duration;

use super::super::*;
use super::watcher::Watched;
use p2p_cache_protocol::{GroupRange, GroupSet, group_count};
use proptest::prelude::*;

/// What happens next; numbers are taken modulo what exists when it happens.
#[derive(Debug, Clone)]
enum Step {
    AddPeer(u32, Option<(u64, u64)>),
    AddOrigin(u32, bool),
    Holdings(u32, Option<(u64, u64)>),
    Gone(u32),
    /// The n-th request in flight is answered.
    Done(usize),
    Failed(usize, Fault),
    /// Nonsense: an answer to what was perhaps never asked.
    StrayDone(u32, u64, u64),
    StrayFailed(u32, u64, u64, Fault),
    OriginAt(u32, u64),
    OriginEnded(u32, bool),
    OriginLeft(u32),
    Reader(u32, u64),
    ReaderGone(u32),
    Present(u64, u64),
    Lookup(LookupPhase),
    Tick,
}

fn fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::Stalled),
        Just(Fault::Corrupt),
        Just(Fault::Closed),
        Just(Fault::NotHeld),
        any::<u32>().prop_map(|ms| Fault::Busy { retry_after: Duration::from_millis(u64::from(ms)) }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let id = 0u32..12;
    let group = 0u64..400;
    let part = prop::option::of((0u64..300, 0u64..400));
    let phase = prop_oneof![Just(LookupPhase::Near), Just(LookupPhase::Wide), Just(LookupPhase::Finished)];
    prop_oneof![
        4 => (id.clone(), part.clone()).prop_map(|(id, part)| Step::AddPeer(id, part)),
        1 => (id.clone(), any::<bool>()).prop_map(|(id, ranged)| Step::AddOrigin(id, ranged)),
        1 => (id.clone(), part).prop_map(|(id, part)| Step::Holdings(id, part)),
        1 => id.clone().prop_map(Step::Gone),
        12 => any::<usize>().prop_map(Step::Done),
        4 => (any::<usize>(), fault()).prop_map(|(n, fault)| Step::Failed(n, fault)),
        1 => (id.clone(), group.clone(), group.clone()).prop_map(|(id, a, b)| Step::StrayDone(id, a, b)),
        1 => (id.clone(), group.clone(), group.clone(), fault())
            .prop_map(|(id, a, b, fault)| Step::StrayFailed(id, a, b, fault)),
        3 => (id.clone(), 0u64..6_000_000).prop_map(|(id, at)| Step::OriginAt(id, at)),
        1 => (id.clone(), any::<bool>()).prop_map(|(id, ok)| Step::OriginEnded(id, ok)),
        2 => (id.clone(), 0u64..6_000_000).prop_map(|(id, at)| Step::Reader(id, at)),
        1 => id.clone().prop_map(Step::OriginLeft),
        1 => id.prop_map(Step::ReaderGone),
        1 => (group.clone(), group).prop_map(|(a, b)| Step::Present(a, b)),
        1 => phase.prop_map(Step::Lookup),
        4 => Just(Step::Tick),
    ]
}

fn holdings(size: u64, part: Option<(u64, u64)>) -> Holdings {
    part.map_or(Holdings::Complete, |(start, end)| {
        let mut set = GroupSet::new(group_count(size));
        set.insert(GroupRange { start, end });
        Holdings::Partial(set)
    })
}

fn event(world: &Watched, step: Step) -> Option<Event> {
    let size = world.size;
    let nth = |n: usize| {
        let count = world.in_flight.len();
        (count > 0).then(|| world.in_flight.keys().nth(n % count).copied()).flatten()
    };
    Some(match step {
        Step::AddPeer(id, part) => Event::SourceAdded {
            source: SourceId(id),
            kind: SourceKind::Peer {
                holdings: holdings(size, part),
                rtt: None,
                prefix: (id % 3 > 0).then_some(u64::from(id % 2)),
            },
        },
        Step::AddOrigin(id, ranged) => Event::SourceAdded {
            source: SourceId(id),
            kind: SourceKind::Origin {
                ranged,
                expected_bytes_per_second: (id % 2 == 0).then_some(f64::from(id) * 1e6),
                expected_first_byte: None,
                relay: id % 3 == 0,
            },
        },
        Step::Holdings(id, part) => {
            Event::HoldingsChanged { source: SourceId(id), holdings: holdings(size, part) }
        }
        Step::Gone(id) => Event::SourceGone { source: SourceId(id) },
        Step::Done(n) => {
            let (source, extent) = nth(n)?;
            let ms = |n: usize| Duration::from_millis((n % 900) as u64);
            let timing = (n % 2 == 0).then(|| Timing { first_byte: ms(n / 2), receiving: ms(n / 4) });
            Event::ExtentDone { source, extent, timing }
        }
        Step::Failed(n, fault) => {
            nth(n).map(|(source, extent)| Event::ExtentFailed { source, extent, fault })?
        }
        Step::StrayDone(id, start, end) => {
            let extent = GroupRange { start, end };
            Event::ExtentDone { source: SourceId(id), extent, timing: None }
        }
        Step::StrayFailed(id, start, end, fault) => {
            Event::ExtentFailed { source: SourceId(id), extent: GroupRange { start, end }, fault }
        }
        // A stream reports only while it runs, but it may end or come late at any time.
        Step::OriginAt(id, at) => Event::OriginAt {
            source: world.running.unwrap_or(SourceId(100 + id)),
            from_byte: world.origin_from(id),
            offset_bytes: at,
        },
        Step::OriginEnded(id, ok) => Event::OriginEnded {
            source: world.running.unwrap_or(SourceId(100 + id)),
            from_byte: world.origin_from(id),
            ok,
        },
        Step::OriginLeft(id) => Event::OriginLeft { source: world.running.unwrap_or(SourceId(100 + id)) },
        Step::Reader(id, at) => Event::ReaderAt { reader: ReaderId(id), offset_bytes: at },
        Step::ReaderGone(id) => Event::ReaderGone { reader: ReaderId(id) },
        Step::Present(start, end) => Event::Present { groups: GroupRange { start, end } },
        Step::Lookup(phase) => Event::Lookup(phase),
        Step::Tick => Event::Tick,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The watcher asserts on every action; see there for the rules.
    #[test]
    fn no_order_of_events_breaks_a_rule(
        size in prop_oneof![Just(0u64), 1u64..100_000, 1u64..6_000_000],
        seed in any::<u64>(),
        steps in prop::collection::vec((0u64..2_000, step()), 0..250),
    ) {
        let mut world = Watched::new(SchedulerConfig::default(), size, seed);
        let mut now = Duration::ZERO;
        for (wait_ms, step) in steps {
            now += Duration::from_millis(wait_ms * wait_ms / 2_000);
            if let Some(event) = event(&world, step) {
                world.on_event(now, event);
            }
        }
    }

    /// Small bounds are reached quickly, and hold.
    #[test]
    fn small_bounds_hold_as_well(
        seed in any::<u64>(),
        steps in prop::collection::vec((0u64..300, step()), 0..250),
    ) {
        let config = SchedulerConfig {
            max_peers: 3,
            max_origins: 1,
            max_sources_ever: 9,
            max_readers: 2,
            max_requests_per_peer: 2,
            max_total_in_flight_bytes: 1 << 20,
            ..SchedulerConfig::default()
        };
        let mut world = Watched::new(config, 6_000_000, seed);
        let mut now = Duration::ZERO;
        for (wait_ms, step) in steps {
            now += Duration::from_millis(wait_ms);
            if let Some(event) = event(&world, step) {
                world.on_event(now, event);
            }
        }
    }
}
