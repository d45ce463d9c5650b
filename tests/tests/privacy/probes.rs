//! Ten thousand probes of every private thing, beside as many of random hashes.

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

/// Times of the answers, by subject and kind; the last subject stands for random hashes.
type Times = Vec<[Vec<Duration>; KINDS.len()]>;

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
fn told_apart(private: &[Subject], times: &Times, max_gap: Duration) -> Vec<String> {
    let (random, held) = times.split_last().expect("random hashes");
    let mut apart = Vec::new();
    for (subject, times) in private.iter().zip(held) {
        for (kind, name) in KINDS.iter().enumerate().filter(|(kind, _)| !times[*kind].is_empty()) {
            let comparison = Comparison::of(&times[kind], &random[kind]);
            let line = format!("{}, {name}: {comparison}", subject.what);
            println!("{line}");
            if !comparison.is_alike(max_gap) {
                apart.push(line);
            }
        }
    }
    apart
}

/// The comparison would notice a leak in these very times: one half of those of random hashes beside the other, as they
/// are and a little later.
fn assert_a_leak_would_show(times: &Times, max_gap: Duration, leak: Duration) {
    let random = times.last().expect("random hashes");
    for (kind, times) in KINDS.iter().zip(random).filter(|(_, times)| !times.is_empty()) {
        let half = |which: usize| times.iter().copied().skip(which).step_by(2).collect::<Vec<_>>();
        let same = Comparison::of(&half(0), &half(1));
        assert!(same.is_alike(max_gap), "{kind}: {same}");
        let late: Vec<_> = half(1).into_iter().map(|time| time + leak).collect();
        let leaky = Comparison::of(&half(0), &late);
        assert!(!leaky.is_alike(max_gap), "{kind}: {leaky}");
    }
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
    let streams = join_all((0..STREAMS).map(|_| probe(&prober, &scene.private, rounds)));
    let times = together(prober.run(streams));
    let probes: usize = times[0].iter().map(Vec::len).sum();
    assert!(probes >= PROBES, "{probes}");
    assert_a_leak_would_show(&times, MAX_GAP, ARTIFICIAL_LEAK);
    let apart = told_apart(&scene.private, &times, MAX_GAP);
    assert!(apart.is_empty(), "{apart:#?}");
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
    let times = prober.run(probe_in_bursts(&prober, &scene.private));
    // Two cores work on them.
    assert_a_leak_would_show(&times, MAX_BURST_GAP, ARTIFICIAL_LEAK * BURST as u32 / 2);
    let apart = told_apart(&scene.private, &times, MAX_BURST_GAP);
    assert!(apart.is_empty(), "{apart:#?}");
}
