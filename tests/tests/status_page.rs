//! The status page in a real browser.

use std::fs;
use std::time::Duration;

use p2p_cache_tests::webdriver::Browser;
use p2p_cache_tests::{Daemon, daemon, hostile, http};

/// A browser on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(60);
const BLOB_BYTES: usize = 12_000_000;
/// A phone.
const PHONE: (u32, u32) = (390, 844);

/// How much of the only transfer the page shows as present, in percent.
fn percent(transfers: &str) -> Option<u32> {
    let (before, _) = transfers.split_once(" %)")?;
    before.rsplit('(').next()?.parse().ok()
}

#[test]
fn the_page_follows_a_transfer_and_complains_of_nothing() {
    let holder = Daemon::builder().flag("--upload-rate", "1MB/s").start();
    let node = Daemon::builder().peer(&holder.peer).start();
    node.wait_for_members(1);
    let Some(browser) = Browser::start() else { return };
    browser.open(&format!("{}/", node.http));
    daemon::wait_until(PATIENCE, "the first event", || browser.text("connection") == "live");
    assert_eq!(browser.text("transfers"), "none under way");
    assert_eq!(browser.text("peer-count"), "1");
    assert_eq!(browser.text("to-clients"), "0 B");
    assert_eq!(
        browser.value("document.getElementById('live-section').hidden"),
        true,
        "there is no Nix store"
    );

    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("blob");
    let blob = hostile::random_bytes(BLOB_BYTES, 21);
    fs::write(&file, &blob).expect("the blob");
    let address = holder.http.trim_start_matches("http://");
    let put = daemon::p2p_cache(&["put", &file.display().to_string(), "--http", address]);
    assert!(put.status.success());
    let url = format!("{}/blobs/sha256/{}", node.http, p2p_cache_protocol::Sha256Digest::of(&blob));
    let fetching = std::thread::spawn(move || http::get(&url).body == blob);

    let mut seen = Vec::new();
    daemon::wait_until(PATIENCE, "two steps of the transfer", || {
        if let Some(percent) = percent(&browser.text("transfers"))
            && seen.last() != Some(&percent)
        {
            seen.push(percent);
        }
        seen.len() >= 2
    });
    assert!(seen.is_sorted(), "{seen:?}");
    let peer = holder.peer.rsplit('/').next().expect("a peer id");
    assert!(
        browser.text("transfers").contains(peer),
        "who brings it is named: {}",
        browser.text("transfers")
    );
    assert_ne!(browser.value("document.querySelectorAll('.strip rect').length"), 0, "and drawn");
    assert!(fetching.join().expect("the client ends"), "the bytes are right");
    daemon::wait_until(PATIENCE, "the end of it to be shown", || {
        browser.text("transfers") == "none under way" && browser.text("to-clients") != "0 B"
    });
    assert_ne!(browser.text("from-peers"), "0 B");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn the_page_fits_a_phone_and_shows_the_nix_store_and_its_problem() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    // Without a place to break at, and longer than the screen is wide.
    let root = directory.path().join("x".repeat(90));
    std::fs::create_dir(&root).expect("a directory");
    let node = Daemon::builder().nix_store(&root).origin("http://127.0.0.1:9/nix").start();
    let Some(browser) = Browser::start() else { return };
    browser.resize(PHONE.0, PHONE.1);
    browser.open(&format!("{}/", node.http));
    daemon::wait_until(PATIENCE, "the problem to be shown", || {
        browser.text("connection") == "live" && browser.text("live-problem").contains("db.sqlite")
    });
    assert!(browser.text("live").contains("cannot be read"), "{}", browser.text("live"));
    assert!(browser.text("origins").contains("http://127.0.0.1:9/nix"));
    let overhang =
        browser.value("document.documentElement.scrollWidth - document.documentElement.clientWidth");
    assert_eq!(overhang, 0, "nothing is to the right of the screen");
    assert!(browser.screenshot().len() > 5_000, "something is painted");
    assert_eq!(browser.complaints(), Vec::<String>::new());
}

#[test]
fn a_node_that_goes_and_comes_back_is_noticed() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let node = Daemon::builder().state_dir(state.path()).start();
    let address = node.http.trim_start_matches("http://").to_owned();
    let Some(browser) = Browser::start() else { return };
    browser.open(&format!("{}/", node.http));
    daemon::wait_until(PATIENCE, "the first event", || browser.text("connection") == "live");
    drop(node);
    daemon::wait_until(PATIENCE, "the loss to be shown", || browser.text("connection").contains("lost"));
    let _again = Daemon::builder().state_dir(state.path()).http(&address).start();
    daemon::wait_until(PATIENCE, "the page to come back by itself", || browser.text("connection") == "live");
}
