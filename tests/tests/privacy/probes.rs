//! Ten thousand probes of every private thing, beside as many of random hashes.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use p2p_cache_protocol::wire::Response;
use p2p_cache_tests::Prober;
use p2p_cache_tests::timing::Comparison;
use rand::seq::SliceRandom;

use super::scene::{KINDS, Scene, Subject};

/// Probes of each private thing.
const PROBES: usize = 10_000;
/// Substreams that probe at the same time.
const STREAMS: usize = 3;
/// What a leak would be at least: opening and reading a file, or verifying a signature.
const ARTIFICIAL_LEAK: Duration = Duration::from_micros(200);
/// Between the shortest times of what is alike.
const MAX_GAP: Duration = Duration::from_micros(100);
/// Requests in one go, the work for which adds up.
const BURST: usize = 16;
/// Such bursts of each kind about each thing.
const BURSTS: usize = 300;
/// The kinds that they are of: the first ones, which ask no origin.
const BURST_KINDS: usize = 5;
/// The same for bursts: a small part of what a leak would add up to.
const MAX_BURST_GAP: Duration = Duration::from_micros(500);
/// A machine that is busy otherwise tells things apart by chance, but not the same things every time.
const PASSES: usize = 4;

/// Times of the answers, by subject and kind; the last subject stands for random hashes.
type Times = Vec<[Vec<Duration>; KINDS.len()]>;
/// What takes longer or shorter than a random hash: the subject, and the kind of request.
type Apart = BTreeSet<(&'static str, &'static str, Ordering)>;

/// In rounds, each with one probe of every kind about every thing and about a random hash, in random order.
async fn probe(prober: &Prober, private: &[Subject], rounds: usize) -> Times {
    let mut stream = prober.open().await;
    let mut times: Times = vec![Default::default(); private.len() + 1];
    for _ in 0..rounds {
        let random = Subject::random();
        let subjects: Vec<_> = private.iter().chain([&random]).collect();
        let mut probes: Vec<_> =
            (0..subjects.len()).flat_map(|s| (0..KINDS.len()).map(move |k| (s, k))).collect();
        probes.shuffle(&mut rand::rng());
        for (subject, kind) in probes {
            let request = &subjects[subject].requests()[kind];
            let (answer, took) = stream.ask(request).await;
            assert_eq!(answer, Response::NotFound, "{} of {}", KINDS[kind], subjects[subject].what);
            times[subject][kind].push(took);
        }
    }
    times
}

/// The same with bursts of one and the same request.
async fn probe_in_bursts(prober: &Prober, private: &[Subject]) -> Times {
    let mut stream = prober.open().await;
    let mut times: Times = vec![Default::default(); private.len() + 1];
    for _ in 0..BURSTS {
        let random = Subject::random();
        let subjects: Vec<_> = private.iter().chain([&random]).collect();
        let mut probes: Vec<_> =
            (0..subjects.len()).flat_map(|s| (0..BURST_KINDS).map(move |k| (s, k))).collect();
        probes.shuffle(&mut rand::rng());
        for (subject, kind) in probes {
            let requests = vec![subjects[subject].requests()[kind].clone(); BURST];
            let (answers, took) = stream.ask_at_once(&requests).await;
            let denied = answers.iter().all(|answer| *answer == Response::NotFound);
            assert!(denied, "{} of {}: {answers:?}", KINDS[kind], subjects[subject].what);
            times[subject][kind].push(took);
        }
    }
    times
}

/// The times of all substreams.
fn together(streams: Vec<Times>) -> Times {
    let all = streams.into_iter().reduce(|mut all, more| {
        for (all, more) in all.iter_mut().flatten().zip(more.into_iter().flatten()) {
            all.extend(more);
        }
        all
    });
    all.expect("there are substreams")
}

/// Every kind of every subject beside the same kind of random hashes. Prints all, and gives those that are told apart.
fn told_apart(private: &[Subject], times: &Times, max_gap: Duration) -> Apart {
    let (random, held) = times.split_last().expect("random hashes");
    let mut apart = Apart::new();
    for (subject, times) in private.iter().zip(held) {
        for (kind, name) in KINDS.iter().enumerate().filter(|(kind, _)| !times[*kind].is_empty()) {
            let comparison = Comparison::of(&times[kind], &random[kind]);
            println!("{}, {name}: {comparison}", subject.what);
            let verdict = comparison.verdict(max_gap);
            if verdict.is_ne() {
                apart.insert((subject.what, name, verdict));
            }
        }
    }
    apart
}

/// Whether the comparison would notice a leak in these very times: one half of those of random hashes beside the
/// other, as they are and a little later.
fn a_leak_would_show(times: &Times, max_gap: Duration, leak: Duration) -> bool {
    let random = times.last().expect("random hashes");
    KINDS.iter().zip(random).filter(|(_, times)| !times.is_empty()).all(|(kind, times)| {
        let half = |which: usize| times.iter().copied().skip(which).step_by(2).collect::<Vec<_>>();
        let late: Vec<_> = half(1).into_iter().map(|time| time + leak).collect();
        let (same, leaky) = (Comparison::of(&half(0), &half(1)), Comparison::of(&half(0), &late));
        println!("{kind}, beside itself: {same}; with a leak: {leaky}");
        same.verdict(max_gap).is_eq() && leaky.verdict(max_gap).is_lt()
    })
}

/// Probes everything, then what was told apart again. What a node tells it tells in every pass.
fn assert_never_told_apart(
    private: &[Subject],
    max_gap: Duration,
    leak: Duration,
    probe: impl Fn(&[Subject]) -> Times,
) {
    let mut told: Option<Apart> = None;
    for _ in 0..PASSES {
        let is_suspect = |subject: &&Subject| {
            told.as_ref().is_none_or(|told| told.iter().any(|(what, ..)| *what == subject.what))
        };
        let suspects: Vec<Subject> = private.iter().filter(is_suspect).cloned().collect();
        let times = probe(&suspects);
        if a_leak_would_show(&times, max_gap, leak) {
            let apart = told_apart(&suspects, &times, max_gap);
            let still = told.map_or(apart.clone(), |told| &told & &apart);
            if still.is_empty() {
                return;
            }
            println!("told apart: {still:#?}");
            told = Some(still);
        }
    }
    panic!("told apart in every pass that would have shown a leak (None: there was none): {told:#?}");
}

#[test]
fn nothing_tells_a_private_thing_from_a_random_hash() {
    assert_nothing_is_told(&Scene::new());
}

#[test]
fn nothing_tells_a_private_path_of_the_live_store_from_a_random_hash() {
    assert_nothing_is_told(&Scene::live());
}

fn assert_nothing_is_told(scene: &Scene) {
    let prober = Prober::of(&scene.node.peer);
    for subject in &scene.public {
        let found = subject.requests().map(|request| prober.ask(&request) != Response::NotFound);
        // A whole blob is not watched; everything else is answered.
        assert_eq!(found, [true, true, true, true, false, true, true], "{}", subject.what);
    }
    let rounds = PROBES.div_ceil(KINDS.len() * STREAMS);
    assert_never_told_apart(&scene.private, MAX_GAP, ARTIFICIAL_LEAK, |private| {
        let streams = join_all((0..STREAMS).map(|_| probe(&prober, private, rounds)));
        let times = together(prober.run(streams));
        let probes: usize = times[0].iter().map(Vec::len).sum();
        assert!(probes >= PROBES, "{probes}");
        times
    });
}

#[test]
fn requests_in_one_go_tell_no_more() {
    assert_bursts_tell_no_more(&Scene::new());
}

#[test]
fn requests_in_one_go_tell_no_more_of_the_live_store() {
    assert_bursts_tell_no_more(&Scene::live());
}

fn assert_bursts_tell_no_more(scene: &Scene) {
    let prober = Prober::of(&scene.node.peer);
    // Two cores work on them.
    let leak = ARTIFICIAL_LEAK * BURST as u32 / 2;
    assert_never_told_apart(&scene.private, MAX_BURST_GAP, leak, |private| {
        prober.run(probe_in_bursts(&prober, private))
    });
}
