//! What clients upload to this node as to any binary cache: NARs, their narinfos, and side files.
//!
//! The file of a NAR is decompressed and hashed while it arrives, and waits on disk for its narinfo. Only when that says
//! the same of it, and may come from where it came from, is the NAR made a blob and the narinfo kept. What waits too long
//! is removed; so is everything that waits when the node starts. What an upload may do is bounded: how much waits, how
//! many come in at once, and how large they become.
//!
//! An upload is private unless a shared key has signed it, like everything else: see `sharing`.

mod receive;
mod waiting;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use p2p_cache_http_gateway::{
    BodyStream, NarFile, Rejection, SideFile, SideFileName, SourceError, Uploader, Uploads,
};
use p2p_cache_protocol::{Compression, Digest, MAX_NARINFO_SIGNATURES, NarInfo, Sha256Digest};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use self::receive::receive;
use self::waiting::{Budget, Table, WaitingNar};
use crate::artifacts::NarInfos;
use crate::fetch::OnCommit;
use crate::key_ring::KeyRing;
use crate::nix_store::NixStore;
use crate::side_files::SideFiles;
use crate::store::{BlobStore, StoreError};

/// NARs that come in at once; more wait for their turn. Each costs up to 2 MiB, a thread while it is decompressed, and the
/// window of its codec.
const MAX_RECEIVING: usize = 16;
/// NARs that wait for their narinfos. Clients may send all NARs of a closure before the first narinfo.
const MAX_WAITING: usize = 16 * 1024;
/// Their bytes when the store has no limit of its own; otherwise they may take half of that.
const MAX_WAITING_BYTES: u64 = 64 * 1024 * 1024 * 1024;
/// How long a NAR waits.
const MAX_WAIT: Duration = Duration::from_secs(3600);
/// How often is looked for what has waited too long.
const SWEEP_INTERVAL: Duration = Duration::from_secs(30);

/// What the intake works with.
pub struct IntakeParts {
    /// Where NARs and narinfos go.
    pub store: BlobStore,
    /// What need not be uploaded.
    pub nix: NixStore,
    /// Told of what has come.
    pub narinfos: NarInfos,
    /// Keys of which one must have signed what comes from other machines.
    pub accepted_keys: KeyRing,
    /// Where logs and the like go.
    pub side_files: SideFiles,
    /// Told of every NAR that has become a blob.
    pub on_commit: Arc<OnCommit>,
    /// The limit of the store.
    pub max_store_bytes: Option<u64>,
}

/// Takes in uploads. Cheap to clone.
#[derive(Clone)]
pub struct Intake {
    shared: Arc<Shared>,
    _sweeper: Arc<AbortOnDropHandle<()>>,
}

struct Shared {
    parts: IntakeParts,
    table: Mutex<Table>,
    budget: Arc<Budget>,
    receiving: Semaphore,
}

impl Intake {
    /// Must be called within a runtime.
    pub fn start(parts: IntakeParts) -> Self {
        Self::with_max_wait(parts, MAX_WAIT, SWEEP_INTERVAL)
    }

    fn with_max_wait(parts: IntakeParts, max_wait: Duration, sweep_interval: Duration) -> Self {
        let max_bytes = parts.max_store_bytes.map_or(MAX_WAITING_BYTES, |max| max / 2);
        let shared = Arc::new(Shared {
            parts,
            table: Mutex::new(Table::new(MAX_WAITING)),
            budget: Budget::new(max_bytes),
            receiving: Semaphore::new(MAX_RECEIVING),
        });
        let weak = Arc::downgrade(&shared);
        let sweeper = tokio::spawn(async move {
            loop {
                tokio::time::sleep(sweep_interval).await;
                let Some(shared) = weak.upgrade() else { return };
                let expired = shared.table().expire(Instant::now(), max_wait);
                if expired > 0 {
                    tracing::info!(expired, "uploaded NARs whose narinfos never came are removed");
                }
            }
        });
        Self { shared, _sweeper: Arc::new(AbortOnDropHandle::new(sweeper)) }
    }
}

impl Intake {
    /// The NAR in a file that was uploaded, also before the last start.
    pub(crate) async fn nar_hash_of(&self, file: &NarFile) -> Option<Sha256Digest> {
        let finished = self.shared.table().finished(file);
        if finished.is_some() {
            return finished;
        }
        let noted = self.shared.parts.side_files.held(&file.to_string()).await?;
        std::str::from_utf8(&noted.bytes).ok()?.parse().ok()
    }
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a NAR is on this machine, as a blob or in the live store.
    async fn is_held(&self, narinfo: &NarInfo) -> Result<bool, SourceError> {
        let digest = Digest::Sha256(narinfo.nar_hash);
        if let Some(meta) = self.parts.store.find(digest).await.map_err(internal)? {
            return Ok(meta.size == narinfo.nar_size);
        }
        let live = self.parts.nix.open_nar(narinfo.store_path.hash()).await.ok().flatten();
        Ok(live.is_some_and(|live| live.sha256 == narinfo.nar_hash && live.reader.size() == narinfo.nar_size))
    }

    /// What is to be kept of an upload beside what is known of the path, unless that is better.
    async fn reconcile(&self, new: NarInfo, from: Uploader) -> Result<(NarInfo, bool), SourceError> {
        let keys = self.parts.accepted_keys.get();
        let signed = new.verified_by(&keys).is_some();
        if from == Uploader::Other && !signed {
            return Err(SourceError::Rejected(Rejection::Unsigned));
        }
        let mut new = plain(new);
        let Some(old) = self.parts.store.narinfo(new.store_path.hash()).await else { return Ok((new, true)) };
        if old.fingerprint() == new.fingerprint() {
            for signature in old.signatures {
                if new.signatures.len() < MAX_NARINFO_SIGNATURES && !new.signatures.contains(&signature) {
                    new.signatures.push(signature);
                }
            }
        } else if !signed && old.verified_by(&keys).is_some() {
            return Err(SourceError::Rejected(Rejection::Superseded));
        }
        Ok((new, false))
    }

    /// Makes a blob of the NAR, if no other upload did so meanwhile.
    async fn commit(&self, file: &NarFile, nar: &WaitingNar) -> Result<(), SourceError> {
        let mut spooled = nar.spooled.lock().await;
        let Some((blob, _budget)) = spooled.take() else { return Ok(()) };
        let held = self.parts.store.find(Digest::Sha256(nar.sha256)).await.map_err(internal)?;
        if held.is_none()
            && let Err(error) = self.parts.store.commit(blob).await
        {
            self.table().remove(file);
            return Err(put_error(&error));
        }
        self.table().finish(file, nar);
        if file.compression != Compression::None {
            // Whoever uploaded it believes for a month that it can be had by this name.
            let note = SideFile { bytes: nar.sha256.to_string().into(), encoding: None };
            if let Err(error) = self.parts.side_files.put(&file.to_string(), note).await {
                tracing::warn!(%file, %error, "cannot note under which name a NAR was uploaded");
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Uploads for Intake {
    async fn nar_file_size(&self, file: &NarFile) -> Result<u64, SourceError> {
        if let Some(waiting) = self.shared.table().get(file) {
            return Ok(waiting.file_size);
        }
        let nar_hash = match &file.compression {
            Compression::None => file.file_hash,
            _ => self.nar_hash_of(file).await.ok_or(SourceError::NotFound)?,
        };
        let held = self.shared.parts.store.find(Digest::Sha256(nar_hash)).await.map_err(internal)?;
        held.map(|meta| meta.size).ok_or(SourceError::NotFound)
    }

    async fn put_nar_file(&self, file: NarFile, body: BodyStream) -> Result<(), SourceError> {
        if self.shared.table().is_full() {
            return Err(SourceError::Rejected(Rejection::TooManyWaiting));
        }
        let turn = self.shared.receiving.acquire().await;
        let _turn = turn.map_err(|closed| SourceError::Internal(closed.to_string()))?;
        let nar = receive(&self.shared.parts.store, &self.shared.budget, &file, body).await?;
        tracing::debug!(%file, nar_hash = %nar.sha256, size_bytes = nar.size, "a NAR waits for its narinfo");
        self.shared.table().insert(file, nar)
    }

    async fn put_narinfo(&self, narinfo: NarInfo, from: Uploader) -> Result<bool, SourceError> {
        let shared = &self.shared;
        let file = NarFile::parse(&narinfo.url);
        let waiting = file.and_then(|file| Some((shared.table().get(&file)?, file)));
        if let Some((nar, file)) = &waiting {
            nar.check(file, &narinfo)?;
        } else if !shared.is_held(&narinfo).await? {
            return Err(SourceError::Rejected(Rejection::NarMissing));
        }
        let (narinfo, is_new) = shared.reconcile(narinfo, from).await?;
        if let Some((nar, file)) = &waiting {
            shared.commit(file, nar).await?;
        }
        // Another upload may have taken the waiting NAR and failed.
        if !shared.is_held(&narinfo).await? {
            return Err(SourceError::Rejected(Rejection::NarMissing));
        }
        shared.parts.store.put_narinfo(&narinfo).await.map_err(|error| put_error(&error))?;
        shared.parts.narinfos.forget(narinfo.store_path.hash());
        let digest = Digest::Sha256(narinfo.nar_hash);
        if let Some(meta) = shared.parts.store.find(digest).await.map_err(internal)? {
            (shared.parts.on_commit)(&meta, Some(&narinfo));
        }
        tracing::info!(path = %narinfo.store_path, is_new, "uploaded");
        Ok(is_new)
    }

    async fn put_side_file(&self, name: SideFileName, file: SideFile) -> Result<bool, SourceError> {
        self.shared.parts.side_files.put(name.as_str(), file).await
    }
}

/// The narinfo as if it had been fetched from this node: the NAR is kept uncompressed, whatever it came as.
fn plain(narinfo: NarInfo) -> NarInfo {
    NarInfo {
        url: format!("nar/{}-{}.nar", narinfo.store_path.hash(), narinfo.nar_hash.to_nix32()),
        compression: Compression::None,
        file_hash: Some(narinfo.nar_hash),
        file_size: Some(narinfo.nar_size),
        ..narinfo
    }
}

fn internal(error: StoreError) -> SourceError {
    SourceError::Internal(error.to_string())
}

fn put_error(error: &StoreError) -> SourceError {
    crate::artifacts::put_error(error)
}

#[cfg(test)]
mod tests;
