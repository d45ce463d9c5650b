//! The open files and directories of one reader.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use rustix::fs::{self, CWD, Mode, OFlags};

use super::error::NarError;
use super::framing::Kind;
use super::layout::Layout;
use crate::system::LOOK_UP_ONLY;

/// Files: a few readers at a time, each in a file of its own.
const MAX_FILES: NonZeroUsize = NonZeroUsize::new(8).unwrap();
/// Directories: those between the root and a file, in a tree of usual depth.
const MAX_DIRECTORIES: NonZeroUsize = NonZeroUsize::new(15).unwrap();
/// Descriptors that a reader holds at most while nobody reads, that of the root included.
pub const MAX_DESCRIPTORS: usize = MAX_FILES.get() + MAX_DIRECTORIES.get() + 1;

/// `NONBLOCK` for what is not a file any more: a fifo must not keep us waiting for its writer.
const FILE_FLAGS: OFlags =
    OFlags::NOFOLLOW.union(OFlags::CLOEXEC).union(OFlags::NONBLOCK).union(OFlags::NOCTTY);
const DIRECTORY_FLAGS: OFlags =
    LOOK_UP_ONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// By the index of their entry in the layout; the least recently used are closed.
#[derive(Debug)]
pub(super) struct Descriptors {
    /// `None` when the root is not a directory.
    root: Option<Arc<OwnedFd>>,
    files: Cache,
    directories: Cache,
}

#[derive(Debug)]
struct Cache(Mutex<LruCache<u32, Arc<OwnedFd>>>);

impl Cache {
    fn new(capacity: NonZeroUsize) -> Self {
        Self(Mutex::new(LruCache::new(capacity)))
    }

    fn get(&self, index: u32) -> Option<Arc<OwnedFd>> {
        self.lock().get(&index).map(Arc::clone)
    }

    fn put(&self, index: u32, descriptor: OwnedFd) -> Arc<OwnedFd> {
        let descriptor = Arc::new(descriptor);
        // What is pushed out is closed after the lock is given back.
        let _closed = self.lock().push(index, Arc::clone(&descriptor));
        descriptor
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<u32, Arc<OwnedFd>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Descriptors {
    pub(super) fn open(root: &Path, layout: &Layout) -> Result<Self, NarError> {
        let directory = match layout.entry(0).kind {
            Kind::Directory => {
                let opened = fs::openat(CWD, root, DIRECTORY_FLAGS, Mode::empty())
                    .map_err(|errno| NarError::io("open", root.to_owned(), errno))?;
                Some(Arc::new(opened))
            }
            Kind::File | Kind::Executable | Kind::Symlink => None,
        };
        Ok(Self { root: directory, files: Cache::new(MAX_FILES), directories: Cache::new(MAX_DIRECTORIES) })
    }

    /// The file at `index`, if it is open.
    pub(super) fn open_file(&self, index: u32) -> Option<Arc<OwnedFd>> {
        self.files.get(index)
    }

    /// The file at `index`. Nothing is known of it yet but its name.
    pub(super) fn file(&self, root: &Path, layout: &Layout, index: u32) -> Result<Arc<OwnedFd>, NarError> {
        if let Some(open) = self.files.get(index) {
            return Ok(open);
        }
        let opened = match (&self.root, layout.name(index)) {
            (Some(top), Some(name)) => {
                let parent = self.directory(top, root, layout, layout.entry(index).parent)?;
                fs::openat(&parent, name, FILE_FLAGS, Mode::empty())
            }
            _ => fs::openat(CWD, root, FILE_FLAGS, Mode::empty()),
        };
        let opened = opened.map_err(|errno| NarError::io("open", layout.path(root, index), errno))?;
        Ok(self.files.put(index, opened))
    }

    /// The directory at `index`, entered from the nearest one above it that is open.
    fn directory(
        &self,
        top: &Arc<OwnedFd>,
        root: &Path,
        layout: &Layout,
        index: u32,
    ) -> Result<Arc<OwnedFd>, NarError> {
        let mut to_open = Vec::new();
        let mut at = index;
        let mut directory = loop {
            match layout.name(at) {
                None => break Arc::clone(top),
                Some(name) => match self.directories.get(at) {
                    Some(open) => break open,
                    None => to_open.push((at, name)),
                },
            }
            at = layout.entry(at).parent;
        };
        for (at, name) in to_open.into_iter().rev() {
            let opened = fs::openat(&directory, name, DIRECTORY_FLAGS, Mode::empty())
                .map_err(|errno| NarError::io("open", layout.path(root, at), errno))?;
            directory = self.directories.put(at, opened);
        }
        Ok(directory)
    }
}
