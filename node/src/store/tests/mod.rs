//! The store as its callers see it.

mod commit;
mod crash;
mod disk_full;
mod evict;
mod hand_over;
mod narinfos;
mod recovery;
pub(in crate::store) mod support;
mod verify;
