use p2p_cache_protocol::{BlobId, Digest, GROUP_BYTES};

use super::support::{Sample, files_in, open, range, read_all, stored_bytes, until_empty};
use crate::store::StoreError;

const GROUP: usize = GROUP_BYTES as usize;

#[tokio::test]
async fn sequential_bytes_become_a_blob_with_an_outboard() {
    for size in [0, 1, GROUP, GROUP + 1, 40 * GROUP + 17] {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path()).await;
        let sample = Sample::new(1, size);
        let partial = store.create_partial(Digest::Sha256(sample.sha256), sample.size()).await.unwrap();
        for (n, chunk) in sample.bytes.chunks(5000).enumerate() {
            partial.write_sequential(n as u64 * 5000, chunk).unwrap();
        }
        let meta = partial.commit(sample.sha256, true).await.unwrap();
        assert_eq!(
            (meta.id, meta.sha256, meta.size, meta.published),
            (sample.id, sample.sha256, sample.size(), true)
        );
        let blob = store.open_blob(sample.id).await.unwrap().unwrap();
        let mut encoded = vec![0; sample.encode(sample.all()).len()];
        blob.encode(sample.all(), &mut encoded).unwrap();
        assert_eq!(encoded, sample.encode(sample.all()));
        assert_eq!(stored_bytes(&store, sample.id).await.unwrap(), sample.bytes);
        for digest in [Digest::Blake3(sample.id), Digest::Sha256(sample.sha256)] {
            assert_eq!(store.find(digest).await.unwrap(), Some(meta));
        }
        assert_eq!(store.usage().blobs, 1);
        until_empty(&dir.path().join("partial")).await;
    }
}

#[tokio::test]
async fn verified_groups_from_two_peers_and_an_origin_become_one_blob() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let sample = Sample::new(2, 20 * GROUP + 5);
    for origin_too in [false, true] {
        let partial = store.create_partial(Digest::Sha256(sample.sha256), sample.size()).await.unwrap();
        partial.write_groups(sample.id, range(10, 21), &sample.encode(range(10, 21))).unwrap();
        if origin_too {
            partial.write_sequential(0, &sample.bytes[..12 * GROUP]).unwrap();
        } else {
            partial.write_groups(sample.id, range(0, 10), &sample.encode(range(0, 10))).unwrap();
        }
        assert_eq!(partial.verify_whole().await.unwrap(), sample.sha256);
        assert_eq!(partial.commit(sample.sha256, false).await.unwrap().id, sample.id);
        let blob = store.open_blob(sample.id).await.unwrap().unwrap();
        let mut encoded = vec![0; sample.encode(sample.all()).len()];
        blob.encode(sample.all(), &mut encoded).unwrap();
        assert_eq!(encoded, sample.encode(sample.all()));
    }
    assert_eq!(store.usage().blobs, 1);
}

#[tokio::test]
async fn a_false_claim_shows_in_the_id_and_cannot_change_bytes_that_were_present() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let honest = Sample::new(3, 4 * GROUP);
    let mut bytes = honest.bytes.clone();
    bytes[3 * GROUP + 7] ^= 1;
    let liar = Sample::of(bytes);
    let partial = store.create_partial(Digest::Sha256(honest.sha256), honest.size()).await.unwrap();
    // What both have in common verifies against the liar's tree.
    partial.write_groups(liar.id, range(0, 1), &liar.encode(range(0, 1))).unwrap();
    partial.write_sequential(GROUP_BYTES, &honest.bytes[GROUP..]).unwrap();
    partial.write_groups(liar.id, range(2, 4), &liar.encode(range(2, 4))).unwrap();
    assert_eq!(read_all(&partial), honest.bytes);
    assert!(!partial.is_verified(range(3, 4)));
    let meta = partial.commit(honest.sha256, false).await.unwrap();
    assert_eq!(partial.blob_id(), Some(liar.id));
    assert_eq!(meta.id, honest.id);
    assert_eq!(stored_bytes(&store, honest.id).await.unwrap(), honest.bytes);
}

#[tokio::test]
async fn wrong_bytes_are_never_committed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let (wanted, wrong) = (Sample::new(4, 3 * GROUP), Sample::new(5, 3 * GROUP));
    for expected in [Digest::Sha256(wanted.sha256), Digest::Blake3(wanted.id)] {
        let partial = store.create_partial(expected, wanted.size()).await.unwrap();
        partial.write_sequential(0, &wrong.bytes[..GROUP]).unwrap();
        assert!(matches!(
            partial.commit(wrong.sha256, false).await,
            Err(StoreError::Incomplete { present_bytes: GROUP_BYTES, .. })
        ));
        partial.write_sequential(GROUP_BYTES, &wrong.bytes[GROUP..]).unwrap();
        for claimed in [wanted.sha256, wrong.sha256] {
            let result = partial.commit(claimed, false).await;
            assert!(matches!(result, Err(StoreError::Mismatch { .. })), "{result:?}");
        }
        let put = store.put(expected, wrong.body(), false).await;
        assert!(matches!(put, Err(StoreError::Mismatch { .. })), "{put:?}");
    }
    assert_eq!(store.usage().blobs, 0);
    until_empty(&dir.path().join("partial")).await;
}

#[tokio::test]
async fn readers_of_a_partial_go_on_after_commit_and_eviction() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let sample = Sample::new(6, 5 * GROUP);
    let partial = store.create_partial(Digest::Blake3(sample.id), sample.size()).await.unwrap();
    partial.write_groups(sample.id, sample.all(), &sample.encode(sample.all())).unwrap();
    partial.commit(sample.sha256, false).await.unwrap();
    let open_blob = store.open_blob(sample.id).await.unwrap().unwrap();
    assert!(store.remove(sample.id).await.unwrap());
    assert!(store.find(Digest::Blake3(sample.id)).await.unwrap().is_none());
    assert_eq!(read_all(&partial), sample.bytes);
    partial.abort("too late");
    assert_eq!(read_all(&partial), sample.bytes);
    let mut encoded = vec![0; sample.encode(sample.all()).len()];
    open_blob.encode(sample.all(), &mut encoded).unwrap();
    assert_eq!(encoded, sample.encode(sample.all()));
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_commits_of_one_blob_are_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let sample = Sample::new(7, 9 * GROUP + 1);
    let commits = (0..6).map(|n| {
        let (store, sample) = (&store, &sample);
        async move {
            if n % 2 == 0 {
                return sample.put(store).await;
            }
            let partial = store.create_partial(Digest::Sha256(sample.sha256), sample.size()).await.unwrap();
            partial.write_sequential(0, &sample.bytes).unwrap();
            let twice =
                tokio::join!(partial.commit(sample.sha256, false), partial.commit(sample.sha256, false));
            assert_eq!(twice.0.unwrap(), twice.1.unwrap());
            partial.commit(sample.sha256, false).await.unwrap()
        }
    });
    for meta in futures::future::join_all(commits).await {
        assert_eq!(meta.id, sample.id);
    }
    assert_eq!(store.usage().blobs, 1);
    assert_eq!(stored_bytes(&store, sample.id).await.unwrap(), sample.bytes);
    assert_eq!(files_in(&dir.path().join(format!("blobs/{:02x}", sample.id.0[0]))).len(), 2);
    until_empty(&dir.path().join("partial")).await;
}

#[tokio::test]
async fn an_upload_that_breaks_off_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let broken = futures::stream::iter([
        Ok(bytes::Bytes::from_static(b"abc")),
        Err(std::io::Error::from(std::io::ErrorKind::ConnectionReset)),
    ]);
    let result = store.put(Digest::Blake3(BlobId::of(b"abcdef")), broken, true).await;
    assert!(matches!(result, Err(StoreError::Body { .. })), "{result:?}");
    until_empty(&dir.path().join("partial")).await;
    assert_eq!(store.usage().partials, 0);
}

#[tokio::test]
async fn publishing_again_keeps_marks_and_marks_need_a_blob() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let sample = Sample::new(8, 100);
    assert!(matches!(store.pin(sample.id).await, Err(StoreError::NotHeld { .. })));
    sample.put(&store).await;
    assert!(store.pin(sample.id).await.unwrap().pinned);
    assert!(store.publish(sample.id).await.unwrap().published);
    let again = sample.put(&store).await;
    assert!(again.pinned && again.published);
    assert_eq!(store.usage().pinned_bytes, 100);
    store.close().await.unwrap();
    let store = open(dir.path()).await;
    assert_eq!(store.find(Digest::Blake3(sample.id)).await.unwrap(), Some(again));
    assert!(!store.unpublish(sample.id).await.unwrap().published);
    assert!(!store.unpin(sample.id).await.unwrap().pinned);
    assert_eq!(store.usage().pinned_bytes, 0);
}
