use std::fs;

use p2p_cache_protocol::{NarInfo, Sha256Digest};

use super::support::{Sample, config, files_in, open};
use crate::store::{BlobStore, StoreConfig};

fn narinfo(n: usize, nar: Sha256Digest) -> NarInfo {
    const DIGITS: &[u8] = b"0123456789abcdfghijklmnpqrsvwxyz";
    let (high, low) = (char::from(DIGITS[n / 32 % 32]), char::from(DIGITS[n % 32]));
    let hash = format!("{}{high}{low}", "0".repeat(30));
    NarInfo::parse(&format!(
        "StorePath: /nix/store/{hash}-package\nURL: nar/x.nar\nCompression: none\nNarHash: sha256:{}\nNarSize: 10\nReferences: \n",
        nar.to_nix32()
    ))
    .unwrap()
}

#[tokio::test]
async fn narinfos_come_back_by_store_hash_and_by_nar_hash_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (Sha256Digest::of(b"one"), Sha256Digest::of(b"two"));
    let all = [narinfo(0, one), narinfo(1, two), narinfo(2, one)];
    let store = open(dir.path()).await;
    for narinfo in &all {
        store.put_narinfo(narinfo).await.unwrap();
        store.put_narinfo(narinfo).await.unwrap();
    }
    store.close().await.unwrap();
    for index_lost in [false, true] {
        if index_lost {
            fs::remove_dir_all(dir.path().join("index")).unwrap();
        }
        let store = open(dir.path()).await;
        assert_eq!(store.usage().narinfos, 3);
        for narinfo in &all {
            assert_eq!(store.narinfo(narinfo.store_path.hash()).await.as_ref(), Some(narinfo));
        }
        assert_eq!(store.narinfos_of(one).await, [all[0].clone(), all[2].clone()]);
        assert_eq!(store.narinfos_of(two).await, [all[1].clone()]);
        assert_eq!(store.narinfos_of(Sha256Digest::of(b"three")).await, []);
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn a_rebuilt_path_replaces_the_narinfo_and_leaves_no_trace_of_the_old_nar() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let (one, two) = (Sha256Digest::of(b"one"), Sha256Digest::of(b"two"));
    store.put_narinfo(&narinfo(0, one)).await.unwrap();
    store.put_narinfo(&narinfo(0, two)).await.unwrap();
    assert_eq!(store.narinfos_of(one).await, []);
    assert_eq!(store.narinfos_of(two).await, [narinfo(0, two)]);
    assert_eq!(store.usage().narinfos, 1);
    assert!(files_in(&dir.path().join("partial")).is_empty());
}

#[tokio::test]
async fn a_damaged_narinfo_file_is_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    let nar = Sha256Digest::of(b"one");
    let (whole, foreign) = (narinfo(0, nar), narinfo(1, nar));
    for damage in [&b"StorePath: /nix/st"[..], b"", &[0xff; 300_000], foreign.to_string().as_bytes()] {
        let store = open(dir.path()).await;
        store.put_narinfo(&whole).await.unwrap();
        store.close().await.unwrap();
        let path = dir.path().join(format!("narinfo/{}.narinfo", whole.store_path.hash()));
        fs::write(&path, damage).unwrap();
        let store = open(dir.path()).await;
        assert_eq!(store.narinfo(whole.store_path.hash()).await, None);
        assert_eq!(store.narinfos_of(nar).await, []);
        assert!(!path.exists());
        assert_eq!(store.usage().narinfos, 0);
    }
}

#[tokio::test]
async fn their_number_is_bounded_and_those_with_a_blob_stay() {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(StoreConfig { max_narinfos: 64, ..config(dir.path()) }).await.unwrap();
    let sample = Sample::new(1, 10);
    sample.put(&store).await;
    let held = narinfo(0, sample.sha256);
    store.put_narinfo(&held).await.unwrap();
    for n in 1..200 {
        store.put_narinfo(&narinfo(n, Sha256Digest::of(&n.to_le_bytes()))).await.unwrap();
    }
    assert!(store.usage().narinfos <= 64);
    assert_eq!(files_in(&dir.path().join("narinfo")).len() as u64, store.usage().narinfos);
    assert_eq!(store.narinfo(held.store_path.hash()).await, Some(held));
}

#[tokio::test]
async fn the_memory_cache_is_bounded_and_may_be_absent() {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(StoreConfig { narinfo_cache_bytes: 0, ..config(dir.path()) }).await.unwrap();
    let narinfo = narinfo(0, Sha256Digest::of(b"one"));
    store.put_narinfo(&narinfo).await.unwrap();
    assert_eq!(store.inner.narinfos.cached(narinfo.store_path.hash()), None);
    assert_eq!(store.narinfo(narinfo.store_path.hash()).await, Some(narinfo));
}
