//! Which network a peer is in: what a stranger cannot have thousands of at will, as it can of identities.

use std::net::{IpAddr, Ipv6Addr};

use libp2p::{Multiaddr, multiaddr::Protocol};

use crate::scope::Scope;

/// Leading bits of an IPv4 address that stand for its network in the wide area.
const V4_BITS: u32 = 24;
/// The same for IPv6: what a provider gives to one customer.
const V6_BITS: u32 = 48;

/// A network in the wide area (IPv4 /24, IPv6 /48), or a single host of the local one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkPrefix {
    /// With the bits beyond the prefix at 0; `None` stands for all that have no IP address.
    address: Option<IpAddr>,
    scope: Scope,
}

impl NetworkPrefix {
    /// The network of a peer with this remote address. IPv4 addresses in IPv6 clothes count as what they are.
    pub fn of(remote: &Multiaddr, scope: Scope) -> Self {
        let address = match remote.iter().next() {
            Some(Protocol::Ip4(ip)) => Some(IpAddr::V4(ip)),
            Some(Protocol::Ip6(ip)) => Some(ip.to_canonical()),
            _ => None,
        };
        let address = match scope {
            Scope::Lan => address,
            Scope::Public => address.map(network),
        };
        Self { address, scope }
    }
}

fn network(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => IpAddr::V4((ip.to_bits() >> (32 - V4_BITS) << (32 - V4_BITS)).into()),
        IpAddr::V6(ip) => IpAddr::V6(Ipv6Addr::from_bits(ip.to_bits() >> (128 - V6_BITS) << (128 - V6_BITS))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn prefix(address: &str, scope: Scope) -> NetworkPrefix {
        NetworkPrefix::of(&address.parse().unwrap(), scope)
    }

    #[test]
    fn networks_of_the_wide_area_are_24_and_48_bits_long() {
        for (one, other, same) in [
            ("/ip4/198.51.100.1/tcp/1", "/ip4/198.51.100.255/udp/2/quic-v1", true),
            ("/ip4/198.51.100.1/tcp/1", "/ip4/198.51.101.1/tcp/1", false),
            ("/ip6/2001:db8:1::1/tcp/1", "/ip6/2001:db8:1:ffff::9/tcp/1", true),
            ("/ip6/2001:db8:1::1/tcp/1", "/ip6/2001:db8:2::1/tcp/1", false),
            ("/ip4/198.51.100.1/tcp/1", "/ip6/::ffff:198.51.100.7/tcp/1", true),
            ("/dns4/a.example/tcp/1", "/dns4/b.example/tcp/1", true),
            ("/dns4/a.example/tcp/1", "/ip4/198.51.100.1/tcp/1", false),
        ] {
            let equal = prefix(one, Scope::Public) == prefix(other, Scope::Public);
            assert_eq!(equal, same, "{one} and {other}");
        }
    }

    #[test]
    fn hosts_of_the_local_network_are_told_apart() {
        let lan = |address| prefix(address, Scope::Lan);
        assert_eq!(lan("/ip4/192.168.1.7/tcp/1"), lan("/ip4/192.168.1.7/tcp/2"));
        assert_ne!(lan("/ip4/192.168.1.7/tcp/1"), lan("/ip4/192.168.1.8/tcp/1"));
        assert_ne!(lan("/ip6/fe80::1/tcp/1"), lan("/ip6/fe80::2/tcp/1"));
    }

    proptest! {
        #[test]
        fn only_the_leading_bits_count(ip: u32, other: u32) {
            let of = |ip: u32| {
                NetworkPrefix::of(&Multiaddr::from(IpAddr::V4(ip.into())), Scope::Public)
            };
            prop_assert_eq!(of(ip) == of(other), ip >> 8 == other >> 8);
            prop_assert_eq!(of(ip), of(ip & 0xffff_ff00));
        }
    }
}
