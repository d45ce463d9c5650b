//! What every [`ProviderDirectory`] must do, as a suite that each implementation runs.

#![allow(clippy::panic, reason = "a failed expectation of a test suite is a panic")]

use std::{sync::Arc, time::Duration};

use libp2p::PeerId;

use super::{MAX_PROVIDERS, ProviderDirectory, ProviderKey};

/// Time in which a change must be seen by others. The directory under test is set up with records that run out
/// well within it.
pub const SETTLE_LIMIT: Duration = Duration::from_secs(20);
/// Longest time a single call may take.
pub const CALL_LIMIT: Duration = Duration::from_secs(8);

/// One node of the directory under test.
pub struct Member {
    /// The node.
    pub peer: PeerId,
    /// Its view of the directory.
    pub directory: Arc<dyn ProviderDirectory>,
}

/// Runs the whole suite; `make` gives the three nodes of a fresh directory, ready to talk with each other.
pub async fn suite(make: impl AsyncFn() -> Vec<Member>) {
    let members = make().await;
    let [a, b, c] = members.as_slice() else { panic!("the suite needs three members") };
    unknown_keys_have_no_providers(a).await;
    every_other_node_finds_what_one_advertises(a, b, c).await;
    a_node_never_finds_itself(a).await;
    all_providers_are_found_each_once(a, b, c).await;
    the_limit_is_kept(a, b, c).await;
    advertising_is_idempotent(a, b).await;
    a_withdrawn_key_vanishes_and_others_stay(a, b, c).await;
    many_keys_at_once(a, b).await;
}

fn key(name: &str) -> ProviderKey {
    ProviderKey::from_bytes(*blake3::hash(name.as_bytes()).as_bytes())
}

async fn advertise(member: &Member, key: ProviderKey) {
    bounded(member.directory.advertise(key)).await.unwrap_or_else(|error| panic!("advertise: {error}"));
}

async fn find(member: &Member, key: ProviderKey, limit: usize) -> Vec<PeerId> {
    bounded(member.directory.find_providers(key, limit)).await.unwrap_or_else(|error| panic!("find: {error}"))
}

async fn bounded<T>(call: impl Future<Output = T>) -> T {
    match tokio::time::timeout(CALL_LIMIT, call).await {
        Ok(value) => value,
        Err(_) => panic!("a call took longer than {CALL_LIMIT:?}"),
    }
}

/// Asks until exactly these are found.
async fn expect(asker: &Member, key: ProviderKey, providers: &[PeerId]) {
    let mut expected = providers.to_vec();
    expected.sort_unstable();
    let deadline = tokio::time::Instant::now() + SETTLE_LIMIT;
    loop {
        let mut found = find(asker, key, MAX_PROVIDERS).await;
        found.sort_unstable();
        if found == expected {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "expected {expected:?}, still finding {found:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn unknown_keys_have_no_providers(a: &Member) {
    assert_eq!(find(a, key("unknown"), 8).await, []);
}

async fn every_other_node_finds_what_one_advertises(a: &Member, b: &Member, c: &Member) {
    for (provider, name) in [(a, "of a"), (b, "of b"), (c, "of c")] {
        advertise(provider, key(name)).await;
        for asker in [a, b, c].into_iter().filter(|asker| asker.peer != provider.peer) {
            expect(asker, key(name), &[provider.peer]).await;
        }
    }
}

async fn a_node_never_finds_itself(a: &Member) {
    advertise(a, key("own")).await;
    assert_eq!(find(a, key("own"), 8).await, []);
}

async fn all_providers_are_found_each_once(a: &Member, b: &Member, c: &Member) {
    advertise(a, key("shared")).await;
    advertise(b, key("shared")).await;
    expect(c, key("shared"), &[a.peer, b.peer]).await;
    expect(a, key("shared"), &[b.peer]).await;
}

async fn the_limit_is_kept(a: &Member, b: &Member, c: &Member) {
    advertise(a, key("limited")).await;
    advertise(b, key("limited")).await;
    expect(c, key("limited"), &[a.peer, b.peer]).await;
    assert_eq!(find(c, key("limited"), 1).await.len(), 1);
    assert_eq!(find(c, key("limited"), 0).await, []);
}

async fn advertising_is_idempotent(a: &Member, b: &Member) {
    advertise(a, key("again")).await;
    advertise(a, key("again")).await;
    expect(b, key("again"), &[a.peer]).await;
}

async fn a_withdrawn_key_vanishes_and_others_stay(a: &Member, b: &Member, c: &Member) {
    advertise(a, key("fleeting")).await;
    advertise(a, key("staying")).await;
    expect(b, key("fleeting"), &[a.peer]).await;
    for _ in 0..2 {
        let withdrawn = bounded(a.directory.withdraw(key("fleeting"))).await;
        withdrawn.unwrap_or_else(|error| panic!("withdraw: {error}"));
    }
    for asker in [b, c] {
        expect(asker, key("fleeting"), &[]).await;
        expect(asker, key("staying"), &[a.peer]).await;
    }
    advertise(a, key("fleeting")).await;
    expect(b, key("fleeting"), &[a.peer]).await;
}

async fn many_keys_at_once(a: &Member, b: &Member) {
    let keys: Vec<_> = (0..100).map(|index| key(&format!("many {index}"))).collect();
    for key in &keys {
        advertise(a, *key).await;
    }
    for key in &keys {
        expect(b, *key, &[a.peer]).await;
    }
    assert_eq!(find(b, key("many 100"), 8).await, []);
}
