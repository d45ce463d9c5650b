use std::fs;
use std::time::Duration;

use p2p_cache_protocol::Sha256Digest;
use rusqlite::Connection;

use super::*;
use crate::nix_store::testing::{RealStore, SyntheticStore, hash_of, trusted_keys};

#[test]
fn a_path_is_found_by_its_hash_with_all_that_nix_says_of_it() {
    let Some(store) = RealStore::new() else { return };
    let (referrer, reference) = store.add_referrer();
    store.sign(&referrer);
    let database = Database::open(&store.root()).unwrap();
    let path = database.path_by_hash(hash_of(&referrer)).unwrap().expect("it is valid");
    let nar = store.dump(&referrer);
    assert_eq!(path.store_path.to_string(), referrer);
    assert_eq!((path.nar_hash, path.nar_size), (Sha256Digest::of(&nar), nar.len() as u64));
    assert_eq!(path.references, [reference.trim_start_matches("/nix/store/")]);
    assert!(path.ca.as_deref().is_some_and(|ca| ca.starts_with("text:sha256:")), "{path:?}");

    let narinfo = path.narinfo("nar/x.nar".to_owned());
    assert!(
        narinfo.verified_by(&trusted_keys()).is_some(),
        "the signature of the real Nix covers what we say"
    );
    assert_eq!(p2p_cache_protocol::NarInfo::parse(&narinfo.to_string()), Ok(narinfo));
}

#[test]
fn what_nix_registers_and_deletes_later_is_seen_without_reopening() {
    let Some(store) = RealStore::new() else { return };
    store.add_file("first", b"1");
    let database = Database::open(&store.root()).unwrap();
    let (last, count) = database.extent().unwrap();
    assert_eq!((last, count), (1, 1));
    let version = database.data_version().unwrap();
    assert_eq!(database.data_version().unwrap(), version, "nothing was written");

    let second = store.add_file("second", b"2");
    assert_ne!(database.data_version().unwrap(), version);
    let (paths, seen) = database.registered_after(last, 10).unwrap().expect("there is a new one");
    assert_eq!((paths[0].store_path.to_string(), seen), (second.clone(), paths[0].id));
    assert_eq!(database.registered_after(seen, 10).unwrap(), None);

    let (id, hash) = (paths[0].id, hash_of(&second));
    assert!(database.is_valid(id, hash).unwrap());
    store.delete(&second);
    assert!(!database.is_valid(id, hash).unwrap());
    assert_eq!(database.path_by_hash(hash).unwrap(), None);
    store.add_file("second", b"2");
    assert!(!database.is_valid(id, hash).unwrap(), "ids are not used again");
}

#[test]
fn rows_are_listed_in_batches_and_each_once() {
    let mut store = SyntheticStore::new();
    let hashes = store.add_rows(25);
    store.connection.execute("delete from ValidPaths where id = 25", []).unwrap();
    let database = Database::open(store.root()).unwrap();
    let (mut listed, mut after) = (Vec::new(), 0);
    while let Some((paths, last)) = database.registered_after(after, 7).unwrap() {
        assert!(paths.len() <= 7);
        listed.extend(paths.iter().map(|path| path.store_path.hash()));
        after = last;
    }
    assert_eq!(listed, hashes[..24]);
    let valid = database.valid_after(9, 3).unwrap();
    assert_eq!(valid, Some((vec![(10, hashes[9]), (11, hashes[10]), (12, hashes[11])], 12)));
    assert_eq!(database.valid_after(24, 3).unwrap(), None);
}

#[test]
fn rows_that_make_no_sense_are_left_out_and_cost_no_other_row() {
    let mut store = SyntheticStore::new();
    let hashes = store.add_rows(12);
    for (id, nonsense) in [
        "narSize = null",
        "narSize = -5",
        "narSize = 0",
        "narSize = 'many'",
        "hash = 'sha256:zz'",
        "hash = 'md5:00'",
        "hash = x'ff'",
        "path = '/gnu/store/' || substr(path, 12)",
        "path = 'relative'",
        "path = x'00ff'",
    ]
    .iter()
    .zip(1i64..)
    .map(|(nonsense, id)| (id, nonsense))
    {
        // The reference of the next row to it would make no sense either.
        store.connection.execute("delete from Refs where reference = ?", [id]).unwrap();
        store.connection.execute(&format!("update ValidPaths set {nonsense} where id = ?"), [id]).unwrap();
    }
    store
        .connection
        .execute("update ValidPaths set sigs = 'k-1:AA  garbage', deriver = 'x', ca = 'a' || char(10) where id = 11", [])
        .unwrap();
    let database = Database::open(store.root()).unwrap();
    let (paths, last) = database.registered_after(0, 100).unwrap().unwrap();
    assert_eq!((paths.len(), last), (2, 12));
    assert_eq!(paths[0].store_path.hash(), hashes[10]);
    assert_eq!(paths[0].signatures.len(), 2, "kept as they came; they never verify");
    assert_eq!((&paths[0].deriver, &paths[0].ca), (&None, &None));
    let (valid, last) = database.valid_after(6, 4).unwrap().unwrap();
    assert_eq!((valid.len(), last), (1, 10), "what has no path has no hash");
    for hash in &hashes[..10] {
        assert_eq!(database.path_by_hash(*hash).unwrap(), None);
    }
}

#[test]
fn a_path_with_a_reference_that_makes_no_sense_is_left_out() {
    let mut store = SyntheticStore::new();
    let hashes = store.add_rows(2);
    store.connection.execute("update ValidPaths set path = 'x' where id = 1", []).unwrap();
    let database = Database::open(store.root()).unwrap();
    assert_eq!(database.path_by_hash(hashes[1]).unwrap(), None);
}

#[test]
fn what_is_no_database_of_nix_is_told_apart_with_a_remedy() {
    let store = SyntheticStore::new();
    let path = Database::path_below(store.root());
    let schema = path.with_file_name("schema");
    let open = || Database::open(store.root()).map(|_| ()).unwrap_err();

    fs::write(&schema, "11\n").unwrap();
    assert!(matches!(open(), DatabaseError::Newer { schema: 11, .. }), "{}", open());
    fs::write(&schema, "ten").unwrap();
    assert!(matches!(open(), DatabaseError::Foreign { .. }));
    fs::remove_file(&schema).unwrap();
    Database::open(store.root()).expect("the tables speak for themselves");
    store.connection.execute_batch("alter table ValidPaths drop column sigs").unwrap();
    assert!(open().to_string().contains("ValidPaths with a column sigs"), "{}", open());

    for contents in [&b"no database at all, but long enough to be taken for one"[..], b""] {
        let other = tempfile::tempdir().unwrap();
        let path = Database::path_below(other.path());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, contents).unwrap();
        let error = Database::open(other.path()).unwrap_err();
        assert!(matches!(error, DatabaseError::Foreign { .. }), "{error}");
        assert!(error.to_string().contains("nix-store"), "{error}");
        fs::remove_file(&path).unwrap();
        let error = Database::open(other.path()).unwrap_err();
        assert!(matches!(error, DatabaseError::Missing { .. }), "{error}");
        fs::create_dir(&path).unwrap();
        let error = Database::open(other.path()).unwrap_err();
        assert!(matches!(error, DatabaseError::Foreign { .. }), "{error}");
    }
}

#[test]
fn a_locked_database_is_busy_and_usable_again_afterwards() {
    let store = SyntheticStore::new();
    store.connection.execute_batch("pragma journal_mode = delete").unwrap();
    let database = Database::open(store.root()).unwrap();
    store.connection.execute_batch("begin exclusive").unwrap();
    let error = database.extent().unwrap_err();
    assert!(error.is_passing(), "{error}");
    assert!(matches!(Database::open(store.root()), Err(DatabaseError::Busy { .. })));
    store.connection.execute_batch("commit").unwrap();
    assert_eq!(database.extent().unwrap(), (0, 0));
}

#[test]
fn a_reader_does_not_keep_nix_from_writing() {
    let mut store = SyntheticStore::new();
    store.add_rows(100);
    let database = Database::open(store.root()).unwrap();
    database.registered_after(0, 10).unwrap();
    let other = Connection::open(Database::path_below(store.root())).unwrap();
    other.busy_timeout(Duration::ZERO).unwrap();
    other.execute("delete from Refs", []).unwrap();
    let left_in_log: i64 = other.query_row("pragma wal_checkpoint(truncate)", [], |row| row.get(1)).unwrap();
    assert_eq!(left_in_log, 0, "no read transaction is left open");
}

#[test]
fn another_file_in_its_place_is_noticed() {
    let store = SyntheticStore::new();
    let database = Database::open(store.root()).unwrap();
    assert!(!database.is_replaced());
    let path = Database::path_below(store.root());
    fs::rename(&path, path.with_file_name("old")).unwrap();
    assert!(database.is_replaced());
    fs::copy(path.with_file_name("old"), &path).unwrap();
    assert!(database.is_replaced());
}
