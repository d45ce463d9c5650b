//! A real Nix client fetches a closure: from the origin through one node, and from another node when the origin is
//! gone.

use p2p_cache_tests::{Closure, Daemon, NixStore, Origin};

#[test]
fn a_closure_that_one_node_fetched_reaches_another_node_with_the_origin_gone() {
    let closure = Closure::build(30_000, "xz");
    let origin = Origin::serve(&closure.cache());
    let a = Daemon::builder().origin(origin.url()).trust(&closure.public_key).start();

    let first = NixStore::new();
    let copied = first.copy_from(&a.http, &closure);
    assert!(copied.success, "{}", copied.stderr);
    assert!(a.metric("p2p_cache_received_bytes_total{source=\"origin\"}") > closure.largest_bytes / 2);
    a.wait_until_idle();
    origin.stop();

    let b = Daemon::builder().origin(origin.url()).trust(&closure.public_key).peer(&a.peer).start();
    b.wait_for_peers(1);
    let second = NixStore::new();
    let copied = second.copy_from(&b.http, &closure);
    assert!(copied.success, "{}\n{}", copied.stderr, b.log());
    assert_eq!(second.paths(), 3);
    assert_eq!(second.dump(&closure), closure.top_nar(), "byte-identical");
    assert_eq!(b.metric("p2p_cache_received_bytes_total{source=\"origin\"}"), 0);
    assert!(b.metric("p2p_cache_received_bytes_total{source=\"peer\"}") > closure.largest_bytes);
    assert!(a.metric("p2p_cache_served_bytes_total{to=\"peer\"}") > closure.largest_bytes);
}

#[test]
fn nix_checks_the_signatures_that_a_node_hands_on() {
    let closure = Closure::build(500, "zstd");
    let origin = Origin::serve(&closure.cache());
    let node = Daemon::builder().origin(origin.url()).trust(&closure.public_key).start();
    let foreign = "foreign-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
    let copied = NixStore::new().copy_with_key(&node.http, &closure, foreign);
    assert!(!copied.success, "a client that trusts another key must refuse");
    assert!(copied.stderr.contains("signature"), "{}", copied.stderr);
}

#[test]
fn every_compression_of_todays_caches_arrives_byte_identical() {
    for compression in ["none", "xz", "zstd", "bzip2", "gzip", "br"] {
        let closure = Closure::build(3_000, compression);
        let origin = Origin::serve(&closure.cache());
        let node = Daemon::builder().origin(origin.url()).trust(&closure.public_key).start();
        let store = NixStore::new();
        let copied = store.copy_from(&node.http, &closure);
        assert!(copied.success, "{compression}: {}\n{}", copied.stderr, node.log());
        assert_eq!(store.dump(&closure), closure.top_nar(), "{compression}");
    }
}

#[test]
fn without_peers_the_origin_is_asked_once_and_never_again() {
    let closure = Closure::build(20_000, "none");
    let origin = Origin::serve(&closure.cache());
    let node = Daemon::builder().origin(origin.url()).trust(&closure.public_key).start();

    let direct = NixStore::new().copy_from(&origin.url(), &closure);
    assert!(direct.success, "{}", direct.stderr);
    let bytes_of_one_copy = origin.bytes();
    let cold = NixStore::new().copy_from(&node.http, &closure);
    assert!(cold.success, "{}", cold.stderr);
    let (requests, bytes) = (origin.requests(), origin.bytes());
    assert!(bytes - bytes_of_one_copy <= bytes_of_one_copy, "one copy only");
    node.wait_until_idle();

    let warm = NixStore::new().copy_from(&node.http, &closure);
    assert!(warm.success, "{}", warm.stderr);
    assert_eq!((origin.requests(), origin.bytes()), (requests, bytes), "nothing is fetched again");
    println!(
        "through the node / directly: cold {:.2}, warm {:.2}",
        cold.elapsed.as_secs_f64() / direct.elapsed.as_secs_f64(),
        warm.elapsed.as_secs_f64() / direct.elapsed.as_secs_f64()
    );
}

#[test]
fn what_was_fetched_survives_a_restart() {
    let closure = Closure::build(2_000, "zstd");
    let origin = Origin::serve(&closure.cache());
    let state = closure.scratch().join("state");
    let mut node =
        Daemon::builder().origin(origin.url()).trust(&closure.public_key).state_dir(&state).start();
    assert!(NixStore::new().copy_from(&node.http, &closure).success);
    node.wait_until_idle();
    assert!(node.terminate().success());
    origin.stop();

    let node = Daemon::builder().origin(origin.url()).trust(&closure.public_key).state_dir(&state).start();
    let store = NixStore::new();
    let copied = store.copy_from(&node.http, &closure);
    assert!(copied.success, "{}", copied.stderr);
    assert_eq!(store.dump(&closure), closure.top_nar());
}

#[test]
fn a_nar_url_is_valid_on_a_node_that_never_saw_it() {
    let closure = Closure::build(1_000, "xz");
    let origin = Origin::serve(&closure.cache());
    let node = Daemon::builder().origin(origin.url()).trust(&closure.public_key).start();
    let answer = p2p_cache_tests::http::get(&format!("{}{}", node.http, closure.top_nar_path()));
    assert_eq!(answer.status, 200);
    assert!(answer.complete);
    assert_eq!(answer.body, closure.top_nar());
    assert_eq!(answer.header("accept-ranges").as_deref(), Some("bytes"));
    assert_eq!(answer.header("content-encoding"), None);
}
