use p2p_cache_protocol::{BlobId, Digest};

use super::support::{Sample, config, files_in, stored_bytes};
use crate::store::{BlobStore, GcOptions, StoreConfig, StoreError};

const SIZE: usize = 10_000;

async fn limited(dir: &std::path::Path, max_bytes: u64) -> BlobStore {
    BlobStore::open(StoreConfig { max_bytes: Some(max_bytes), ..config(dir) }).await.unwrap()
}

async fn held(store: &BlobStore, samples: &[Sample]) -> Vec<usize> {
    let mut held = Vec::new();
    for (n, sample) in samples.iter().enumerate() {
        if store.find(Digest::Blake3(sample.id)).await.unwrap().is_some() {
            held.push(n);
        }
    }
    held
}

#[tokio::test]
async fn the_least_recently_used_go_first_and_pinned_ones_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = limited(dir.path(), 4 * SIZE as u64).await;
    let samples: Vec<_> = (0..7).map(|n| Sample::new(n, SIZE)).collect();
    for sample in &samples[..4] {
        sample.put(&store).await;
    }
    store.pin(samples[1].id).await.unwrap();
    stored_bytes(&store, samples[0].id).await.unwrap();
    samples[4].put(&store).await;
    assert_eq!(held(&store, &samples).await, [0, 1, 3, 4]);
    samples[5].put(&store).await;
    samples[6].put(&store).await;
    assert_eq!(held(&store, &samples).await, [1, 4, 5, 6]);
    assert_eq!(store.usage().bytes, 4 * SIZE as u64);
}

#[tokio::test]
async fn the_order_of_use_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let samples: Vec<_> = (0..4).map(|n| Sample::new(n, SIZE)).collect();
    let store = limited(dir.path(), 4 * SIZE as u64).await;
    for sample in &samples {
        sample.put(&store).await;
    }
    stored_bytes(&store, samples[0].id).await.unwrap();
    store.close().await.unwrap();
    // A lower limit takes effect at the start.
    let store = limited(dir.path(), 2 * SIZE as u64).await;
    assert_eq!(held(&store, &samples).await, [0, 3]);
}

#[tokio::test]
async fn what_can_never_fit_is_refused_before_a_byte_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let store = limited(dir.path(), 4 * SIZE as u64).await;
    let small = Sample::new(1, SIZE);
    small.put(&store).await;
    store.pin(small.id).await.unwrap();
    let digest = Digest::Blake3(BlobId([7; 32]));
    for size in [3 * SIZE as u64 + 1, u64::MAX] {
        let result = store.create_partial(digest, size).await;
        assert!(matches!(result, Err(StoreError::TooLarge { pinned_bytes: 10_000, .. })), "{result:?}");
    }
    let large = Sample::new(2, 5 * SIZE);
    let result = store.put(Digest::Blake3(large.id), large.body(), false).await;
    assert!(result.unwrap_err().is_no_space());
    store.create_partial(digest, 2 * SIZE as u64).await.unwrap();
    assert_eq!(held(&store, &[small]).await, [0]);
}

#[tokio::test]
async fn the_number_of_unfinished_blobs_is_bounded() {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(StoreConfig { max_partials: 2, ..config(dir.path()) }).await.unwrap();
    let digest = Digest::Blake3(BlobId([7; 32]));
    let first = store.create_partial(digest, 1).await.unwrap();
    let _second = store.create_partial(digest, 1).await.unwrap();
    let third = store.create_partial(digest, 1).await;
    assert!(matches!(third, Err(StoreError::TooManyPartials { limit: 2 })));
    drop(first);
    store.create_partial(digest, 1).await.unwrap();
}

#[tokio::test]
async fn gc_frees_down_to_the_size_that_was_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = limited(dir.path(), 100 * SIZE as u64).await;
    let samples: Vec<_> = (0..6).map(|n| Sample::new(n, SIZE)).collect();
    for sample in &samples {
        sample.put(&store).await;
    }
    store.pin(samples[0].id).await.unwrap();
    let report = store.gc(GcOptions { target_bytes: Some(3 * SIZE as u64) }).await.unwrap();
    assert_eq!((report.removed_blobs, report.freed_bytes), (3, 3 * SIZE as u64));
    assert_eq!(held(&store, &samples).await, [0, 4, 5]);
    store.gc(GcOptions { target_bytes: Some(0) }).await.unwrap();
    assert_eq!(held(&store, &samples).await, [0]);
    assert_eq!(files_in(&dir.path().join(format!("blobs/{:02x}", samples[0].id.0[0]))).len(), 2);
}
