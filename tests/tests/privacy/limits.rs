//! Whoever asks for too much that is not there is not answered for a while, under whatever identities it asks.

use std::time::Duration;

use p2p_cache_protocol::Digest;
use p2p_cache_protocol::wire::{Request, Response};
use p2p_cache_tests::daemon::wait_until;
use p2p_cache_tests::{Daemon, Prober};

use super::scene::{KINDS, Subject, put};

/// Failed look-ups in a minute, of one peer and of one address. So few that seconds pass until one more is forgiven, and
/// nobody is forgiven while a busy machine looks away.
const PER_PEER: usize = 12;
const PER_NETWORK: usize = 20;

fn node() -> (Daemon, Request) {
    let builder = Daemon::builder().env("P2P_CACHE_FAILED_LOOKUPS_PER_MINUTE_PER_PEER", PER_PEER.to_string());
    let builder = builder.env("P2P_CACHE_FAILED_LOOKUPS_PER_MINUTE_PER_NETWORK", PER_NETWORK.to_string());
    let node = builder.start();
    let known = Request::Lookup { digest: Digest::Sha256(put(&node, "a published blob", &[]).sha256) };
    (node, known)
}

/// Random hashes, by requests of all kinds.
fn fail(prober: &Prober, times: usize) {
    prober.run(async {
        let mut probe = prober.open().await;
        for request in (0..times).map(|n| Subject::random().requests()[n % KINDS.len()].clone()) {
            assert_eq!(probe.ask(&request).await.0, Response::NotFound);
        }
    });
}

fn is_answered(prober: &Prober, known: &Request) -> bool {
    matches!(prober.ask(known), Response::Have { .. })
}

#[test]
fn a_peer_that_fails_too_often_is_muted_for_a_while_and_others_are_not() {
    let (node, known) = node();
    let (prober, other) = (Prober::of(&node.peer), Prober::of(&node.peer));
    fail(&prober, PER_PEER - 5);
    assert!(is_answered(&prober, &known), "within its limit");
    fail(&prober, 10);
    assert!(!is_answered(&prober, &known), "over its limit");
    assert!(is_answered(&other, &known));
    wait_until(Duration::from_secs(20), "forgiveness", || is_answered(&prober, &known));
}

#[test]
fn many_identities_at_one_address_are_muted_together() {
    let (node, known) = node();
    for _ in 0..3 {
        fail(&Prober::of(&node.peer), PER_PEER - 3);
    }
    let fresh = Prober::of(&node.peer);
    assert!(!is_answered(&fresh, &known), "its address is over the limit");
    wait_until(Duration::from_secs(30), "forgiveness", || is_answered(&fresh, &known));
}
