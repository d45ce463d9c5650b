//! Open NARs of store paths, shared by whoever reads them.

use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use p2p_cache_protocol::{StoreHash, StorePath};

use super::nar::{Layout, NarReader};

/// Readers kept open, each with up to [`MAX_DESCRIPTORS`](super::nar::MAX_DESCRIPTORS) descriptors.
const MAX_READERS: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// The least recently used readers are closed; their layouts are kept somewhat longer, as they take longest to make.
#[derive(Debug)]
pub(super) struct Readers {
    root: PathBuf,
    max_layout_bytes: usize,
    cached: Mutex<Cached>,
}

#[derive(Debug)]
struct Cached {
    readers: LruCache<Key, Arc<NarReader>>,
    layouts: LruCache<Key, Arc<Layout>>,
    layout_bytes: usize,
}

/// A path as it was registered: one that was collected and came back is another one.
type Key = (StoreHash, i64);

impl Readers {
    /// `max_layout_bytes` bounds the memory of the layouts that are kept; a larger one is used and not kept.
    pub(super) fn new(root: &Path, max_layout_bytes: usize) -> Self {
        let readers = LruCache::new(MAX_READERS);
        let cached = Cached { readers, layouts: LruCache::unbounded(), layout_bytes: 0 };
        Self { root: root.to_path_buf(), max_layout_bytes, cached: Mutex::new(cached) }
    }

    /// Where the files of a path stand.
    pub(super) fn real_path(&self, path: &StorePath) -> PathBuf {
        self.root.join("nix/store").join(path.base_name())
    }

    /// A reader of the path that was registered as `id`, whose NAR has `nar_size` bytes. Blocks: walks the tree when
    /// that was not done lately.
    ///
    /// # Errors
    /// What walking and opening yields; `InvalidData` when the NAR has another size than Nix noted.
    pub(super) fn open(&self, path: &StorePath, id: i64, nar_size: u64) -> io::Result<Arc<NarReader>> {
        let key = (path.hash(), id);
        if let Some(reader) = self.lock().readers.get(&key) {
            return Ok(Arc::clone(reader));
        }
        let real_path = self.real_path(path);
        let known = self.lock().layouts.get(&key).map(Arc::clone);
        let layout = match known {
            Some(layout) => layout,
            None => Arc::new(Layout::scan(&real_path)?),
        };
        if layout.size() != nar_size {
            let reason =
                format!("{} has a NAR of {} bytes, not {nar_size}", real_path.display(), layout.size());
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        let reader = Arc::new(NarReader::open(&real_path, Arc::clone(&layout))?);
        let mut cached = self.lock();
        cached.keep(key, layout, self.max_layout_bytes);
        // What is pushed out is closed after the lock is given back.
        let _closed = cached.readers.push(key, Arc::clone(&reader));
        drop(cached);
        Ok(reader)
    }

    /// Forgets a path that is gone, or has turned out to be another one than it was.
    pub(super) fn forget(&self, hash: StoreHash, id: i64) {
        let mut cached = self.lock();
        cached.readers.pop(&(hash, id));
        if let Some(layout) = cached.layouts.pop(&(hash, id)) {
            cached.layout_bytes -= layout.heap_bytes();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Cached> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cached {
    fn keep(&mut self, key: Key, layout: Arc<Layout>, max_bytes: usize) {
        let bytes = layout.heap_bytes();
        if bytes > max_bytes {
            return;
        }
        if let Some(old) = self.layouts.put(key, layout) {
            self.layout_bytes -= old.heap_bytes();
        }
        self.layout_bytes += bytes;
        while self.layout_bytes > max_bytes
            && let Some((_, oldest)) = self.layouts.pop_lru()
        {
            self.layout_bytes -= oldest.heap_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn path(number: u8) -> StorePath {
        format!("/nix/store/{}-file", StoreHash::from([number; 20])).parse().unwrap()
    }

    /// NARs of files of this many bytes, which are all of the same length.
    fn store(count: u8) -> (tempfile::TempDir, u64) {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("nix/store")).unwrap();
        let files = (0..count).map(|number| root.path().join("nix/store").join(path(number).base_name()));
        for file in files {
            fs::write(file, [0; 1000]).unwrap();
        }
        let layout = Layout::scan(&root.path().join("nix/store").join(path(0).base_name())).unwrap();
        let size = layout.size();
        (root, size)
    }

    #[test]
    fn readers_and_layouts_are_shared_and_bounded() {
        let (root, size) = store(40);
        let one =
            Layout::scan(&root.path().join("nix/store").join(path(0).base_name())).unwrap().heap_bytes();
        let readers = Readers::new(root.path(), one * 20);
        let first = readers.open(&path(0), 1, size).unwrap();
        assert!(Arc::ptr_eq(&first, &readers.open(&path(0), 1, size).unwrap()));
        assert!(!Arc::ptr_eq(&first, &readers.open(&path(0), 2, size).unwrap()), "registered again");
        for number in 0..40 {
            readers.open(&path(number), 1, size).unwrap();
        }
        let cached = readers.lock();
        assert_eq!((cached.readers.len(), cached.layouts.len()), (MAX_READERS.get(), 20));
        assert_eq!(cached.layout_bytes, one * 20);
    }

    #[test]
    fn a_path_that_is_gone_or_of_another_size_is_an_error() {
        let (root, size) = store(1);
        let readers = Readers::new(root.path(), 1 << 20);
        assert_eq!(readers.open(&path(0), 1, size + 8).unwrap_err().kind(), io::ErrorKind::InvalidData);
        readers.open(&path(0), 1, size).unwrap();
        fs::remove_file(readers.real_path(&path(0))).unwrap();
        readers.forget(path(0).hash(), 1);
        assert_eq!(readers.open(&path(0), 1, size).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(readers.lock().layout_bytes, 0);
    }
}
