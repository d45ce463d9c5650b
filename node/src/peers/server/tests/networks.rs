//! Failed look-ups are limited for a network as a whole: a stranger has as many identities as it likes.

use std::num::NonZeroU32;
use std::time::Duration;

use p2p_cache_discovery::{Identity, NetworkPrefix, PeerId, Scope};
use p2p_cache_protocol::digest::{Digest, Sha256Digest};
use p2p_cache_protocol::wire::{Request, Response};
use tokio::time::sleep;

use crate::peers::limits::MAX_METERED_NETWORKS;
use crate::peers::server::UploadLimits;
use crate::peers::server::meters::Meters;
use crate::peers::testing::{RawClient, Served};
use crate::peers::transport::Visitor;

/// Of a peer, and of a network.
const LIMITS: (u32, u32) = (60, 150);

fn limits() -> UploadLimits {
    UploadLimits {
        failed_lookups_per_minute_per_peer: NonZeroU32::new(LIMITS.0).unwrap(),
        failed_lookups_per_minute_per_network: NonZeroU32::new(LIMITS.1).unwrap(),
        ..UploadLimits::default()
    }
}

fn identity(number: u32) -> PeerId {
    let mut seed = [7; 32];
    seed[..4].copy_from_slice(&number.to_le_bytes());
    Identity::from_seed(seed).peer_id()
}

async fn greeted(served: &Served, number: u32, address: &str, scope: Scope) -> RawClient {
    let network = NetworkPrefix::of(&format!("{address}/tcp/1").parse().unwrap(), scope);
    served.greeted_as(Visitor { peer: identity(number), scope, network }).await
}

fn missing(index: u32) -> Request {
    Request::Lookup { digest: Digest::Sha256(Sha256Digest::of(&index.to_le_bytes())) }
}

/// Identities from `addresses`, each below its own limit, fail until their networks together are over theirs.
async fn probe(served: &Served, addresses: impl Iterator<Item = String>, scope: Scope) {
    for (number, address) in (0..4).zip(addresses) {
        let mut prober = greeted(served, number, &address, scope).await;
        for index in 0..LIMITS.0 - 10 {
            assert_eq!(prober.ask(&missing(index)).await, Response::NotFound);
        }
    }
}

async fn is_answered(served: &Served, number: u32, address: &str, scope: Scope) -> bool {
    let blob = served.published(1000);
    let known = Request::Lookup { digest: blob.digest() };
    let answer = greeted(served, number, address, scope).await.ask(&known).await;
    assert!(matches!(answer, Response::Have { .. } | Response::NotFound));
    answer != Response::NotFound
}

#[tokio::test(start_paused = true)]
async fn many_identities_of_one_network_are_muted_together_and_others_are_not() {
    for (probers, neighbour, stranger) in [
        ("/ip4/198.51.100.", "/ip4/198.51.100.99", "/ip4/198.51.101.1"),
        ("/ip6/2001:db8:7:", "/ip6/2001:db8:7:99::1", "/ip6/2001:db8:8::1"),
    ] {
        let served = Served::start(limits());
        let tail = if probers.starts_with("/ip6") { "::1" } else { "" };
        probe(&served, (1..).map(|host| format!("{probers}{host}{tail}")), Scope::Public).await;
        assert!(!is_answered(&served, 50, neighbour, Scope::Public).await, "{neighbour}");
        assert!(is_answered(&served, 51, stranger, Scope::Public).await, "{stranger}");
        sleep(Duration::from_secs(60)).await;
        assert!(is_answered(&served, 50, neighbour, Scope::Public).await, "forgiven");
    }
}

#[tokio::test(start_paused = true)]
async fn hosts_of_the_local_network_answer_for_themselves_alone() {
    let served = Served::start(limits());
    probe(&served, (1..).map(|host| format!("/ip4/192.168.1.{host}")), Scope::Lan).await;
    assert!(is_answered(&served, 50, "/ip4/192.168.1.99", Scope::Lan).await, "another host");
    let served = Served::start(limits());
    probe(&served, std::iter::repeat("/ip4/192.168.1.7".to_owned()), Scope::Lan).await;
    assert!(!is_answered(&served, 50, "/ip4/192.168.1.7", Scope::Lan).await, "the same host");
    assert!(is_answered(&served, 51, "/ip4/192.168.1.8", Scope::Lan).await);
}

#[tokio::test(start_paused = true)]
async fn a_muted_network_goes_on_with_what_it_was_told_of_before() {
    let served = Served::start(limits());
    let blob = served.published(200_000);
    let mut reader = greeted(&served, 50, "/ip4/198.51.100.99", Scope::Public).await;
    assert!(matches!(reader.ask(&Request::Lookup { digest: blob.digest() }).await, Response::Have { .. }));
    probe(&served, (1..).map(|host| format!("/ip4/198.51.100.{host}")), Scope::Public).await;
    let Response::Data { encoded_bytes } = reader.ask(&blob.range_request(0, 4)).await else {
        panic!("a transfer goes on");
    };
    reader.body(encoded_bytes).await;
}

#[tokio::test(start_paused = true)]
async fn the_networks_that_are_remembered_are_bounded_and_the_last_ones_are_kept() {
    let meters = Meters::new(limits());
    let of = |host: u32| {
        let address = format!("/ip4/{}.{}.{}.1/tcp/1", 20 + (host >> 16), (host >> 8) & 255, host & 255);
        meters.of_network(NetworkPrefix::of(&address.parse().unwrap(), Scope::Public))
    };
    let count = MAX_METERED_NETWORKS as u32 + 100;
    for host in 0..count {
        for _ in 0..=LIMITS.1 {
            of(host).miss();
        }
    }
    assert_eq!(meters.networks(), MAX_METERED_NETWORKS);
    assert!(of(count - 1).is_muted() && of(100).is_muted());
    assert!(!of(0).is_muted(), "the first ones are forgotten");
}
