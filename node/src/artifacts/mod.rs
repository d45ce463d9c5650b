//! The gateway's [`ArtifactSource`]: what is held is read from the store or the live Nix store, what is not is fetched while
//! it is read.

mod buffers;
mod encoded;
mod live;
mod narinfos;
mod others;
mod site;
mod stored;
mod transferring;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;
use p2p_cache_http_gateway::{
    Artifact, ArtifactSource, BodyStream, NarFile, PutOutcome, SideFile, SideFileName, SourceError, Uploads,
};
use p2p_cache_protocol::{Digest, NarInfo, Sha256Digest, StoreHash};

pub use self::live::LiveArtifact;
use self::narinfos::FoundNarInfo;
pub use self::narinfos::NarInfos;
use self::others::ForOthers;
use self::stored::StoredArtifact;
use self::transferring::TransferArtifact;
use crate::fetch::{FetchEngine, FetchError, FetchRequest, OnCommit, Transfer};
use crate::intake::{Intake, IntakeParts};
use crate::key_ring::KeyRing;
use crate::nar_listing;
use crate::nix_store::{NixStore, OpenNar};
use crate::sharing::SharingPolicy;
use crate::side_files::SideFiles;
use crate::store::{BlobStore, StoreError};

/// Transfers begun for one request while none of their bytes had reached the client: a liar costs one each.
const MAX_ATTEMPTS: u32 = 4;
/// A read is answered within this time, if only with 404: Nix waits for minutes on a silent cache.
const ANSWER_PATIENCE: Duration = Duration::from_secs(13);

/// Store, transfers, peers and origins behind one trait. Cheap to clone.
#[derive(Clone)]
pub struct Artifacts {
    store: BlobStore,
    nix: NixStore,
    engine: FetchEngine,
    narinfos: NarInfos,
    policy: Arc<SharingPolicy>,
    on_put: Arc<OnCommit>,
    side_files: Option<SideFiles>,
    intake: Option<Intake>,
}

impl Artifacts {
    /// `policy` decides what clients on other machines see, `on_put` is told of every blob that a client stored.
    pub fn new(
        store: BlobStore,
        nix: NixStore,
        engine: FetchEngine,
        narinfos: NarInfos,
        policy: Arc<SharingPolicy>,
        on_put: OnCommit,
    ) -> Self {
        let on_put = Arc::new(on_put);
        Self { store, nix, engine, narinfos, policy, on_put, side_files: None, intake: None }
    }

    /// Has side files too, and takes uploads of binary caches: from other machines what one of `accepted_keys` signed.
    /// Must be called within a runtime.
    #[must_use]
    pub fn with_uploads(
        self,
        side_files: SideFiles,
        accepted_keys: KeyRing,
        max_store_bytes: Option<u64>,
    ) -> Self {
        let intake = Intake::start(IntakeParts {
            store: self.store.clone(),
            nix: self.nix.clone(),
            narinfos: self.narinfos.clone(),
            accepted_keys,
            side_files: side_files.clone(),
            on_commit: Arc::clone(&self.on_put),
            max_store_bytes,
        });
        Self { side_files: Some(side_files), intake: Some(intake), ..self }
    }

    /// What is held, or what is arriving; `None` when neither.
    ///
    /// Transfers are looked at first: one that ends in between has been committed by then.
    async fn local(&self, digest: Digest) -> Result<Option<Arc<dyn Artifact>>, SourceError> {
        if let Some(transfer) = self.engine.running(&digest)
            && transfer.ready(0).await.is_ok()
        {
            return Ok(Some(Arc::new(TransferArtifact::new(transfer))));
        }
        self.held(digest).await.map_err(internal)
    }

    /// What is held whole: in the store, or as a path of the live Nix store that was noted.
    async fn held(&self, digest: Digest) -> Result<Option<Arc<dyn Artifact>>, StoreError> {
        if let Some(meta) = self.store.find(digest).await?
            && let Some(blob) = self.store.open_blob(meta.id).await?
        {
            return Ok(Some(Arc::new(StoredArtifact::new(blob, digest))));
        }
        Ok(live(self.nix.open_digest(digest).await, digest))
    }

    /// The NAR of a path of the live Nix store, noted or not.
    async fn live_nar(&self, hash: StoreHash, nar_hash: Sha256Digest) -> Option<Arc<dyn Artifact>> {
        let open = self.nix.open_nar(hash).await;
        live(open.map(|open| open.filter(|open| open.sha256 == nar_hash)), Digest::Sha256(nar_hash))
    }

    /// The file of a NAR as an origin has it: passed on, and not kept.
    async fn origin_file(
        &self,
        file: &NarFile,
    ) -> Result<Option<impl Stream<Item = io::Result<Bytes>> + Send + use<>>, SourceError> {
        let Some(files) = &self.side_files else { return Ok(None) };
        let opened = files.origins().open_file(&file.to_string(), file.file_hash).await;
        let opened = opened.map_err(|error| SourceError::Upstream(error.to_string()))?;
        Ok(opened.map(|stream| {
            futures::stream::unfold(stream, |mut stream| async move {
                let next = stream.next().await?;
                Some((next.map_err(io::Error::other), stream))
            })
        }))
    }

    /// Fetches until bytes can flow. Content that turned out wrong before any of it left is fetched again elsewhere.
    async fn fetch(&self, request: FetchRequest) -> Result<Arc<Transfer>, SourceError> {
        let mut attempt = 1;
        loop {
            let started = match self.engine.fetch(request.clone()).await {
                Ok(transfer) => transfer.ready(0).await.map(|()| transfer),
                Err(error) => Err(error),
            };
            match started {
                Ok(transfer) => return Ok(transfer),
                Err(error @ FetchError::Mismatch { .. }) if attempt < MAX_ATTEMPTS => {
                    tracing::warn!(digest = %request.digest, %error, attempt, "fetching again from other sources");
                    attempt += 1;
                }
                Err(error) => return Err(source_error(&error)),
            }
        }
    }

    /// What is known of a NAR. A node that knows nothing but its name may still find peers that hold it.
    async fn nar_request(
        &self,
        hash: StoreHash,
        nar_hash: Sha256Digest,
    ) -> Result<FetchRequest, SourceError> {
        let digest = Digest::Sha256(nar_hash);
        match self.narinfos.find(hash).await {
            Ok(found) => {
                require_same_nar(&found, nar_hash)?;
                Ok(FetchRequest {
                    digest,
                    size_bytes: Some(found.narinfo.nar_size),
                    narinfo: Some(Arc::clone(&found.narinfo)),
                    origin: found.origin,
                    leading: false,
                })
            }
            Err(error) => {
                tracing::debug!(%hash, %error, "no narinfo; peers are asked for the NAR alone");
                Ok(FetchRequest { digest, size_bytes: None, narinfo: None, origin: None, leading: false })
            }
        }
    }
}

#[async_trait]
impl ArtifactSource for Artifacts {
    fn seen_from(&self, client: IpAddr) -> Option<Arc<dyn ArtifactSource>> {
        Some(Arc::new(ForOthers::new(self.clone(), client)))
    }

    async fn narinfo(&self, hash: StoreHash) -> Result<NarInfo, SourceError> {
        let found = within_patience(self.narinfos.find(hash)).await?;
        Ok(NarInfo::clone(&found.narinfo))
    }

    async fn nar(&self, hash: StoreHash, nar_hash: Sha256Digest) -> Result<Arc<dyn Artifact>, SourceError> {
        within_patience(async {
            if let Some(artifact) = self.local(Digest::Sha256(nar_hash)).await? {
                return Ok(artifact);
            }
            if let Some(artifact) = self.live_nar(hash, nar_hash).await {
                return Ok(artifact);
            }
            let transfer = self.fetch(self.nar_request(hash, nar_hash).await?).await?;
            Ok(Arc::new(TransferArtifact::new(transfer)) as Arc<dyn Artifact>)
        })
        .await
    }

    async fn nar_size(&self, hash: StoreHash, nar_hash: Sha256Digest) -> Result<u64, SourceError> {
        if let Some(meta) = self.store.find(Digest::Sha256(nar_hash)).await.map_err(internal)? {
            return Ok(meta.size);
        }
        let found = within_patience(self.narinfos.find(hash)).await?;
        require_same_nar(&found, nar_hash)?;
        Ok(found.narinfo.nar_size)
    }

    async fn blob(&self, digest: Digest) -> Result<Arc<dyn Artifact>, SourceError> {
        within_patience(async {
            if let Some(artifact) = self.local(digest).await? {
                return Ok(artifact);
            }
            let request =
                FetchRequest { digest, size_bytes: None, narinfo: None, origin: None, leading: false };
            let transfer = self.fetch(request).await?;
            Ok(Arc::new(TransferArtifact::new(transfer)) as Arc<dyn Artifact>)
        })
        .await
    }

    async fn blob_size(&self, digest: Digest) -> Result<u64, SourceError> {
        if let Some(held) = self.held(digest).await.map_err(internal)? {
            return Ok(held.size());
        }
        within_patience(async { self.engine.size_of(digest).await.map_err(|error| source_error(&error)) })
            .await
    }

    async fn put_blob(
        &self,
        digest: Digest,
        publish: bool,
        body: BodyStream,
    ) -> Result<PutOutcome, SourceError> {
        let held = self.store.find(digest).await.map_err(internal)?;
        let meta = match held {
            Some(meta) if meta.published || !publish => meta,
            _ => self.store.put(digest, body, publish).await.map_err(|error| put_error(&error))?,
        };
        (self.on_put)(&meta, None);
        Ok(PutOutcome { created: held.is_none(), sha256: meta.sha256, blob: meta.id, size: meta.size })
    }

    /// What only the Nix store has goes when Nix collects it: a copy of our own is what can be kept.
    async fn pin_blob(&self, digest: Digest, pinned: bool) -> Result<(), SourceError> {
        let mut held = self.store.find(digest).await.map_err(internal)?;
        if held.is_none()
            && pinned
            && let Some(path) = live(self.nix.open_digest(digest).await, digest)
        {
            let whole = 0..path.size();
            let copy = self.store.put(digest, path.read(whole), false).await;
            held = Some(copy.map_err(|error| put_error(&error))?);
        }
        let id = held.ok_or(SourceError::NotFound)?.id;
        let marked = if pinned { self.store.pin(id).await } else { self.store.unpin(id).await };
        match marked {
            Err(StoreError::NotHeld { .. }) => Err(SourceError::NotFound),
            other => other.map(|_| ()).map_err(internal),
        }
    }

    /// Made from the NAR where it is held; nobody fetches one for that, who may want the listings of thousands.
    async fn listing(&self, hash: StoreHash) -> Result<Bytes, SourceError> {
        let found = within_patience(self.narinfos.find(hash)).await?;
        let nar_hash = found.narinfo.nar_hash;
        let held = match self.held(Digest::Sha256(nar_hash)).await.map_err(internal)? {
            Some(held) => Some(held),
            None => self.live_nar(hash, nar_hash).await,
        };
        match (held, &self.side_files) {
            (Some(nar), _) => {
                let listing = nar_listing::list(nar).await;
                listing.map(Bytes::from).map_err(|error| SourceError::Internal(format!("{hash}: {error}")))
            }
            (None, Some(files)) => Ok(files.get(&format!("{hash}.ls")).await?.bytes),
            (None, None) => Err(SourceError::NotFound),
        }
    }

    async fn side_file(&self, name: &SideFileName) -> Result<SideFile, SourceError> {
        let files = self.side_files.as_ref().ok_or(SourceError::NotFound)?;
        within_patience(files.get(name.as_str())).await
    }

    async fn nar_file(&self, file: &NarFile) -> Result<BodyStream, SourceError> {
        let intake = self.intake.as_ref().ok_or(SourceError::NotFound)?;
        if let Some(nar_hash) = intake.nar_hash_of(file).await
            && let Some(nar) = self.held(Digest::Sha256(nar_hash)).await.map_err(internal)?
        {
            let size = nar.size();
            return encoded::encoded(nar.read(0..size), &file.compression).await;
        }
        // Indices of debug information name NARs as the origin has them.
        match within_patience(self.origin_file(file)).await? {
            Some(stream) => Ok(Box::pin(stream)),
            None => Err(SourceError::NotFound),
        }
    }

    fn uploads(&self) -> Option<Arc<dyn Uploads>> {
        self.intake.clone().map(|intake| Arc::new(intake) as Arc<dyn Uploads>)
    }
}

/// A live store that cannot be read is one that does not have it: there are other sources.
fn live(open: io::Result<Option<OpenNar>>, digest: Digest) -> Option<Arc<dyn Artifact>> {
    match open {
        Ok(open) => open.map(|open| Arc::new(LiveArtifact::new(open.reader, digest)) as Arc<dyn Artifact>),
        Err(error) => {
            tracing::debug!(%digest, %error, "not read from the live Nix store");
            None
        }
    }
}

async fn within_patience<T>(work: impl Future<Output = Result<T, SourceError>>) -> Result<T, SourceError> {
    match tokio::time::timeout(ANSWER_PATIENCE, work).await {
        Ok(result) => result,
        Err(_) => {
            let seconds = ANSWER_PATIENCE.as_secs();
            Err(SourceError::Upstream(format!("no source gave a first byte within {seconds} s")))
        }
    }
}

/// A URL names store path and NAR; when they do not belong together there is no such thing.
fn require_same_nar(found: &FoundNarInfo, nar_hash: Sha256Digest) -> Result<(), SourceError> {
    if found.narinfo.nar_hash == nar_hash { Ok(()) } else { Err(SourceError::NotFound) }
}

fn internal(error: StoreError) -> SourceError {
    SourceError::Internal(error.to_string())
}

fn source_error(error: &FetchError) -> SourceError {
    match error {
        FetchError::NotFound => SourceError::NotFound,
        FetchError::NoSpace(reason) => {
            // The gateway's error has no room for where, how much and what to do.
            tracing::warn!(%reason, "not fetched");
            SourceError::NoSpace
        }
        FetchError::Store(text) => SourceError::Internal(text.to_string()),
        FetchError::SourcesLost { .. }
        | FetchError::Mismatch { .. }
        | FetchError::Abandoned
        | FetchError::Stopped => SourceError::Upstream(error.to_string()),
    }
}

pub(crate) fn put_error(error: &StoreError) -> SourceError {
    match error {
        StoreError::Mismatch { .. } => SourceError::Mismatch(error.to_string()),
        StoreError::TooLarge { .. } => SourceError::TooLarge,
        StoreError::NoSpace { .. } => SourceError::NoSpace,
        StoreError::Body { .. } => SourceError::Invalid(error.to_string()),
        StoreError::Io { .. }
        | StoreError::Locked { .. }
        | StoreError::Incomplete { .. }
        | StoreError::Aborted { .. }
        | StoreError::TooManyPartials { .. }
        | StoreError::Index { .. }
        | StoreError::Worker { .. }
        | StoreError::NotHeld { .. } => SourceError::Internal(error.to_string()),
    }
}
