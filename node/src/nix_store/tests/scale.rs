use super::*;
use crate::nix_store::testing::SyntheticStore;

/// Opens a store of as many paths, none of which has files; yields how long that took.
async fn time_to_open(paths: u32) -> Duration {
    let mut store = SyntheticStore::new();
    let hashes = store.add_rows(paths);
    let state = tempfile::tempdir().unwrap();
    let everything = || NixStoreOptions {
        // Only the noting is of interest here.
        hash_rate_bytes_per_second: Some(1),
        ..NixStoreOptions::new(Arc::new(|_| Verdict::Offer))
    };
    let nix = NixStore::open(store.root(), state.path(), everything()).await;
    let started = Instant::now();
    while nix.usage().counts.pending + nix.usage().counts.bad < u64::from(paths) {
        // In the test profile on a busy machine; what is asserted comes afterwards.
        assert!(started.elapsed() < Duration::from_secs(400), "{:?}", nix.usage());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    nix.shutdown().await;
    drop(nix);

    let started = Instant::now();
    let nix = NixStore::open(store.root(), state.path(), everything()).await;
    let took = started.elapsed();
    let narinfo = nix.narinfo(*hashes.last().unwrap()).await.unwrap().expect("answers at once");
    assert_eq!(narinfo.references.len(), 1);
    nix.shutdown().await;
    took
}

#[tokio::test]
async fn a_store_of_100_000_paths_is_open_within_the_time_to_be_ready() {
    let took = time_to_open(100_000).await;
    println!("opened with 100,000 paths in {took:?}");
    assert!(took < Duration::from_secs(2), "{took:?}");
}
