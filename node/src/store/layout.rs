//! Where things stand in the state directory, and the few file operations that durability needs.
//!
//! ```text
//! lock                                     held while a process uses the directory
//! blobs/<2 hex>/<blake3>-<sha256>          the bytes of a blob
//! blobs/<2 hex>/<blake3>-<sha256>.obao     its outboard (pre-order, no size prefix)
//! narinfo/<store hash>.narinfo
//! published/<blake3>                       empty marker: the owner shared this blob by hand
//! pinned/<blake3>                          empty marker: never evicted
//! partial/                                 files of unfinished writes, see `leftovers.rs`
//! index/                                   sled; can be rebuilt from all of the above
//! side/                                    build logs and the like, see `side_files`
//! ```

use std::fs::{self, File, OpenOptions};
use std::io;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use p2p_cache_protocol::{BlobId, Sha256Digest, StoreHash};

use super::error::StoreError;

/// The extension of outboard files, with its dot.
pub(super) const OUTBOARD_SUFFIX: &str = ".obao";
/// The extension of narinfo files, with its dot.
pub(super) const NARINFO_SUFFIX: &str = ".narinfo";
/// Directories below `blobs/`: one for each first byte of a [`BlobId`].
pub(super) const SHARDS: usize = 256;

/// Paths in one state directory.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

/// What a file in `blobs/` is, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlobFile {
    pub(super) id: BlobId,
    pub(super) sha256: Sha256Digest,
    pub(super) outboard: bool,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Layout { root: root.to_path_buf() }
    }

    /// Makes the directories that are missing.
    pub(super) fn create(&self) -> Result<(), StoreError> {
        for dir in [
            self.root.clone(),
            self.blobs(),
            self.narinfos(),
            self.published(),
            self.pinned(),
            self.partials(),
        ] {
            fs::create_dir_all(&dir).map_err(|e| StoreError::io("cannot create directory", &dir, e))?;
        }
        sync_dir(&self.root)
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(super) fn index(&self) -> PathBuf {
        self.root.join("index")
    }

    /// Where an unreadable index is kept for inspection; one at most.
    pub(super) fn damaged_index(&self) -> PathBuf {
        self.root.join("index.damaged")
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs")
    }

    pub(super) fn narinfos(&self) -> PathBuf {
        self.root.join("narinfo")
    }

    pub(super) fn published(&self) -> PathBuf {
        self.root.join("published")
    }

    pub(super) fn pinned(&self) -> PathBuf {
        self.root.join("pinned")
    }

    pub(super) fn partials(&self) -> PathBuf {
        self.root.join("partial")
    }

    pub(super) fn shard(&self, shard: u8) -> PathBuf {
        self.blobs().join(format!("{shard:02x}"))
    }

    pub(super) fn data(&self, id: BlobId, sha256: Sha256Digest) -> PathBuf {
        self.shard(id.0[0]).join(format!("{id}-{sha256}"))
    }

    pub(super) fn outboard(&self, id: BlobId, sha256: Sha256Digest) -> PathBuf {
        self.shard(id.0[0]).join(format!("{id}-{sha256}{OUTBOARD_SUFFIX}"))
    }

    pub(super) fn narinfo(&self, hash: StoreHash) -> PathBuf {
        self.narinfos().join(format!("{hash}{NARINFO_SUFFIX}"))
    }

    pub(super) fn published_marker(&self, id: BlobId) -> PathBuf {
        self.published().join(id.to_string())
    }

    pub(super) fn pinned_marker(&self, id: BlobId) -> PathBuf {
        self.pinned().join(id.to_string())
    }
}

impl BlobFile {
    /// Reads a file name of `blobs/<2 hex>/`; `None` for anything that the store did not write.
    pub(super) fn parse(name: &str) -> Option<BlobFile> {
        let (stem, outboard) = match name.strip_suffix(OUTBOARD_SUFFIX) {
            Some(stem) => (stem, true),
            None => (name, false),
        };
        let (id, sha256) = stem.split_once('-')?;
        let file = BlobFile { id: id.parse().ok()?, sha256: sha256.parse().ok()?, outboard };
        // One spelling a blob: upper case would parse too, and would be a second name for the same thing.
        (format!("{}-{}", file.id, file.sha256) == stem).then_some(file)
    }
}

/// Makes renames and creations in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), StoreError> {
    File::open(dir)
        .and_then(|handle| handle.sync_all())
        .map_err(|e| StoreError::io("cannot sync directory", dir, e))
}

/// Removes a file; true when it was there.
pub(super) fn remove_file(path: &Path) -> Result<bool, StoreError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(StoreError::io("cannot remove", path, e)),
    }
}

/// Creates an empty marker file durably; does nothing when it exists.
pub(super) fn create_marker(path: &Path) -> Result<(), StoreError> {
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(_) => path.parent().map_or(Ok(()), sync_dir),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) => Err(StoreError::io("cannot create", path, e)),
    }
}

/// Names in a directory; an empty list when it does not exist. Names that are not UTF-8 are passed over: the store
/// never writes one.
pub(super) fn file_names(dir: &Path) -> Result<impl Iterator<Item = Result<String, StoreError>>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => Some(entries),
        Err(e) if e.kind() == io::ErrorKind::NotFound => None,
        Err(e) => return Err(StoreError::io("cannot list", dir, e)),
    };
    let dir = dir.to_path_buf();
    Ok(entries.into_iter().flatten().filter_map(move |entry| match entry {
        Ok(entry) => entry.file_name().into_string().ok().map(Ok),
        Err(e) => Some(Err(StoreError::io("cannot list", &dir, e))),
    }))
}

/// The lock on a state directory; released when dropped, or by the kernel when the process dies.
#[derive(Debug)]
pub(super) struct DirLock {
    _file: File,
}

impl DirLock {
    pub(super) fn acquire(layout: &Layout) -> Result<DirLock, StoreError> {
        let path = layout.lock();
        let failed = |e| StoreError::io("cannot lock", &path, e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let holder =
                    file.take(20).read_to_string(&mut pid).ok().and_then(|_| pid.trim().parse().ok());
                return Err(StoreError::Locked { path: layout.root().to_path_buf(), holder });
            }
            Err(fs::TryLockError::Error(e)) => return Err(failed(e)),
        }
        // Only for the message above; the lock itself is the kernel's.
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        if let Err(error) = written {
            tracing::debug!(%error, "cannot note the process id in the lock file");
        }
        Ok(DirLock { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blob_file_names_round_trip() {
        let layout = Layout::new(Path::new("/x"));
        let (id, sha256) = (BlobId([0xab; 32]), Sha256Digest([0x01; 32]));
        for (path, outboard) in [(layout.data(id, sha256), false), (layout.outboard(id, sha256), true)] {
            let name = path.file_name().unwrap().to_str().unwrap();
            assert_eq!(BlobFile::parse(name), Some(BlobFile { id, sha256, outboard }));
            assert!(path.starts_with("/x/blobs/ab"));
        }
    }

    #[test]
    fn foreign_file_names_are_not_blobs() {
        let id = "ab".repeat(32);
        for name in ["", "-", ".obao", "README", &id, &format!("{id}-"), &format!("{id}-{}", "AB".repeat(32))]
        {
            assert_eq!(BlobFile::parse(name), None, "{name}");
        }
    }

    #[test]
    fn a_second_lock_on_the_same_directory_is_refused_with_the_holder() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let first = DirLock::acquire(&layout).unwrap();
        let error = DirLock::acquire(&layout).unwrap_err();
        assert!(matches!(error, StoreError::Locked { holder: Some(pid), .. } if pid == std::process::id()));
        drop(first);
        DirLock::acquire(&layout).unwrap();
    }
}
