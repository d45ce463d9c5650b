//! The small files that a binary cache has beside narinfos and NARs: build logs, realisations, indices of debug
//! information, listings. What was uploaded is kept; what an origin has is passed on and kept for a while, and longer
//! when the origin cannot be reached. Bounded in size, number and total; the least recently used go first.

mod disk;
mod table;

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use p2p_cache_http_gateway::{MAX_SIDE_FILE_BYTES, SideFile, SourceError};

use self::disk::{Disk, Header};
use self::table::{Key, Table};
use crate::missing::Missing;
use crate::origin::Origins;

/// All side files together.
const MAX_TOTAL_BYTES: u64 = 512 * 1024 * 1024;
/// Their number.
const MAX_FILES: usize = 32 * 1024;
/// How long what came from an origin is given without asking again.
const FRESH_FOR: Duration = Duration::from_secs(24 * 3600);
/// Names remembered that no origin has, about 150 bytes each.
const MAX_MISSING: NonZeroUsize = NonZeroUsize::new(8 * 1024).unwrap();

/// A handle. Cheap to clone.
#[derive(Clone)]
pub struct SideFiles {
    shared: Arc<Shared>,
}

struct Shared {
    disk: Disk,
    origins: Origins,
    table: Mutex<Table>,
    missing: Missing<Key>,
}

impl SideFiles {
    /// Opens or creates the directory below a state directory. Blocking. `missing_for` is how long it is believed that no
    /// origin has a file.
    ///
    /// # Errors
    /// The disk's.
    pub fn open(state_dir: &Path, origins: Origins, missing_for: Duration) -> std::io::Result<Self> {
        let disk = Disk::open(&state_dir.join("side"))?;
        let mut table = Table::new(MAX_TOTAL_BYTES, MAX_FILES);
        for (key, entry) in disk.list()? {
            for gone in table.insert(key, entry) {
                disk.remove(gone);
            }
        }
        let missing = Missing::new(missing_for, MAX_MISSING);
        Ok(Self { shared: Arc::new(Shared { disk, origins, table: Mutex::new(table), missing }) })
    }

    /// Keeps an upload. True when there was none of that name.
    pub(crate) async fn put(&self, name: &str, file: SideFile) -> Result<bool, SourceError> {
        if file.bytes.len() > MAX_SIDE_FILE_BYTES {
            return Err(SourceError::TooLarge);
        }
        self.keep(name, file, true).await
    }

    /// A file that is kept, or that an origin has.
    pub(crate) async fn get(&self, name: &str) -> Result<SideFile, SourceError> {
        let kept = self.kept(name).await;
        if let Some((file, true)) = kept {
            return Ok(file);
        }
        let stale = kept.map(|(file, _)| file);
        match self.ask_origins(name).await {
            Ok(file) => {
                if let Err(error) = self.keep(name, file.clone(), false).await {
                    tracing::warn!(name, %error, "cannot keep a side file");
                }
                Ok(file)
            }
            Err(error) => stale.ok_or(error),
        }
    }

    /// Whom it asks.
    pub(crate) fn origins(&self) -> &Origins {
        &self.shared.origins
    }

    /// A file that is kept. Asks nobody.
    pub(crate) async fn held(&self, name: &str) -> Option<SideFile> {
        Some(self.kept(name).await?.0)
    }

    /// The file, and whether it need not be asked for again.
    async fn kept(&self, name: &str) -> Option<(SideFile, bool)> {
        let key = Key::of(name);
        let entry = self.shared.table().touch(&key)?;
        let shared = Arc::clone(&self.shared);
        let read = tokio::task::spawn_blocking(move || shared.disk.read(key)).await.ok()?;
        match read {
            Ok((header, bytes)) if header.name == name => {
                let fresh = entry.uploaded || entry.age() < FRESH_FOR;
                Some((SideFile { bytes, encoding: header.encoding }, fresh))
            }
            bad => {
                let reason =
                    bad.err().map_or_else(|| "it is another file".to_owned(), |error| error.to_string());
                tracing::warn!(name, reason, "a side file is damaged: removed");
                self.shared.table().remove(&key);
                let shared = Arc::clone(&self.shared);
                drop(tokio::task::spawn_blocking(move || shared.disk.remove(key)));
                None
            }
        }
    }

    async fn ask_origins(&self, name: &str) -> Result<SideFile, SourceError> {
        let key = Key::of(name);
        if self.shared.missing.is_known(key) {
            return Err(SourceError::NotFound);
        }
        match self.shared.origins.side_file(name, MAX_SIDE_FILE_BYTES as u64).await {
            Ok(Some(bytes)) => Ok(SideFile { bytes: Bytes::from(bytes), encoding: None }),
            Ok(None) => {
                self.shared.missing.note(key);
                Err(SourceError::NotFound)
            }
            Err(error) => Err(SourceError::Upstream(error.to_string())),
        }
    }

    async fn keep(&self, name: &str, file: SideFile, uploaded: bool) -> Result<bool, SourceError> {
        let key = Key::of(name);
        let header = Header::new(name, file.encoding, uploaded, &file.bytes);
        let shared = Arc::clone(&self.shared);
        let kept = tokio::task::spawn_blocking(move || {
            let entry = shared.disk.write(key, &header, &file.bytes)?;
            let mut table = shared.table();
            let is_new = !table.contains(&key);
            let gone = table.insert(key, entry);
            drop(table);
            shared.missing.forget(key);
            gone.into_iter().for_each(|gone| shared.disk.remove(gone));
            Ok::<_, std::io::Error>(is_new)
        });
        let kept = kept.await.map_err(|error| SourceError::Internal(error.to_string()))?;
        kept.map_err(|error| match error.kind() {
            std::io::ErrorKind::StorageFull => SourceError::NoSpace,
            _ => SourceError::Internal(format!("cannot keep {name}: {error}")),
        })
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
