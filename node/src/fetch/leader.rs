//! Who asks the origin for a site: rendezvous hashing, so that all its nodes name the same one without a word.
//!
//! Pure: the simulator runs the same rule. Nodes that see different members may name different leaders; that costs
//! the origin a second copy and nothing else.

use p2p_cache_discovery::PeerId;
use p2p_cache_protocol::StoreHash;

/// The members in the order in which they lead for `key`: the first asks the origin, the next one takes over when it
/// does not answer. When a member leaves, only what it led for changes hands.
pub fn ranking(key: StoreHash, members: impl IntoIterator<Item = PeerId>) -> Vec<PeerId> {
    let mut scored: Vec<_> = members.into_iter().map(|member| (score(key, member), member)).collect();
    scored.sort_unstable();
    scored.dedup();
    scored.into_iter().map(|(_, member)| member).collect()
}

fn score(key: StoreHash, member: PeerId) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("p2p-cache leader of a site v1");
    hasher.update(key.to_string().as_bytes());
    hasher.update(&member.to_bytes());
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: usize) -> Vec<PeerId> {
        (0..count).map(|_| PeerId::random()).collect()
    }

    fn key(index: usize) -> StoreHash {
        format!("{index:032}").parse().unwrap()
    }

    #[test]
    fn the_order_of_the_members_does_not_matter() {
        let mut members = members(8);
        let ranked = ranking(key(1), members.clone());
        members.reverse();
        assert_eq!(ranking(key(1), members), ranked);
    }

    #[test]
    fn a_member_that_leaves_changes_only_what_it_led_for() {
        let members = members(8);
        for index in 0..100 {
            let ranked = ranking(key(index), members.clone());
            let rest = ranking(key(index), members[1..].to_vec());
            let expected: Vec<_> = ranked.into_iter().filter(|member| *member != members[0]).collect();
            assert_eq!(rest, expected);
        }
    }

    #[test]
    fn the_work_is_spread_over_all_members() {
        let members = members(8);
        let led =
            |member| (0..800).filter(|index| ranking(key(*index), members.clone())[0] == member).count();
        assert!(members.iter().all(|member| (50..=160).contains(&led(*member))));
    }
}
