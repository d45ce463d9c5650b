//! The live Nix store of a machine as a source for others, and instead of a second copy.

use std::fs;
use std::path::Path;
use std::time::Duration;

use p2p_cache_tests::daemon::{p2p_cache, wait_until};
use p2p_cache_tests::{Closure, Daemon, DaemonBuilder, NixStore, Origin, http};

/// A store that has the closure, signed as the cache of the closure has it.
fn store_with(closure: &Closure) -> NixStore {
    let store = NixStore::new();
    let origin = Origin::serve(&closure.cache());
    let copied = store.copy_from(&origin.url(), closure);
    assert!(copied.success, "{}", copied.stderr);
    store
}

/// A node that offers a store, and has nothing else.
fn node_of(store: &NixStore, closure: &Closure) -> DaemonBuilder {
    Daemon::builder().nix_store(&store.root()).trust(&closure.public_key)
}

fn offered(node: &Daemon) -> u64 {
    node.metric("p2p_cache_live_paths{state=\"offered\"}")
}

fn wait_for_offers(node: &Daemon, count: u64) {
    wait_until(Duration::from_secs(20), "store paths to be offered", || offered(node) == count);
}

fn narinfo_status(node: &Daemon, path: &str) -> u16 {
    http::get(&format!("{}/{}.narinfo", node.http, hash_of(path))).status
}

fn hash_of(path: &str) -> &str {
    &path.trim_start_matches("/nix/store/")[..32]
}

/// Bytes on disk below a directory.
fn disk_bytes(directory: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(directory).expect("a directory").flatten();
    entries
        .map(|entry| {
            let metadata = entry.metadata().expect("metadata");
            let below = if metadata.is_dir() { disk_bytes(&entry.path()) } else { 0 };
            metadata.blocks() * 512 + below
        })
        .sum()
}

#[test]
fn a_closure_of_the_live_store_reaches_another_node_with_the_origin_gone() {
    let closure = Closure::build(20_000, "none");
    let store = store_with(&closure);
    let private = store.add_file("private", &[7; 100_000]);
    let a = node_of(&store, &closure).start();
    let b = Daemon::builder().trust(&closure.public_key).peer(&a.peer).start();
    b.wait_for_members(1);

    let receiver = NixStore::new();
    let copied = receiver.copy_from(&b.http, &closure);
    assert!(copied.success, "{}\n{}\n{}", copied.stderr, a.log(), b.log());
    assert_eq!(receiver.paths(), 3);
    assert_eq!(receiver.dump(&closure), closure.top_nar(), "byte-identical");
    assert!(b.metric("p2p_cache_received_bytes_total{source=\"peer\"}") > closure.largest_bytes);
    assert_eq!(a.blob_files(), Vec::<std::path::PathBuf>::new(), "nothing was stored a second time");
    assert_eq!(offered(&a), 3);

    assert_eq!(narinfo_status(&b, &private), 404, "unsigned paths are nobody's business");
    assert_eq!(narinfo_status(&a, &private), 200, "but for clients of that machine");
}

#[test]
fn clients_of_the_machine_are_served_from_its_live_store() {
    let closure = Closure::build(10_000, "none");
    let store = store_with(&closure);
    let unsigned = store.add_file("unsigned", &[7; 300_000]);
    let node = node_of(&store, &closure).start();
    let receiver = NixStore::new();
    let copied = receiver.copy_from(&node.http, &closure);
    assert!(copied.success, "{}\n{}", copied.stderr, node.log());
    assert_eq!(receiver.dump(&closure), closure.top_nar());

    let narinfo = http::get(&format!("{}/{}.narinfo", node.http, hash_of(&unsigned))).text();
    let url = narinfo.lines().find_map(|line| line.strip_prefix("URL: ")).expect("a URL");
    let nar = http::get(&format!("{}/{url}", node.http));
    assert_eq!(nar.status, 200);
    assert_eq!(nar.body, store.dump_path(&unsigned));
    assert_eq!(node.blob_files(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn what_nix_adds_is_offered_within_seconds_and_what_it_deletes_is_not() {
    let closure = Closure::build(2_000, "none");
    let store = NixStore::new();
    store.add_file("first", b"makes the database");
    let a = node_of(&store, &closure).start();
    let b = Daemon::builder().trust(&closure.public_key).peer(&a.peer).start();
    b.wait_for_members(1);
    assert_eq!(narinfo_status(&b, &closure.top), 404);

    let origin = Origin::serve(&closure.cache());
    assert!(store.copy_from(&origin.url(), &closure).success);
    wait_until(Duration::from_secs(5), "the new paths to be offered", || offered(&a) == 3);
    let receiver = NixStore::new();
    let copied = receiver.copy_from(&b.http, &closure);
    assert!(copied.success, "{}\n{}", copied.stderr, a.log());

    store.collect_garbage();
    wait_until(Duration::from_secs(5), "the deleted paths to be withdrawn", || offered(&a) == 0);
    let c = Daemon::builder().trust(&closure.public_key).peer(&a.peer).start();
    c.wait_for_members(1);
    assert_eq!(narinfo_status(&c, &closure.top), 404);
}

#[test]
fn what_nix_installed_through_the_node_is_not_kept_a_second_time() {
    let closure = Closure::wide(8, 12_000, "none");
    let total_bytes = 8 * 12_000_000;
    let origin = Origin::serve(&closure.cache());
    let store = NixStore::new();
    store.add_file("first", b"makes the database");
    let node = node_of(&store, &closure).origin(origin.url()).start();
    let copied = store.copy_from(&node.http, &closure);
    assert!(copied.success, "{}\n{}", copied.stderr, node.log());
    assert!(node.metric("p2p_cache_received_bytes_total{source=\"origin\"}") >= total_bytes);
    wait_for_offers(&node, 8);
    node.wait_until_idle();
    wait_until(Duration::from_secs(20), "the blobs to be given up", || {
        node.blob_files().is_empty() && node.metric("p2p_cache_blobs") == 0
    });
    let kept = disk_bytes(&node.state_dir);
    println!(
        "{kept} bytes on disk for {total_bytes} bytes installed: {:.2} %",
        100.0 * kept as f64 / total_bytes as f64
    );
    assert!(kept * 50 < total_bytes, "{kept} bytes are left, which is more than 2 %");
    origin.stop();

    let other = Daemon::builder().trust(&closure.public_key).peer(&node.peer).start();
    other.wait_for_members(1);
    let receiver = NixStore::new();
    let copied = receiver.copy_from(&other.http, &closure);
    assert!(copied.success, "{}\n{}", copied.stderr, node.log());
    assert_eq!(receiver.dump(&closure), closure.top_nar());
}

#[test]
fn a_pinned_path_outlives_its_collection_and_others_go() {
    let closure = Closure::build(300, "none");
    let store = store_with(&closure);
    let node = node_of(&store, &closure).start();
    wait_for_offers(&node, 3);
    let http = node.http.trim_start_matches("http://").to_owned();
    let pin = |command: &str, what: &str| {
        let done = p2p_cache(&[command, what, "--http", &http]);
        (done.status.code(), String::from_utf8_lossy(&[done.stdout, done.stderr].concat()).into_owned())
    };
    let (code, text) = pin("pin", &closure.top);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.starts_with("pinned sha256:"), "{text}");
    assert_eq!(node.blob_files().len(), 1, "a copy of its own");

    store.collect_garbage();
    wait_for_offers(&node, 0);
    let nar = http::get(&format!("{}{}", node.http, closure.top_nar_path()));
    assert!(nar.complete && nar.body == closure.top_nar(), "{}\n{}", nar.head, node.log());

    let digest = text.trim().trim_start_matches("pinned ").to_owned();
    assert_eq!(pin("unpin", &digest).0, Some(0));
    let (code, text) = pin("pin", &format!("blake3:{}", "0".repeat(64)));
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("is not on this machine") && text.contains("fetch it"), "{text}");
}

#[test]
fn garbage_collection_in_mid_transfer_sends_the_receiver_elsewhere() {
    let closure = Closure::wide(10, 3_000, "none");
    let origin = Origin::serve(&closure.cache());
    let store = store_with(&closure);
    // Slow enough for the garbage collection to come in between.
    let a = node_of(&store, &closure).flag("--upload-rate", "8MB/s").start();
    wait_for_offers(&a, 10);
    let b = Daemon::builder().origin(origin.url()).trust(&closure.public_key).peer(&a.peer).start();
    b.wait_for_members(1);
    let receiver = NixStore::new();
    let copied = std::thread::scope(|scope| {
        let copying = scope.spawn(|| receiver.copy_from(&b.http, &closure));
        let served = || a.metric("p2p_cache_served_bytes_total{to=\"peer\"}");
        wait_until(Duration::from_secs(20), "the transfer to begin", || served() > 1_000_000);
        store.collect_garbage();
        copying.join().expect("the copy")
    });
    assert!(copied.success, "{}\n{}", copied.stderr, b.log());
    assert_eq!(receiver.dump(&closure), closure.top_nar());
    assert_eq!(b.metric_sum("p2p_cache_bans_total"), 0, "it is nobody's fault");
    assert_eq!(store.paths(), 0);
}

#[test]
fn a_damaged_path_is_never_offered_and_the_receiver_gets_it_elsewhere() {
    let closure = Closure::build(3_000, "none");
    let origin = Origin::serve(&closure.cache());
    let store = store_with(&closure);
    let data = store.real_path(&closure.top).join("data");
    let mut bytes = fs::read(&data).expect("the data");
    bytes[1_000_000] ^= 1;
    fs::remove_file(&data).expect("removed");
    fs::write(&data, bytes).expect("written");
    let a = node_of(&store, &closure).start();
    let b = Daemon::builder().origin(origin.url()).trust(&closure.public_key).peer(&a.peer).start();
    b.wait_for_members(1);
    wait_for_offers(&a, 2);
    assert_eq!(a.metric("p2p_cache_live_paths{state=\"bad\"}"), 1);
    a.wait_for_log(|log| log.contains(&closure.top) && log.contains("--repair-path"));

    let receiver = NixStore::new();
    let copied = receiver.copy_from(&b.http, &closure);
    assert!(copied.success, "{}\n{}", copied.stderr, b.log());
    assert_eq!(receiver.dump(&closure), closure.top_nar());
    assert!(b.metric("p2p_cache_received_bytes_total{source=\"origin\"}") > closure.largest_bytes);
    assert_eq!(b.metric_sum("p2p_cache_bans_total"), 0);
}

#[test]
fn a_store_that_cannot_be_used_is_said_once_and_costs_nothing_else() {
    let closure = Closure::build(500, "none");
    let origin = Origin::serve(&closure.cache());
    let nowhere = closure.scratch().join("nowhere");
    let node = Daemon::builder().nix_store(&nowhere).origin(origin.url()).trust(&closure.public_key).start();
    let copied = NixStore::new().copy_from(&node.http, &closure);
    assert!(copied.success, "{}\n{}", copied.stderr, node.log());
    node.wait_for_log(|log| log.contains("nowhere/nix/var/nix/db/db.sqlite"));
    assert_eq!(node.log().matches("no source for now").count(), 1, "{}", node.log());
}
