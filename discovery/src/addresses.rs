//! What we know about where peers listen. Filled by strangers, so bounded in every direction.

use std::{collections::HashMap, time::Instant};

use libp2p::{Multiaddr, PeerId};

use crate::scope::{Reach, acceptable, split_peer};

/// Addresses kept for one peer.
pub(crate) const MAX_ADDRESSES_PER_PEER: usize = 16;
/// Peers for which addresses are kept; the one not heard of for longest goes first.
pub(crate) const MAX_PEERS_WITH_ADDRESSES: usize = 4096;

#[derive(Debug)]
struct Entry {
    addresses: Vec<Multiaddr>,
    heard: Instant,
}

/// The address book.
#[derive(Debug, Default)]
pub(crate) struct AddressBook {
    peers: HashMap<PeerId, Entry>,
}

impl AddressBook {
    /// Addresses of a peer, the last told first, without `/p2p`.
    pub(crate) fn of(&self, peer: &PeerId) -> &[Multiaddr] {
        self.peers.get(peer).map_or(&[], |entry| &entry.addresses)
    }

    /// Replaces what a peer says of itself; the acceptable ones of the first [`MAX_ADDRESSES_PER_PEER`] stay. Gives
    /// what is new and what is gone.
    pub(crate) fn replace(
        &mut self,
        peer: PeerId,
        told: impl IntoIterator<Item = Multiaddr>,
        from: Reach,
        now: Instant,
    ) -> (Vec<Multiaddr>, Vec<Multiaddr>) {
        let fresh = filter(peer, told, from);
        let entry = self.entry(peer, now);
        let gone = entry.addresses.iter().filter(|old| !fresh.contains(old)).cloned().collect();
        let new = fresh.iter().filter(|new| !entry.addresses.contains(new)).cloned().collect();
        entry.addresses = fresh;
        (new, gone)
    }

    /// Adds addresses in front of those known.
    pub(crate) fn add(
        &mut self,
        peer: PeerId,
        told: impl IntoIterator<Item = Multiaddr>,
        from: Reach,
        now: Instant,
    ) {
        let fresh = filter(peer, told, from);
        if fresh.is_empty() {
            return;
        }
        let entry = self.entry(peer, now);
        let old = std::mem::replace(&mut entry.addresses, fresh);
        for address in old {
            if entry.addresses.len() < MAX_ADDRESSES_PER_PEER && !entry.addresses.contains(&address) {
                entry.addresses.push(address);
            }
        }
    }

    /// Forgets one address, because it does not work or has expired.
    pub(crate) fn remove(&mut self, peer: &PeerId, address: &Multiaddr) {
        let (address, _) = split_peer(address.clone());
        if let Some(entry) = self.peers.get_mut(peer) {
            entry.addresses.retain(|known| *known != address);
            if entry.addresses.is_empty() {
                self.peers.remove(peer);
            }
        }
    }

    fn entry(&mut self, peer: PeerId, now: Instant) -> &mut Entry {
        if !self.peers.contains_key(&peer)
            && self.peers.len() >= MAX_PEERS_WITH_ADDRESSES
            && let Some(oldest) =
                self.peers.iter().min_by_key(|(_, entry)| entry.heard).map(|(peer, _)| *peer)
        {
            self.peers.remove(&oldest);
        }
        let entry = self.peers.entry(peer).or_insert_with(|| Entry { addresses: Vec::new(), heard: now });
        entry.heard = now;
        entry
    }
}

/// The acceptable addresses for `peer`, without `/p2p`, each once, at most [`MAX_ADDRESSES_PER_PEER`]; one that
/// names another peer is dropped.
pub(crate) fn filter(peer: PeerId, told: impl IntoIterator<Item = Multiaddr>, from: Reach) -> Vec<Multiaddr> {
    let mut kept = Vec::new();
    for address in told {
        let (address, named) = split_peer(address);
        if named.is_none_or(|named| named == peer) && acceptable(&address, from) && !kept.contains(&address) {
            kept.push(address);
            if kept.len() == MAX_ADDRESSES_PER_PEER {
                break;
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn address(index: u32) -> Multiaddr {
        format!("/ip4/8.8.{}.{}/tcp/1", index / 256, index % 256).parse().unwrap()
    }

    #[test]
    fn a_peer_that_tells_thousands_of_addresses_has_a_few_kept() {
        let (mut book, peer, now) = (AddressBook::default(), PeerId::random(), Instant::now());
        book.replace(peer, (0..5000).map(address), Reach::Public, now);
        assert_eq!(book.of(&peer).len(), MAX_ADDRESSES_PER_PEER);
        book.add(peer, (5000..9000).map(address), Reach::Public, now);
        assert_eq!(book.of(&peer).len(), MAX_ADDRESSES_PER_PEER);
        assert_eq!(book.of(&peer)[0], address(5000));
    }

    #[test]
    fn the_number_of_peers_is_bounded_and_the_stalest_goes_first() {
        let (mut book, start) = (AddressBook::default(), Instant::now());
        let first = PeerId::random();
        book.add(first, [address(0)], Reach::Public, start);
        for index in 0..MAX_PEERS_WITH_ADDRESSES as u32 {
            book.add(PeerId::random(), [address(index)], Reach::Public, start + Duration::from_secs(1));
        }
        assert_eq!(book.peers.len(), MAX_PEERS_WITH_ADDRESSES);
        assert!(book.of(&first).is_empty());
    }

    #[test]
    fn a_peer_of_the_wide_area_cannot_plant_addresses_of_our_site_or_of_others() {
        let (mut book, peer, now) = (AddressBook::default(), PeerId::random(), Instant::now());
        let told = [
            "/ip4/192.168.1.1/tcp/22".parse().unwrap(),
            "/ip4/127.0.0.1/tcp/5380".parse().unwrap(),
            "/ip6/::ffff:10.0.0.1/tcp/22".parse().unwrap(),
            "/dns4/router.local/tcp/80".parse().unwrap(),
            address(1).with_p2p(PeerId::random()).unwrap(),
            address(2).with_p2p(peer).unwrap(),
        ];
        book.replace(peer, told, Reach::Public, now);
        assert_eq!(book.of(&peer), [address(2)]);
    }

    #[test]
    fn replacing_tells_what_came_and_what_went() {
        let (mut book, peer, now) = (AddressBook::default(), PeerId::random(), Instant::now());
        book.replace(peer, [address(1), address(2)], Reach::Public, now);
        let (new, gone) = book.replace(peer, [address(2), address(3)], Reach::Public, now);
        assert_eq!((new, gone), (vec![address(3)], vec![address(1)]));
        book.remove(&peer, &address(2).with_p2p(peer).unwrap());
        book.remove(&peer, &address(3));
        assert!(book.peers.is_empty());
    }
}
