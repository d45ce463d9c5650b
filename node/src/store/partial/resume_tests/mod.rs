//! Leaving a blob and taking it up again.

mod bounds;
mod kills;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use p2p_cache_protocol::{BlobId, Digest, GROUP_BYTES, GroupRange};

use super::PartialBlob;
use super::sidecar::Sidecar;
use crate::store::tests::support::{Sample, config, files_in, open, range, stored_bytes, until_empty};
use crate::store::{BlobStore, StoreConfig, StoreError, WriteError};

const GROUP: usize = GROUP_BYTES as usize;
/// Groups of most samples here.
const GROUPS: u64 = 24;

fn sample(seed: u64) -> Sample {
    Sample::new(seed, (GROUPS - 1) as usize * GROUP + 1234)
}

async fn begin(store: &BlobStore, sample: &Sample) -> PartialBlob {
    store.create_partial(Digest::Sha256(sample.sha256), sample.size()).await.unwrap()
}

fn give(partial: &PartialBlob, sample: &Sample, start: u64, end: u64) {
    let wanted = range(start, end);
    partial.write_groups(sample.id, wanted, &sample.encode(wanted)).unwrap();
}

/// Leaves a blob and waits until its files are at rest.
async fn leave(store: &BlobStore, partial: PartialBlob) {
    partial.suspend("for a test");
    drop(partial);
    store.flush().await.unwrap();
}

/// Closes the store and opens it anew. Whoever has just left a blob may hold the lock for an instant longer.
async fn reopen(store: BlobStore, config: StoreConfig) -> BlobStore {
    store.close().await.unwrap();
    for _ in 0..500 {
        match BlobStore::open(config.clone()).await {
            Err(StoreError::Locked { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            opened => return opened.unwrap(),
        }
    }
    panic!("the directory stays locked");
}

async fn finish(partial: &PartialBlob, sample: &Sample) {
    for gap in partial.missing() {
        give(partial, sample, gap.start, gap.end);
    }
    assert_eq!(partial.commit(sample.sha256, false).await.unwrap().id, sample.id);
}

fn file(dir: &Path, suffix: &str) -> PathBuf {
    let names = files_in(&dir.join("partial"));
    dir.join("partial").join(names.iter().find(|name| name.ends_with(suffix)).unwrap())
}

fn flip(path: &Path, offset: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
}

#[tokio::test]
async fn what_was_left_is_there_at_once_and_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let sample = sample(1);
    let mut store = open(dir.path()).await;
    let partial = begin(&store, &sample).await;
    give(&partial, &sample, 4, 9);
    partial.write_sequential(0, &sample.bytes[..2 * GROUP + 5]).unwrap();
    leave(&store, partial).await;
    assert_eq!((store.usage().partials, store.usage().leftovers), (0, 1));
    assert!(store.usage().leftover_bytes >= 7 * GROUP_BYTES);
    for restart in [false, true] {
        if restart {
            store = reopen(store, config(dir.path())).await;
        }
        let partial = begin(&store, &sample).await;
        assert_eq!(store.usage().leftovers, 0);
        assert_eq!(partial.missing(), [range(2, 4), range(9, GROUPS)]);
        assert_eq!((partial.blob_id(), partial.prefix_bytes()), (Some(sample.id), 2 * GROUP_BYTES));
        assert!(partial.is_verified(range(4, 9)) && !partial.is_verified(range(0, 1)));
        assert!(partial.has_kept_unproven());
        leave(&store, partial).await;
    }
    let partial = begin(&store, &sample).await;
    finish(&partial, &sample).await;
    assert_eq!(partial.hashed_bytes(), sample.size(), "hashed from the start");
    assert_eq!(stored_bytes(&store, sample.id).await.unwrap(), sample.bytes);
    assert_eq!((store.usage().leftovers, store.usage().leftover_bytes), (0, 0));
    until_empty(&dir.path().join("partial")).await;
}

#[tokio::test]
async fn waiting_readers_and_writers_of_a_blob_that_is_left_get_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let sample = sample(1);
    let partial = begin(&store, &sample).await;
    give(&partial, &sample, 0, 1);
    let waiting = tokio::spawn({
        let partial = partial.clone();
        async move { partial.readable(5 * GROUP_BYTES).await }
    });
    tokio::task::yield_now().await;
    partial.suspend("the daemon is stopping");
    assert!(matches!(waiting.await.unwrap(), Err(StoreError::Aborted { .. })));
    assert!(partial.read_at(0, &mut [0; 10]).is_err());
    // While this handle lives on, the next fetch has the files to itself.
    let next = begin(&store, &sample).await;
    assert_eq!(next.missing(), [range(1, GROUPS)]);
    let late = partial.write_groups(sample.id, range(5, 6), &sample.encode(range(5, 6)));
    assert!(matches!(late, Err(WriteError::Aborted(_))));
    assert!(matches!(partial.commit(sample.sha256, false).await, Err(StoreError::Aborted { .. })));
    drop(partial);
    finish(&next, &sample).await;
}

#[tokio::test]
async fn damaged_groups_of_a_leftover_are_found_and_only_they_are_missing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let sample = Sample::new(9, 200 * GROUP);
    let partial = begin(&store, &sample).await;
    give(&partial, &sample, 0, 200);
    leave(&store, partial).await;
    flip(&file(dir.path(), ".data"), 70 * GROUP_BYTES + 5);
    let partial = begin(&store, &sample).await;
    assert_eq!(partial.missing(), [range(70, 71)]);
    assert!(partial.is_verified(range(71, 200)));
    leave(&store, partial).await;
    // A wrong inner hash takes those with it that it proves.
    flip(&file(dir.path(), ".obao"), 64 * 150);
    let partial = begin(&store, &sample).await;
    let missing: u64 = partial.missing().iter().map(GroupRange::len).sum();
    assert!((2..=100).contains(&missing), "{:?}", partial.missing());
    finish(&partial, &sample).await;
    assert_eq!(store.verify(|_| ()).await.unwrap().bad, Vec::new());
}

#[tokio::test]
async fn a_sidecar_that_is_damaged_or_of_another_blob_costs_the_leftover_and_nothing_else() {
    let (one, other) = (sample(1), sample(2));
    for damage in ["garbage", "cut", "other", "gone", "data cut", "outboard gone"] {
        for restart in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let mut store = open(dir.path()).await;
            let partial = begin(&store, &one).await;
            give(&partial, &one, 0, 9);
            leave(&store, partial).await;
            let sidecar = file(dir.path(), ".progress");
            match damage {
                "garbage" => std::fs::write(&sidecar, "garbage").unwrap(),
                "cut" => std::fs::File::options().write(true).open(&sidecar).unwrap().set_len(50).unwrap(),
                "other" => {
                    let mut noted = Sidecar::read(&sidecar).unwrap();
                    noted.expected = Digest::Sha256(other.sha256);
                    noted.write(&sidecar).unwrap();
                }
                "gone" => std::fs::remove_file(&sidecar).unwrap(),
                "data cut" => {
                    let data = std::fs::File::options().write(true).open(file(dir.path(), ".data")).unwrap();
                    data.set_len(GROUP_BYTES).unwrap();
                }
                _ => std::fs::remove_file(file(dir.path(), ".obao")).unwrap(),
            }
            if restart {
                store = reopen(store, config(dir.path())).await;
                assert_eq!(files_in(&dir.path().join("partial")), Vec::<String>::new(), "{damage}");
            }
            let partial = begin(&store, &one).await;
            assert_eq!(partial.missing(), [range(0, GROUPS)], "{damage}");
            finish(&partial, &one).await;
        }
    }
}

#[tokio::test]
async fn bytes_of_an_origin_do_not_outlive_the_machine_and_spoil_nothing_for_long() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let sample = sample(1);
    let partial = begin(&store, &sample).await;
    partial.write_sequential(0, &sample.bytes[..5 * GROUP]).unwrap();
    give(&partial, &sample, 7, 9);
    leave(&store, partial).await;
    let sidecar = file(dir.path(), ".progress");
    let mut noted = Sidecar::read(&sidecar).unwrap();
    noted.boot[3] ^= 1;
    noted.write(&sidecar).unwrap();
    let partial = begin(&store, &sample).await;
    assert_eq!(partial.missing(), [range(0, 7), range(9, GROUPS)]);
    assert!(!partial.has_kept_unproven());

    // Within one start of the machine they count, and a wrong one is found by the hash of the whole.
    partial.write_sequential(0, &sample.bytes[..5 * GROUP]).unwrap();
    leave(&store, partial).await;
    flip(&file(dir.path(), ".data"), 3 * GROUP_BYTES);
    let partial = begin(&store, &sample).await;
    assert!(partial.has_kept_unproven());
    for gap in partial.missing() {
        give(&partial, &sample, gap.start, gap.end);
    }
    assert!(matches!(partial.commit(sample.sha256, false).await, Err(StoreError::Mismatch { .. })));
    drop(partial);
    until_empty(&dir.path().join("partial")).await;
    let partial = begin(&store, &sample).await;
    assert_eq!(partial.missing(), [range(0, GROUPS)], "begun afresh");
    finish(&partial, &sample).await;
}

#[tokio::test]
async fn a_leftover_that_was_checked_against_a_false_root_binds_only_while_it_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let honest = sample(1);
    let mut bytes = honest.bytes.clone();
    bytes[3] ^= 1;
    let liar = Sample::of(bytes);
    let partial = begin(&store, &honest).await;
    give(&partial, &liar, 0, 2);
    leave(&store, partial).await;
    let partial = begin(&store, &honest).await;
    assert_eq!(partial.blob_id(), Some(liar.id));
    leave(&store, partial).await;
    flip(&file(dir.path(), ".data"), 0);
    flip(&file(dir.path(), ".data"), GROUP_BYTES);
    let partial = begin(&store, &honest).await;
    assert_eq!(partial.blob_id(), None);
    finish(&partial, &honest).await;
}

#[tokio::test]
async fn a_second_fetch_of_the_same_blob_has_files_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let sample = sample(1);
    let (first, second) = (begin(&store, &sample).await, begin(&store, &sample).await);
    give(&first, &sample, 0, 5);
    give(&second, &sample, 5, 9);
    leave(&store, second).await;
    assert_eq!(store.usage().leftovers, 0, "only one of them can be taken up again");
    leave(&store, first).await;
    let again = begin(&store, &sample).await;
    assert_eq!(again.missing(), [range(5, GROUPS)]);
    drop(again);
    store.flush().await.unwrap();
    assert_eq!(store.usage().leftovers, 1, "what was left before is not lost by looking at it");
    sample.put(&store).await;
    assert_eq!(store.usage().leftovers, 0, "it is held now");
    until_empty(&dir.path().join("partial")).await;
}

#[tokio::test]
async fn nothing_is_left_of_a_fetch_that_brought_nothing_or_was_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let sample = sample(1);
    leave(&store, begin(&store, &sample).await).await;
    until_empty(&dir.path().join("partial")).await;
    let partial = begin(&store, &sample).await;
    give(&partial, &sample, 0, 5);
    partial.abort("wrong");
    partial.suspend("too late");
    drop(partial);
    until_empty(&dir.path().join("partial")).await;
    assert_eq!(store.usage().leftovers, 0);
}

#[tokio::test]
async fn a_blob_asked_for_by_its_root_is_taken_up_too() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let sample = sample(7);
    let digest = Digest::Blake3(sample.id);
    let partial = store.create_partial(digest, sample.size()).await.unwrap();
    give(&partial, &sample, 3, 6);
    leave(&store, partial).await;
    let sidecar = file(dir.path(), ".progress");
    let partial = store.create_partial(digest, sample.size()).await.unwrap();
    assert_eq!(partial.groups().len(), 3);
    leave(&store, partial).await;
    let mut noted = Sidecar::read(&sidecar).unwrap();
    noted.root = Some(BlobId([1; 32]));
    noted.write(&sidecar).unwrap();
    let partial = store.create_partial(digest, sample.size()).await.unwrap();
    assert!(partial.groups().is_empty());
    assert_eq!(partial.blob_id(), Some(sample.id));
}
