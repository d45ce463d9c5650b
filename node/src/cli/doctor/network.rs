//! Whether others can be met.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};

use p2p_cache_discovery::Multiaddr;
use p2p_cache_http_gateway::Status;

use super::Finding;
use crate::config::Config;
use crate::sharing::Share;

const PORT: &str = "swarm port";
const PEERS: &str = "peers";

pub(super) fn check(config: &Config, status: Option<&Status>) -> Vec<Finding> {
    match status {
        Some(status) => vec![reachable(config, status), peers(config, status)],
        // Only while the node does not run may its ports be tried.
        None => vec![ports_are_free(config)],
    }
}

fn ports_are_free(config: &Config) -> Finding {
    for address in &config.listen {
        let Some((socket, is_tcp)) = socket_of(address).filter(|(socket, _)| socket.port() != 0) else {
            continue;
        };
        let bound =
            if is_tcp { TcpListener::bind(socket).map(drop) } else { UdpSocket::bind(socket).map(drop) };
        if let Err(error) = bound
            && error.kind() == io::ErrorKind::AddrInUse
        {
            let (port, flag) = (socket.port(), if is_tcp { "-ltnp" } else { "-lunp" });
            return Finding::fail(
                PORT,
                format!("something else has the port of {address}"),
                format!(
                    "`ss {flag} 'sport = :{port}'` names the program; stop it, or set `listen` to another port"
                ),
            );
        }
    }
    Finding::ok(PORT, "free")
}

/// The address as the system has it, and whether it is for TCP.
fn socket_of(address: &Multiaddr) -> Option<(SocketAddr, bool)> {
    // `/ip4/ADDR/tcp/PORT` or `/ip4/ADDR/udp/PORT/quic-v1`: the configuration admits nothing else.
    let text = address.to_string();
    let mut parts = text.split('/').skip(2);
    let ip: IpAddr = parts.next()?.parse().ok()?;
    let is_tcp = parts.next()? == "tcp";
    Some((SocketAddr::new(ip, parts.next()?.parse().ok()?), is_tcp))
}

fn reachable(config: &Config, status: &Status) -> Finding {
    let is_local = |address: &&String| address.starts_with("/ip4/127.") || address.starts_with("/ip6/::1/");
    if config.share == Share::None || config.metered {
        return Finding::ok(PORT, "nothing is shared, so nobody needs to reach this node");
    }
    if status.listen.iter().any(|address| !is_local(&address)) {
        return Finding::ok(PORT, format!("listens on {} addresses", status.listen.len()));
    }
    Finding::warn(
        PORT,
        "the node listens on loopback addresses only: no other machine can reach it",
        "set `listen` to /ip4/0.0.0.0/tcp/5381 and /ip4/0.0.0.0/udp/5381/quic-v1, or leave it out",
    )
}

fn peers(config: &Config, status: &Status) -> Finding {
    match status.peers.len() {
        0 => Finding::warn(PEERS, "no other node is connected", how_to_meet(config)),
        1 => Finding::ok(PEERS, "1 is connected"),
        count => Finding::ok(PEERS, format!("{count} are connected")),
    }
}

/// What to look at first depends on how peers are found.
fn how_to_meet(config: &Config) -> String {
    if !config.mdns && !config.dht && config.peers.is_empty() {
        return "no-mdns and no-dht are set and `peer` names nobody: name a node with `peer`, or allow discovery"
            .to_owned();
    }
    let ports: Vec<String> = config
        .listen
        .iter()
        .filter_map(socket_of)
        .filter(|(socket, _)| socket.port() != 0)
        .map(|(socket, is_tcp)| format!("{}/{}", socket.port(), if is_tcp { "tcp" } else { "udp" }))
        .collect();
    let mut ports = ports;
    ports.sort();
    ports.dedup();
    if config.mdns {
        ports.push("5353/udp".to_owned());
    }
    format!(
        "if there are other nodes: let the firewalls on both machines pass {} (NixOS: services.p2p-cache.openFirewall), \
         or name one with `peer`",
        ports.join(", ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses_become_sockets() {
        for (text, expected) in [
            ("/ip4/0.0.0.0/tcp/5381", Some(("0.0.0.0:5381", true))),
            ("/ip6/::/udp/5381/quic-v1", Some(("[::]:5381", false))),
            ("/dns4/host/tcp/1", None),
        ] {
            let socket = socket_of(&text.parse().unwrap());
            assert_eq!(socket, expected.map(|(socket, tcp)| (socket.parse().unwrap(), tcp)), "{text}");
        }
    }

    #[test]
    fn the_firewall_hint_names_the_ports_that_are_used() {
        let mut config = Config::built_in("/x".into()).unwrap();
        let hint = how_to_meet(&config);
        assert!(hint.contains("5381/tcp, 5381/udp, 5353/udp"), "{hint}");
        (config.mdns, config.dht) = (false, false);
        assert!(how_to_meet(&config).contains("no-mdns and no-dht"));
    }
}
