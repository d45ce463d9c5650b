use std::fs;

use p2p_cache_protocol::{GroupRange, encoded_bytes};

use super::*;
use crate::nix_store::Database;
use crate::nix_store::testing::hash_of;

#[tokio::test]
async fn a_new_path_is_offered_and_a_deleted_one_is_withdrawn() {
    let Some(store) = RealStore::new() else { return };
    let (nix, news) = open(&store).await;
    let path = store.add_signed("new", &[1; 100_000]);
    let nar = store.dump(&path);
    wait_for_offers(&nix, 1).await;
    assert!(found(&nix, &nar).await);

    store.delete(&path);
    assert!(!found(&nix, &nar).await, "at once, whatever has been noticed yet");
    assert!(nix.narinfo(hash_of(&path)).await.unwrap().is_none());
    wait_for_offers(&nix, 0).await;
    assert_eq!(*news.withdrawn.lock().unwrap(), [claim_of(&nar)]);
    let outboards = fs::read_dir(store.state_dir().join("live/outboards")).unwrap().flatten();
    let left = outboards.flat_map(|shard| fs::read_dir(shard.path()).unwrap()).count();
    assert_eq!(left, 0, "its hash tree is gone too");

    let again = store.add_signed("new", &[1; 100_000]);
    assert_eq!(again, path);
    wait_for_offers(&nix, 1).await;
    assert!(found(&nix, &nar).await);
    nix.shutdown().await;
}

#[tokio::test]
async fn a_path_that_is_signed_later_is_offered_then() {
    let Some(store) = RealStore::new() else { return };
    let path = store.add_file("path", &[1; 1000]);
    let (nix, _) = open(&store).await;
    store.sign(&path);
    // The look at all paths that are not offered waits for a while after the last one.
    let started = Instant::now();
    while !found(&nix, &store.dump(&path)).await {
        assert!(started.elapsed() < Duration::from_secs(40));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    nix.shutdown().await;
}

#[tokio::test]
async fn garbage_collected_between_two_runs_is_withdrawn_at_the_next_start() {
    let Some(store) = RealStore::new() else { return };
    let nars: Vec<_> = (0..4u8)
        .map(|number| store.dump(&store.add_signed(&format!("path-{number}"), &[number; 1000])))
        .collect();
    let (nix, _) = open(&store).await;
    wait_for_offers(&nix, 4).await;
    nix.shutdown().await;
    drop(nix);
    store.collect_garbage();
    let (nix, news) = open(&store).await;
    for nar in &nars {
        assert!(!found(&nix, nar).await, "at once, whatever has been noticed yet");
    }
    wait_until("all to be withdrawn", async || news.withdrawn.lock().unwrap().len() == nars.len()).await;
    nix.shutdown().await;
}

#[tokio::test]
async fn two_paths_with_the_same_nar_are_one_offer_until_the_last_is_gone() {
    let Some(store) = RealStore::new() else { return };
    let (first, second) = (store.add_signed("one", &[1; 100_000]), store.add_signed("two", &[1; 100_000]));
    let nar = store.dump(&first);
    assert_eq!(nar, store.dump(&second));
    let (nix, news) = open(&store).await;
    wait_for_offers(&nix, 2).await;
    store.delete(&first);
    wait_for_offers(&nix, 1).await;
    assert!(found(&nix, &nar).await);
    assert!(
        Holdings::open(&nix, claim_of(&nar).blob).await.unwrap().is_some(),
        "the hash tree is still there"
    );
    assert!(news.withdrawn.lock().unwrap().is_empty());
    store.delete(&second);
    wait_for_offers(&nix, 0).await;
    assert_eq!(*news.withdrawn.lock().unwrap(), [claim_of(&nar)]);
    nix.shutdown().await;
}

#[tokio::test]
async fn a_path_deleted_while_it_is_read_yields_errors_and_never_wrong_bytes() {
    let Some(store) = RealStore::new() else { return };
    let path = store.add("tree", |path| {
        fs::create_dir(path).unwrap();
        for number in 0..50u8 {
            fs::write(path.join(format!("file-{number}")), vec![number; 40_000]).unwrap();
        }
    });
    store.sign(&path);
    let nar = store.dump(&path);
    let (nix, _) = open(&store).await;
    wait_for_offers(&nix, 1).await;
    let open = Holdings::open(&nix, claim_of(&nar).blob).await.unwrap().expect("offered");
    let size = nar.len() as u64;
    let encode = |range| open.encode(range, &mut vec![0; encoded_bytes(size, range) as usize]);
    encode(GroupRange::new(0, 4)).unwrap();
    store.delete(&path);
    let groups = size.div_ceil(16 * 1024);
    encode(GroupRange::new(groups / 2, groups)).expect_err("its files are gone");
    assert!(Holdings::open(&nix, claim_of(&nar).blob).await.unwrap().is_none());
    nix.shutdown().await;
}

#[tokio::test]
async fn a_database_that_appears_later_is_used_from_then_on() {
    let Some(store) = RealStore::new() else { return };
    let path = store.add_signed("path", &[1; 1000]);
    let nar = store.dump(&path);
    let database = Database::path_below(&store.root());
    let aside = store.root().join("aside");
    fs::rename(&database, &aside).unwrap();
    let (nix, _) = open(&store).await;
    assert!(!nix.usage().readable);
    assert!(!found(&nix, &nar).await);
    assert!(nix.narinfo(hash_of(&path)).await.unwrap().is_none());
    fs::rename(&aside, &database).unwrap();
    wait_for_offers(&nix, 1).await;
    assert!(nix.usage().readable && found(&nix, &nar).await);
    nix.shutdown().await;
}

#[tokio::test]
async fn a_foreign_database_is_no_source_and_no_fault() {
    let root = tempfile::tempdir().unwrap();
    let database = Database::path_below(root.path());
    fs::create_dir_all(database.parent().unwrap()).unwrap();
    fs::write(&database, vec![b'x'; 10_000]).unwrap();
    let news = News::default();
    let nix = NixStore::open(root.path(), &root.path().join("state"), options(&news)).await;
    assert!(!nix.usage().readable);
    assert!(nix.narinfo("00000000000000000000000000000000".parse().unwrap()).await.unwrap().is_none());
    nix.shutdown().await;
    nix.shutdown().await;
}

#[tokio::test]
async fn another_store_in_its_place_takes_over() {
    let (Some(store), Some(other)) = (RealStore::new(), RealStore::new()) else { return };
    let old = store.add_signed("old", &[1; 1000]);
    let new = other.add_signed("new", &[2; 1000]);
    let (old_nar, new_nar) = (store.dump(&old), other.dump(&new));
    let (nix, news) = open(&store).await;
    wait_for_offers(&nix, 1).await;
    fs::rename(store.root(), store.root().with_file_name("aside")).unwrap();
    fs::rename(other.root(), store.root()).unwrap();
    // Nothing tells of a directory that was moved away: it is seen when the database is asked for the next time.
    assert!(!found(&nix, &new_nar).await);
    fs::write(store.root().with_file_name("aside").join("nix/var/nix/db/touched"), "").unwrap();
    wait_until("the other store", async || found(&nix, &new_nar).await).await;
    assert!(!found(&nix, &old_nar).await);
    assert_eq!(*news.withdrawn.lock().unwrap(), [claim_of(&old_nar)]);
    nix.shutdown().await;
}

#[tokio::test]
async fn without_a_store_there_is_nothing() {
    let nix = NixStore::none();
    assert!(!found(&nix, b"anything").await);
    assert_eq!(nix.usage(), Default::default());
    nix.prioritise("00000000000000000000000000000000".parse().unwrap());
    nix.shutdown().await;
}
