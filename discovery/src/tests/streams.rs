//! Byte streams over real connections.

use std::{collections::HashSet, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
};

use super::*;
use crate::{MAX_INBOUND_STREAMS_PER_CONNECTION, NetworkError, PeerStream};

/// Answers every stream with what it sends.
async fn echo(mut incoming: IncomingStreams) {
    let mut tasks = JoinSet::new();
    while let Some((info, mut stream)) = incoming.next().await {
        assert!(info.speaks_p2p_cache);
        tasks.spawn(async move {
            let mut bytes = Vec::new();
            stream.read_to_end(&mut bytes).await.expect("reads");
            stream.write_all(&bytes).await.expect("writes");
            stream.shutdown().await.expect("closes");
        });
    }
}

async fn round_trip(mut stream: PeerStream, bytes: &[u8]) {
    stream.write_all(bytes).await.expect("writes");
    stream.shutdown().await.expect("closes");
    let mut back = Vec::new();
    stream.read_to_end(&mut back).await.expect("reads");
    assert_eq!(back, bytes);
}

/// Opens many streams at once from one node to another; all must carry bytes.
async fn open_many(from: &Network, to: PeerId, count: u32) {
    let mut opens = JoinSet::new();
    for index in 0..count {
        let from = from.clone();
        opens.spawn(async move {
            let stream = from.open_stream(to).await.expect("opens");
            round_trip(stream, &index.to_be_bytes().repeat(1000)).await;
        });
    }
    while let Some(done) = opens.join_next().await {
        done.expect("no stream is lost");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_streams_opened_at_once_both_ways_all_carry_bytes_every_time() {
    let (a, b) = pair().await;
    let (a_id, b_id) = (a.id(), b.id());
    let (a_network, b_network) = (a.network.clone(), b.network.clone());
    let servers = [tokio::spawn(echo(a.incoming)), tokio::spawn(echo(b.incoming))];
    for _ in 0..40 {
        tokio::join!(open_many(&a_network, b_id, 64), open_many(&b_network, a_id, 64));
    }
    a_network.shutdown().await;
    b_network.shutdown().await;
    for server in servers {
        server.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_opened_before_any_connection_share_one_dial() {
    let a = start(quiet([])).await;
    let b = start(quiet([])).await;
    let c = start(quiet([a.address(), b.address()])).await;
    c.sees(&a).await;
    c.sees(&b).await;
    // Through c, a learns of b's addresses by looking something up; then all streams are opened at once.
    let key = crate::ProviderKey::from_bytes([1; 32]);
    crate::ProviderDirectory::advertise(&b.network, key).await.unwrap();
    eventually("b to be found", async || {
        crate::ProviderDirectory::find_providers(&a.network, key, 1).await.unwrap() == [b.id()]
    })
    .await;
    let to = b.id();
    tokio::spawn(echo(b.incoming));
    open_many(&a.network, to, 64).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_that_nobody_accepts_yet_waits_and_none_is_lost() {
    let (a, b) = pair().await;
    let mut streams = Vec::new();
    for index in 0..200u32 {
        let mut stream = a.network.open_stream(b.id()).await.unwrap();
        stream.write_all(&index.to_be_bytes()).await.unwrap();
        streams.push(stream);
    }
    let mut incoming = b.incoming;
    let mut seen = HashSet::new();
    for _ in 0..200 {
        let (_, mut stream) = tokio::time::timeout(PATIENCE, incoming.next()).await.unwrap().unwrap();
        seen.insert(stream.read_u32().await.unwrap());
    }
    assert_eq!(seen, (0..200).collect());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn surplus_streams_are_refused_and_room_comes_back() {
    let (a, mut b) = pair().await;
    let mut streams = Vec::new();
    for _ in 0..MAX_INBOUND_STREAMS_PER_CONNECTION {
        let mut stream = a.network.open_stream(b.id()).await.unwrap();
        stream.write_u8(1).await.unwrap();
        streams.push(stream);
    }
    let mut surplus = a.network.open_stream(b.id()).await.unwrap();
    let mut byte = [0];
    let refused = tokio::time::timeout(PATIENCE, surplus.read(&mut byte)).await.expect("refused at once");
    assert!(matches!(refused, Ok(0) | Err(_)), "{refused:?}");
    // Taking one and dropping it makes room for another.
    drop(b.incoming.next().await.unwrap());
    eventually("room for a stream", async || {
        let mut stream = a.network.open_stream(b.id()).await.unwrap();
        let refused = tokio::time::timeout(Duration::from_millis(300), stream.read(&mut byte)).await;
        streams.push(stream);
        refused.is_err()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_anybody_to_accept_streams_are_refused() {
    let (a, b) = pair().await;
    drop(b.incoming);
    let Ok(mut stream) = a.network.open_stream(b.network.local_peer_id()).await else { return };
    let read = tokio::time::timeout(PATIENCE, stream.read(&mut [0])).await.expect("refused at once");
    assert!(matches!(read, Ok(0) | Err(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn megabytes_pass_unharmed_both_ways() {
    let (a, b) = pair().await;
    let to = b.id();
    tokio::spawn(echo(b.incoming));
    let bytes: Vec<u8> = (0..8_000_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (mut read, mut write) = tokio::io::split(a.network.open_stream(to).await.unwrap());
    let sent = bytes.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut back = Vec::new();
    read.read_to_end(&mut back).await.unwrap();
    writer.await.unwrap();
    assert!(back == bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_peer_is_unreachable_at_once() {
    let a = start(quiet([])).await;
    let started = std::time::Instant::now();
    let error = a.network.open_stream(PeerId::random()).await.unwrap_err();
    assert!(matches!(error, NetworkError::Unreachable { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(1));
    let own = a.network.open_stream(a.id()).await.unwrap_err().to_string();
    assert!(own.contains("this node itself"), "{own}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_swallows_packets_costs_five_seconds_and_no_more() {
    // A listener whose queue is full and that never accepts.
    let hole = tokio::net::TcpSocket::new_v4().unwrap();
    hole.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let hole = hole.listen(1).unwrap();
    let address: Multiaddr =
        format!("/ip4/127.0.0.1/tcp/{}", hole.local_addr().unwrap().port()).parse().unwrap();
    let peer = PeerId::random();
    let a = start(NetworkConfig {
        open_timeout: Duration::from_millis(700),
        ..quiet([address.with_p2p(peer).unwrap()])
    })
    .await;
    let started = std::time::Instant::now();
    a.network.open_stream(peer).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}
