//! The vocabulary of ranges, from the protocol.

pub(super) use p2p_cache_protocol::{GROUP_BYTES, GroupRange, GroupSet, MAX_EXTENT_GROUPS, group_count};
