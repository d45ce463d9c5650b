//! What clients on other machines read through the gateway: what a peer met at the same place would get. Everything else
//! is looked for like what is not held.

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use p2p_cache_discovery::Scope;
use p2p_cache_http_gateway::{Artifact, ArtifactSource, BodyStream, PutOutcome, SourceError};
use p2p_cache_protocol::{Digest, NarInfo, Sha256Digest, StoreHash};

use super::{Artifacts, internal, within_patience};
use crate::sharing::Subject;
use crate::store::BlobMeta;

/// The artifacts of a node as another machine sees them.
pub(super) struct ForOthers {
    own: Artifacts,
    scope: Scope,
}

impl ForOthers {
    pub(super) fn new(own: Artifacts, client: IpAddr) -> Self {
        Self { own, scope: Scope::of(&client.into()) }
    }

    /// The narinfo of a path that may be shared, wherever it is found.
    async fn public(&self, hash: StoreHash) -> Result<Arc<NarInfo>, SourceError> {
        let found = within_patience(self.own.narinfos.find_for_others(hash)).await?;
        let public = self.own.policy.may_share(&Subject::path(&found.narinfo), self.scope);
        if public { Ok(found.narinfo) } else { Err(SourceError::NotFound) }
    }

    async fn require_public_nar(&self, hash: StoreHash, nar_hash: Sha256Digest) -> Result<u64, SourceError> {
        let narinfo = self.public(hash).await?;
        if narinfo.nar_hash == nar_hash { Ok(narinfo.nar_size) } else { Err(SourceError::NotFound) }
    }

    /// A blob that is held and may be shared; for others nothing is fetched by digest alone.
    async fn public_blob(&self, digest: Digest) -> Result<BlobMeta, SourceError> {
        let (store, policy) = (&self.own.store, &self.own.policy);
        if !policy.may_know(digest) {
            return Err(SourceError::NotFound);
        }
        let meta = store.find(digest).await.map_err(internal)?.ok_or(SourceError::NotFound)?;
        let mut paths = store.narinfos_of(meta.sha256).await;
        paths.retain(|narinfo| narinfo.nar_size == meta.size);
        let public = policy.may_share(&Subject::blob(&paths, meta.published), self.scope);
        if public { Ok(meta) } else { Err(SourceError::NotFound) }
    }
}

#[async_trait]
impl ArtifactSource for ForOthers {
    async fn narinfo(&self, hash: StoreHash) -> Result<NarInfo, SourceError> {
        Ok(self.own.policy.public_part(NarInfo::clone(&*self.public(hash).await?)))
    }

    async fn nar(&self, hash: StoreHash, nar_hash: Sha256Digest) -> Result<Arc<dyn Artifact>, SourceError> {
        self.require_public_nar(hash, nar_hash).await?;
        self.own.nar(hash, nar_hash).await
    }

    async fn nar_size(&self, hash: StoreHash, nar_hash: Sha256Digest) -> Result<u64, SourceError> {
        self.require_public_nar(hash, nar_hash).await
    }

    async fn blob(&self, digest: Digest) -> Result<Arc<dyn Artifact>, SourceError> {
        self.public_blob(digest).await?;
        self.own.blob(digest).await
    }

    async fn blob_size(&self, digest: Digest) -> Result<u64, SourceError> {
        Ok(self.public_blob(digest).await?.size)
    }

    async fn put_blob(
        &self,
        _digest: Digest,
        _publish: bool,
        _body: BodyStream,
    ) -> Result<PutOutcome, SourceError> {
        Err(SourceError::Invalid("uploads are taken from this machine only".to_owned()))
    }

    /// Logs, realisations and indices of debug information are not asked for on behalf of others: nothing says that they
    /// are public.
    async fn listing(&self, hash: StoreHash) -> Result<Bytes, SourceError> {
        self.public(hash).await?;
        self.own.listing(hash).await
    }
}
