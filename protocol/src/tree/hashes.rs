//! The two kinds of nodes: groups, and pairs of hashes.

use bao_tree::ChunkNum;
use blake3::hazmat::{self, HasherExt as _, Mode};

pub(super) fn halves(pair: &[u8; 64]) -> [[u8; 32]; 2] {
    let (halves, _) = pair.as_chunks::<32>();
    [halves[0], halves[1]]
}

pub(super) fn parent_hash(left: &[u8; 32], right: &[u8; 32], is_root: bool) -> [u8; 32] {
    if is_root {
        *hazmat::merge_subtrees_root(left, right, Mode::Hash).as_bytes()
    } else {
        hazmat::merge_subtrees_non_root(left, right, Mode::Hash)
    }
}

pub(super) fn group_hash(start: ChunkNum, bytes: &[u8], is_root: bool) -> [u8; 32] {
    if is_root {
        return *blake3::hash(bytes).as_bytes();
    }
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(start.to_bytes());
    hasher.update(bytes);
    hasher.finalize_non_root()
}
