//! Client and server over two real swarms on loopback.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use p2p_cache_discovery::{Identity, IncomingStreams, Network, NetworkConfig};
use p2p_cache_protocol::tree::GroupRange;
use prometheus_client::metrics::counter::Counter;

use crate::peers::client::PeerClient;
use crate::peers::error::PeerError;
use crate::peers::testing::{Blob, MemoryHoldings, identity};
use crate::peers::{BanReason, Bans, UploadLimits, UploadParts, UploadServer, claim_signer};
use crate::sharing::{SharingPolicy, SharingRules};

async fn node(identity: &Identity) -> (Network, IncomingStreams) {
    let config = NetworkConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        mdns: false,
        dht: false,
        ..NetworkConfig::default()
    };
    Network::start(config, identity).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_is_asked_over_the_network_and_kept_away_by_a_ban() {
    let (server_identity, client_identity) = (identity(1), identity(2));
    let (server_network, incoming) = node(&server_identity).await;
    let holdings = Arc::new(MemoryHoldings::default());
    let blob = Arc::new(Blob::new(6_000_000));
    holdings.add(&blob, true);
    let bans = Bans::new(Arc::new(server_network.clone()));
    let parts = UploadParts {
        site: Arc::new(crate::peers::server::Alone),
        holdings,
        // A loopback address is a LAN's.
        policy: Arc::new(SharingPolicy::new(SharingRules::default())),
        limits: UploadLimits::default(),
        own_traffic: Arc::new(|| false),
        signer: claim_signer(&server_identity),
        bans: bans.clone(),
        served_bytes: Counter::default(),
    };
    let server = UploadServer::start(incoming, parts);

    let address = server_network.listen_addrs().remove(0);
    let config = NetworkConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        peers: vec![address],
        mdns: false,
        dht: false,
        ..NetworkConfig::default()
    };
    let (network, _incoming) = Network::start(config, &client_identity).await.unwrap();
    let peer = server_network.local_peer_id();
    let connected = async {
        while network.peers().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), connected).await.expect("the static peer is dialled");

    let client = PeerClient::new(Arc::new(network.clone()));
    let claim = client.lookup(peer, blob.digest()).await.unwrap().expect("published");
    assert_eq!(claim.whole().map(|claim| claim.claim), Some(blob.claim));
    let groups = GroupRange::all(blob.claim.size).end;
    let ranges = (0..groups).step_by(64).map(|start| GroupRange::new(start, groups.min(start + 64)));
    let answers = join_all(ranges.map(|range| {
        let (client, blob) = (&client, &blob);
        async move {
            let answer = client.range(peer, blob.id(), blob.claim.size, range).await.unwrap();
            assert_eq!(answer.encoded, blob.encoded(range));
        }
    }));
    answers.await;

    bans.ban(network.local_peer_id(), BanReason::CorruptData).await;
    let refused = client.lookup(peer, blob.digest()).await.unwrap_err();
    let kept_away =
        [matches!(refused, PeerError::Unreachable { .. }), matches!(refused, PeerError::Closed { .. })];
    assert!(kept_away.contains(&true) || matches!(refused, PeerError::Timeout { .. }), "{refused}");
    client.shutdown(Duration::from_secs(1)).await;
    server.shutdown(Duration::from_secs(1)).await;
    network.shutdown().await;
    server_network.shutdown().await;
}
