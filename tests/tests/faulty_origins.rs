//! Whatever an origin does, a client gets a quick 404 or a body that is cut, never a wrong byte and never silence.

use std::time::{Duration, Instant};

use p2p_cache_tests::http::{self, Answer};
use p2p_cache_tests::{Closure, Daemon, Fault, NixStore, Origin};

/// The longest that a client may be left without an answer.
const PATIENCE: Duration = Duration::from_secs(15);

struct Setup {
    closure: Closure,
    origin: Origin,
    node: Daemon,
}

fn setup(kilobytes: u64, compression: &str) -> Setup {
    let closure = Closure::build(kilobytes, compression);
    let origin = Origin::serve(&closure.cache());
    let node = Daemon::builder().origin(origin.url()).trust(&closure.public_key).start();
    Setup { closure, origin, node }
}

impl Setup {
    fn get_nar(&self) -> (Answer, Duration) {
        let started = Instant::now();
        let answer = http::get(&format!("{}{}", self.node.http, self.closure.top_nar_path()));
        (answer, started.elapsed())
    }

    fn get_narinfo(&self) -> (Answer, Duration) {
        let started = Instant::now();
        let answer = http::get(&format!("{}/{}.narinfo", self.node.http, self.closure.top_narinfo().0));
        (answer, started.elapsed())
    }

    /// Not a wrong byte, not a complete body, nothing kept.
    fn assert_harmless(&self, answer: &Answer) {
        let right = self.closure.top_nar();
        if answer.status == 200 {
            assert!(!answer.complete, "a failed fetch must not look complete");
            assert!(answer.body.len() < right.len());
        } else {
            assert_eq!(answer.status, 404);
        }
        self.node.wait_until_idle();
        assert!(self.node.blob_files().is_empty(), "nothing wrong is kept");
    }

    /// After the fault is mended the same node serves the right bytes.
    fn assert_recovers(&self) {
        self.origin.set_fault(Fault::None);
        // A fresh client each time: Nix remembers a miss for an hour.
        let mut store = NixStore::new();
        p2p_cache_tests::daemon::wait_until(Duration::from_secs(60), "the origin to be asked again", || {
            store = NixStore::new();
            store.copy_from(&self.node.http, &self.closure).success
        });
        assert_eq!(store.dump(&self.closure), self.closure.top_nar());
    }
}

#[test]
fn an_origin_that_refuses_is_a_quick_404() {
    let setup = setup(500, "xz");
    setup.origin.stop();
    let (answer, elapsed) = setup.get_narinfo();
    assert_eq!(answer.status, 404);
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
    let (_, again) = setup.get_narinfo();
    assert!(again < Duration::from_millis(500), "a dead origin is remembered: {again:?}");
}

#[test]
fn an_origin_that_hangs_is_a_404_in_time_and_then_a_quick_one() {
    let setup = setup(500, "xz");
    setup.origin.set_fault(Fault::Hang);
    let (answer, elapsed) = setup.get_narinfo();
    assert_eq!(answer.status, 404);
    assert!(elapsed < PATIENCE, "{elapsed:?}");
    let (answer, again) = setup.get_narinfo();
    assert_eq!(answer.status, 404);
    assert!(again < Duration::from_secs(1), "a dead origin is remembered: {again:?}");
    setup.assert_recovers();
}

#[test]
fn an_origin_that_answers_500_is_a_404() {
    let setup = setup(500, "xz");
    setup.origin.set_fault(Fault::Status(500));
    let (answer, elapsed) = setup.get_narinfo();
    assert_eq!(answer.status, 404);
    assert!(elapsed < PATIENCE, "{elapsed:?}");
    let (answer, elapsed) = setup.get_nar();
    assert_eq!(answer.status, 404);
    assert!(elapsed < PATIENCE, "{elapsed:?}");
    setup.assert_recovers();
}

#[test]
fn a_truncated_nar_is_never_completed_and_not_kept() {
    for compression in ["none", "xz"] {
        let setup = setup(5_000, compression);
        setup.origin.set_fault(Fault::TruncateNar(3_000_000));
        let (answer, elapsed) = setup.get_nar();
        assert!(elapsed < PATIENCE, "{elapsed:?}");
        setup.assert_harmless(&answer);
        setup.assert_recovers();
    }
}

#[test]
fn a_nar_that_stops_flowing_is_cut_in_time() {
    let setup = setup(5_000, "none");
    setup.origin.set_fault(Fault::HangInNar(2_000_000));
    let (answer, elapsed) = setup.get_nar();
    assert!(elapsed < PATIENCE + Duration::from_secs(2), "{elapsed:?}");
    setup.assert_harmless(&answer);
    setup.assert_recovers();
}

#[test]
fn a_large_nar_with_a_wrong_bit_is_never_completed_and_not_kept() {
    let setup = setup(5_000, "none");
    setup.origin.set_fault(Fault::FlipInNar(1_000_000));
    let (answer, _) = setup.get_nar();
    setup.assert_harmless(&answer);
}

#[test]
fn a_small_nar_with_a_wrong_bit_is_a_404() {
    let setup = setup(100, "none");
    setup.origin.set_fault(Fault::FlipInNar(50_000));
    let (answer, _) = setup.get_nar();
    assert_eq!(answer.status, 404, "verified before its first byte leaves");
    setup.assert_harmless(&answer);
}

#[test]
fn a_second_origin_takes_over_inside_the_same_body() {
    let closure = Closure::build(8_000, "zstd");
    let bad = Origin::serve(&closure.cache());
    let good = Origin::serve(&closure.cache());
    bad.set_fault(Fault::TruncateNar(4_000_000));
    let node = Daemon::builder().origin(bad.url()).origin(good.url()).trust(&closure.public_key).start();
    let store = NixStore::new();
    let copied = store.copy_from(&node.http, &closure);
    assert!(copied.success, "at the first try: {}\n{}", copied.stderr, node.log());
    assert_eq!(store.dump(&closure), closure.top_nar());
}

#[test]
fn the_first_byte_does_not_wait_for_the_last() {
    let setup = setup(4_000, "none");
    setup.origin.set_fault(Fault::Slow(1_000_000));
    let (first, last) = http::first_and_last_byte(&setup.node.http, &setup.closure.top_nar_path());
    assert!(first < last / 2, "first bytes after {first:?}, last after {last:?}");
}
