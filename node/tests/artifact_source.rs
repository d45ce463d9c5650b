//! The node's `ArtifactSource` over real stores, with peers in memory: the conformance suite of the trait, and what
//! liars can and cannot do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt};
use p2p_cache::artifacts::{Artifacts, NarInfos};
use p2p_cache::discovery::PeerId;
use p2p_cache::fetch::scheduler::Timing;
use p2p_cache::fetch::{FetchEngine, FetchRequest, Leader, Offer, Peers};
use p2p_cache::key_ring::KeyRing;
use p2p_cache::metrics::{Metrics, Source};
use p2p_cache::nix_store::NixStore;
use p2p_cache::origin::{OriginConfig, Origins};
use p2p_cache::peers::{Arriving, BanReason, PeerError, Watched};
use p2p_cache::side_files::SideFiles;
use p2p_cache::store::{BlobStore, StoreConfig};
use p2p_cache_http_gateway::conformance::{self, Fixture, sample_bytes};
use p2p_cache_http_gateway::{Artifact, ArtifactSource, SourceError};
use p2p_cache_protocol::{
    BlobId, Claim, Digest, GroupRange, NarInfo, Sha256Digest, StoreHash, TrustedKeys, create_outboard,
    encode_range,
};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tempfile::TempDir;

/// How a peer in memory behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Manner {
    Honest,
    /// Flips a bit in every answer.
    Corrupt,
    /// Claims another blob under the digest that is asked for, and serves that one.
    FalseClaim,
    /// Answers look-ups and never a range.
    Silent,
    /// Claims one byte more than there are.
    WrongSize,
    /// The same, and never answers a range.
    SilentWrongSize,
    /// Honest, the leader of the site, and slow to say that it holds the blob.
    LeadsAfter(Duration),
}

/// Peers that all hold one blob, each in its own manner.
struct MemoryPeers {
    data: Bytes,
    other: Bytes,
    /// What an honest peer claims.
    claim: Claim,
    manners: HashMap<PeerId, Manner>,
    banned: Mutex<Vec<(PeerId, BanReason)>>,
    /// Bytes relayed to those that follow.
    relayed: Arc<AtomicU64>,
}

impl MemoryPeers {
    fn new(data: Bytes, manners: &[Manner]) -> Arc<Self> {
        let other = sample_bytes(99, data.len());
        let (sha256, blob) = (Sha256Digest::of(&data), BlobId::of(&data));
        let claim = Claim { sha256, blob, size: data.len() as u64 };
        let manners = manners.iter().map(|manner| (PeerId::random(), *manner)).collect();
        Arc::new(Self { data, other, claim, manners, banned: Mutex::default(), relayed: Arc::default() })
    }

    fn bans(&self) -> Vec<(Manner, BanReason)> {
        let banned = self.banned.lock().unwrap();
        banned.iter().map(|(peer, reason)| (self.manners[peer], *reason)).collect()
    }

    fn is_banned(&self, peer: PeerId) -> bool {
        self.banned.lock().unwrap().iter().any(|(banned, _)| *banned == peer)
    }
}

#[async_trait]
impl Peers for MemoryPeers {
    fn connected(&self) -> Vec<(PeerId, Option<Duration>)> {
        self.manners.keys().filter(|peer| !self.is_banned(**peer)).map(|peer| (*peer, None)).collect()
    }

    async fn providers(&self, _digest: Digest) -> Vec<PeerId> {
        Vec::new()
    }

    async fn lookup(&self, peer: PeerId, digest: Digest) -> Result<Option<Offer>, PeerError> {
        let Claim { sha256, blob: id, size } = self.claim;
        if digest != Digest::Sha256(sha256) && digest != Digest::Blake3(id) {
            return Ok(None);
        }
        if let Manner::LeadsAfter(delay) = self.manners[&peer] {
            tokio::time::sleep(delay).await;
        }
        Ok(Some(Offer::Whole(match self.manners[&peer] {
            Manner::FalseClaim => Claim { sha256, blob: BlobId::of(&self.other), size },
            Manner::WrongSize | Manner::SilentWrongSize => Claim { sha256, blob: id, size: size + 1 },
            _ => Claim { sha256, blob: id, size },
        })))
    }

    fn leader(&self, _hash: StoreHash) -> Option<Leader> {
        None
    }

    fn relays(&self, _hash: StoreHash) -> Vec<PeerId> {
        let leads = |manner: &Manner| matches!(manner, Manner::LeadsAfter(_));
        self.manners.iter().filter(|(_, manner)| leads(manner)).map(|(peer, _)| *peer).collect()
    }

    fn pass_over(&self, _peer: PeerId) {}

    fn declined(&self, _peer: PeerId) {}

    async fn resolve(&self, peer: PeerId, _hash: StoreHash) -> Result<Option<String>, PeerError> {
        Err(PeerError::NotHeld { peer })
    }

    async fn follow(
        &self,
        peer: PeerId,
        _hash: StoreHash,
        _nar: Sha256Digest,
        offset: u64,
    ) -> Result<Arriving, PeerError> {
        if !matches!(self.manners[&peer], Manner::LeadsAfter(_)) {
            return Err(PeerError::NotHeld { peer });
        }
        // A hundred chunks a second.
        let chunks: Vec<Bytes> =
            self.data[offset as usize..].chunks(10_000).map(Bytes::copy_from_slice).collect();
        let relayed = Arc::clone(&self.relayed);
        let bytes = futures::stream::iter(chunks).then(move |chunk| {
            relayed.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(10)).map(|()| Ok(chunk))
        });
        Ok(Arriving { size: self.data.len() as u64, bytes: bytes.boxed() })
    }

    async fn watch(&self, peer: PeerId, _blob: BlobId, _size_bytes: u64) -> Result<Watched, PeerError> {
        Err(PeerError::NotHeld { peer })
    }

    async fn range(
        &self,
        peer: PeerId,
        blob: BlobId,
        size_bytes: u64,
        range: GroupRange,
    ) -> Result<(bytes::Bytes, Option<Timing>), PeerError> {
        let manner = self.manners[&peer];
        if matches!(manner, Manner::Silent | Manner::SilentWrongSize) {
            std::future::pending::<()>().await;
        }
        let mut data = if blob == BlobId::of(&self.other) { self.other.to_vec() } else { self.data.to_vec() };
        data.resize(size_bytes as usize, 0);
        let mut outboard = Vec::new();
        create_outboard(&data[..], size_bytes, &mut outboard).unwrap();
        let mut encoded = Vec::new();
        encode_range(blob, size_bytes, &data[..], &outboard[..], range, &mut encoded).unwrap();
        if manner == Manner::Corrupt {
            let last = encoded.len() - 1;
            encoded[last] ^= 1;
        }
        Ok((encoded.into(), None))
    }

    async fn narinfo(&self, _peer: PeerId, _hash: StoreHash) -> Result<Option<String>, PeerError> {
        Ok(None)
    }

    async fn ban(&self, peer: PeerId, reason: BanReason) {
        self.banned.lock().unwrap().push((peer, reason));
    }
}

struct Node {
    artifacts: Artifacts,
    store: BlobStore,
    _directory: TempDir,
}

async fn node(peers: Arc<dyn Peers>, keys: TrustedKeys) -> Node {
    let directory = tempfile::tempdir().unwrap();
    let store = BlobStore::open(StoreConfig::new(directory.path())).await.unwrap();
    let metrics = Metrics::register(&mut Registry::default());
    let config = OriginConfig { urls: Vec::new(), ..OriginConfig::default() };
    let origins = Origins::new(config, metrics.received(Source::origin)).unwrap();
    let engine =
        FetchEngine::new(store.clone(), origins.clone(), Arc::clone(&peers), metrics, Box::new(|_, _| {}));
    let narinfos =
        NarInfos::new(store.clone(), NixStore::none(), origins, peers, keys, Arc::default(), Duration::ZERO);
    let artifacts = Artifacts::new(
        store.clone(),
        NixStore::none(),
        engine,
        narinfos,
        Arc::default(),
        Box::new(|_, _| {}),
    );
    Node { artifacts, store, _directory: directory }
}

async fn read(artifact: Arc<dyn Artifact>) -> std::io::Result<Vec<u8>> {
    let size = artifact.size();
    let chunks: Vec<Bytes> = artifact.read(0..size).try_collect().await?;
    Ok(chunks.concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_keeps_the_promises_of_an_artifact_source() {
    let kept = Mutex::new(Vec::new());
    conformance::suite(async |fixture: Fixture| {
        let keys = TrustedKeys::new(vec![fixture.trusted_key]);
        let node = node(MemoryPeers::new(Bytes::new(), &[]), keys).await;
        for (narinfo, nar) in &fixture.paths {
            let body = futures::stream::iter([Ok(nar.clone())]);
            node.store.put(Digest::Sha256(narinfo.nar_hash), body, false).await.unwrap();
            node.store.put_narinfo(narinfo).await.unwrap();
        }
        let artifacts: Arc<dyn ArtifactSource> = Arc::new(node.artifacts.clone());
        kept.lock().unwrap().push(node);
        artifacts
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_takes_uploads_as_it_should() {
    let kept = Mutex::new(Vec::new());
    conformance::uploads_suite(async |fixture: Fixture| {
        let keys = TrustedKeys::new(vec![fixture.trusted_key]);
        let node = node(MemoryPeers::new(Bytes::new(), &[]), keys.clone()).await;
        let origins =
            Origins::new(OriginConfig { urls: Vec::new(), ..OriginConfig::default() }, Counter::default());
        let side_files = SideFiles::open(node._directory.path(), origins.unwrap(), Duration::ZERO).unwrap();
        let artifacts = node.artifacts.clone().with_uploads(side_files, KeyRing::new(keys), None);
        kept.lock().unwrap().push(node);
        Arc::new(artifacts) as Arc<dyn ArtifactSource>
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn corrupt_and_silent_peers_do_not_hinder_a_fetch_that_an_honest_one_can_serve() {
    let data = sample_bytes(1, 3_000_000);
    let peers = MemoryPeers::new(data.clone(), &[Manner::Corrupt, Manner::Honest, Manner::Silent]);
    let node = node(peers.clone(), TrustedKeys::default()).await;
    let artifact = node.artifacts.blob(Digest::Sha256(Sha256Digest::of(&data))).await.unwrap();
    assert_eq!(read(artifact).await.unwrap(), data);
    assert!(
        peers.bans().iter().all(|ban| *ban == (Manner::Corrupt, BanReason::CorruptData)),
        "{:?}",
        peers.bans()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_false_claim_for_a_small_blob_costs_its_signer_a_ban_and_the_client_nothing() {
    let data = sample_bytes(2, 100_000);
    let peers = MemoryPeers::new(data.clone(), &[Manner::FalseClaim]);
    let node = node(peers.clone(), TrustedKeys::default()).await;
    let digest = Digest::Sha256(Sha256Digest::of(&data));
    assert!(matches!(node.artifacts.blob(digest).await, Err(SourceError::NotFound)));
    assert_eq!(peers.bans(), [(Manner::FalseClaim, BanReason::FalseClaim)]);
    assert!(node.store.find(digest).await.unwrap().is_none(), "nothing of it is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_false_claim_for_a_large_blob_never_completes_a_body() {
    let data = sample_bytes(3, 2_000_000);
    let peers = MemoryPeers::new(data.clone(), &[Manner::FalseClaim]);
    let node = node(peers.clone(), TrustedKeys::default()).await;
    let artifact = node.artifacts.blob(Digest::Sha256(Sha256Digest::of(&data))).await.unwrap();
    assert!(read(artifact).await.is_err(), "the tail is held back");
    assert_eq!(peers.bans(), [(Manner::FalseClaim, BanReason::FalseClaim)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_named_by_its_tree_cannot_be_claimed_falsely() {
    let data = sample_bytes(4, 2_000_000);
    let peers = MemoryPeers::new(data.clone(), &[Manner::Honest]);
    let node = node(peers, TrustedKeys::default()).await;
    let artifact = node.artifacts.blob(Digest::Blake3(BlobId::of(&data))).await.unwrap();
    assert_eq!(read(artifact).await.unwrap(), data);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_about_the_size_ends_in_a_clean_miss() {
    let data = sample_bytes(5, 1_000_000);
    let peers = MemoryPeers::new(data.clone(), &[Manner::WrongSize]);
    let node = node(peers, TrustedKeys::default()).await;
    let digest = Digest::Sha256(Sha256Digest::of(&data));
    match node.artifacts.blob(digest).await {
        Ok(artifact) => assert!(read(artifact).await.is_err()),
        Err(error) => assert!(matches!(error, SourceError::NotFound | SourceError::Upstream(_)), "{error}"),
    }
    assert!(node.store.find(digest).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_about_the_size_does_not_keep_an_honest_holder_from_serving() {
    // Whose claim comes first is a matter of chance.
    for seed in 20..30 {
        let data = sample_bytes(seed, 300_000);
        let peers = MemoryPeers::new(data.clone(), &[Manner::WrongSize, Manner::Honest]);
        let node = node(peers.clone(), TrustedKeys::default()).await;
        let artifact = node.artifacts.blob(Digest::Sha256(Sha256Digest::of(&data))).await.unwrap();
        assert_eq!(read(artifact).await.unwrap(), data);
        assert!(peers.bans().iter().all(|(manner, _)| *manner == Manner::WrongSize), "{:?}", peers.bans());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_liar_about_the_size_costs_seconds_and_is_banned_when_the_whole_is_there() {
    let data = sample_bytes(30, 300_000);
    let late = Manner::LeadsAfter(Duration::from_millis(50));
    let peers = MemoryPeers::new(data.clone(), &[Manner::SilentWrongSize, late]);
    let node = node(peers.clone(), TrustedKeys::default()).await;
    let artifact = node.artifacts.blob(Digest::Sha256(Sha256Digest::of(&data))).await.unwrap();
    assert_eq!(read(artifact).await.unwrap(), data);
    // The blob is committed behind its last byte.
    while peers.bans().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(peers.bans(), [(Manner::SilentWrongSize, BanReason::FalseClaim)]);
}

/// Fetches `data` from a holder that is slow to say so and that leads the site; returns the bytes that it relayed.
async fn relayed_by_a_holder(data: &Bytes, delay: Duration) -> u64 {
    let peers = MemoryPeers::new(data.clone(), &[Manner::LeadsAfter(delay)]);
    let directory = tempfile::tempdir().unwrap();
    let store = BlobStore::open(StoreConfig::new(directory.path())).await.unwrap();
    let metrics = Metrics::register(&mut Registry::default());
    let config =
        OriginConfig { urls: vec!["http://127.0.0.1:9".parse().unwrap()], ..OriginConfig::default() };
    let origins = Origins::new(config, metrics.received(Source::origin)).unwrap();
    let engine = FetchEngine::new(store, origins, peers.clone(), metrics, Box::new(|_, _| {}));
    let sha256 = Sha256Digest::of(data);
    let text = format!(
        "StorePath: /nix/store/7rjj86a15146cq1d3qy068lml7n7ykzm-x\nURL: nar/x.nar\nCompression: none\n\
         NarHash: sha256:{}\nNarSize: {}\nReferences: \n",
        sha256.to_nix32(),
        data.len()
    );
    let narinfo = NarInfo::parse(&text).unwrap();
    let request = FetchRequest {
        digest: Digest::Sha256(sha256),
        size_bytes: Some(data.len() as u64),
        narinfo: Some(Arc::new(narinfo)),
        origin: None,
        leading: false,
    };
    let transfer = engine.fetch(request).await.unwrap();
    let chunks: Vec<Bytes> = transfer.read(0..data.len() as u64).try_collect().await.unwrap();
    assert!(chunks.concat() == *data);
    peers.relayed.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_holds_the_whole_is_asked_for_ranges_and_not_followed() {
    let data = sample_bytes(6, 2_000_000);
    assert_eq!(relayed_by_a_holder(&data, Duration::from_millis(80)).await, 0, "its answer is waited for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_says_late_that_it_holds_the_whole_is_followed_no_longer() {
    let data = sample_bytes(7, 20_000_000);
    let relayed = relayed_by_a_holder(&data, Duration::from_millis(1500)).await;
    assert!(relayed > 0 && relayed < 15_000_000, "{relayed} bytes, of which 1 MB came before it said so");
}
