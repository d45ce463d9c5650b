//! Nodes find each other, and what is published by hand travels as far as its owner allows and no farther.

use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Output;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use p2p_cache_tests::netns::{self, Lan};
use p2p_cache_tests::{Daemon, DaemonBuilder, daemon, http};
use rand::RngCore;
use serde_json::Value;

/// In which nodes that can find each other have done so: several pauses of the redial.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon to which the test talks by the command line, from inside its namespace if it has one.
struct Node {
    daemon: Daemon,
    namespace: Option<String>,
}

impl Node {
    fn start(builder: DaemonBuilder) -> Self {
        Self { daemon: builder.start(), namespace: None }
    }

    fn start_in(namespace: &str, builder: DaemonBuilder) -> Self {
        Self { daemon: builder.netns(namespace).start(), namespace: Some(namespace.to_owned()) }
    }

    fn cli(&self, arguments: &[&str]) -> Output {
        let address = self.daemon.http.trim_start_matches("http://");
        let arguments = [arguments, &["--http", address]].concat();
        match &self.namespace {
            Some(namespace) => netns::p2p_cache(namespace, &arguments),
            None => daemon::p2p_cache(&arguments),
        }
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.cli(&[arguments, &["--json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    fn status(&self) -> Value {
        self.json(&["status"])
    }

    fn peers(&self) -> usize {
        self.status()["peers"].as_array().expect("a list of peers").len()
    }

    fn wait_for_peers(&self, count: usize) {
        daemon::wait_until(PATIENCE, &format!("{count} peers"), || self.peers() == count);
    }

    /// Publishes a blob; `more` are flags of `put`. Gives its digest.
    fn put(&self, blob: &[u8], more: &[&str]) -> String {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("blob");
        std::fs::write(&file, blob).expect("the file");
        let stored = self.json(&[&["put", &file.display().to_string()], more].concat());
        format!("sha256:{}", stored["sha256"].as_str().expect("a digest"))
    }

    /// Fetches a blob, or gives what the command said instead.
    fn get(&self, digest: &str) -> Result<Vec<u8>, String> {
        let output = self.cli(&["get", digest, "-o", "-"]);
        if output.status.success() {
            return Ok(output.stdout);
        }
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    #[track_caller]
    fn expect(&self, digest: &str, blob: &[u8]) {
        match self.get(digest) {
            Ok(got) => assert!(got == blob, "{} bytes of {}, or wrong ones", got.len(), blob.len()),
            Err(said) => panic!("{said}\n{}", self.daemon.log()),
        }
    }

    #[track_caller]
    fn expect_nothing(&self, digest: &str) {
        match self.get(digest) {
            Ok(got) => panic!("it got {} bytes", got.len()),
            Err(said) => assert!(said.contains("404"), "{said}"),
        }
    }
}

fn blob(bytes: usize) -> Vec<u8> {
    let mut blob = vec![0; bytes];
    rand::rng().fill_bytes(&mut blob);
    blob
}

/// Each gets what the other publishes, at once.
fn exchange(a: &Node, b: &Node) {
    for (from, to) in [(a, b), (b, a)] {
        let blob = blob(3_000_001);
        let digest = from.put(&blob, &[]);
        to.expect(&digest, &blob);
        let totals = to.status()["totals"].clone();
        assert!(totals["received_peer_bytes"].as_u64() >= Some(blob.len() as u64), "{totals}");
    }
}

/// An address on which nobody else listens, neither now nor later: the loopback network has one for each process.
fn own_address() -> String {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let port = 5381 + TAKEN.fetch_add(1, Ordering::Relaxed);
    format!("/ip4/{}/tcp/{port}", Ipv4Addr::new(127, 64 | high, middle, low))
}

/// The address as `--peer` takes it, with or without the id of the node that lives in `state`.
fn named(address: &str, state: &Path, with_id: bool) -> String {
    if !with_id {
        return address.to_owned();
    }
    let output = daemon::p2p_cache(&["id", "--create", "--state-dir", &state.display().to_string()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    format!("{address}/p2p/{}", String::from_utf8_lossy(&output.stdout).trim())
}

/// What `--listen` is by default; the builder would listen on loopback only.
fn default_listen(builder: DaemonBuilder) -> DaemonBuilder {
    builder
        .listen("/ip4/0.0.0.0/tcp/5381")
        .flag("--listen", "/ip6/::/tcp/5381")
        .flag("--listen", "/ip4/0.0.0.0/udp/5381/quic-v1")
        .flag("--listen", "/ip6/::/udp/5381/quic-v1")
}

#[test]
fn two_nodes_on_one_network_find_each_other_without_configuration() {
    let Some(lan) = Lan::new(&["192.168.78.1/24", "192.168.78.2/24"]) else { return };
    let [a, b] =
        [0, 1].map(|host| Node::start_in(lan.host(host), default_listen(Daemon::builder().with_mdns())));
    // What others can use, not the loopback address that sorts before it.
    assert!(a.daemon.peer.starts_with("/ip4/192.168.78.1/tcp/5381/p2p/"), "{}", a.daemon.peer);
    for node in [&a, &b] {
        node.wait_for_peers(1);
        assert_eq!(node.status()["peers"][0]["scope"], "lan");
    }
    exchange(&a, &b);
}

#[test]
fn a_node_that_joins_the_network_later_is_found_too() {
    let Some(lan) = Lan::new(&["192.168.78.1/24", "192.168.78.2/24", "192.168.78.3/24"]) else { return };
    let start = |host| Node::start_in(lan.host(host), default_listen(Daemon::builder().with_mdns()));
    let (a, b) = (start(0), start(1));
    a.wait_for_peers(1);
    b.wait_for_peers(1);
    let late = start(2);
    for node in [&a, &b, &late] {
        node.wait_for_peers(2);
    }
    exchange(&a, &late);
}

#[test]
fn one_named_peer_is_enough_with_and_without_its_id() {
    for with_id in [true, false] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (state, address) = (directory.path().join("state"), own_address());
        let peer = named(&address, &state, with_id);
        let a = Node::start(Daemon::builder().listen(&address).state_dir(&state));
        let b = Node::start(Daemon::builder().peer(peer));
        a.wait_for_peers(1);
        b.wait_for_peers(1);
        exchange(&a, &b);
    }
}

#[test]
fn a_named_peer_that_starts_later_is_found() {
    for with_id in [true, false] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (state, address) = (directory.path().join("state"), own_address());
        let b = Node::start(Daemon::builder().peer(named(&address, &state, with_id)));
        let dialled = || b.daemon.log().matches("a configured peer is not reachable").count() >= 2;
        daemon::wait_until(PATIENCE, "two dials in vain", dialled);
        let a = Node::start(Daemon::builder().listen(&address).state_dir(&state));
        b.wait_for_peers(1);
        a.wait_for_peers(1);
        exchange(&a, &b);
    }
}

#[test]
fn a_named_peer_that_was_killed_is_found_again_and_still_has_its_blobs() {
    for with_id in [true, false] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (state, address) = (directory.path().join("state"), own_address());
        let start = || Node::start(Daemon::builder().listen(&address).state_dir(&state));
        let mut a = start();
        let blob = blob(1_000_000);
        let digest = a.put(&blob, &[]);
        let b = Node::start(Daemon::builder().peer(named(&address, &state, with_id)));
        b.wait_for_peers(1);
        a.daemon.kill();
        b.wait_for_peers(0);
        b.expect_nothing(&digest);
        let a = start();
        b.wait_for_peers(1);
        b.expect(&digest, &blob);
        exchange(&a, &b);
    }
}

#[test]
fn whoever_answers_at_an_address_without_id_is_the_peer_even_after_a_change_of_identity() {
    let address = own_address();
    let mut first = Node::start(Daemon::builder().listen(&address));
    let b = Node::start(Daemon::builder().peer(&address));
    b.wait_for_peers(1);
    first.daemon.kill();
    b.wait_for_peers(0);
    let second = Node::start(Daemon::builder().listen(&address));
    assert_ne!(first.daemon.peer, second.daemon.peer);
    b.wait_for_peers(1);
    exchange(&second, &b);
}

#[test]
fn a_node_with_another_id_than_the_named_one_is_no_peer_and_the_log_says_so() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let address = own_address();
    let stranger = Node::start(Daemon::builder().listen(&address));
    let b = Node::start(Daemon::builder().peer(named(&address, &directory.path().join("other"), true)));
    daemon::wait_until(PATIENCE, "a refused dial", || {
        b.daemon.log().contains("another peer than the configured one answers there")
    });
    assert_eq!((b.peers(), stranger.peers()), (0, 0));
}

/// A, which B names; B, which C names. C has been told of nobody else.
fn line(more: impl Fn(DaemonBuilder) -> DaemonBuilder) -> [Node; 3] {
    let start = |builder| Node::start(more(builder).flag("--share", "public"));
    let a = start(Daemon::builder());
    let b = start(Daemon::builder().peer(&a.daemon.peer));
    b.wait_for_peers(1);
    let c = start(Daemon::builder().peer(&b.daemon.peer));
    daemon::wait_until(PATIENCE, "the line to stand", || b.peers() == 2 && c.peers() >= 1);
    [a, b, c]
}

#[test]
fn a_node_gets_a_blob_through_the_directory_from_one_that_it_was_never_told_of() {
    let [a, b, c] = line(|builder| builder);
    let blob = blob(3_000_000);
    let digest = a.put(&blob, &[]);
    // Publishing in the directory takes a moment.
    daemon::wait_until(PATIENCE, "the blob", || c.get(&digest).is_ok_and(|got| got == blob));
    assert!(a.status()["totals"]["served_peer_bytes"].as_u64() >= Some(blob.len() as u64));
    assert_eq!(b.status()["totals"]["served_peer_bytes"], 0, "the one in the middle only told where it is");
}

#[test]
fn without_the_directory_a_node_gets_only_what_its_own_peers_publish() {
    let [a, b, c] = line(|builder| builder.env("P2P_CACHE_NO_DHT", "true"));
    let blob = blob(100_000);
    let digest = a.put(&blob, &[]);
    c.expect_nothing(&digest);
    assert_eq!(c.peers(), 1);
    b.expect(&digest, &blob);
    // What was only fetched, and is covered by no signature, is not B's to pass on.
    c.expect_nothing(&digest);
    b.put(&blob, &[]);
    c.expect(&digest, &blob);
}

/// How long a fetch of 20 MB takes from a node with this upload rate.
fn fetch_at(rate: &str) -> Duration {
    let a = Node::start(Daemon::builder().flag("--upload-rate", rate));
    let b = Node::start(Daemon::builder().peer(&a.daemon.peer));
    b.wait_for_peers(1);
    let blob = blob(20_000_000);
    let digest = a.put(&blob, &[]);
    let started = Instant::now();
    b.expect(&digest, &blob);
    started.elapsed()
}

#[test]
fn the_upload_rate_holds() {
    let (limited, unlimited) = (fetch_at("5MB/s"), fetch_at("unlimited"));
    println!("20 MB: {limited:?} at 5 MB/s, {unlimited:?} without a limit");
    assert!(limited >= Duration::from_secs(3), "{limited:?} for 4 s worth of bytes");
    assert!(unlimited < limited, "{unlimited:?} without a limit, {limited:?} with one");
}

#[test]
fn a_node_that_shares_nothing_keeps_even_what_was_published_by_hand() {
    let a = Node::start(Daemon::builder().flag("--share", "none"));
    let b = Node::start(Daemon::builder().peer(&a.daemon.peer));
    b.wait_for_peers(1);
    let blob = blob(100_000);
    let digest = a.put(&blob, &[]);
    let hash = digest.trim_start_matches("sha256:");
    assert_eq!(http::get(&format!("{}/blobs/sha256/{hash}", b.daemon.http)).status, 404);
    b.expect_nothing(&digest);
    a.expect(&digest, &blob);
}

#[test]
fn a_private_blob_stays_until_it_is_published() {
    let a = Node::start(Daemon::builder());
    let b = Node::start(Daemon::builder().peer(&a.daemon.peer));
    b.wait_for_peers(1);
    let blob = blob(100_000);
    let digest = a.put(&blob, &["--private"]);
    b.expect_nothing(&digest);
    a.put(&blob, &[]);
    b.expect(&digest, &blob);
}

/// What a node reached over public addresses gets of a blob published at one with this `--share`.
fn across_the_internet(share: &str) -> Option<Result<(), String>> {
    let lan = Lan::new(&["203.0.113.1/24", "203.0.113.2/24"])?;
    let address = "/ip4/203.0.113.1/tcp/5381";
    let a = Node::start_in(lan.host(0), Daemon::builder().listen(address).flag("--share", share));
    let b = Node::start_in(lan.host(1), Daemon::builder().listen("/ip4/203.0.113.2/tcp/5381").peer(address));
    b.wait_for_peers(1);
    assert_eq!(a.status()["peers"][0]["scope"], "public");
    let blob = blob(100_000);
    let digest = a.put(&blob, &[]);
    Some(b.get(&digest).map(|got| assert!(got == blob)))
}

#[test]
fn peers_of_the_wide_area_get_a_blob_only_where_everything_is_public() {
    let Some(lan) = across_the_internet("lan") else { return };
    assert!(lan.as_ref().is_err_and(|said| said.contains("404")), "{lan:?}");
    assert_eq!(across_the_internet("public"), Some(Ok(())));
}
