//! From whom the nodes of a site take a stream that their leader is fetching: a tree over the ranking of the leader
//! rule, so that no uplink carries it more than a few times.
//!
//! Pure: the simulator runs the same rule. A node only ever takes it from one that ranks before it, so that there are
//! no circles, not even while nodes that have left are still in the ranking of some.

use p2p_cache_discovery::PeerId;

/// Nodes that take the stream from the same one. Few, for the uplink of a node may be no faster than that of the
/// site; more than one, since each level adds its delay.
pub const RELAY_FANOUT: usize = 4;

/// The nodes from which `me` takes the stream, the best first: its parent in the tree, then one to turn to when
/// that one is silent. Empty for the leader, and for a node that is not in the ranking.
pub fn relays(ranking: &[PeerId], me: PeerId) -> Vec<PeerId> {
    let Some(rank) = ranking.iter().position(|member| *member == me).filter(|rank| *rank > 0) else {
        return Vec::new();
    };
    let parent = (rank - 1) / RELAY_FANOUT;
    let second = if parent > 0 { parent - 1 } else { 1 };
    let second = (second < rank).then_some(second);
    [Some(parent), second].into_iter().flatten().filter_map(|rank| ranking.get(rank).copied()).collect()
}

/// True for the nodes that ask the origin themselves: the leader, and its deputy when the leader is silent.
pub fn may_ask_origin(ranking: &[PeerId], me: PeerId) -> bool {
    !ranking.contains(&me) || ranking.iter().take(2).any(|member| *member == me)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_hangs_on_the_leader_by_a_short_chain_and_nobody_has_many_children() {
        let ranking: Vec<PeerId> = (0..50).map(|_| PeerId::random()).collect();
        let mut children = vec![0; ranking.len()];
        for (rank, me) in ranking.iter().enumerate() {
            let mut depth = 0;
            let mut at = *me;
            while let Some(parent) = relays(&ranking, at).first() {
                at = *parent;
                depth += 1;
            }
            assert!(at == ranking[0] && depth <= 3, "{rank} is {depth} away");
            for (order, relay) in relays(&ranking, *me).iter().enumerate() {
                let place = ranking.iter().position(|member| member == relay).unwrap();
                assert!(place < rank, "{rank} hangs on {place}");
                children[place] += usize::from(order == 0);
            }
        }
        assert!(children.iter().all(|count| *count <= RELAY_FANOUT));
    }

    #[test]
    fn every_follower_has_two_ways_and_only_leader_and_deputy_have_the_origin() {
        let ranking: Vec<PeerId> = (0..20).map(|_| PeerId::random()).collect();
        for (rank, me) in ranking.iter().enumerate() {
            let ways = relays(&ranking, *me).len() + usize::from(may_ask_origin(&ranking, *me));
            assert_eq!(ways, if rank == 0 { 1 } else { 2 }, "{rank}");
        }
        assert!(may_ask_origin(&ranking, PeerId::random()) && relays(&ranking, PeerId::random()).is_empty());
    }
}
