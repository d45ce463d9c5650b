//! What runs on every connection.

use std::time::Duration;

use libp2p::{
    PeerId, StreamProtocol, connection_limits, identify, mdns, memory_connection_limits, ping,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
};
use tokio::sync::mpsc;

use crate::{
    access,
    config::NetworkConfig,
    dht::{self, Guarded},
    identity::Identity,
    interfaces::Interfaces,
    streams,
};

/// Handshakes in progress, each way.
const MAX_PENDING_CONNECTIONS: u32 = 128;
/// Time between two pings of a connection.
const PING_INTERVAL: Duration = Duration::from_secs(15);
/// Time in which a ping must come back; long, since a link full of bulk data delays it.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Time between two identify exchanges on a connection.
const IDENTIFY_INTERVAL: Duration = Duration::from_secs(300);

/// The behaviours, in order: those that refuse connections come first, so that none of the others has made
/// room for a connection that is then refused.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) access: access::Behaviour,
    limits: connection_limits::Behaviour,
    memory: memory_connection_limits::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    pub(crate) kad: Toggle<Guarded>,
    pub(crate) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(crate) streams: streams::Behaviour,
}

impl Behaviour {
    pub(crate) fn new(
        config: &NetworkConfig,
        identity: &Identity,
        incoming: mpsc::Sender<streams::Incoming>,
    ) -> Self {
        let local = identity.peer_id();
        Self {
            access: access::Behaviour::new(
                config.allowed_peers.clone(),
                Interfaces::new(config.interfaces.clone()),
            ),
            limits: connection_limits::Behaviour::new(limits(config)),
            memory: memory_connection_limits::Behaviour::with_max_bytes(config.max_memory_bytes),
            identify: identify::Behaviour::new(
                identify::Config::new(crate::PROTOCOL_NAME.to_owned(), identity.keypair().public())
                    .with_agent_version(concat!("p2p-cache/", env!("CARGO_PKG_VERSION")).to_owned())
                    .with_interval(IDENTIFY_INTERVAL)
                    .with_push_listen_addr_updates(true)
                    // Its cache would offer unfiltered addresses to every dial; ours are in the address book.
                    .with_cache_size(0),
            ),
            ping: ping::Behaviour::new(
                ping::Config::new().with_interval(PING_INTERVAL).with_timeout(PING_TIMEOUT),
            ),
            kad: config.dht.then(|| dht::kademlia(local, config.provider_ttl)).into(),
            mdns: config.mdns.then(|| multicast(local)).flatten().into(),
            streams: streams::Behaviour::new(StreamProtocol::new(crate::PROTOCOL_NAME), incoming),
        }
    }
}

fn limits(config: &NetworkConfig) -> connection_limits::ConnectionLimits {
    let inbound = (config.max_connections - config.max_connections / 4).max(1);
    connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(MAX_PENDING_CONNECTIONS))
        .with_max_pending_outgoing(Some(MAX_PENDING_CONNECTIONS))
        .with_max_established(Some(config.max_connections))
        .with_max_established_incoming(Some(inbound))
        .with_max_established_per_peer(Some(config.max_connections_per_peer))
}

/// Multicast DNS; a machine where it does not work still has static peers and the directory.
pub(crate) fn multicast(local: PeerId) -> Option<mdns::tokio::Behaviour> {
    mdns::tokio::Behaviour::new(mdns::Config::default(), local)
        .inspect_err(|error| {
            tracing::warn!(%error, "no multicast DNS: peers of the local network are not found by themselves");
        })
        .ok()
}
