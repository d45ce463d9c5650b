//! Settings of the store.

use std::path::PathBuf;
use std::time::Duration;

/// Bytes of sled's page cache. sled takes several times this in practice; 16 MiB keeps three million blobs in 150 MB.
pub const DEFAULT_INDEX_CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Blobs being fetched or uploaded at once; each costs two file descriptors.
pub const DEFAULT_MAX_PARTIALS: usize = 1024;
/// Narinfo files kept. Each costs one inode and a few hundred bytes.
pub const DEFAULT_MAX_NARINFOS: u64 = 1_000_000;
/// Text bytes of the narinfos held in memory; parsed they cost about twice this.
pub const DEFAULT_NARINFO_CACHE_BYTES: usize = 16 * 1024 * 1024;
/// Short disk operations (open, stat, index get) in flight at once.
pub const DEFAULT_SHORT_PERMITS: usize = 32;

/// Bytes of the file system that are left free, for the index and for everybody else.
pub const DEFAULT_MIN_FREE_BYTES: u64 = 64 * 1024 * 1024;

/// Unfinished blobs kept to be taken up again.
pub const DEFAULT_MAX_LEFTOVERS: usize = 256;
/// Bytes on disk of those together.
pub const DEFAULT_MAX_LEFTOVER_BYTES: u64 = 16 * 1024 * 1024 * 1024;
/// An unfinished blob that was not asked for in this time is given up.
pub const DEFAULT_MAX_LEFTOVER_AGE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Settings of a [`BlobStore`](super::BlobStore).
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// The directory that holds everything; created when missing.
    pub state_dir: PathBuf,
    /// Upper bound of the bytes of all committed blobs with their outboards and of leftovers, of which there are at most
    /// an eighth of it. `None`: as much as the disk holds. Blobs being fetched come on top until they are committed.
    pub max_bytes: Option<u64>,
    /// Free bytes that new blobs leave on the file system. With 0 the index may meet a full disk, and then the store
    /// answers errors until it is opened again.
    pub min_free_bytes: u64,
    /// Blobs being written at once (two file descriptors each).
    pub max_partials: usize,
    /// Unfinished blobs kept to be taken up again; the least recently used go first.
    pub max_leftovers: usize,
    /// Bytes on disk of those together.
    pub max_leftover_bytes: u64,
    /// The age at which one is given up.
    pub max_leftover_age: Duration,
    /// Narinfo files kept on disk; the oldest without a blob go first.
    pub max_narinfos: u64,
    /// Memory for parsed narinfos, counted as bytes of their text.
    pub narinfo_cache_bytes: usize,
    /// sled's page cache in bytes.
    pub index_cache_bytes: u64,
    /// Short blocking operations in flight at once (one thread each while it runs).
    pub short_permits: usize,
    /// Long blocking operations (hashing, tree building) in flight at once (one thread each while it runs).
    pub long_permits: usize,
}

impl StoreConfig {
    /// The defaults in the given directory.
    pub fn new(state_dir: impl Into<PathBuf>) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        StoreConfig {
            state_dir: state_dir.into(),
            max_bytes: None,
            min_free_bytes: DEFAULT_MIN_FREE_BYTES,
            max_partials: DEFAULT_MAX_PARTIALS,
            max_leftovers: DEFAULT_MAX_LEFTOVERS,
            max_leftover_bytes: DEFAULT_MAX_LEFTOVER_BYTES,
            max_leftover_age: DEFAULT_MAX_LEFTOVER_AGE,
            max_narinfos: DEFAULT_MAX_NARINFOS,
            narinfo_cache_bytes: DEFAULT_NARINFO_CACHE_BYTES,
            index_cache_bytes: DEFAULT_INDEX_CACHE_BYTES,
            short_permits: DEFAULT_SHORT_PERMITS,
            long_permits: cores.saturating_mul(2).max(4),
        }
    }
}
