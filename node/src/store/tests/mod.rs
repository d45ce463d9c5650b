//! The store as its callers see it.

mod commit;
mod crash;
mod disk_full;
mod evict;
mod narinfos;
mod recovery;
pub(in crate::store) mod support;
mod verify;
