//! Real swarms in one process, on loopback.

mod connections;
mod directory;
mod multicast;
mod streams;
mod transport;

use std::time::Duration;

use libp2p::{Multiaddr, PeerId};

use crate::{Identity, IncomingStreams, Network, NetworkConfig};

/// Longest wait for something that takes milliseconds on an idle machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// One node of a test.
struct Node {
    network: Network,
    incoming: IncomingStreams,
}

impl Node {
    fn id(&self) -> PeerId {
        self.network.local_peer_id()
    }

    /// Its TCP address, with its id.
    fn address(&self) -> Multiaddr {
        let addresses = self.network.listen_addrs();
        let tcp = addresses.into_iter().find(crate::scope::is_tcp).expect("a TCP listener");
        tcp.with_p2p(self.id()).expect("no other id in it")
    }

    async fn sees(&self, other: &Node) {
        eventually("a peer to appear", async || self.network.peer(&other.id()).is_some()).await;
    }

    async fn misses(&self, other: &Node) {
        eventually("a peer to disappear", async || self.network.peer(&other.id()).is_none()).await;
    }
}

/// A configuration for tests: loopback, free ports, no multicast.
fn quiet(peers: impl IntoIterator<Item = Multiaddr>) -> NetworkConfig {
    NetworkConfig {
        listen: ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"]
            .map(|a| a.parse().expect("an address"))
            .into(),
        peers: peers.into_iter().collect(),
        mdns: false,
        ..NetworkConfig::default()
    }
}

async fn start(config: NetworkConfig) -> Node {
    start_as(config, &Identity::generate()).await
}

async fn start_as(config: NetworkConfig, identity: &Identity) -> Node {
    let (network, incoming) = Network::start(config, identity).await.expect("the network starts");
    Node { network, incoming }
}

/// Two nodes, of which the second has the first as its static peer.
async fn pair() -> (Node, Node) {
    let a = start(quiet([])).await;
    let b = start(quiet([a.address()])).await;
    a.sees(&b).await;
    b.sees(&a).await;
    (a, b)
}

async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition().await {
        assert!(tokio::time::Instant::now() < deadline, "waited {PATIENCE:?} for {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
