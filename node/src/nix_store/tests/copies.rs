use bytes::Bytes;
use futures::stream;

use super::*;
use crate::nix_store::testing::hash_of;
use crate::nix_store::{Database, SecondCopies};
use crate::store::{BlobMeta, BlobStore, StoreConfig};

/// A blob store beside the Nix store.
async fn blob_store(store: &RealStore) -> BlobStore {
    BlobStore::open(StoreConfig::new(store.state_dir())).await.unwrap()
}

async fn put(blobs: &BlobStore, nar: &[u8], publish: bool) -> BlobMeta {
    let body = stream::iter([Ok(Bytes::copy_from_slice(nar))]);
    blobs.put(Digest::Sha256(Sha256Digest::of(nar)), body, publish).await.unwrap()
}

async fn open_with(store: &RealStore, blobs: &BlobStore) -> (NixStore, News) {
    let news = News::default();
    let copies: Arc<dyn SecondCopies> = Arc::new(blobs.clone());
    let options = NixStoreOptions { copies: Some(copies), ..options(&news) };
    (NixStore::open(&store.root(), &store.state_dir(), options).await, news)
}

/// The NAR that a file will have once it is added.
fn nar_of(store: &RealStore, bytes: &[u8]) -> Vec<u8> {
    let path = store.add_file("to-be-deleted", bytes);
    let nar = store.dump(&path);
    store.delete(&path);
    nar
}

async fn held(blobs: &BlobStore, nar: &[u8]) -> bool {
    blobs.find(Digest::Sha256(Sha256Digest::of(nar))).await.unwrap().is_some()
}

#[tokio::test]
async fn a_blob_is_handed_over_unread_when_nix_has_imported_it() {
    let Some(store) = RealStore::new() else { return };
    let blobs = blob_store(&store).await;
    let nar = nar_of(&store, &[1; 200_000]);
    put(&blobs, &nar, false).await;
    let (nix, news) = open_with(&store, &blobs).await;
    assert!(!found(&nix, &nar).await);

    let path = store.add_signed("imported", &[1; 200_000]);
    assert_eq!(store.dump(&path), nar);
    wait_until("the blob to be dropped", async || !held(&blobs, &nar).await).await;
    assert_eq!(nix.hashed_bytes().get(), 0, "its hash tree was taken over");
    assert!(found(&nix, &nar).await);
    assert!(Holdings::open(&nix, claim_of(&nar).blob).await.unwrap().is_some());
    assert_eq!(*news.offered.lock().unwrap(), [claim_of(&nar)]);

    store.delete(&path);
    wait_for_offers(&nix, 0).await;
    assert!(!found(&nix, &nar).await, "with the path the offer is gone");
    nix.shutdown().await;
}

#[tokio::test]
async fn an_unsigned_path_needs_no_second_copy_either_and_stays_private() {
    let Some(store) = RealStore::new() else { return };
    let blobs = blob_store(&store).await;
    let nar = nar_of(&store, &[1; 200_000]);
    put(&blobs, &nar, false).await;
    let (nix, _) = open_with(&store, &blobs).await;
    let path = store.add_file("imported", &[1; 200_000]);
    wait_until("the blob to be dropped", async || !held(&blobs, &nar).await).await;
    assert!(!found(&nix, &nar).await);
    assert!(nix.open_nar(hash_of(&path)).await.unwrap().is_some());
    nix.shutdown().await;
}

#[tokio::test]
async fn pinned_and_published_blobs_stay() {
    let Some(store) = RealStore::new() else { return };
    let blobs = blob_store(&store).await;
    let (pinned, published) = (nar_of(&store, &[1; 1000]), nar_of(&store, &[2; 1000]));
    let meta = put(&blobs, &pinned, false).await;
    blobs.pin(meta.id).await.unwrap();
    put(&blobs, &published, true).await;
    let (nix, _) = open_with(&store, &blobs).await;
    store.add_signed("pinned", &[1; 1000]);
    store.add_signed("published", &[2; 1000]);
    wait_for_offers(&nix, 2).await;
    nix.shutdown().await;
    assert!(held(&blobs, &pinned).await && held(&blobs, &published).await);
}

#[tokio::test]
async fn a_blob_that_is_committed_after_its_path_was_registered_goes_too() {
    let Some(store) = RealStore::new() else { return };
    let blobs = blob_store(&store).await;
    let path = store.add_signed("path", &[1; 200_000]);
    let nar = store.dump(&path);
    let (nix, _) = open_with(&store, &blobs).await;
    wait_for_offers(&nix, 1).await;
    put(&blobs, &nar, false).await;
    nix.blob_committed(Sha256Digest::of(&nar));
    wait_until("the blob to be dropped", async || !held(&blobs, &nar).await).await;
    assert!(found(&nix, &nar).await);
    nix.shutdown().await;
}

#[tokio::test]
async fn a_good_copy_of_a_damaged_path_is_kept() {
    let Some(store) = RealStore::new() else { return };
    let blobs = blob_store(&store).await;
    let path = store.add_signed("path", &[1; 200_000]);
    let nar = store.dump(&path);
    put(&blobs, &nar, false).await;
    store.corrupt(&path);
    // Registered long ago: what has happened to it since is not known.
    let database = rusqlite::Connection::open(Database::path_below(&store.root())).unwrap();
    database.execute("update ValidPaths set registrationTime = 1000000000", []).unwrap();
    let (nix, _) = open_with(&store, &blobs).await;
    wait_until("the damage to be found", async || nix.usage().counts.bad == 1).await;
    assert!(held(&blobs, &nar).await);
    nix.shutdown().await;
}
