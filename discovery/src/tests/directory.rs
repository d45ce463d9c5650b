//! The directory over real swarms.

use std::{sync::Arc, time::Duration};

use super::*;
use crate::{
    ProviderDirectory, ProviderKey,
    directory::conformance::{Member, suite},
};

fn key(index: u8) -> ProviderKey {
    ProviderKey::from_bytes([index; 32])
}

async fn finds(asker: &Node, index: u8, provider: &Node) {
    eventually("a provider to be found", async || {
        asker.network.find_providers(key(index), 8).await.expect("the look-up runs") == [provider.id()]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_alone_find_what_the_other_has() {
    let (a, b) = pair().await;
    a.network.advertise(key(1)).await.unwrap();
    b.network.advertise(key(2)).await.unwrap();
    // At once: who is connected is asked, nothing needs to settle.
    assert_eq!(b.network.find_providers(key(1), 8).await.unwrap(), [a.id()]);
    assert_eq!(a.network.find_providers(key(2), 8).await.unwrap(), [b.id()]);
    assert_eq!(a.network.find_providers(key(3), 8).await.unwrap(), []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_advertised_alone_is_found_by_who_comes_later() {
    let a = start(quiet([])).await;
    let started = std::time::Instant::now();
    a.network.advertise(key(1)).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(1), "advertising waits for nobody");
    let b = start(quiet([a.address()])).await;
    b.sees(&a).await;
    assert_eq!(b.network.find_providers(key(1), 8).await.unwrap(), [a.id()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_in_a_line_find_each_other_through_the_middle() {
    let middle = start(quiet([])).await;
    let left = start(quiet([middle.address()])).await;
    let right = start(quiet([middle.address()])).await;
    for end in [&left, &right] {
        end.sees(&middle).await;
        middle.sees(end).await;
    }
    left.network.advertise(key(1)).await.unwrap();
    right.network.advertise(key(2)).await.unwrap();
    finds(&right, 1, &left).await;
    finds(&left, 2, &right).await;
    // What was found can be reached.
    let mut stream = right.network.open_stream(left.id()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut stream, b"hello").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_found_provider_that_was_never_met_can_be_dialled_after_the_look_up() {
    // The ends never connect by themselves: the record lies with the middle, with the provider's addresses.
    let middle = start(quiet([])).await;
    let left = start(quiet([middle.address()])).await;
    left.sees(&middle).await;
    left.network.advertise(key(1)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut right = start(quiet([middle.address()])).await;
    right.sees(&middle).await;
    finds(&right, 1, &left).await;
    let mut out = left.network.open_stream(right.id()).await.unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut out, b"x").await.unwrap();
    let (info, _stream) = right.incoming.next().await.unwrap();
    assert_eq!(info.peer, left.id());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_directory_over_the_network_conforms() {
    let mut nodes = Vec::new();
    let config =
        |peers: Vec<Multiaddr>| NetworkConfig { provider_ttl: Duration::from_secs(3), ..quiet(peers) };
    for _ in 0..3 {
        let known: Vec<_> = nodes.iter().map(Node::address).collect();
        nodes.push(start(config(known)).await);
    }
    for node in &nodes {
        for other in nodes.iter().filter(|other| other.id() != node.id()) {
            node.sees(other).await;
        }
    }
    suite(async || {
        nodes
            .iter()
            .map(|node| Member { peer: node.id(), directory: Arc::new(node.network.clone()) as _ })
            .collect()
    })
    .await;
}

#[tokio::test]
async fn without_the_directory_nobody_is_found_and_nothing_fails() {
    let node = start(NetworkConfig { dht: false, ..quiet([]) }).await;
    node.network.advertise(key(1)).await.unwrap();
    assert_eq!(node.network.find_providers(key(1), 8).await.unwrap(), []);
    node.network.withdraw(key(1)).await.unwrap();
}
