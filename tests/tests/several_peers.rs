//! Several holders: one lies, one dies, and the client notices nothing.

use std::fs;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use p2p_cache_tests::{Closure, Daemon, NixStore, Origin, daemon};

/// A node that holds the closure.
fn holder(closure: &Closure, origin: &Origin, upload_rate: Option<&str>) -> Daemon {
    let mut builder = Daemon::builder().origin(origin.url()).trust(&closure.public_key);
    if let Some(rate) = upload_rate {
        builder = builder.flag("--upload-rate", rate);
    }
    let node = builder.start();
    let copied = NixStore::new().copy_from(&node.http, closure);
    assert!(copied.success, "{}", copied.stderr);
    node.wait_until_idle();
    node
}

/// Flips a bit in every 16 KiB of every blob.
fn corrupt(node: &Daemon) {
    for path in node.blob_files() {
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).expect("a blob file");
        let length = file.metadata().expect("its length").len();
        for offset in (0..length).step_by(16 * 1024) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).expect("a byte");
            file.write_all_at(&[byte[0] ^ 1], offset).expect("a byte");
        }
    }
}

#[test]
fn a_liar_and_a_crash_among_three_holders_cost_the_client_nothing() {
    let closure = Closure::build(60_000, "none");
    let origin = Origin::serve(&closure.cache());
    // Slow enough that the kill comes in mid-transfer.
    let honest = holder(&closure, &origin, Some("20MB/s"));
    let liar = holder(&closure, &origin, Some("20MB/s"));
    let mut dying = holder(&closure, &origin, Some("20MB/s"));
    corrupt(&liar);
    origin.stop();

    let node = Daemon::builder()
        .origin(origin.url())
        .trust(&closure.public_key)
        .peer(&honest.peer)
        .peer(&liar.peer)
        .peer(&dying.peer)
        .start();
    node.wait_for_peers(3);
    let killer = std::thread::spawn(move || {
        daemon::wait_until(Duration::from_secs(20), "bytes from the peer that dies", || {
            dying.metric("p2p_cache_served_bytes_total{to=\"peer\"}") > 2_000_000
        });
        dying.kill();
    });
    let store = NixStore::new();
    let copied = store.copy_from(&node.http, &closure);
    killer.join().expect("the kill");
    assert!(copied.success, "at the first try: {}\n{}", copied.stderr, node.log());
    assert_eq!(store.dump(&closure), closure.top_nar());
    assert!(node.metric_sum("p2p_cache_bans_total") >= 1, "the liar is banned");
    assert_eq!(node.metric("p2p_cache_received_bytes_total{source=\"origin\"}"), 0);
}

#[test]
fn several_holders_serve_one_blob_together() {
    let closure = Closure::build(40_000, "none");
    let origin = Origin::serve(&closure.cache());
    let holders: Vec<_> = (0..3).map(|_| holder(&closure, &origin, Some("10MB/s"))).collect();
    origin.stop();
    let mut builder = Daemon::builder().origin(origin.url()).trust(&closure.public_key);
    for holder in &holders {
        builder = builder.peer(&holder.peer);
    }
    let node = builder.start();
    node.wait_for_peers(3);
    let answer = p2p_cache_tests::http::get(&format!("{}{}", node.http, closure.top_nar_path()));
    assert!(answer.complete);
    assert_eq!(answer.body, closure.top_nar());
    for holder in &holders {
        let served = holder.metric("p2p_cache_served_bytes_total{to=\"peer\"}");
        assert!(served > 4_000_000, "each of them takes part: {served}");
    }
}

#[test]
fn the_first_byte_from_a_peer_does_not_wait_for_the_last() {
    let closure = Closure::build(30_000, "none");
    let origin = Origin::serve(&closure.cache());
    let holder = holder(&closure, &origin, Some("6MB/s"));
    origin.stop();
    let node = Daemon::builder().origin(origin.url()).trust(&closure.public_key).peer(&holder.peer).start();
    node.wait_for_peers(1);
    let (first, last) = p2p_cache_tests::http::first_and_last_byte(&node.http, &closure.top_nar_path());
    assert!(first < last / 3, "first bytes after {first:?}, last after {last:?}");
}

#[test]
fn the_origin_takes_over_when_all_peers_die_in_mid_body() {
    let closure = Closure::build(30_000, "none");
    let origin = Origin::serve(&closure.cache());
    let mut dying = holder(&closure, &origin, Some("10MB/s"));
    let node = Daemon::builder().origin(origin.url()).trust(&closure.public_key).peer(&dying.peer).start();
    node.wait_for_peers(1);
    let url = format!("{}{}", node.http, closure.top_nar_path());
    let client = std::thread::spawn(move || p2p_cache_tests::http::get(&url));
    daemon::wait_until(Duration::from_secs(20), "bytes from the peer that dies", || {
        dying.metric("p2p_cache_served_bytes_total{to=\"peer\"}") > 3_000_000
    });
    dying.kill();
    let answer = client.join().expect("the client");
    assert!(answer.complete, "{}", node.log());
    assert_eq!(answer.body, closure.top_nar());
}

#[test]
fn equal_requests_share_one_fetch() {
    let closure = Closure::build(10_000, "none");
    let origin = Origin::serve(&closure.cache());
    origin.set_fault(p2p_cache_tests::Fault::Slow(10_000_000));
    let node = Daemon::builder().origin(origin.url()).trust(&closure.public_key).start();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let url = format!("{}{}", node.http, closure.top_nar_path());
            std::thread::spawn(move || p2p_cache_tests::http::get(&url))
        })
        .collect();
    let nar = closure.top_nar();
    for client in clients {
        let answer = client.join().expect("a client");
        assert!(answer.complete);
        assert_eq!(answer.body, nar);
    }
    assert!(origin.bytes() < nar.len() as u64 * 11 / 10, "{} bytes for one NAR", origin.bytes());
}

#[test]
fn a_node_that_shares_nothing_gives_nothing() {
    let closure = Closure::build(500, "none");
    let origin = Origin::serve(&closure.cache());
    let silent =
        Daemon::builder().origin(origin.url()).trust(&closure.public_key).flag("--share", "none").start();
    assert!(NixStore::new().copy_from(&silent.http, &closure).success);
    silent.wait_until_idle();
    origin.stop();
    let node = Daemon::builder().origin(origin.url()).trust(&closure.public_key).peer(&silent.peer).start();
    node.wait_for_peers(1);
    let copied = NixStore::new().copy_from(&node.http, &closure);
    assert!(!copied.success);
    assert_eq!(silent.metric("p2p_cache_served_bytes_total{to=\"peer\"}"), 0);
}
