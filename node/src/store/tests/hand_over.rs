use p2p_cache_protocol::{Digest, tree};

use super::support::{Sample, config, files_in};
use crate::store::BlobStore;

const SIZE: usize = 100_000;

#[tokio::test]
async fn a_blob_is_given_up_and_its_outboard_lives_on_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(config(dir.path())).await.unwrap();
    let sample = Sample::new(1, SIZE);
    sample.put(&store).await;
    let reader = store.open_blob(sample.id).await.unwrap().unwrap();
    let to = dir.path().join("exported");
    assert!(store.export_outboard(sample.id, &to).unwrap());
    assert!(store.export_outboard(sample.id, &to).is_err(), "nothing is overwritten");

    assert!(store.give_up(sample.id).unwrap());
    assert!(!store.give_up(sample.id).unwrap(), "gone already");
    assert!(!store.export_outboard(sample.id, &dir.path().join("other")).unwrap());
    assert_eq!(store.find_blocking(Digest::Blake3(sample.id)).unwrap(), None);
    let shard = dir.path().join(format!("blobs/{:02x}", sample.id.0[0]));
    assert_eq!(files_in(&shard), Vec::<String>::new());
    assert_eq!(store.usage().bytes, 0);
    assert_eq!(std::fs::read(&to).unwrap(), sample.outboard);
    let mut read = vec![0; tree::encoded_bytes(SIZE as u64, sample.all()) as usize];
    reader.encode(sample.all(), &mut read).unwrap();
    assert_eq!(read, sample.encode(sample.all()), "readers go on");
}

#[tokio::test]
async fn what_the_owner_pinned_or_published_is_not_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(config(dir.path())).await.unwrap();
    let (pinned, published) = (Sample::new(1, SIZE), Sample::new(2, SIZE));
    pinned.put(&store).await;
    store.pin(pinned.id).await.unwrap();
    published.put(&store).await;
    store.publish(published.id).await.unwrap();
    for sample in [&pinned, &published] {
        assert!(!store.give_up(sample.id).unwrap());
        assert!(store.open_blob(sample.id).await.unwrap().is_some());
    }
    store.unpin(pinned.id).await.unwrap();
    assert!(store.give_up(pinned.id).unwrap());
}
