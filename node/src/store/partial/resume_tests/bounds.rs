//! How many leftovers there may be.

use std::time::Duration;

use p2p_cache_protocol::GROUP_BYTES;

use super::{GROUP, begin, file, give, leave, reopen, sample};
use crate::store::tests::support::{Sample, config, files_in};
use crate::store::{BlobStore, StoreConfig};

async fn leave_some(store: &BlobStore, seed: u64, groups: u64) -> Sample {
    let sample = sample(seed);
    let partial = begin(store, &sample).await;
    give(&partial, &sample, 0, groups);
    leave(store, partial).await;
    sample
}

#[tokio::test]
async fn number_bytes_and_age_of_leftovers_are_bounded_and_the_oldest_go_first() {
    let dir = tempfile::tempdir().unwrap();
    let bounded = StoreConfig { max_leftovers: 3, ..config(dir.path()) };
    let store = BlobStore::open(bounded.clone()).await.unwrap();
    for seed in 0..5 {
        leave_some(&store, seed, 4).await;
    }
    until_it_holds(&store, 3, 0, "the oldest went").await;
    assert!(begin(&store, &sample(0)).await.groups().is_empty());
    assert_eq!(begin(&store, &sample(2)).await.groups().len(), 4);

    let max_leftover_bytes = 11 * GROUP_BYTES;
    let store = reopen(store, StoreConfig { max_leftover_bytes, ..bounded.clone() }).await;
    assert_eq!(store.usage().leftovers, 2);
    assert!(store.usage().leftover_bytes <= max_leftover_bytes);

    std::fs::File::options()
        .write(true)
        .open(file(dir.path(), ".progress"))
        .unwrap()
        .set_modified(std::time::SystemTime::now() - Duration::from_secs(8 * 24 * 60 * 60))
        .unwrap();
    let store = reopen(store, bounded).await;
    assert_eq!(store.usage().leftovers, 1);
    let report = store.gc(Default::default()).await.unwrap();
    assert_eq!((report.removed_partials, store.usage().leftovers), (1, 0));
    assert_eq!(files_in(&dir.path().join("partial")), Vec::<String>::new());
}

#[tokio::test]
async fn leftovers_count_towards_the_size_limit() {
    let dir = tempfile::tempdir().unwrap();
    let limit = 40 * GROUP_BYTES;
    let limited = |max_bytes| StoreConfig { max_bytes: Some(max_bytes), ..config(dir.path()) };
    let store = BlobStore::open(limited(limit)).await.unwrap();
    let held: Vec<_> = (10..13).map(|seed| Sample::new(seed, 13 * GROUP)).collect();
    for sample in &held {
        sample.put(&store).await;
    }
    assert_eq!(store.usage().blobs, 3);
    leave_some(&store, 1, 3).await;
    until_it_holds(&store, 1, 2, "the least recently used blob made room").await;
    assert!(store.usage().bytes + store.usage().leftover_bytes <= limit);
    leave_some(&store, 2, 6).await;
    until_it_holds(&store, 0, 2, "more than an eighth of the limit").await;
    leave_some(&store, 3, 3).await;
    // A blob as large as the limit has the store to itself.
    Sample::new(20, 39 * GROUP).put(&store).await;
    let usage = store.usage();
    assert_eq!((usage.leftovers, usage.blobs), (0, 1));
}

/// Room is made after the files are at rest.
async fn until_it_holds(store: &BlobStore, leftovers: u64, blobs: u64, what: &str) {
    for _ in 0..500 {
        if (store.usage().leftovers, store.usage().blobs) == (leftovers, blobs) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: {:?}", store.usage());
}
