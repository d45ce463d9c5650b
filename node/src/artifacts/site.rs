//! What this node does on behalf of its site: asks the origins where it leads, and passes on what is on its way in.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use p2p_cache_discovery::PeerId;
use p2p_cache_protocol::{BlobId, Digest, GroupRange, NarInfo, StoreHash};
use tokio::sync::watch;

use super::Artifacts;
use crate::fetch::{FetchRequest, Transfer};
use crate::peers::{ArrivingBlob, Led, Site};

#[async_trait]
impl Site for Artifacts {
    async fn narinfo(&self, hash: StoreHash) -> Option<NarInfo> {
        let found = self.narinfos.find_for_site(hash).await.ok()?;
        Some(NarInfo::clone(&found.narinfo))
    }

    async fn nar(&self, narinfo: NarInfo, offset: u64, asker: PeerId) -> Option<Led> {
        let size = narinfo.nar_size;
        let digest = Digest::Sha256(narinfo.nar_hash);
        if let Some(transfer) = self.engine.running(&digest) {
            // Two nodes that each believe the other leads must not wait for each other.
            let circle = transfer.following() == Some(asker);
            return (!circle && transfer.size() == size).then(|| led(transfer, offset));
        }
        if let Some(held) = self.held(digest).await.ok().flatten() {
            return (held.size() == size).then(|| Led { size, bytes: held.read(offset..size) });
        }
        let found = self.narinfos.find_for_site(narinfo.store_path.hash()).await.ok()?;
        let request = FetchRequest {
            digest,
            size_bytes: Some(size),
            origin: found.origin,
            narinfo: Some(found.narinfo),
            leading: true,
        };
        match self.engine.fetch(request).await {
            Ok(transfer) => Some(led(transfer, offset)),
            Err(error) => {
                tracing::debug!(%digest, %error, "cannot fetch for the site");
                None
            }
        }
    }

    fn arriving(&self, digest: Digest) -> Option<Arc<dyn ArrivingBlob>> {
        let transfer = match digest {
            Digest::Sha256(_) => self.engine.running(&digest)?,
            Digest::Blake3(blob) => {
                let mut transfers = self.engine.transfers().into_iter();
                transfers.find(|transfer| transfer.blob() == Some(blob) && transfer.failure().is_none())?
            }
        };
        let blob = transfer.blob()?;
        Some(Arc::new(ArrivingTransfer { blob, transfer }))
    }

    fn wanted(&self, digest: Digest, peer: PeerId) {
        // Whoever asked is asked in turn, which would tell that we are fetching something private.
        let private = |transfer: Arc<Transfer>| {
            !transfer.narinfo().is_some_and(|narinfo| self.narinfos.is_public(narinfo))
        };
        if !self.engine.running(&digest).is_some_and(private) {
            self.engine.wanted(digest, peer);
        }
    }
}

fn led(transfer: Arc<Transfer>, offset: u64) -> Led {
    let size = transfer.size();
    Led { size, bytes: transfer.relay(offset..size).boxed() }
}

/// A transfer whose tree is known.
struct ArrivingTransfer {
    blob: BlobId,
    transfer: Arc<Transfer>,
}

impl ArrivingBlob for ArrivingTransfer {
    fn blob(&self) -> BlobId {
        self.blob
    }

    fn size(&self) -> u64 {
        self.transfer.size()
    }

    fn narinfo(&self) -> Option<Arc<NarInfo>> {
        self.transfer.narinfo().cloned()
    }

    fn runs(&self) -> Vec<GroupRange> {
        self.transfer.partial().verified()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.transfer.partial().changes()
    }

    fn is_abandoned(&self) -> bool {
        self.transfer.failure().is_some()
    }

    fn encode(&self, range: GroupRange, out: &mut [u8]) -> io::Result<bool> {
        self.transfer.partial().encode_verified(range, out)
    }
}
