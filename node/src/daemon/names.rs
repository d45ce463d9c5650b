//! Keeps the table of public names: all that is held and may be shared is listed at the start and again when much of it
//! has gone; what comes is noted at once.

use std::collections::HashSet;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use p2p_cache_discovery::Scope;
use p2p_cache_protocol::{BlobId, NarInfo};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::nix_store::{NixStore, PathVisitor, StoredPath};
use crate::sharing::{Name, SharingPolicy, Subject};
use crate::store::{BlobMeta, BlobStore, Visitor};

/// A listing that failed is tried again after this long; until then anything is looked for.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// A blob is held from now on, and `narinfo` says what it is.
pub(super) fn note(policy: &SharingPolicy, meta: &BlobMeta, narinfo: Option<&NarInfo>) {
    let narinfo = narinfo.filter(|narinfo| narinfo.nar_hash == meta.sha256 && narinfo.nar_size == meta.size);
    let blob = Subject::blob(narinfo.map_or(&[], std::slice::from_ref), meta.published);
    policy.note(&blob, [meta.sha256.into(), meta.id.into()]);
    if let Some(narinfo) = narinfo {
        policy.note(&Subject::path(narinfo), [narinfo.store_path.hash().into()]);
    }
}

/// A task that lists.
pub(super) struct NameKeeper {
    stopping: CancellationToken,
    task: JoinHandle<()>,
}

impl NameKeeper {
    /// Must be called within a runtime.
    pub(super) fn start(store: BlobStore, nix: NixStore, policy: Arc<SharingPolicy>) -> Self {
        let stopping = CancellationToken::new();
        let stop = stopping.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = keep(&store, &nix, &policy, &stop) => {}
            }
        });
        Self { stopping, task }
    }

    /// A listing under way ends at once.
    pub(super) async fn shutdown(self) {
        self.stopping.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "listing what may be shared failed");
        }
    }
}

async fn keep(store: &BlobStore, nix: &NixStore, policy: &Arc<SharingPolicy>, stopping: &CancellationToken) {
    let mut opened = nix.opened();
    loop {
        policy.names().begin_listing();
        opened.borrow_and_update();
        let listed = async {
            let listing = store.visit(Listing::new(policy.clone(), stopping.clone())).await;
            nix.visit(listing.map_err(io::Error::other)?).await
        };
        match listed.await {
            Ok(listing) => {
                tracing::debug!(names = listing.names.len(), "listed what may be shared");
                policy.names().end_listing(listing.names);
                tokio::select! {
                    () = policy.names().outdated() => {}
                    Ok(()) = opened.changed() => {}
                }
            }
            Err(error) => {
                tracing::warn!(%error, "cannot list what may be shared; tried again in {} s", RETRY_AFTER.as_secs());
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }
}

/// Collects the names of what may be shared.
struct Listing {
    policy: Arc<SharingPolicy>,
    stopping: CancellationToken,
    names: HashSet<Name>,
    /// NARs of public paths.
    nars: HashSet<Name>,
}

impl Listing {
    fn new(policy: Arc<SharingPolicy>, stopping: CancellationToken) -> Self {
        Self { policy, stopping, names: HashSet::new(), nars: HashSet::new() }
    }

    fn goes_on(&self) -> ControlFlow<()> {
        if self.stopping.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

impl Visitor for Listing {
    fn narinfo(&mut self, narinfo: &NarInfo) -> ControlFlow<()> {
        if self.policy.may_share(&Subject::path(narinfo), Scope::Lan) {
            self.names.insert(narinfo.store_path.hash().into());
            self.nars.insert(narinfo.nar_hash.into());
        }
        self.goes_on()
    }

    /// Whether a path is excluded that has the same NAR as a public one is seen when somebody asks.
    fn blob(&mut self, blob: &BlobMeta) -> ControlFlow<()> {
        let by_hand = self.policy.may_share(&Subject::blob(&[], blob.published), Scope::Lan);
        if by_hand || self.nars.contains(&blob.sha256.into()) {
            self.names.extend([Name::from(blob.sha256), blob.id.into()]);
        }
        self.goes_on()
    }
}

/// What is hashed later is asked for under the other names already.
impl PathVisitor for Listing {
    fn path(&mut self, path: &StoredPath, blob: Option<BlobId>) -> ControlFlow<()> {
        let narinfo = path.gateway_narinfo();
        if self.policy.may_share(&Subject::path(&narinfo), Scope::Lan) {
            self.names.extend([Name::from(path.store_path.hash()), path.nar_hash.into()]);
            self.names.extend(blob.map(Name::from));
        }
        self.goes_on()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::stream;
    use p2p_cache_protocol::{Digest, SecretKey, Sha256Digest};

    use super::*;
    use crate::sharing::SharingRules;
    use crate::store::StoreConfig;

    async fn put(store: &BlobStore, bytes: &'static [u8], publish: bool) -> BlobMeta {
        let body = stream::iter([Ok(Bytes::from_static(bytes))]);
        store.put(Digest::Sha256(Sha256Digest::of(bytes)), body, publish).await.unwrap()
    }

    fn narinfo(meta: &BlobMeta, key: Option<&SecretKey>) -> NarInfo {
        let hash = meta.sha256.to_nix32();
        let (path, size) = (&hash[..32], meta.size);
        let text = format!(
            "StorePath: /nix/store/{path}-x\nURL: nar/x\nCompression: none\nNarHash: sha256:{hash}\nNarSize: {size}\n\
             References: \n"
        );
        let mut narinfo = NarInfo::parse(&text).unwrap();
        key.into_iter().for_each(|key| narinfo.sign(key));
        narinfo
    }

    #[tokio::test]
    async fn only_what_may_be_shared_is_listed_or_noted() {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(StoreConfig::new(directory.path())).await.unwrap();
        let key = SecretKey::from_seed("shared-1", &[1; 32]).unwrap();
        let other = SecretKey::from_seed("private-1", &[2; 32]).unwrap();
        let (signed, unsigned) = (put(&store, b"signed", false).await, put(&store, b"unsigned", false).await);
        let (foreign, by_hand) = (put(&store, b"foreign", false).await, put(&store, b"by hand", true).await);
        let private = put(&store, b"private", false).await;
        let paths = [narinfo(&signed, Some(&key)), narinfo(&unsigned, None), narinfo(&foreign, Some(&other))];
        for path in &paths {
            store.put_narinfo(path).await.unwrap();
        }
        let policy = || {
            let public_keys = vec![key.public_key()];
            Arc::new(SharingPolicy::new(SharingRules { public_keys, ..SharingRules::default() }))
        };
        let check = |policy: &SharingPolicy| {
            let known = |meta: &BlobMeta| {
                assert_eq!(policy.may_know(meta.id), policy.may_know(meta.sha256));
                policy.may_know(meta.id)
            };
            assert_eq!(
                [signed, by_hand, unsigned, foreign, private].map(|meta| known(&meta)),
                [true, true, false, false, false]
            );
            assert_eq!(
                paths.each_ref().map(|path| policy.may_know(path.store_path.hash())),
                [true, false, false]
            );
        };

        let listed = policy();
        let keeper = NameKeeper::start(store.clone(), NixStore::none(), listed.clone());
        while listed.may_know(private.id) {
            tokio::task::yield_now().await;
        }
        check(&listed);
        keeper.shutdown().await;

        let noted = policy();
        noted.names().end_listing(HashSet::new());
        let [first, second, third] = paths.each_ref().map(Some);
        for (meta, narinfo) in
            [(&signed, first), (&unsigned, second), (&foreign, third), (&by_hand, None), (&private, None)]
        {
            note(&noted, meta, narinfo);
        }
        check(&noted);
    }
}
