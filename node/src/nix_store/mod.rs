//! The machine's live Nix store as a source: its paths are blobs whose bytes nobody stores a second time.

mod database;
mod index;
pub mod nar;
mod outboards;
mod readers;
#[cfg(test)]
mod testing;

pub use self::database::{Database, DatabaseError, MAX_SCHEMA, StoredPath};
