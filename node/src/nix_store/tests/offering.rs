use std::fs;
use std::io::Read;
use std::ops::ControlFlow;

use super::*;
use crate::nix_store::PathVisitor;
use crate::nix_store::testing::hash_of;
use crate::peers::conformance::{Fixture, check};

#[tokio::test]
async fn a_signed_path_is_offered_as_its_nar_and_an_unsigned_one_is_not() {
    let Some(store) = RealStore::new() else { return };
    let signed = store.add("signed", tree);
    store.sign(&signed);
    let small = store.add_signed("small", b"less than a group");
    let private = store.add("private", |path| fs::write(path, vec![1; 100_000]).unwrap());
    let (nix, news) = open(&store).await;
    wait_for_offers(&nix, 2).await;
    for path in [&signed, &small] {
        let nar = store.dump(path);
        check(&nix, &Fixture { hash: hash_of(path), nar: nar.clone() }).await;
        assert!(news.offered.lock().unwrap().contains(&claim_of(&nar)));
        assert!(nix.offers(10).await.unwrap().contains(&claim_of(&nar)));
    }
    assert_eq!(nix.offers(1).await.unwrap().len(), 1);
    assert!(!found(&nix, &store.dump(&private)).await);
    assert_eq!(news.offered.lock().unwrap().len(), 2);
    nix.shutdown().await;
}

#[tokio::test]
async fn clients_of_this_machine_get_any_valid_path_at_once() {
    let Some(store) = RealStore::new() else { return };
    let private = store.add("private", tree);
    let (nix, _) = open(&store).await;
    let nar = store.dump(&private);
    let narinfo = nix.narinfo(hash_of(&private)).await.unwrap().expect("it is valid");
    assert_eq!((narinfo.nar_hash, narinfo.nar_size), (Sha256Digest::of(&nar), nar.len() as u64));
    let open = nix.open_nar(hash_of(&private)).await.unwrap().expect("it is valid");
    assert_eq!((open.sha256, open.size), (narinfo.nar_hash, narinfo.nar_size));
    let mut read = Vec::new();
    open.reader.stream().read_to_end(&mut read).unwrap();
    assert!(read == nar, "byte-identical with nix-store --dump");
    let unknown = "00000000000000000000000000000000".parse().unwrap();
    assert!(nix.narinfo(unknown).await.unwrap().is_none() && nix.open_nar(unknown).await.unwrap().is_none());
    nix.shutdown().await;
}

#[tokio::test]
async fn a_path_whose_bytes_are_wrong_is_never_offered_until_it_is_repaired() {
    let Some(store) = RealStore::new() else { return };
    let path = store.add_signed("file", &[1; 50_000]);
    let nar = store.dump(&path);
    store.corrupt(&path);
    let (nix, news) = open(&store).await;
    wait_until("the damage to be found", async || nix.usage().counts.bad == 1).await;
    assert!(!found(&nix, &nar).await);
    assert!(nix.open_nar(hash_of(&path)).await.unwrap().is_none(), "nor to clients of this machine");

    store.add_file("another", b"a change of the database");
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(nix.usage().counts.bad, 1, "it is not hashed again and again");
    assert_eq!(nix.hashed_bytes().get(), nar.len() as u64);

    // As nix-store --repair-path does it: another file in its place, and an update of the row.
    let real = store.real_path(&path);
    fs::write(real.with_file_name("new"), [1; 50_000]).unwrap();
    fs::rename(real.with_file_name("new"), &real).unwrap();
    store.add_file("third", b"another change");
    wait_for_offers(&nix, 1).await;
    assert!(found(&nix, &nar).await);
    assert_eq!(news.offered.lock().unwrap().len(), 1);
    nix.shutdown().await;
}

#[tokio::test]
async fn a_path_of_a_wrong_length_or_without_its_files_is_not_offered() {
    let Some(store) = RealStore::new() else { return };
    let longer = store.add_signed("longer", b"1");
    let shorter = store.add_signed("shorter", &[1; 100]);
    let gone = store.add_signed("gone", b"3");
    fs::write(store.real_path(&longer), [2; 1000]).unwrap();
    fs::write(store.real_path(&shorter), b"").unwrap();
    fs::remove_file(store.real_path(&gone)).unwrap();
    let (nix, news) = open(&store).await;
    wait_until("the damage to be found", async || nix.usage().counts.bad == 3).await;
    assert!(nix.open_nar(hash_of(&shorter)).await.unwrap().is_none(), "clients get it elsewhere");
    assert!(news.offered.lock().unwrap().is_empty());
    nix.shutdown().await;
}

#[derive(Default)]
struct Shown(Vec<(String, Option<BlobId>)>);

impl PathVisitor for Shown {
    fn path(&mut self, path: &StoredPath, blob: Option<BlobId>) -> ControlFlow<()> {
        self.0.push((path.store_path.to_string(), blob));
        ControlFlow::Continue(())
    }
}

#[tokio::test]
async fn what_must_stay_private_is_named_beside_what_has_the_same_nar() {
    let Some(store) = RealStore::new() else { return };
    let secret = store.add_signed("secret", &[1; 50_000]);
    let public = store.add_signed("public", &[1; 50_000]);
    let other = store.add_signed("secret-other", &[2; 50_000]);
    let (nix, _) = open(&store).await;
    wait_for_offers(&nix, 1).await;
    let nar = Sha256Digest::of(&store.dump(&public));
    let narinfos = Holdings::narinfos_of(&nix, nar).await.unwrap();
    let mut paths: Vec<_> = narinfos.iter().map(|narinfo| narinfo.store_path.to_string()).collect();
    paths.sort();
    let mut expected = [public.clone(), secret];
    expected.sort();
    assert_eq!(paths, expected);
    assert!(!found(&nix, &store.dump(&other)).await);

    let shown = nix.visit(Shown::default()).await.unwrap();
    assert_eq!(shown.0, [(public.clone(), Some(claim_of(&store.dump(&public)).blob))]);
    nix.shutdown().await;
}

#[tokio::test]
async fn what_was_hashed_is_not_hashed_again_after_a_restart() {
    let Some(store) = RealStore::new() else { return };
    let first = store.add_signed("first", &[1; 50_000]);
    let (nix, _) = open(&store).await;
    wait_for_offers(&nix, 1).await;
    nix.shutdown().await;
    drop(nix);

    let second = store.add_signed("second", &[2; 60_000]);
    let (nix, news) = open(&store).await;
    assert!(found(&nix, &store.dump(&first)).await, "offered from the start");
    wait_for_offers(&nix, 2).await;
    assert_eq!(nix.hashed_bytes().get(), store.dump(&second).len() as u64);
    assert_eq!(*news.offered.lock().unwrap(), [claim_of(&store.dump(&second))]);
    nix.shutdown().await;
}

#[tokio::test]
async fn a_path_that_is_asked_for_does_not_wait_for_the_others() {
    let Some(store) = RealStore::new() else { return };
    let wanted = store.add_signed("wanted", &[1; 50_000]);
    for number in 0..3 {
        store.add_signed(&format!("other-{number}"), &[100 + number; 50_000]);
    }
    // At this rate the background takes an hour for the first of them.
    let slow = NixStoreOptions { hash_rate_bytes_per_second: Some(10), ..options(&News::default()) };
    let nix = NixStore::open(&store.root(), &store.state_dir(), slow).await;
    wait_until("all to be noted", async || nix.usage().counts.pending == 4).await;
    let nar = store.dump(&wanted);
    wait_until("the look-up to bring it forward", async || found(&nix, &nar).await).await;
    assert_eq!(nix.usage().counts.offered, 1);
    tokio::time::timeout(LIMIT, nix.shutdown()).await.expect("a pass ends when it is time to stop");
}

#[tokio::test]
async fn nothing_is_hashed_in_the_background_on_battery() {
    let Some(store) = RealStore::new() else { return };
    let path = store.add_signed("path", &[1; 50_000]);
    let supplies = tempfile::tempdir().unwrap();
    let battery = supplies.path().join("BAT0");
    fs::create_dir(&battery).unwrap();
    fs::write(battery.join("type"), "Battery\n").unwrap();
    fs::write(battery.join("status"), "Discharging\n").unwrap();
    let on_battery =
        || NixStoreOptions { power_supplies: supplies.path().to_path_buf(), ..options(&News::default()) };
    let nix = NixStore::open(&store.root(), &store.state_dir(), on_battery()).await;
    wait_until("it to be noted", async || nix.usage().counts.pending == 1).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(nix.hashed_bytes().get(), 0);
    let nar = store.dump(&path);
    wait_until("a look-up to have it hashed", async || found(&nix, &nar).await).await;
    nix.shutdown().await;
    drop(nix);

    let other = store.add_signed("other", &[2; 50_000]);
    fs::write(battery.join("status"), "Charging\n").unwrap();
    let nix = NixStore::open(&store.root(), &store.state_dir(), on_battery()).await;
    wait_for_offers(&nix, 2).await;
    assert!(found(&nix, &store.dump(&other)).await);
    nix.shutdown().await;
}

#[tokio::test]
async fn a_damaged_hash_tree_is_made_again_and_never_served() {
    let Some(store) = RealStore::new() else { return };
    let path = store.add_signed("path", &[1; 100_000]);
    let (nix, _) = open(&store).await;
    wait_for_offers(&nix, 1).await;
    let blob = claim_of(&store.dump(&path)).blob;
    let file = store.state_dir().join("live/outboards").join(format!("{:02x}/{blob}", blob.0[0]));
    let mut bytes = fs::read(&file).unwrap();
    bytes[0] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert!(Holdings::open(&nix, blob).await.unwrap().is_none());
    wait_for_offers(&nix, 1).await;
    assert!(Holdings::open(&nix, blob).await.unwrap().is_some());
    nix.shutdown().await;
}

#[tokio::test]
async fn an_unreadable_index_is_made_anew() {
    let Some(store) = RealStore::new() else { return };
    store.add_signed("path", &[1; 100_000]);
    let index = store.state_dir().join("live/index");
    fs::create_dir_all(&index).unwrap();
    fs::write(index.join("conf"), b"not what sled wrote").unwrap();
    fs::write(index.join("db"), vec![7; 100_000]).unwrap();
    let (nix, _) = open(&store).await;
    wait_for_offers(&nix, 1).await;
    nix.shutdown().await;
}
