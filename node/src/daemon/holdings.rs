//! The store as the upload server sees it.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use p2p_cache_protocol::{BlobId, Claim, Digest, GroupRange, NarInfo, Sha256Digest, StoreHash};

use crate::peers::{Held, HeldBlob, Holdings};
use crate::store::{BlobMeta, BlobStore, StoredBlob};

#[async_trait]
impl Holdings for BlobStore {
    async fn find(&self, digest: Digest) -> io::Result<Option<Held>> {
        let meta = BlobStore::find(self, digest).await.map_err(io::Error::other)?;
        Ok(meta.as_ref().map(held))
    }

    async fn open(&self, blob: BlobId) -> io::Result<Option<Arc<dyn HeldBlob>>> {
        let blob = self.open_blob(blob).await.map_err(io::Error::other)?;
        Ok(blob.map(|blob| Arc::new(blob) as Arc<dyn HeldBlob>))
    }

    async fn narinfo(&self, hash: StoreHash) -> io::Result<Option<NarInfo>> {
        Ok(BlobStore::narinfo(self, hash).await)
    }

    async fn narinfos_of(&self, nar_hash: Sha256Digest) -> io::Result<Vec<NarInfo>> {
        Ok(BlobStore::narinfos_of(self, nar_hash).await)
    }
}

impl HeldBlob for StoredBlob {
    fn held(&self) -> Held {
        held(self.meta())
    }

    fn encode(&self, range: GroupRange, out: &mut [u8]) -> io::Result<()> {
        StoredBlob::encode(self, range, out)
    }
}

pub(super) fn held(meta: &BlobMeta) -> Held {
    Held { claim: Claim { sha256: meta.sha256, blob: meta.id, size: meta.size }, published: meta.published }
}
