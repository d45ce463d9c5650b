//! Why the database of a store cannot be used, and what to do about it.

use std::io;
use std::path::PathBuf;

use super::MAX_SCHEMA;

/// Without its database a store is not offered; the daemon goes on without it and tries again.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// There is none.
    #[error("there is no Nix database {path}: set nix-store to the root of a Nix store, or to none", path = .path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// It, or a file beside it, may not be read.
    #[error("cannot read {path}: {source}; let the user of this daemon read it, or set nix-store to none", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It is there and cannot be opened, since its write-ahead log needs files that are missing or forbidden.
    #[error(
        "cannot open the write-ahead log of {path} ({source}): files {name}-wal and {name}-shm must be readable beside it. \
         Nix leaves them there, but old versions of it (2.8, for example) remove them whenever they end: update Nix, or \
         let the user of this daemon create files in that directory",
        path = .path.display(), name = .path.file_name().unwrap_or_default().display()
    )]
    Log {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// Another program keeps it locked.
    #[error("{path} was locked for {waited_ms} ms; if that goes on, see which program holds it: fuser {path}", path = .path.display())]
    Busy {
        /// The database.
        path: PathBuf,
        /// How long was waited for it.
        waited_ms: u128,
    },
    /// It is no database of Nix.
    #[error("{path} is not a database of Nix ({reason}): set nix-store to the root of a Nix store, or to none", path = .path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What shows it.
        reason: String,
    },
    /// A Nix newer than this program wrote it.
    #[error(
        "the Nix database {path} has schema {schema}, and this program knows schemas up to {MAX_SCHEMA}: update p2p-cache, \
         or set nix-store to none",
        path = .path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        schema: u32,
    },
    /// Anything else that SQLite reports.
    #[error("cannot {action} in {path}: {source}; if that goes on, see `nix-store --verify`", path = .path.display())]
    Query {
        /// What was tried.
        action: &'static str,
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
}

impl DatabaseError {
    /// Whether the next try may well succeed with the same connection.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }
}
