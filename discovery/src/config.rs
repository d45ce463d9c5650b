//! Settings of the swarm.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use crate::error::NetworkError;

/// Port on which peers are awaited, TCP and QUIC.
pub const DEFAULT_PORT: u16 = 5381;
/// Largest number of static peers; each costs a timer and at most one dial at a time.
pub const MAX_STATIC_PEERS: usize = 256;
/// Largest number of listen addresses.
pub const MAX_LISTEN_ADDRESSES: usize = 64;
/// Largest number of interfaces that may be named.
pub const MAX_INTERFACES: usize = 64;

/// Settings of the swarm. Every value is checked by [`Network::start`](crate::Network::start).
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Addresses to listen on; port 0 takes a free one. `/ip4/ADDR/tcp/PORT` or `/ip4/ADDR/udp/PORT/quic-v1`,
    /// `ip6` alike. An IPv6 address that the machine cannot have is skipped as long as another one works.
    pub listen: Vec<Multiaddr>,
    /// Peers to stay connected with: an address with or without `/p2p/PEERID` (without it, whoever answers
    /// there is the peer). Redialled after 1 s to 60 s, with jitter.
    pub peers: Vec<Multiaddr>,
    /// Find peers of the local network by multicast DNS (IPv4).
    pub mdns: bool,
    /// Take part in the distributed directory (Kademlia). Without it `find_providers` knows nobody.
    pub dht: bool,
    /// Connections in all; each costs a socket and up to a few hundred KiB of buffers. At most three quarters
    /// of them may be inbound, so that strangers cannot take them all.
    pub max_connections: u32,
    /// Connections with one peer. Two nodes that dial each other at once need two, and one more replaces a
    /// dead one that nobody noticed yet.
    pub max_connections_per_peer: u32,
    /// New connections are refused while the whole process holds more resident memory than this, in bytes.
    pub max_memory_bytes: usize,
    /// A private swarm: only these peers are ever connected with. `None` lets anybody in.
    pub allowed_peers: Option<Vec<PeerId>>,
    /// Names of the network interfaces on which peers are met; none is all of them. An address of `listen` that says
    /// "any" then means each address of theirs, as they come and go. Multicast is still sent on every interface and
    /// tells those addresses only.
    pub interfaces: Vec<String>,
    /// Time in which `open_stream` must have a stream, dialling included.
    pub open_timeout: Duration,
    /// Time after which a connection without a stream is closed. Those of the local network are kept as long as
    /// they answer pings; a static peer of the wide area is dialled again.
    pub idle_timeout: Duration,
    /// Time a provider record counts on the nodes that hold it for us; it is published anew after half of it.
    pub provider_ttl: Duration,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        let (v4, v6) = (Protocol::Ip4(Ipv4Addr::UNSPECIFIED), Protocol::Ip6(Ipv6Addr::UNSPECIFIED));
        let tcp = |ip| Multiaddr::empty().with(ip).with(Protocol::Tcp(DEFAULT_PORT));
        let quic = |ip| Multiaddr::empty().with(ip).with(Protocol::Udp(DEFAULT_PORT)).with(Protocol::QuicV1);
        Self {
            listen: vec![tcp(v4.clone()), quic(v4), tcp(v6.clone()), quic(v6)],
            peers: Vec::new(),
            mdns: true,
            dht: true,
            max_connections: 256,
            max_connections_per_peer: 4,
            max_memory_bytes: 2 << 30,
            allowed_peers: None,
            interfaces: Vec::new(),
            open_timeout: Duration::from_secs(5),
            idle_timeout: Duration::from_secs(600),
            provider_ttl: Duration::from_secs(24 * 3600),
        }
    }
}

impl NetworkConfig {
    pub(crate) fn check(&self) -> Result<(), NetworkError> {
        let wrong = |setting, reason: String| Err(NetworkError::Setting { setting, reason });
        if self.listen.len() > MAX_LISTEN_ADDRESSES {
            return wrong(
                "listen",
                format!("{} addresses, at most {MAX_LISTEN_ADDRESSES}", self.listen.len()),
            );
        }
        if self.peers.len() > MAX_STATIC_PEERS {
            return wrong("peers", format!("{} peers, at most {MAX_STATIC_PEERS}", self.peers.len()));
        }
        if self.interfaces.len() > MAX_INTERFACES {
            let reason = format!("{} interfaces, at most {MAX_INTERFACES}", self.interfaces.len());
            return wrong("interfaces", reason);
        }
        if let Some(address) = self.listen.iter().find(|address| !is_listen_address(address)) {
            return wrong(
                "listen",
                format!(
                    "{address} is not of the form /ip4/ADDR/tcp/PORT or /ip4/ADDR/udp/PORT/quic-v1 (or ip6)"
                ),
            );
        }
        if let Some(address) = self.peers.iter().find(|address| !is_peer_address(address)) {
            return wrong(
                "peers",
                format!(
                    "{address} is not of the form /ip4/ADDR/tcp/PORT, /ip4/ADDR/udp/PORT/quic-v1 \
                     (ip6, dns, dns4, dns6 alike), with or without /p2p/PEERID"
                ),
            );
        }
        if self.max_connections == 0 || self.max_connections_per_peer == 0 {
            return wrong("max_connections", "0 connections let no peer in; use at least 1".to_owned());
        }
        if self.provider_ttl < Duration::from_secs(1) {
            return wrong("provider_ttl", format!("{:?} is shorter than 1 s", self.provider_ttl));
        }
        Ok(())
    }
}

fn is_listen_address(address: &Multiaddr) -> bool {
    let parts: Vec<_> = address.iter().take(4).collect();
    matches!(
        parts.as_slice(),
        [Protocol::Ip4(_) | Protocol::Ip6(_), Protocol::Tcp(_)]
            | [Protocol::Ip4(_) | Protocol::Ip6(_), Protocol::Udp(_), Protocol::QuicV1]
    )
}

fn is_peer_address(address: &Multiaddr) -> bool {
    let (address, _) = crate::scope::split_peer(address.clone());
    let parts: Vec<_> = address.iter().take(4).collect();
    let host = matches!(
        parts.first(),
        Some(Protocol::Ip4(_) | Protocol::Ip6(_) | Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_))
    );
    host && match parts.get(1..) {
        Some([Protocol::Tcp(port)]) => *port != 0,
        Some([Protocol::Udp(port), Protocol::QuicV1]) => *port != 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_peer(address: &str) -> NetworkConfig {
        NetworkConfig { peers: vec![address.parse().unwrap()], ..NetworkConfig::default() }
    }

    #[test]
    fn the_default_is_sound() {
        NetworkConfig::default().check().unwrap();
    }

    #[test]
    fn peers_may_be_addresses_or_names_with_or_without_an_id() {
        let id = PeerId::random();
        for address in [
            "/ip4/1.2.3.4/tcp/1",
            "/dns4/a.example/tcp/5381",
            "/dns/a.example/udp/5381/quic-v1",
            "/ip6/::1/tcp/1",
        ] {
            with_peer(address).check().unwrap();
            with_peer(&format!("{address}/p2p/{id}")).check().unwrap();
        }
    }

    #[test]
    fn settings_that_cannot_work_name_themselves() {
        for address in
            ["/ip4/1.2.3.4", "/ip4/1.2.3.4/tcp/0", "/ip4/1.2.3.4/udp/1", "/memory/1", "/ip4/1.2.3.4/tcp/1/ws"]
        {
            let error = with_peer(address).check().unwrap_err().to_string();
            assert!(error.contains("`peers`") && error.contains(address), "{error}");
        }
        let listen =
            NetworkConfig { listen: vec!["/dns4/a/tcp/1".parse().unwrap()], ..NetworkConfig::default() };
        assert!(listen.check().unwrap_err().to_string().contains("`listen`"));
        let none = NetworkConfig { max_connections: 0, ..NetworkConfig::default() };
        assert!(none.check().is_err());
    }
}
