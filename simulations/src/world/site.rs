//! The leader rule at work: who asks the origin, and whose stream the others follow.

use p2p_cache::fetch::leader::ranking;
use p2p_cache::fetch::relay_tree::{may_ask_origin, relays};
use p2p_cache_discovery::PeerId;
use p2p_cache_protocol::StoreHash;

/// The multihash code and length of a SHA-256, which begin the id of a peer.
const MULTIHASH_SHA256: [u8; 2] = [0x12, 0x20];

/// The nodes of a site by their production ids.
#[derive(Debug)]
pub(super) struct Site {
    ids: Vec<PeerId>,
    key: Option<StoreHash>,
}

impl Site {
    pub(super) fn new(nodes: usize) -> Self {
        let id = |index: usize| {
            let mut bytes = MULTIHASH_SHA256.to_vec();
            bytes.extend_from_slice(&[0; 24]);
            bytes.extend_from_slice(&(index as u64).to_be_bytes());
            PeerId::from_bytes(&bytes).ok()
        };
        Self { ids: (0..nodes).filter_map(id).collect(), key: "0".repeat(32).parse().ok() }
    }

    /// The nodes in the order in which they lead.
    fn ranked(&self, alive: &[usize]) -> Vec<PeerId> {
        let members = alive.iter().filter_map(|index| self.ids.get(*index).copied());
        self.key.map(|key| ranking(key, members)).unwrap_or_default()
    }

    fn index_of(&self, id: &PeerId) -> Option<usize> {
        self.ids.iter().position(|other| other == id)
    }

    /// The node that asks the origin.
    pub(super) fn leader(&self, alive: &[usize]) -> Option<usize> {
        self.ranked(alive).first().and_then(|id| self.index_of(id))
    }

    /// Whose streams a node follows, the best first, and whether it may ask the origin itself.
    pub(super) fn upstreams(&self, node: usize, alive: &[usize]) -> (Vec<usize>, bool) {
        let ranked = self.ranked(alive);
        let Some(me) = self.ids.get(node) else { return (Vec::new(), true) };
        let follows = relays(&ranked, *me).iter().filter_map(|id| self.index_of(id)).collect();
        (follows, may_ask_origin(&ranked, *me))
    }
}
