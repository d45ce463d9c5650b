//! Who connects with whom, and for how long.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{NetworkError, PeerEvent, Scope};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_static_peer_without_an_id_is_found_by_its_address_alone() {
    let a = start(quiet([])).await;
    let (address, _) = crate::scope::split_peer(a.address());
    let b = start(quiet([address.clone()])).await;
    b.sees(&a).await;
    let info = b.network.peer(&a.id()).unwrap();
    assert_eq!((info.scope, info.speaks_p2p_cache, info.address), (Scope::Lan, true, address));
    assert!(info.agent.unwrap().starts_with("p2p-cache/"));
    eventually("a round-trip time", async || b.network.peer(&a.id()).unwrap().rtt.is_some()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_dial_each_other_at_once_are_connected_once() {
    for _ in 0..10 {
        let (first, second) = (Identity::generate(), Identity::generate());
        let a = start_as(quiet([]), &first).await;
        let b = start_as(quiet([]), &second).await;
        let (a_address, b_address) = (a.address(), b.address());
        a.network.shutdown().await;
        b.network.shutdown().await;
        let again = |own: Multiaddr, other| {
            let (own, _) = crate::scope::split_peer(own);
            NetworkConfig { listen: vec![own], ..quiet([other]) }
        };
        let (a, b) = tokio::join!(
            start_as(again(a_address.clone(), b_address.clone()), &first),
            start_as(again(b_address, a_address), &second)
        );
        let mut events = a.network.subscribe();
        a.sees(&b).await;
        b.sees(&a).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(a.network.peers().len(), 1);
        let mut stream = a.network.open_stream(b.id()).await.unwrap();
        stream.write_u8(7).await.unwrap();
        b.network.shutdown().await;
        a.misses(&b).await;
        let mut balance = 0;
        while let Ok(event) = events.try_recv() {
            balance += if matches!(event, PeerEvent::Connected(_)) { 1 } else { -1 };
            assert!((-1..=1).contains(&balance), "events come in turns");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_static_peer_that_comes_back_is_found_again() {
    let identity = Identity::generate();
    let a = start_as(quiet([]), &identity).await;
    let address = a.address();
    let b = start(quiet([address.clone()])).await;
    let mut events = b.network.subscribe();
    b.sees(&a).await;
    let a_id = a.id();
    a.network.shutdown().await;
    b.misses(&a).await;
    let (listen, _) = crate::scope::split_peer(address);
    let a = start_as(NetworkConfig { listen: vec![listen], ..quiet([]) }, &identity).await;
    b.sees(&a).await;
    let mut told = Vec::new();
    while let Ok(event) = events.try_recv() {
        told.push(match event {
            PeerEvent::Connected(info) => (true, info.peer),
            PeerEvent::Disconnected(peer) => (false, peer),
        });
    }
    assert!(told.ends_with(&[(false, a_id), (true, a_id)]), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_static_peer_that_is_this_node_itself_does_no_harm() {
    let identity = Identity::generate();
    let a = start_as(quiet([]), &identity).await;
    let (own, _) = crate::scope::split_peer(a.address());
    a.network.shutdown().await;
    let a = start_as(NetworkConfig { listen: vec![own.clone()], ..quiet([own]) }, &identity).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(a.network.peers().is_empty());
    let b = start(quiet([a.address()])).await;
    b.sees(&a).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_banned_peer_is_cut_off_refused_both_ways_and_let_in_again_later() {
    let (a, b) = pair().await;
    a.network.ban(b.id(), Duration::from_secs(2)).await;
    a.misses(&b).await;
    let error = a.network.open_stream(b.id()).await.unwrap_err();
    assert!(matches!(error, NetworkError::Refused { .. }), "{error}");
    for _ in 0..10 {
        assert!(a.network.peer(&b.id()).is_none());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // b has a as its static peer and keeps trying.
    a.sees(&b).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_peers_of_the_allow_list_get_in() {
    let (friend, stranger) = (Identity::generate(), Identity::generate());
    let a = start(NetworkConfig { allowed_peers: Some(vec![friend.peer_id()]), ..quiet([]) }).await;
    let friend = start_as(quiet([a.address()]), &friend).await;
    let stranger = start_as(quiet([a.address()]), &stranger).await;
    a.sees(&friend).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(a.network.peer(&stranger.id()).is_none());
    assert_eq!(a.network.peers().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_beyond_the_limit_are_refused_and_the_node_goes_on() {
    let a = start(NetworkConfig { max_connections: 4, ..quiet([]) }).await;
    let mut others = Vec::new();
    for _ in 0..8 {
        others.push(start(quiet([a.address()])).await);
    }
    eventually("the limit to be reached", async || a.network.peers().len() == 3).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(a.network.peers().len(), 3, "three quarters of four may be inbound");
    for node in others {
        node.network.shutdown().await;
    }
    let late = start(quiet([a.address()])).await;
    late.sees(&a).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_is_made_while_memory_is_short() {
    let a = start(NetworkConfig { max_memory_bytes: 1, ..quiet([]) }).await;
    let b = start(quiet([a.address()])).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(a.network.peers().is_empty() && b.network.peers().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quic_alone_and_ipv6_alone_work_too() {
    for listen in ["/ip4/127.0.0.1/udp/0/quic-v1", "/ip6/::1/tcp/0", "/ip6/::1/udp/0/quic-v1"] {
        let config = NetworkConfig { listen: vec![listen.parse().unwrap()], ..quiet([]) };
        let Ok((network, incoming)) = Network::start(config, &Identity::generate()).await else {
            assert!(listen.starts_with("/ip6"), "a machine may be without IPv6");
            continue;
        };
        let mut a = Node { network, incoming };
        let address = a.network.listen_addrs()[0].clone().with_p2p(a.id()).unwrap();
        let b = start(quiet([address])).await;
        b.sees(&a).await;
        let mut out = b.network.open_stream(a.id()).await.unwrap();
        out.write_all(b"hello").await.unwrap();
        let (info, mut stream) = a.incoming.next().await.unwrap();
        let mut got = [0; 5];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!((&got, info.peer), (b"hello", b.id()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_is_preferred_where_both_are_known() {
    let (a, b) = pair().await;
    // b forgets nothing: after a loss of the connection it dials what a told of itself, TCP first.
    assert!(crate::scope::is_tcp(&b.network.peer(&a.id()).unwrap().address));
    assert!(crate::scope::is_tcp(&a.network.peer(&b.id()).unwrap().address));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_that_is_taken_is_named() {
    let a = start(quiet([])).await;
    for taken in a.network.listen_addrs() {
        let config = NetworkConfig { listen: vec![taken.clone()], ..quiet([]) };
        let error = Network::start(config, &Identity::generate()).await.unwrap_err().to_string();
        assert!(error.contains(&taken.to_string()) && error.contains("in use"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listening_anywhere_tells_real_addresses_and_ports() {
    let listen = ["/ip4/0.0.0.0/tcp/0", "/ip6/::/tcp/0"].map(|a| a.parse().unwrap()).into();
    let a = start(NetworkConfig { listen, ..quiet([]) }).await;
    let addresses = a.network.listen_addrs();
    assert!(addresses.iter().any(|a| a.to_string().starts_with("/ip4/127.0.0.1/tcp/")), "{addresses:?}");
    assert!(addresses.iter().all(|a| !a.to_string().ends_with("/tcp/0")), "{addresses:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_frees_the_ports_ends_the_streams_and_may_be_called_twice() {
    let (a, mut b) = pair().await;
    let listening = a.network.listen_addrs();
    let mut stream = a.network.open_stream(b.id()).await.unwrap();
    stream.write_u8(1).await.unwrap();
    let (_, mut served) = b.incoming.next().await.unwrap();
    assert_eq!(served.read_u8().await.unwrap(), 1);
    let started = std::time::Instant::now();
    tokio::join!(a.network.shutdown(), a.network.shutdown());
    a.network.shutdown().await;
    assert!(started.elapsed() < Duration::from_secs(3));
    assert!(matches!(served.read(&mut [0]).await, Ok(0) | Err(_)));
    b.misses(&a).await;
    assert!(a.network.listen_addrs().is_empty() && a.network.peers().is_empty());
    assert!(matches!(a.network.open_stream(b.id()).await, Err(NetworkError::Closed)));
    let mut incoming = a.incoming;
    assert!(incoming.next().await.is_none());
    start(NetworkConfig { listen: listening, ..quiet([]) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_that_talks_nonsense_is_dropped_and_the_node_goes_on() {
    let (a, b) = pair().await;
    let port = a.address().iter().find_map(|part| match part {
        libp2p::multiaddr::Protocol::Tcp(port) => Some(port),
        _ => None,
    });
    for garbage in [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 100_000],
        b"\x13/multistream/1.0.0\n\xff\xff\xff".to_vec(),
    ] {
        let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port.unwrap())).await.unwrap();
        let _ = socket.write_all(&garbage).await;
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "the connection is closed");
    }
    assert!(a.network.peer(&b.id()).is_some());
    a.network.open_stream(b.id()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_static_peer_given_by_name_is_reached_and_known_to_be_near() {
    let a = start(quiet([])).await;
    let by_name = a.address().to_string().replace("/ip4/127.0.0.1/", "/dns4/localhost/").parse().unwrap();
    let b = start(quiet([by_name])).await;
    b.sees(&a).await;
    let info = b.network.peer(&a.id()).unwrap();
    assert_eq!(info.scope, Scope::Lan);
    assert!(info.address.to_string().starts_with("/ip4/127.0.0.1/"), "{}", info.address);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_peer_than_the_configured_one_is_not_let_in_for_it() {
    let a = start(quiet([])).await;
    let (address, _) = crate::scope::split_peer(a.address());
    let b = start(quiet([address.with_p2p(PeerId::random()).unwrap()])).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(b.network.peers().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_every_handle_ends_the_network() {
    let (a, b) = pair().await;
    let Node { network, mut incoming } = b;
    let b_id = network.local_peer_id();
    drop(network);
    assert!(incoming.next().await.is_none());
    eventually("the peer to go", async || a.network.peer(&b_id).is_none()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_are_met_on_the_named_interfaces_only() {
    let on = |names: &[&str], peers: Vec<Multiaddr>| NetworkConfig {
        interfaces: names.iter().map(|name| (*name).to_owned()).collect(),
        listen: ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"].map(|a| a.parse().unwrap()).into(),
        ..quiet(peers)
    };
    let a = start(on(&["lo"], Vec::new())).await;
    let listening = a.network.listen_addrs();
    let is_loopback = |address: &Multiaddr| address.to_string().starts_with("/ip4/127.0.0.1/");
    assert!(listening.len() == 2 && listening.iter().all(is_loopback), "{listening:?}");
    let elsewhere = start(on(&["none-such"], vec![a.address()])).await;
    assert!(elsewhere.network.listen_addrs().is_empty());
    let b = start(on(&["lo", "none-such"], vec![a.address()])).await;
    b.sees(&a).await;
    // It began before b and has not come by now.
    assert!(a.network.peer(&elsewhere.id()).is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_task_responds_until_it_is_shut_down() {
    let a = start(quiet([])).await;
    assert!(a.network.responds().await);
    a.network.shutdown().await;
    assert!(!a.network.responds().await);
}
