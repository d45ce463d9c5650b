//! Starting over damaged directories.

use std::fs;
use std::path::Path;

use p2p_cache_protocol::{BlobId, Digest};

use super::support::{Sample, files_in, open, stored_bytes};
use crate::store::{BlobStore, StoreError};

async fn filled(dir: &Path) -> Vec<Sample> {
    let store = open(dir).await;
    let samples: Vec<_> = (0..30).map(|n| Sample::new(n, 1000 + 7000 * n as usize)).collect();
    for sample in &samples {
        sample.put(&store).await;
    }
    store.pin(samples[3].id).await.unwrap();
    store.publish(samples[4].id).await.unwrap();
    store.close().await.unwrap();
    samples
}

async fn assert_whole(store: &BlobStore, samples: &[Sample]) {
    assert_eq!(store.usage().blobs, samples.len() as u64);
    for (n, sample) in samples.iter().enumerate() {
        let meta = store.find(Digest::Sha256(sample.sha256)).await.unwrap().unwrap();
        assert_eq!((meta.id, meta.pinned, meta.published), (sample.id, n == 3, n == 4));
        assert_eq!(stored_bytes(store, sample.id).await.unwrap(), sample.bytes);
    }
}

fn files_below(dir: &Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files
}

#[tokio::test]
async fn a_missing_index_is_rebuilt_from_the_file_names() {
    let dir = tempfile::tempdir().unwrap();
    let samples = filled(dir.path()).await;
    fs::remove_dir_all(dir.path().join("index")).unwrap();
    assert_whole(&open(dir.path()).await, &samples).await;
}

#[tokio::test]
async fn a_scribbled_index_is_rebuilt_whatever_was_hit() {
    let dir = tempfile::tempdir().unwrap();
    let samples = filled(dir.path()).await;
    // Each round scribbles over another part of each file of the index.
    for round in 0..12u64 {
        for file in files_below(&dir.path().join("index")) {
            let mut bytes = fs::read(&file).unwrap();
            let noise = Sample::new(round, 4096).bytes;
            let start = bytes.len() * round as usize / 12;
            for (byte, noise) in bytes[start..].iter_mut().zip(noise.iter().cycle().take(64 << round.min(8)))
            {
                *byte = *noise;
            }
            fs::write(&file, bytes).unwrap();
        }
        let store = open(dir.path()).await;
        assert_whole(&store, &samples).await;
        assert_eq!(store.verify(|_| ()).await.unwrap().bad, Vec::new());
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn an_index_that_is_no_index_is_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let samples = filled(dir.path()).await;
    for _ in 0..2 {
        fs::remove_dir_all(dir.path().join("index")).unwrap();
        fs::write(dir.path().join("index"), "not a directory").unwrap();
        let store = open(dir.path()).await;
        assert_whole(&store, &samples).await;
        store.close().await.unwrap();
        assert!(dir.path().join("index.damaged").is_file());
    }
}

#[tokio::test]
async fn stray_files_are_removed_and_a_lost_outboard_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    let samples = filled(dir.path()).await;
    let path = |n: usize, suffix: &str| {
        let sample = &samples[n];
        let name = format!("{}-{}{suffix}", sample.id, sample.sha256);
        dir.path().join(format!("blobs/{:02x}", sample.id.0[0])).join(name)
    };
    fs::remove_file(path(10, ".obao")).unwrap();
    fs::remove_file(path(11, "")).unwrap();
    let cut = fs::read(path(12, "")).unwrap();
    fs::write(path(12, ""), &cut[..cut.len() / 3]).unwrap();
    fs::write(path(13, ".obao"), "short").unwrap();
    fs::write(dir.path().join("pinned").join(BlobId::of(b"gone").to_string()), "").unwrap();
    fs::write(dir.path().join("partial/left.data"), "rest of a download").unwrap();
    fs::write(dir.path().join("blobs/README"), "not ours").unwrap();

    let store = open(dir.path()).await;
    assert_eq!(store.usage().blobs, 28);
    for n in [10, 13] {
        let blob = store.open_blob(samples[n].id).await.unwrap().unwrap();
        let mut encoded = vec![0; samples[n].encode(samples[n].all()).len()];
        blob.encode(samples[n].all(), &mut encoded).unwrap();
        assert_eq!(encoded, samples[n].encode(samples[n].all()));
    }
    for n in [11, 12] {
        assert_eq!(store.find(Digest::Sha256(samples[n].sha256)).await.unwrap(), None);
        assert!(!path(n, "").exists() && !path(n, ".obao").exists());
    }
    assert_eq!(files_in(&dir.path().join("pinned")).len(), 1);
    assert!(files_in(&dir.path().join("partial")).is_empty());
    assert!(dir.path().join("blobs/README").exists());
}

#[tokio::test]
async fn gc_clears_what_appears_while_running_and_spares_running_writes() {
    let dir = tempfile::tempdir().unwrap();
    let samples = filled(dir.path()).await;
    let store = open(dir.path()).await;
    let sample = Sample::new(99, 50_000);
    let partial = store.create_partial(Digest::Sha256(sample.sha256), sample.size()).await.unwrap();
    fs::write(dir.path().join("partial/left.data"), "rest of a download").unwrap();
    let lost = &samples[5];
    let name = format!("{}-{}", lost.id, lost.sha256);
    fs::remove_file(dir.path().join(format!("blobs/{:02x}/{name}", lost.id.0[0]))).unwrap();

    let report = store.gc(Default::default()).await.unwrap();
    assert_eq!((report.removed_partials, report.removed_orphans, report.dropped), (1, 1, 1));
    assert_eq!(store.usage().blobs, 29);
    partial.write_sequential(0, &sample.bytes).unwrap();
    partial.commit(sample.sha256, false).await.unwrap();
    assert_eq!(stored_bytes(&store, sample.id).await.unwrap(), sample.bytes);
}

#[tokio::test]
async fn a_blob_whose_files_vanish_is_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let sample = Sample::new(1, 50_000);
    sample.put(&store).await;
    fs::remove_dir_all(dir.path().join(format!("blobs/{:02x}", sample.id.0[0]))).unwrap();
    assert!(store.open_blob(sample.id).await.unwrap().is_none());
    assert_eq!(store.usage().bytes, 0);
    sample.put(&store).await;
    assert_eq!(stored_bytes(&store, sample.id).await.unwrap(), sample.bytes);
}

#[tokio::test]
async fn a_second_store_on_the_directory_is_refused_until_the_first_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let second = BlobStore::open(super::support::config(dir.path())).await;
    assert!(matches!(second, Err(StoreError::Locked { .. })));
    store.close().await.unwrap();
    open(dir.path()).await;
}
