//! The machine's live Nix store as a source: its paths are blobs whose bytes nobody stores a second time.

mod database;
pub mod nar;
#[cfg(test)]
mod testing;

pub use self::database::{Database, DatabaseError, MAX_SCHEMA, StoredPath};
