//! `verify` and `gc` on real state directories.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use p2p_cache_protocol::{Digest, Sha256Digest};

use super::Home;
use crate::cli::EXIT_FAILURE;
use crate::store::{BlobStore, StoreConfig};

const BLOB_BYTES: usize = 100_000;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A store with one blob for each letter.
fn fill(state_dir: &Path, letters: &str) {
    runtime().block_on(async {
        let store = BlobStore::open(StoreConfig::new(state_dir)).await.unwrap();
        for letter in letters.bytes() {
            let bytes = Bytes::from(vec![letter; BLOB_BYTES]);
            let expected = Digest::Sha256(Sha256Digest::of(&bytes));
            store.put(expected, futures::stream::iter([Ok(bytes)]), false).await.unwrap();
        }
        store.close().await.unwrap();
    });
}

fn data_file(state_dir: &Path, letter: u8) -> PathBuf {
    let sha256 = Sha256Digest::of(&vec![letter; BLOB_BYTES]).to_string();
    let shards = std::fs::read_dir(state_dir.join("blobs")).unwrap();
    let mut files = shards.flat_map(|shard| std::fs::read_dir(shard.unwrap().path()).unwrap());
    files
        .find_map(|file| Some(file.unwrap().path()).filter(|path| path.to_string_lossy().ends_with(&sha256)))
        .unwrap()
}

#[test]
fn verify_passes_a_sound_store_and_fails_on_a_bad_blob() {
    let home = Home::new();
    let state_dir = home.path().join("state");
    fill(&state_dir, "abc");
    let args = |json| [vec!["verify", "--state-dir", state_dir.to_str().unwrap()], json].concat();
    let sound = home.run(args(vec![]));
    assert_eq!(sound.code, 0, "{}", sound.err);
    assert!(sound.text().starts_with("3 blobs") && sound.text().ends_with("0 bad\n"), "{}", sound.text());

    let bad = data_file(&state_dir, b'b');
    let mut bytes = std::fs::read(&bad).unwrap();
    bytes[50_000] ^= 1;
    std::fs::write(&bad, bytes).unwrap();
    let outcome = home.run(args(vec!["--json"]));
    assert_eq!(outcome.code, EXIT_FAILURE);
    let json = outcome.json();
    assert_eq!(json["bad"].as_array().unwrap().len(), 1, "{json}");
    assert_eq!(json["bad"][0]["sha256"], Sha256Digest::of(&[b'b'; BLOB_BYTES]).to_string());
    assert!(outcome.err.contains("1 of 3 blobs were bad"), "{}", outcome.err);
    assert_eq!(home.run(args(vec![])).code, 0, "a bad blob is removed");
}

#[test]
fn gc_shrinks_the_store_to_its_limit() {
    let home = Home::new();
    let state_dir = home.path().join("state");
    fill(&state_dir, "abcd");
    let state_dir = state_dir.to_str().unwrap();
    let idle = home.run(["gc", "--state-dir", state_dir, "--json"]);
    assert_eq!((idle.code, idle.json()["blobs"].as_u64()), (0, Some(4)), "{}", idle.err);
    let outcome = home.run(["gc", "--state-dir", state_dir, "--max-store-size", "250kB"]);
    assert_eq!(outcome.code, 0, "{}", outcome.err);
    assert!(outcome.text().contains("kept 2 blobs"), "{}", outcome.text());
}

#[test]
fn without_a_state_directory_nothing_is_made() {
    let home = Home::new();
    for command in ["verify", "gc"] {
        let outcome = home.run([command]);
        assert_eq!(outcome.code, EXIT_FAILURE, "{command}");
        assert!(outcome.err.contains("--state-dir") && outcome.err.contains("serve"), "{}", outcome.err);
    }
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn a_store_in_use_is_left_alone() {
    let home = Home::new();
    let state_dir = home.path().join("state");
    fill(&state_dir, "a");
    let runtime = runtime();
    let store = runtime.block_on(BlobStore::open(StoreConfig::new(&state_dir))).unwrap();
    for command in ["verify", "gc"] {
        let outcome = home.run([command, "--state-dir", state_dir.to_str().unwrap()]);
        assert_eq!(outcome.code, EXIT_FAILURE, "{command}");
        assert!(outcome.err.contains("in use by another p2p-cache process"), "{}", outcome.err);
    }
    drop(store);
}
