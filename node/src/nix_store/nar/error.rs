//! What can go wrong with a store path.

use std::io;
use std::path::{Path, PathBuf};

use super::layout::{MAX_ENTRIES, MAX_TEXT_BYTES};

/// Failures of walking and reading a store path.
#[derive(Debug, thiserror::Error)]
pub enum NarError {
    /// The system refused something; of kind `NotFound` when the path was collected meanwhile.
    #[error("cannot {action} {}: {error}", path.display())]
    Io {
        /// What was being done: "open", "read".
        action: &'static str,
        /// File, symlink or directory.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// A socket, fifo or device.
    #[error("{} is a {what}: a NAR holds files, symlinks and directories only", path.display())]
    Unsupported {
        /// What cannot be packed.
        path: PathBuf,
        /// What it is.
        what: &'static str,
    },
    /// It is not what it was when the path was walked. Paths of a Nix store never change while they are valid.
    #[error("{} has changed since its store path was walked: {how}", path.display())]
    Changed {
        /// File or directory.
        path: PathBuf,
        /// In what.
        how: String,
    },
    /// More files, or longer names, than this node takes into memory.
    #[error(
        "{} is too large to be offered: more than {MAX_ENTRIES} entries, or {MAX_TEXT_BYTES} bytes of names and symlink targets",
        path.display()
    )]
    TooMany {
        /// The store path.
        path: PathBuf,
    },
    /// Its NAR would be longer than 2^64 bytes.
    #[error("the NAR of {} would be longer than 2^64 bytes", path.display())]
    TooLong {
        /// The store path.
        path: PathBuf,
    },
    /// The receiver of a dump failed.
    #[error("cannot write the NAR: {error}")]
    Write {
        /// Its answer.
        error: io::Error,
    },
}

impl NarError {
    pub(super) fn io(action: &'static str, path: PathBuf, error: impl Into<io::Error>) -> Self {
        Self::Io { action, path, error: error.into() }
    }

    pub(super) fn changed(path: &Path, how: impl Into<String>) -> Self {
        Self::Changed { path: path.to_owned(), how: how.into() }
    }

    /// True when the path, or a part of it, is not there any more.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Io { error, .. } if error.kind() == io::ErrorKind::NotFound)
    }
}

/// The error of a positioned read is a `NarError` in an [`io::Error`].
impl From<NarError> for io::Error {
    fn from(error: NarError) -> Self {
        let kind = match &error {
            NarError::Io { error, .. } | NarError::Write { error } => error.kind(),
            NarError::Changed { .. } => io::ErrorKind::InvalidData,
            NarError::Unsupported { .. } | NarError::TooMany { .. } | NarError::TooLong { .. } => {
                io::ErrorKind::Unsupported
            }
        };
        io::Error::new(kind, error)
    }
}
