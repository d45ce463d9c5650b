//! What can go wrong in the store.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use p2p_cache_protocol::{BlobId, Digest};

/// Failures of [`BlobStore`](super::BlobStore).
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed for a reason other than a full disk.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was being done, in the form "cannot write".
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// Another process uses the same state directory.
    #[error(
        "state directory {} is in use by another p2p-cache process{}: stop it, or choose another --state-dir",
        path.display(),
        holder.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    Locked {
        /// The state directory.
        path: PathBuf,
        /// The process that wrote the lock file, where it could be read.
        holder: Option<u32>,
    },
    /// The file system is full, or has less room than a blob needs beside what other unfinished blobs were promised.
    #[error(
        "no space left on the file system of {}{}: free some, or lower --max-store-size",
        path.display(),
        needed_bytes.map(|bytes| format!(" ({bytes} bytes needed)")).unwrap_or_default()
    )]
    NoSpace {
        /// A path on the full file system.
        path: PathBuf,
        /// The free bytes that the refused operation wanted; `None` when the system refused a write.
        needed_bytes: Option<u64>,
    },
    /// The blob is larger than the size limit leaves beside pinned blobs, so that no eviction can make room.
    #[error(
        "a blob of {size_bytes} bytes can never fit: the store may hold {max_bytes} bytes, of which {pinned_bytes} are pinned; raise --max-store-size or unpin"
    )]
    TooLarge {
        /// Length of the blob.
        size_bytes: u64,
        /// The size limit of the store.
        max_bytes: u64,
        /// Bytes held by pinned blobs.
        pinned_bytes: u64,
    },
    /// The bytes are not those that were asked for.
    #[error("content does not match: expected {expected}, got {actual}")]
    Mismatch {
        /// What the caller named.
        expected: Digest,
        /// What the bytes hash to.
        actual: Digest,
    },
    /// A commit was asked for before all bytes were there.
    #[error("blob is incomplete: {present_bytes} of {size_bytes} bytes present from its start")]
    Incomplete {
        /// Contiguous bytes from offset 0.
        present_bytes: u64,
        /// Length of the blob.
        size_bytes: u64,
    },
    /// The partial blob was abandoned.
    #[error("fetch abandoned: {reason}")]
    Aborted {
        /// The reason that [`PartialBlob::abort`](super::PartialBlob::abort) was given.
        reason: Arc<str>,
    },
    /// Too many blobs are being fetched at once.
    #[error("{limit} blobs are being written already; try again when some are finished")]
    TooManyPartials {
        /// The configured bound.
        limit: usize,
    },
    /// The body that was to be stored broke off.
    #[error("body broke off after {received_bytes} bytes: {source}")]
    Body {
        /// Bytes that had arrived.
        received_bytes: u64,
        /// The error of the body.
        source: io::Error,
    },
    /// The index refused an operation. It is rebuilt from the files at the next start when it stays unreadable.
    #[error("store index: {action}: {source}; restart the daemon to have the index rebuilt from the files")]
    Index {
        /// What was being done.
        action: &'static str,
        /// sled's answer.
        source: sled::Error,
    },
    /// A blocking worker panicked or was cancelled by the end of the runtime.
    #[error("store worker for {action} died: {reason}")]
    Worker {
        /// The operation.
        action: &'static str,
        /// What the runtime said.
        reason: String,
    },
    /// A blob is not held (only for operations on a blob that must be there).
    #[error("blob {id} is not held")]
    NotHeld {
        /// The blob.
        id: BlobId,
    },
}

impl StoreError {
    /// Turns a system error into [`StoreError::NoSpace`] or [`StoreError::Io`].
    pub(super) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        if is_no_space(&source) {
            return StoreError::NoSpace { path: path.to_path_buf(), needed_bytes: None };
        }
        StoreError::Io { action, path: path.to_path_buf(), source }
    }

    /// True when the disk or the size limit, not the content, is at fault.
    pub fn is_no_space(&self) -> bool {
        match self {
            StoreError::NoSpace { .. } | StoreError::TooLarge { .. } => true,
            StoreError::Index { source: sled::Error::Io(error), .. } => is_no_space(error),
            _ => false,
        }
    }
}

/// A full disk, an exhausted quota or a file over the file system's limit.
pub(crate) fn is_no_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// Failures of writing into a [`PartialBlob`](super::PartialBlob).
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A chunk group or an inner hash does not belong to the tree: the sender lied or its disk rots. The groups
    /// before this one were good and have been kept.
    #[error("chunk group {group} does not match blob {blob}")]
    Corrupt {
        /// The claimed blob.
        blob: BlobId,
        /// The first group that failed.
        group: u64,
    },
    /// The encoded range is shorter or longer than it must be. Groups before the end have been kept.
    #[error("an encoded range of blob {blob} has {got} bytes instead of {expected}")]
    WrongLength {
        /// The claimed blob.
        blob: BlobId,
        /// Bytes that came.
        got: u64,
        /// Bytes that the range takes.
        expected: u64,
    },
    /// The partial blob is already being filled under another BLAKE3 root.
    #[error("this fetch verifies against blob {known}, not {given}")]
    OtherBlob {
        /// The root in use.
        known: BlobId,
        /// The root that the caller gave.
        given: BlobId,
    },
    /// The bytes lie beyond the end of the blob.
    #[error("bytes {start}..{end} lie outside a blob of {size} bytes")]
    OutOfRange {
        /// First byte.
        start: u64,
        /// One past the last byte.
        end: u64,
        /// Length of the blob.
        size: u64,
    },
    /// The partial blob was abandoned; nothing more is taken.
    #[error("fetch abandoned: {0}")]
    Aborted(Arc<str>),
    /// The file system is full.
    #[error("no space left on the file system of {}", .0.display())]
    NoSpace(PathBuf),
    /// Another error of the file system.
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl WriteError {
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        if is_no_space(&source) {
            return WriteError::NoSpace(path.to_path_buf());
        }
        WriteError::Io { path: path.to_path_buf(), source }
    }

    /// True when the sender of the bytes is at fault.
    pub fn is_senders_fault(&self) -> bool {
        match self {
            WriteError::Corrupt { .. } | WriteError::WrongLength { .. } => true,
            WriteError::OtherBlob { .. }
            | WriteError::OutOfRange { .. }
            | WriteError::Aborted(_)
            | WriteError::NoSpace(_)
            | WriteError::Io { .. } => false,
        }
    }
}
