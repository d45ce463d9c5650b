//! Blobs with known bytes, and what a peer would send of them.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use p2p_cache_protocol::{BlobId, Digest, GroupRange, Sha256Digest, tree};

use crate::store::{BlobMeta, BlobStore, PartialBlob, StoreConfig};

/// A blob in memory with its outboard.
pub(in crate::store) struct Sample {
    pub(in crate::store) bytes: Vec<u8>,
    pub(in crate::store) outboard: Vec<u8>,
    pub(in crate::store) id: BlobId,
    pub(in crate::store) sha256: Sha256Digest,
}

impl Sample {
    /// `size` bytes that depend on the seed.
    pub(in crate::store) fn new(seed: u64, size: usize) -> Sample {
        let mut bytes = vec![0; size];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        Sample::of(bytes)
    }

    pub(in crate::store) fn of(bytes: Vec<u8>) -> Sample {
        let size = bytes.len() as u64;
        let mut outboard = vec![0; tree::outboard_bytes(size) as usize];
        let id = tree::create_outboard(&bytes[..], size, &mut outboard[..]).unwrap();
        assert_eq!(id, BlobId::of(&bytes));
        Sample { sha256: Sha256Digest::of(&bytes), bytes, outboard, id }
    }

    pub(in crate::store) fn size(&self) -> u64 {
        self.bytes.len() as u64
    }

    pub(in crate::store) fn all(&self) -> GroupRange {
        GroupRange::all(self.size())
    }

    /// The bao response for a range, as an honest peer would send it.
    pub(in crate::store) fn encode(&self, range: GroupRange) -> Vec<u8> {
        let mut out = Vec::new();
        tree::encode_range(self.id, self.size(), &self.bytes[..], &self.outboard[..], range, &mut out)
            .unwrap();
        out
    }

    /// The body of an upload in uneven chunks.
    pub(in crate::store) fn body(
        &self,
    ) -> impl futures::Stream<Item = std::io::Result<Bytes>> + Send + Unpin + use<> {
        let chunks: Vec<_> =
            self.bytes.chunks(100_003).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        futures::stream::iter(chunks)
    }

    pub(in crate::store) async fn put(&self, store: &BlobStore) -> BlobMeta {
        store.put(Digest::Sha256(self.sha256), self.body(), false).await.unwrap()
    }
}

pub(in crate::store) fn range(start: u64, end: u64) -> GroupRange {
    GroupRange { start, end }
}

pub(in crate::store) fn config(dir: &Path) -> StoreConfig {
    StoreConfig { index_cache_bytes: 1 << 20, ..StoreConfig::new(dir) }
}

pub(in crate::store) async fn open(dir: &Path) -> BlobStore {
    BlobStore::open(config(dir)).await.unwrap()
}

pub(in crate::store) fn files_in(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// Removal happens on a blocking thread after the last handle went.
pub(in crate::store) async fn until_empty(dir: &Path) {
    for _ in 0..500 {
        if files_in(dir).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{} still holds {:?}", dir.display(), files_in(dir));
}

pub(in crate::store) fn read_all(partial: &PartialBlob) -> Vec<u8> {
    let mut out = vec![0; partial.size() as usize];
    let mut at = 0;
    while at < out.len() {
        at += partial.read_at(at as u64, &mut out[at..]).unwrap();
    }
    out
}

/// What the store gives back for a blob.
pub(in crate::store) async fn stored_bytes(store: &BlobStore, id: BlobId) -> Option<Vec<u8>> {
    use std::os::unix::fs::FileExt;
    let blob = store.open_blob(id).await.unwrap()?;
    let mut bytes = vec![0; blob.meta().size as usize];
    blob.data().read_exact_at(&mut bytes, 0).unwrap();
    Some(bytes)
}
