//! Our own upgrades against those that other libp2p nodes run.

use std::future::poll_fn;

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::{
    Swarm, SwarmBuilder, Transport,
    core::{
        ConnectedPoint,
        muxing::{StreamMuxerBox, StreamMuxerExt, SubstreamBox},
        transport::{Boxed, DialOpts, ListenerId, PortUse, TransportEvent},
        upgrade::Version,
    },
    identity::Keypair,
    noise, ping,
    swarm::{DialError, SwarmEvent},
    tcp, tls, yamux,
};

use super::*;
use crate::transport::{Mux, Tls};

type Connections = Boxed<(PeerId, StreamMuxerBox)>;

macro_rules! transport {
    ($security:expr, $mux:expr) => {
        tcp::tokio::Transport::new(tcp::Config::new())
            .upgrade(Version::V1Lazy)
            .authenticate($security.expect("an upgrade"))
            .multiplex($mux)
            .map(|(peer, muxer), _: ConnectedPoint| (peer, StreamMuxerBox::new(muxer)))
            .boxed()
    };
}

fn ours(key: &Keypair) -> Connections {
    transport!(Tls::new(key), Mux::default())
}

fn stock(key: &Keypair) -> Connections {
    transport!(tls::Config::new(key), yamux::Config::default())
}

/// Drives a connection whose streams are in use elsewhere.
async fn drive(mut muxer: StreamMuxerBox) {
    let _ = poll_fn(|cx| muxer.poll_unpin(cx)).await;
}

async fn echo_one(mut muxer: StreamMuxerBox) {
    let mut stream = poll_fn(|cx| muxer.poll_inbound_unpin(cx)).await.expect("a stream");
    let driver = tokio::spawn(drive(muxer));
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.expect("reads");
    stream.write_all(&bytes).await.expect("writes");
    stream.close().await.expect("closes");
    driver.await.expect("the other side closes");
}

/// Sends bytes through one connection and back; returns who was at either end.
async fn talk(mut listener: Connections, mut dialer: Connections) -> (PeerId, PeerId) {
    listener.listen_on(ListenerId::next(), "/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
    let address = match listener.next().await {
        Some(TransportEvent::NewAddress { listen_addr, .. }) => listen_addr,
        other => panic!("not an address: {other:?}"),
    };
    let echo = tokio::spawn(async move {
        loop {
            if let Some(TransportEvent::Incoming { upgrade, .. }) = listener.next().await {
                let (peer, muxer) = upgrade.await.expect("the listener's upgrade");
                echo_one(muxer).await;
                return peer;
            }
        }
    });
    let opts = DialOpts { role: libp2p::core::Endpoint::Dialer, port_use: PortUse::New };
    let (seen_by_dialer, mut muxer) =
        dialer.dial(address, opts).unwrap().await.expect("the dialer's upgrade");
    let stream: SubstreamBox = poll_fn(|cx| muxer.poll_outbound_unpin(cx)).await.expect("a stream");
    let driver = tokio::spawn(drive(muxer));
    let (mut read, mut write) = stream.split();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    write.write_all(&bytes).await.expect("writes");
    write.close().await.expect("closes");
    let mut back = Vec::new();
    read.read_to_end(&mut back).await.expect("reads");
    assert!(back == bytes, "{} of {} bytes", back.len(), bytes.len());
    driver.abort();
    let _ = driver.await;
    let seen_by_listener = echo.await.expect("the echo ends");
    (seen_by_listener, seen_by_dialer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_upgrades_talk_with_each_other_and_with_the_stock_ones_both_ways() {
    type Make = fn(&Keypair) -> Connections;
    for (listens, dials) in [(ours as Make, ours as Make), (ours, stock), (stock, ours)] {
        let (a, b) = (Keypair::generate_ed25519(), Keypair::generate_ed25519());
        let seen = talk(listens(&a), dials(&b)).await;
        assert_eq!(seen, (b.public().to_peer_id(), a.public().to_peer_id()));
    }
}

fn pinger(swarm: Result<Swarm<ping::Behaviour>, impl std::fmt::Debug>) -> Swarm<ping::Behaviour> {
    swarm.expect("a swarm")
}

fn stock_swarm_with_noise() -> Swarm<ping::Behaviour> {
    let tcp = SwarmBuilder::with_new_identity().with_tokio().with_tcp(
        tcp::Config::new(),
        noise::Config::new,
        yamux::Config::default,
    );
    let swarm = tcp.map(|builder| {
        let builder = builder.with_behaviour(|_| ping::Behaviour::default()).expect("a behaviour");
        builder.build()
    });
    pinger(swarm)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_speaks_only_noise_is_let_in_and_answered() {
    let node = start(quiet([])).await;
    let mut other = stock_swarm_with_noise();
    other.dial(node.address()).unwrap();
    let answered = async {
        loop {
            if let SwarmEvent::Behaviour(ping::Event { peer, result, .. }) = other.select_next_some().await {
                return (peer, result.is_ok());
            }
        }
    };
    let answered = tokio::time::timeout(PATIENCE, answered).await.expect("an answer in time");
    assert_eq!(answered, (node.id(), true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_who_was_dialled_is_refused_over_tcp_and_quic() {
    let node = start(quiet([])).await;
    for address in node.network.listen_addrs() {
        let stranger = PeerId::random();
        let (address, _) = crate::scope::split_peer(address);
        let config = NetworkConfig { dht: false, ..quiet([]) };
        let behaviour = ping::Behaviour::default();
        let dialer = crate::transport::build_swarm(&config, &Identity::generate(), behaviour);
        let mut dialer = pinger(dialer);
        dialer.dial(address.clone().with_p2p(stranger).unwrap()).unwrap();
        let refused = async {
            loop {
                match dialer.select_next_some().await {
                    SwarmEvent::OutgoingConnectionError { error, .. } => return error,
                    SwarmEvent::ConnectionEstablished { peer_id, .. } => panic!("connected with {peer_id}"),
                    _ => {}
                }
            }
        };
        let error = tokio::time::timeout(PATIENCE, refused).await.expect("refused in time");
        match error {
            DialError::WrongPeerId { obtained, .. } => assert_eq!(obtained, node.id(), "{address}"),
            other => panic!("{address}: {other}"),
        }
    }
}
