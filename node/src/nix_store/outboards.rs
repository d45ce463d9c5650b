//! The hash trees of store paths, kept beside nothing: `outboards/<2 hex>/<blake3>`, as the blob store keeps its own.
//!
//! None of them is synced when it is written: each is checked against its root before it is used, and one that is not
//! right, after a power cut for one, is made again.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use p2p_cache_protocol::{BlobId, OutboardBuilder, WriteAt, check_outboard, outboard_bytes};

/// Free bytes that are left on the file system beside a new outboard.
const MIN_FREE_BYTES: u64 = 64 * 1024 * 1024;

/// The directory of outboards. All methods block.
#[derive(Debug)]
pub(super) struct Outboards {
    directory: PathBuf,
    made: AtomicU64,
}

/// One that is being made; removed when it is not kept.
pub(super) struct NewOutboard {
    path: PathBuf,
}

/// The file of an outboard while it is written.
pub(super) struct Sink(File);

impl WriteAt for Sink {
    fn write_at(&mut self, position: u64, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_at(bytes, position)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Outboards {
    /// Makes the directory; what was unfinished in it goes.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let unfinished = directory.join("new");
        match fs::remove_dir_all(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => fs::create_dir_all(&unfinished)?,
        }
        Ok(Self { directory: directory.to_path_buf(), made: AtomicU64::new(0) })
    }

    /// Begins the outboard of a blob of `size` bytes.
    pub(super) fn create(&self, size: u64) -> io::Result<(NewOutboard, OutboardBuilder<Sink>)> {
        let needed = outboard_bytes(size).saturating_add(MIN_FREE_BYTES);
        if fs4::available_space(&self.directory)? < needed {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let new = self.new_name();
        let file = OpenOptions::new().write(true).create_new(true).open(&new.path)?;
        Ok((new, OutboardBuilder::new(size, Sink(file))?))
    }

    /// A name to put an outboard under that was made elsewhere.
    pub(super) fn new_name(&self) -> NewOutboard {
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        NewOutboard { path: self.directory.join("new").join(number.to_string()) }
    }

    /// Puts a finished one in its place. That of a blob of one group is empty, and no file.
    pub(super) fn keep(&self, new: &NewOutboard, blob: BlobId, size: u64) -> io::Result<()> {
        if outboard_bytes(size) == 0 {
            return Ok(());
        }
        let path = self.path(blob);
        if let Some(shard) = path.parent() {
            match fs::create_dir(shard) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        fs::rename(&new.path, path)
    }

    /// The outboard of a blob, all of it checked: 6 ms for a blob of a GiB. `None` for one that is empty.
    ///
    /// # Errors
    /// `NotFound` when it is missing, `InvalidData` and `UnexpectedEof` when it is not right.
    pub(super) fn read(&self, blob: BlobId, size: u64) -> io::Result<Option<File>> {
        if outboard_bytes(size) == 0 {
            return Ok(None);
        }
        let file = File::open(self.path(blob))?;
        if file.metadata()?.len() != outboard_bytes(size) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an outboard of a wrong length"));
        }
        check_outboard(blob, size, &file)?;
        Ok(Some(file))
    }

    /// Removes one, if it is there.
    pub(super) fn remove(&self, blob: BlobId) -> io::Result<()> {
        match fs::remove_file(self.path(blob)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn path(&self, blob: BlobId) -> PathBuf {
        self.directory.join(format!("{:02x}", blob.0[0])).join(blob.to_string())
    }
}

impl NewOutboard {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for NewOutboard {
    fn drop(&mut self) {
        // Gone when it was kept; what cannot be removed is removed at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn keep(outboards: &Outboards, data: &[u8]) -> BlobId {
        let (new, mut builder) = outboards.create(data.len() as u64).unwrap();
        builder.write_all(data).unwrap();
        let blob = builder.finish().unwrap();
        outboards.keep(&new, blob, data.len() as u64).unwrap();
        blob
    }

    #[test]
    fn an_outboard_is_read_until_it_is_removed_and_only_while_it_is_right() {
        let directory = tempfile::tempdir().unwrap();
        let outboards = Outboards::open(directory.path()).unwrap();
        let data = vec![3; 100_000];
        let blob = keep(&outboards, &data);
        assert_eq!(blob, BlobId::of(&data));
        assert!(outboards.read(blob, 100_000).unwrap().is_some());
        assert!(outboards.read(blob, 100_000_000).is_err(), "of another size");

        let path = outboards.path(blob);
        let mut bytes = fs::read(&path).unwrap();
        bytes[70] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert_eq!(outboards.read(blob, 100_000).unwrap_err().kind(), io::ErrorKind::InvalidData);
        assert_eq!(keep(&outboards, &data), blob);
        outboards.read(blob, 100_000).expect("made again");
        outboards.remove(blob).unwrap();
        outboards.remove(blob).unwrap();
        assert_eq!(outboards.read(blob, 100_000).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_tree_of_one_group_is_no_file() {
        let directory = tempfile::tempdir().unwrap();
        let outboards = Outboards::open(directory.path()).unwrap();
        let blob = keep(&outboards, &[1; 16 * 1024]);
        assert!(!outboards.path(blob).exists());
        assert!(outboards.read(blob, 16 * 1024).unwrap().is_none());
    }

    #[test]
    fn what_is_not_finished_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let outboards = Outboards::open(directory.path()).unwrap();
        let (new, builder) = outboards.create(100_000).unwrap();
        let path = new.path().to_path_buf();
        drop((new, builder));
        assert!(!path.exists());
        fs::write(&path, b"of a process that was killed").unwrap();
        Outboards::open(directory.path()).unwrap();
        assert!(!path.exists());
    }
}
