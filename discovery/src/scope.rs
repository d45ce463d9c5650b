//! How far away an address is, and which addresses may be dialled on whose word.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use serde::{Deserialize, Serialize};

/// Longest textual or binary multiaddress that is kept, in bytes. The longest useful one (IPv6, port, peer id)
/// takes about 70.
pub(crate) const MAX_ADDRESS_BYTES: usize = 256;

/// Where a peer was met, and how far a blob may travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Reached over a loopback, link-local or private address.
    Lan,
    /// Reached over anything else.
    Public,
}

impl Scope {
    /// Scope of a peer whose connection has this remote address. A name that was never resolved counts as
    /// public, the careful choice.
    pub fn of(remote: &Multiaddr) -> Self {
        match Reach::of(remote) {
            Some(Reach::Loopback | Reach::Link | Reach::Private) => Self::Lan,
            Some(Reach::Public) | None => Self::Public,
        }
    }
}

impl std::fmt::Display for Scope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Lan => "lan",
            Self::Public => "public",
        })
    }
}

/// How far an IP address reaches, nearest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reach {
    /// This machine.
    Loopback,
    /// This link: 169.254/16, fe80::/10.
    Link,
    /// This site: RFC 1918, 100.64/10 (RFC 6598), fc00::/7.
    Private,
    /// The Internet.
    Public,
}

impl Reach {
    /// Reach of the first component of an address; `None` when it is no IP address or one that names no single
    /// host (unspecified, multicast, broadcast).
    pub(crate) fn of(address: &Multiaddr) -> Option<Self> {
        match address.iter().next()? {
            Protocol::Ip4(ip) => Self::of_ip(IpAddr::V4(ip)),
            Protocol::Ip6(ip) => Self::of_ip(IpAddr::V6(ip)),
            _ => None,
        }
    }

    pub(crate) fn of_ip(ip: IpAddr) -> Option<Self> {
        match ip {
            IpAddr::V4(ip) => Self::of_v4(ip),
            IpAddr::V6(ip) => Self::of_v6(ip),
        }
    }

    fn of_v4(ip: Ipv4Addr) -> Option<Self> {
        let [a, b, ..] = ip.octets();
        if ip.is_multicast() || a == 0 || a >= 240 {
            return None;
        }
        Some(if ip.is_loopback() {
            Self::Loopback
        } else if ip.is_link_local() {
            Self::Link
        } else if ip.is_private() || (a == 100 && (64..128).contains(&b)) {
            Self::Private
        } else {
            Self::Public
        })
    }

    fn of_v6(ip: Ipv6Addr) -> Option<Self> {
        if let Some(v4) = ip.to_ipv4_mapped() {
            return Self::of_v4(v4);
        }
        let segments = ip.segments();
        // RFC 6052: a translator turns 64:ff9b::a.b.c.d into a.b.c.d, which may be a private host behind it.
        if segments[..6] == [0x64, 0xff9b, 0, 0, 0, 0] {
            let [.., a, b, c, d] = ip.octets();
            return Self::of_v4(Ipv4Addr::new(a, b, c, d));
        }
        if ip.is_multicast() || ip.is_unspecified() {
            return None;
        }
        Some(if ip.is_loopback() {
            Self::Loopback
        } else if ip.is_unicast_link_local() {
            Self::Link
        } else if ip.is_unique_local() {
            Self::Private
        } else {
            Self::Public
        })
    }
}

/// Whether an address heard from somebody may be kept and dialled, when that somebody was reached at `from`:
/// an address must reach at least as far as its teller's. A peer of the wide area cannot make us dial into our
/// own site, and one of the site cannot make us dial ourselves. Names are refused: what they resolve to is the
/// teller's choice, later. Only plain TCP and QUIC v1 are understood.
pub(crate) fn acceptable(address: &Multiaddr, from: Reach) -> bool {
    address.len() <= MAX_ADDRESS_BYTES
        && dialable_shape(address)
        && Reach::of(address).is_some_and(|reach| {
            // Peers of one site may know each other by link-local or private addresses alike.
            reach >= from || (from == Reach::Private && reach == Reach::Link)
        })
}

/// IP/tcp/PORT or IP/udp/PORT/quic-v1, with or without /p2p/ID, port not 0.
fn dialable_shape(address: &Multiaddr) -> bool {
    let mut parts = address.iter();
    let host = matches!(parts.next(), Some(Protocol::Ip4(_) | Protocol::Ip6(_)));
    let port = match parts.next() {
        Some(Protocol::Tcp(port)) => port != 0,
        Some(Protocol::Udp(port)) => port != 0 && parts.next() == Some(Protocol::QuicV1),
        _ => false,
    };
    let tail = match parts.next() {
        None => true,
        Some(Protocol::P2p(_)) => parts.next().is_none(),
        Some(_) => false,
    };
    host && port && tail
}

/// Whether an address runs over TCP, the preferred transport.
pub(crate) fn is_tcp(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::Tcp(_)))
}

/// Splits `/p2p/ID` off the end of an address.
pub(crate) fn split_peer(mut address: Multiaddr) -> (Multiaddr, Option<PeerId>) {
    match address.pop() {
        Some(Protocol::P2p(peer)) => (address, Some(peer)),
        Some(other) => {
            address.push(other);
            (address, None)
        }
        None => (address, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    fn reach(ip: &str) -> Option<Reach> {
        Reach::of_ip(ip.parse().unwrap())
    }

    #[test]
    fn addresses_are_classified_by_how_far_they_reach() {
        let table = [
            ("127.0.0.1", Some(Reach::Loopback)),
            ("127.255.0.3", Some(Reach::Loopback)),
            ("169.254.1.1", Some(Reach::Link)),
            ("10.0.0.1", Some(Reach::Private)),
            ("172.16.0.1", Some(Reach::Private)),
            ("172.31.255.255", Some(Reach::Private)),
            ("172.32.0.1", Some(Reach::Public)),
            ("192.168.255.1", Some(Reach::Private)),
            ("192.169.0.1", Some(Reach::Public)),
            ("100.63.255.255", Some(Reach::Public)),
            ("100.64.0.0", Some(Reach::Private)),
            ("100.127.255.255", Some(Reach::Private)),
            ("100.128.0.0", Some(Reach::Public)),
            ("8.8.8.8", Some(Reach::Public)),
            ("0.0.0.0", None),
            ("224.0.0.251", None),
            ("255.255.255.255", None),
            ("::1", Some(Reach::Loopback)),
            ("::", None),
            ("fe80::1", Some(Reach::Link)),
            ("febf::1", Some(Reach::Link)),
            ("fec0::1", Some(Reach::Public)),
            ("fc00::1", Some(Reach::Private)),
            ("fdff:ffff::1", Some(Reach::Private)),
            ("fe00::1", Some(Reach::Public)),
            ("2001:db8::1", Some(Reach::Public)),
            ("ff02::fb", None),
            ("::ffff:127.0.0.1", Some(Reach::Loopback)),
            ("::ffff:10.1.2.3", Some(Reach::Private)),
            ("::ffff:9.9.9.9", Some(Reach::Public)),
            ("64:ff9b::10.1.2.3", Some(Reach::Private)),
            ("64:ff9b::9.9.9.9", Some(Reach::Public)),
        ];
        for (ip, expected) in table {
            assert_eq!(reach(ip), expected, "{ip}");
        }
    }

    #[test]
    fn a_peer_is_of_the_lan_only_when_its_remote_address_is() {
        assert_eq!(Scope::of(&address("/ip4/192.168.1.7/tcp/5381")), Scope::Lan);
        assert_eq!(Scope::of(&address("/ip6/::1/udp/5381/quic-v1")), Scope::Lan);
        assert_eq!(Scope::of(&address("/ip4/1.2.3.4/tcp/5381")), Scope::Public);
        assert_eq!(Scope::of(&address("/dns4/cache.example/tcp/5381")), Scope::Public);
    }

    #[test]
    fn a_teller_can_only_name_addresses_that_reach_as_far_as_its_own() {
        let public = address("/ip4/1.2.3.4/tcp/1");
        let private = address("/ip4/10.0.0.1/tcp/1");
        let link = address("/ip4/169.254.0.1/udp/1/quic-v1");
        let loopback = address("/ip4/127.0.0.1/tcp/1");
        for (from, expected) in [
            (Reach::Public, [true, false, false, false]),
            (Reach::Private, [true, true, true, false]),
            (Reach::Link, [true, true, true, false]),
            (Reach::Loopback, [true, true, true, true]),
        ] {
            let got = [&public, &private, &link, &loopback].map(|a| acceptable(a, from));
            assert_eq!(got, expected, "{from:?}");
        }
    }

    #[test]
    fn names_circuits_odd_transports_and_port_zero_are_refused() {
        for text in [
            "/dns4/evil.example/tcp/22",
            "/dnsaddr/evil.example",
            "/ip4/1.2.3.4/tcp/0",
            "/ip4/1.2.3.4/udp/5381",
            "/ip4/1.2.3.4/udp/5381/quic",
            "/ip4/1.2.3.4/tcp/80/ws",
            "/ip4/1.2.3.4",
            "/memory/7",
            "/ip4/0.0.0.0/tcp/5381",
            "/ip4/1.2.3.4/tcp/1/p2p/12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp/p2p-circuit",
        ] {
            assert!(!acceptable(&address(text), Reach::Loopback), "{text}");
        }
    }

    proptest! {
        #[test]
        fn nothing_told_from_the_wide_area_points_into_the_site(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(address) = Multiaddr::try_from(bytes)
                && acceptable(&address, Reach::Public)
            {
                prop_assert_eq!(Reach::of(&address), Some(Reach::Public));
            }
        }

        #[test]
        fn mapped_addresses_are_as_near_as_what_they_map(ip in any::<[u8; 4]>()) {
            let v4 = Ipv4Addr::from(ip);
            prop_assert_eq!(Reach::of_v4(v4), Reach::of_v6(v4.to_ipv6_mapped()));
        }
    }
}
