use async_compression::tokio::write::{XzEncoder, ZstdEncoder};
use bytes::Bytes;
use p2p_cache_discovery::PeerId;
use p2p_cache_http_gateway::conformance::{Fixture, sample_bytes};
use prometheus_client::metrics::counter::Counter;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::fetch::{Leader, Offer, Peers};
use crate::origin::{OriginConfig, Origins};
use crate::peers::{Arriving, BanReason, PeerError, Watched};
use crate::store::StoreConfig;
use p2p_cache_protocol::TrustedKeys;

struct Bench {
    directory: TempDir,
    store: BlobStore,
    fixture: Fixture,
}

impl Bench {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(StoreConfig::new(directory.path())).await.unwrap();
        Self { directory, store, fixture: Fixture::new().unwrap() }
    }

    fn intake(&self, max_store_bytes: Option<u64>, max_wait: Duration) -> Intake {
        let config = OriginConfig { urls: Vec::new(), ..OriginConfig::default() };
        let origins = Origins::new(config, Counter::default()).unwrap();
        let keys = TrustedKeys::new(vec![self.fixture.trusted_key.clone()]);
        let (nix, policy) = (NixStore::none(), Arc::default());
        let narinfos = NarInfos::new(
            self.store.clone(),
            nix.clone(),
            origins.clone(),
            Arc::new(Nobody),
            keys.clone(),
            policy,
            Duration::ZERO,
        );
        let side_files = SideFiles::open(self.directory.path(), origins, Duration::ZERO).unwrap();
        let parts = IntakeParts {
            store: self.store.clone(),
            nix,
            narinfos,
            accepted_keys: KeyRing::new(keys),
            side_files,
            on_commit: Arc::new(Box::new(|_, _| {})),
            max_store_bytes,
        };
        Intake::with_max_wait(parts, max_wait, Duration::from_millis(20))
    }

    /// Files of unfinished writes.
    fn unfinished(&self) -> usize {
        std::fs::read_dir(self.directory.path().join("partial")).unwrap().count()
    }

    async fn cleared(&self) {
        for _ in 0..1000 {
            if self.unfinished() == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{} files are left", self.unfinished());
    }
}

fn named(bytes: &[u8], compression: Compression) -> NarFile {
    NarFile { file_hash: Sha256Digest::of(bytes), compression }
}

fn body(bytes: &[u8]) -> BodyStream {
    let pieces: Vec<_> = bytes.chunks(10_007).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    Box::pin(futures::stream::iter(pieces))
}

async fn xz(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = XzEncoder::new(Vec::new());
    encoder.write_all(bytes).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}

async fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ZstdEncoder::new(Vec::new());
    encoder.write_all(bytes).await.unwrap();
    encoder.shutdown().await.unwrap();
    encoder.into_inner()
}

#[tokio::test]
async fn compressed_nars_become_plain_blobs() {
    let bench = Bench::new().await;
    let intake = bench.intake(None, MAX_WAIT);
    for (number, (narinfo, nar)) in bench.fixture.paths.iter().enumerate() {
        let (bytes, compression) = if number % 2 == 0 {
            (xz(nar).await, Compression::Xz)
        } else {
            (zstd(nar).await, Compression::Zstd)
        };
        let file = named(&bytes, compression.clone());
        intake.put_nar_file(file.clone(), body(&bytes)).await.unwrap();
        assert_eq!(intake.nar_file_size(&file).await, Ok(bytes.len() as u64));
        let narinfo = NarInfo {
            url: file.to_string(),
            compression,
            file_hash: Some(file.file_hash),
            file_size: Some(bytes.len() as u64),
            ..narinfo.clone()
        };
        assert_eq!(intake.put_narinfo(narinfo.clone(), Uploader::Other).await, Ok(true));
        let meta = bench.store.find(Digest::Sha256(narinfo.nar_hash)).await.unwrap().unwrap();
        assert_eq!(meta.size, nar.len() as u64);
        assert_eq!(intake.nar_file_size(&file).await, Ok(nar.len() as u64), "it need not be uploaded again");
        let kept = bench.store.narinfo(narinfo.store_path.hash()).await.unwrap();
        assert_eq!((kept.compression, kept.file_hash), (Compression::None, Some(narinfo.nar_hash)));
    }
    assert_eq!(bench.unfinished(), 0);
}

#[tokio::test]
async fn damaged_and_lengthened_files_are_refused() {
    let bench = Bench::new().await;
    let intake = bench.intake(None, MAX_WAIT);
    let nar = sample_bytes(7, 300_000);
    let good = xz(&nar).await;
    let mut flipped = good.clone();
    flipped[150_000] ^= 1;
    for bad in [&good[..good.len() / 2], &flipped, &[&good[..], b"more"].concat(), b"no xz at all", b""] {
        let refused = intake.put_nar_file(named(bad, Compression::Xz), body(bad)).await;
        assert_eq!(refused, Err(SourceError::Rejected(Rejection::BadFile)), "{} bytes", bad.len());
    }
    let refused = intake.put_nar_file(named(&nar, Compression::Other("lz4".into())), body(&nar)).await;
    assert_eq!(refused, Err(SourceError::Rejected(Rejection::BadFile)));
    bench.cleared().await;
}

#[tokio::test]
async fn what_decompresses_without_an_end_stops_at_the_bound_and_frees_it() {
    let bench = Bench::new().await;
    let intake = bench.intake(Some(4_000_000), MAX_WAIT);
    let bomb = xz(&vec![0; 50_000_000]).await;
    assert!(bomb.len() < 20_000);
    let refused = intake.put_nar_file(named(&bomb, Compression::Xz), body(&bomb)).await;
    assert_eq!(refused, Err(SourceError::Rejected(Rejection::TooManyWaiting)));
    bench.cleared().await;
    let nar = sample_bytes(8, 1_900_000);
    intake.put_nar_file(named(&nar, Compression::None), body(&nar)).await.unwrap();
    let other = sample_bytes(9, 200_000);
    let refused = intake.put_nar_file(named(&other, Compression::None), body(&other)).await;
    assert_eq!(refused, Err(SourceError::Rejected(Rejection::TooManyWaiting)));
}

#[tokio::test]
async fn a_nar_whose_narinfo_never_comes_is_removed_and_its_room_with_it() {
    let bench = Bench::new().await;
    let intake = bench.intake(Some(4_000_000), Duration::from_millis(100));
    for seed in [10, 11, 12] {
        let nar = sample_bytes(seed, 1_500_000);
        let file = named(&nar, Compression::None);
        intake.put_nar_file(file.clone(), body(&nar)).await.unwrap();
        bench.cleared().await;
        assert_eq!(intake.nar_file_size(&file).await, Err(SourceError::NotFound));
    }
    assert_eq!(bench.store.usage().blobs, 0);
}

#[tokio::test]
async fn from_another_machine_only_what_an_accepted_key_signed_is_taken() {
    let bench = Bench::new().await;
    let intake = bench.intake(None, MAX_WAIT);
    let (narinfo, nar) = &bench.fixture.paths[1];
    let file = named(nar, Compression::None);
    intake.put_nar_file(file.clone(), body(nar)).await.unwrap();
    let signed = NarInfo { url: file.to_string(), ..narinfo.clone() };
    let unsigned = NarInfo { signatures: Vec::new(), ..signed.clone() };
    let refused = intake.put_narinfo(unsigned.clone(), Uploader::Other).await;
    assert_eq!(refused, Err(SourceError::Rejected(Rejection::Unsigned)));
    assert_eq!(intake.put_narinfo(unsigned, Uploader::ThisMachine).await, Ok(true));
    assert_eq!(intake.put_narinfo(signed.clone(), Uploader::Other).await, Ok(false));
    let unsigned = NarInfo { signatures: Vec::new(), ..signed.clone() };
    assert_eq!(intake.put_narinfo(unsigned, Uploader::ThisMachine).await, Ok(false));
    let kept = bench.store.narinfo(signed.store_path.hash()).await.unwrap();
    assert_eq!(kept.signatures, signed.signatures, "a signature is not lost again");
}

/// A network without peers.
struct Nobody;

#[async_trait]
impl Peers for Nobody {
    fn connected(&self) -> Vec<(PeerId, Option<Duration>)> {
        Vec::new()
    }

    async fn providers(&self, _: Digest) -> Vec<PeerId> {
        Vec::new()
    }

    async fn lookup(&self, peer: PeerId, _: Digest) -> Result<Option<Offer>, PeerError> {
        Err(PeerError::NotHeld { peer })
    }

    fn leader(&self, _: p2p_cache_protocol::StoreHash) -> Option<Leader> {
        None
    }

    fn relays(&self, _: p2p_cache_protocol::StoreHash) -> Vec<PeerId> {
        Vec::new()
    }

    fn pass_over(&self, _: PeerId) {}

    fn declined(&self, _: PeerId) {}

    async fn resolve(
        &self,
        peer: PeerId,
        _: p2p_cache_protocol::StoreHash,
    ) -> Result<Option<String>, PeerError> {
        Err(PeerError::NotHeld { peer })
    }

    async fn follow(
        &self,
        peer: PeerId,
        _: p2p_cache_protocol::StoreHash,
        _: Sha256Digest,
        _: u64,
    ) -> Result<Arriving, PeerError> {
        Err(PeerError::NotHeld { peer })
    }

    async fn watch(&self, peer: PeerId, _: p2p_cache_protocol::BlobId, _: u64) -> Result<Watched, PeerError> {
        Err(PeerError::NotHeld { peer })
    }

    async fn range(
        &self,
        peer: PeerId,
        _: p2p_cache_protocol::BlobId,
        _: u64,
        _: p2p_cache_protocol::GroupRange,
    ) -> Result<(Bytes, Option<crate::fetch::scheduler::Timing>), PeerError> {
        Err(PeerError::NotHeld { peer })
    }

    async fn narinfo(
        &self,
        peer: PeerId,
        _: p2p_cache_protocol::StoreHash,
    ) -> Result<Option<String>, PeerError> {
        Err(PeerError::NotHeld { peer })
    }

    async fn ban(&self, _: PeerId, _: BanReason) {}
}
