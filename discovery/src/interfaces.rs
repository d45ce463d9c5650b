//! The network interfaces on which peers are met.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use libp2p::{Multiaddr, multiaddr::Protocol};

/// Names of interfaces; none is all of them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interfaces {
    names: Vec<String>,
}

impl Interfaces {
    pub(crate) fn new(names: Vec<String>) -> Self {
        Self { names }
    }

    /// Whether there is an interface on which peers are not met.
    pub(crate) fn are_restricted(&self) -> bool {
        !self.names.is_empty()
    }

    /// Where to listen now for an address of the configuration: itself, or its port on each address of our
    /// interfaces where it says "any".
    pub(crate) fn listening(&self, configured: &Multiaddr) -> Vec<Multiaddr> {
        match ip_of(configured) {
            Some(ip) if self.are_restricted() => {
                let ours = self.addresses().into_iter();
                let ours = ours.filter(|own| {
                    *own == ip
                        || (ip.is_unspecified() && own.is_ipv4() == ip.is_ipv4() && !is_link_local(own))
                });
                ours.filter_map(|own| configured.replace(0, |_| Some(protocol(own)))).collect()
            }
            _ => vec![configured.clone()],
        }
    }

    /// Whether the system's way to an address leads over one of our interfaces.
    pub(crate) fn lead_to(&self, remote: &Multiaddr) -> bool {
        if !self.are_restricted() {
            return true;
        }
        let from = ip_of(remote).and_then(source_towards);
        from.is_some_and(|from| self.addresses().contains(&from))
    }

    /// The addresses that our interfaces have at the moment; a system that cannot say has none.
    fn addresses(&self) -> Vec<IpAddr> {
        let found = if_addrs::get_if_addrs().unwrap_or_else(|error| {
            tracing::warn!(%error, "the network interfaces are not known");
            Vec::new()
        });
        let ours = found.into_iter().filter(|interface| self.names.contains(&interface.name));
        ours.map(|interface| interface.ip()).collect()
    }
}

/// The address that the system would send from. Connecting a UDP socket chooses the route and sends nothing.
fn source_towards(remote: IpAddr) -> Option<IpAddr> {
    /// Any will do.
    const PORT: u16 = 9;
    let any: IpAddr =
        if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(SocketAddr::new(remote, PORT)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// Link-local IPv6 addresses need a zone, which a multiaddress does not have.
fn is_link_local(ip: &IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

fn protocol(ip: IpAddr) -> Protocol<'static> {
    match ip {
        IpAddr::V4(ip) => Protocol::Ip4(ip),
        IpAddr::V6(ip) => Protocol::Ip6(ip),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interfaces(names: &[&str]) -> Interfaces {
        Interfaces::new(names.iter().map(|name| (*name).to_owned()).collect())
    }

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn without_names_everything_is_as_configured() {
        let all = interfaces(&[]);
        assert_eq!(all.listening(&address("/ip4/0.0.0.0/tcp/5")), [address("/ip4/0.0.0.0/tcp/5")]);
        assert!(all.lead_to(&address("/ip4/192.0.2.1/tcp/5")));
    }

    #[test]
    fn any_address_becomes_those_of_the_interface() {
        let lo = interfaces(&["lo"]);
        assert_eq!(
            lo.listening(&address("/ip4/0.0.0.0/udp/5/quic-v1")),
            [address("/ip4/127.0.0.1/udp/5/quic-v1")]
        );
        assert_eq!(lo.listening(&address("/ip4/127.0.0.1/tcp/0")), [address("/ip4/127.0.0.1/tcp/0")]);
        assert!(lo.listening(&address("/ip4/192.0.2.1/tcp/5")).is_empty());
        assert!(interfaces(&["none-such"]).listening(&address("/ip4/0.0.0.0/tcp/5")).is_empty());
    }

    #[test]
    fn the_way_to_a_peer_must_lead_over_the_interface() {
        let loopback = address("/ip4/127.0.0.1/tcp/5");
        assert!(interfaces(&["lo"]).lead_to(&loopback));
        assert!(!interfaces(&["none-such"]).lead_to(&loopback));
        // Wherever that is, it is not on this machine.
        assert!(!interfaces(&["lo"]).lead_to(&address("/ip4/192.0.2.1/tcp/5")));
    }
}
