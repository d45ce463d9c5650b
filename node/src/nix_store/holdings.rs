//! The live store as the upload server sees it.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use p2p_cache_protocol::{
    BlobId, Claim, Digest, GroupRange, NarInfo, Sha256Digest, StoreHash, StorePath, tree,
};
use tokio::time::{Instant, timeout_at};

use super::NixStore;
use super::hasher::Asked;
use super::index::State;
use super::shared::{Shared, Trouble};
use crate::peers::{Held, HeldBlob, Holdings};

/// Whoever looks a path up that is not hashed yet waits this long for it at most: enough for some hundred MiB, and well
/// below the patience of a peer.
const HASH_PATIENCE: Duration = Duration::from_secs(1);

#[async_trait]
impl Holdings for NixStore {
    async fn find(&self, digest: Digest) -> io::Result<Option<Held>> {
        let until = Instant::now() + HASH_PATIENCE;
        let Some(mut settled) = self.settled() else { return Ok(None) };
        loop {
            settled.borrow_and_update();
            let Some(found) = self.blocking(move |shared| shared.look_up(digest)).await? else {
                return Ok(None);
            };
            match found {
                Found::Offered(offered) => return Ok(Some(offered.held())),
                Found::Nothing => return Ok(None),
                Found::Pending => {}
            }
            if !matches!(timeout_at(until, settled.changed()).await, Ok(Ok(()))) {
                return Ok(None);
            }
        }
    }

    async fn open(&self, blob: BlobId) -> io::Result<Option<Arc<dyn HeldBlob>>> {
        let opened = self.blocking(move |shared| shared.open_blob(blob)).await?.flatten();
        Ok(opened.map(|blob| Arc::new(blob) as Arc<dyn HeldBlob>))
    }

    async fn narinfo(&self, hash: StoreHash) -> io::Result<Option<NarInfo>> {
        let found = self.blocking(move |shared| {
            let path = shared.path_by_hash(hash)?;
            // Most likely its NAR is looked up next.
            if path.is_some() && shared.index.get(hash)?.is_some_and(|record| record.state == State::Pending)
            {
                shared.queue.ask(Asked::Path(hash));
            }
            Ok(path)
        });
        Ok(found.await?.flatten().map(|path| path.gateway_narinfo()))
    }

    async fn narinfos_of(&self, nar_hash: Sha256Digest) -> io::Result<Vec<NarInfo>> {
        let found = self.blocking(move |shared| {
            let mut narinfos = Vec::new();
            for (hash, record) in shared.index.find(Digest::Sha256(nar_hash))? {
                narinfos.extend(shared.valid_path(hash, record.id)?.map(|path| path.gateway_narinfo()));
            }
            Ok(narinfos)
        });
        Ok(found.await?.unwrap_or_default())
    }
}

/// What there is under a digest.
enum Found {
    Offered(Offered),
    /// To be hashed first, which was asked for.
    Pending,
    Nothing,
}

/// An offered path that is valid at this moment.
struct Offered {
    path: StorePath,
    id: i64,
    claim: Claim,
}

impl Offered {
    fn held(&self) -> Held {
        Held { claim: self.claim, published: false }
    }
}

impl Shared {
    fn look_up(&self, digest: Digest) -> Result<Found, Trouble> {
        let mut found = Found::Nothing;
        for (hash, record) in self.index.find(digest)? {
            // What may not be offered is not waited for either, and counts as not held.
            let path = self.valid_path(hash, record.id)?.filter(|path| self.may_offer(path));
            let Some(path) = path else { continue };
            if let Some(claim) = record.claim() {
                return Ok(Found::Offered(Offered { path: path.store_path, id: path.id, claim }));
            }
            if record.state == State::Pending {
                self.queue.ask(Asked::Path(hash));
                found = Found::Pending;
            }
        }
        Ok(found)
    }

    fn open_blob(self: &Arc<Self>, blob: BlobId) -> Result<Option<LiveBlob>, Trouble> {
        let Found::Offered(offered) = self.look_up(Digest::Blake3(blob))? else { return Ok(None) };
        let outboard = match self.outboards.read(blob, offered.claim.size) {
            Ok(outboard) => outboard,
            Err(error) => {
                tracing::warn!(%blob, %error, "the hash tree of a store path is made again");
                self.hash_again(offered.path.hash(), offered.id)?;
                return Ok(None);
            }
        };
        Ok(Some(LiveBlob { shared: Arc::clone(self), offered, outboard }))
    }
}

/// An offered path, open. It holds one descriptor; those of the path are shared with all that read it.
struct LiveBlob {
    shared: Arc<Shared>,
    offered: Offered,
    outboard: Option<File>,
}

impl HeldBlob for LiveBlob {
    fn held(&self) -> Held {
        self.offered.held()
    }

    fn encode(&self, range: GroupRange, out: &mut [u8]) -> io::Result<()> {
        let Offered { path, id, claim } = &self.offered;
        let reader = self.shared.readers.open(path, *id, claim.size)?;
        match &self.outboard {
            Some(outboard) => tree::encode_range_into(claim.blob, claim.size, &*reader, outboard, range, out),
            None => tree::encode_range_into(claim.blob, claim.size, &*reader, &[][..], range, out),
        }
    }
}
