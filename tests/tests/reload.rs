//! A node takes another configuration while it runs.

use std::fs;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use p2p_cache_tests::{Closure, Daemon, DaemonBuilder, NixStore, Origin, daemon, hostile, http};

const PATIENCE: Duration = Duration::from_secs(30);
const SLOW_BLOB_BYTES: usize = 12_000_000;
/// At this rate the blob takes 40 seconds.
const SLOW: &str = "upload-rate = \"300kB/s\"\n";
const FAST: &str = "upload-rate = \"100MB/s\"\n";

/// A node with a configuration file.
struct Configured {
    node: Daemon,
    directory: tempfile::TempDir,
}

impl Configured {
    fn start(text: &str) -> Self {
        Self::start_as(Daemon::builder(), text)
    }

    fn start_as(builder: DaemonBuilder, text: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("p2p-cache.toml");
        fs::write(&file, text).expect("the configuration");
        Self { node: builder.config(&file).start(), directory }
    }

    fn write(&self, text: &str) {
        fs::write(self.directory.path().join("p2p-cache.toml"), text).expect("the configuration");
    }

    fn reload(&self, flags: &[&str]) -> Output {
        let http = ["--http", self.node.http.trim_start_matches("http://")];
        daemon::p2p_cache(&[&["reload"], flags, &http].concat())
    }

    /// Stores a random blob and returns it.
    fn put(&self, bytes: usize, seed: u64) -> Vec<u8> {
        let (blob, file) = (hostile::random_bytes(bytes, seed), self.directory.path().join("blob"));
        fs::write(&file, &blob).expect("the blob");
        let http = self.node.http.trim_start_matches("http://");
        let put = daemon::p2p_cache(&["put", &file.display().to_string(), "--http", http]);
        assert!(put.status.success(), "{}", text_of(&put.stderr));
        blob
    }
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn fetch(through: &str, blob: &[u8]) -> Duration {
    let started = Instant::now();
    let hash = p2p_cache_protocol::Sha256Digest::of(blob);
    let answer = http::get(&format!("{through}/blobs/sha256/{hash}"));
    assert!(answer.complete && answer.body == blob, "{}", answer.head);
    started.elapsed()
}

#[test]
fn a_transfer_survives_and_the_new_rate_holds_at_once() {
    let holder = Configured::start(SLOW);
    let other = Daemon::builder().peer(&holder.node.peer).start();
    other.wait_for_members(1);
    let blob = holder.put(SLOW_BLOB_BYTES, 7);
    let through = other.http.clone();
    let fetching = std::thread::spawn(move || fetch(&through, &blob));
    daemon::wait_until(PATIENCE, "the first bytes", || {
        holder.node.metric("p2p_cache_served_bytes_total{to=\"peer\"}") > 0
    });

    holder.write(FAST);
    let done = holder.reload(&[]);
    assert!(done.status.success(), "{}", text_of(&done.stderr));
    assert_eq!(text_of(&done.stdout), "applied: upload-rate\n");
    let took = fetching.join().expect("the whole blob, as it was");
    assert!(took < Duration::from_secs(30), "{took:?}: at the old rate it takes 40 s");

    // And by a signal, the other way.
    let blob = holder.put(3_000_000, 8);
    holder.write("upload-rate = \"1MB/s\"\n");
    holder.node.hang_up();
    daemon::wait_until(PATIENCE, "the second reload", || {
        holder.node.log().matches("the configuration was read again").count() == 2
    });
    let took = fetch(&other.http, &blob);
    assert!(took > Duration::from_millis(2_500), "{took:?} for 3 MB at 1 MB/s");
}

#[test]
fn a_faulty_file_changes_nothing_and_is_reported_as_at_the_start() {
    let node = Configured::start(SLOW);
    node.write("upload-rate = \"100MB/s\"\nhttp = \"nowhere\"\nshare = 5\n");
    let at_start = {
        let file = node.directory.path().join("p2p-cache.toml");
        daemon::p2p_cache(&["config", "--check", "--config", &file.display().to_string()])
    };
    let refused = node.reload(&[]);
    assert_eq!(refused.status.code(), Some(64));
    let (at_start, refused) = (text_of(&at_start.stderr), text_of(&refused.stderr));
    let faults = |text: &str| text.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(faults(&refused), faults(&at_start));
    assert!(refused.starts_with("error: nothing was changed: 2 faults"), "{refused}");
    node.node.wait_for_log(|log| log.contains("is not a numeric address"));

    // The rate was right, and yet it was not taken: it is still news.
    node.write(FAST);
    assert_eq!(text_of(&node.reload(&["--json"]).stdout).matches("\"upload-rate\"").count(), 1);
}

#[test]
fn other_names_of_the_node_hold_after_a_reload() {
    let node = Configured::start("allowed-hosts = [\"old.example.org\"]\n");
    let status = |host: &str| {
        let request = format!("GET /nix-cache-info HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        http::raw(&node.node.http, request.as_bytes()).status
    };
    assert_eq!((status("old.example.org"), status("new.example.org")), (200, 421));
    node.write("allowed-hosts = [\"new.example.org\"]\n");
    assert_eq!(text_of(&node.reload(&[]).stdout), "applied: allowed-hosts\n");
    assert_eq!((status("old.example.org"), status("New.Example.org:5380")), (421, 200));
    assert_eq!(status("localhost"), 200);
}

#[test]
fn another_write_token_in_the_same_file_holds_after_a_reload() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("token");
    fs::write(&file, "the-first-token-0").expect("the token");
    let node = Configured::start(&format!("write-token-file = {:?}\n", file.display().to_string()));
    let status = |token: &str| {
        let bearer = format!("Bearer {token}");
        let log = format!("{}/log/x.drv", node.node.http);
        http::request("PUT", &log, &[("Authorization", &bearer)]).status
    };
    assert_eq!(status("the-second-token-0"), 401);
    assert_ne!(status("the-first-token-0"), 401);

    fs::write(&file, "short").expect("the token");
    let refused = node.reload(&[]);
    assert!(!refused.status.success() && text_of(&refused.stderr).contains("16 to 1024"));
    assert_ne!(status("the-first-token-0"), 401, "it still holds");

    fs::write(&file, "the-second-token-0\n").expect("the token");
    assert_eq!(text_of(&node.reload(&[]).stdout), "applied: write-token-file\n");
    assert_eq!(status("the-first-token-0"), 401);
    assert_ne!(status("the-second-token-0"), 401);
    assert!(!node.node.log().contains("token-0"));
}

#[test]
fn what_needs_a_restart_is_named_and_what_does_not_holds() {
    let node = Configured::start("log = \"warn\"\n");
    let quiet = node.node.log();
    let peer = Daemon::builder().start();
    node.write(&format!(
        "log = \"info,p2p_cache=debug\"\nmax-store-size = \"1GiB\"\nnever-share = [\"*-secret\"]\npeer = [\"{}\"]\n",
        peer.peer
    ));
    let answer: serde_json::Value = serde_json::from_slice(&node.reload(&["--json"]).stdout).expect("JSON");
    assert_eq!(answer["applied"], serde_json::json!(["peer", "never-share", "log"]), "{answer}");
    assert_eq!(answer["needs_restart"], serde_json::json!(["max-store-size"]), "{answer}");
    node.node.wait_for_peers(1);

    // What the new filter lets through.
    assert!(!quiet.contains("INFO"), "{quiet}");
    let again = node.reload(&[]);
    assert_eq!(text_of(&again.stdout), "nothing to apply\nchanged, but needs a restart: max-store-size\n");
    daemon::wait_until(PATIENCE, "the log of the second reload", || {
        node.node.log().contains("the configuration was read again")
    });
}

#[test]
fn keys_that_are_shared_or_trusted_may_come_and_go() {
    let (closure, store) = (Closure::build(200, "none"), NixStore::new());
    let copied = store.copy_from(&Origin::serve(&closure.cache()).url(), &closure);
    assert!(copied.success, "{}", copied.stderr);
    let paths = closure.narinfos().len() as u64;
    let (top, key) = (closure.top_narinfo().0, &closure.public_key);
    let shared = format!("extra-shared-keys = [\"{key}\"]\n");

    let holder = Configured::start_as(Daemon::builder().nix_store(&store.root()), "");
    let offered = || holder.node.metric("p2p_cache_live_paths{state=\"offered\"}");
    let asking = Configured::start_as(Daemon::builder().peer(&holder.node.peer), "trusted-public-key = []\n");
    asking.node.wait_for_members(1);
    let narinfo = || http::get(&format!("{}/{top}.narinfo", asking.node.http)).status;
    assert_eq!((offered(), narinfo()), (0, 404), "nobody shares, and nobody believes");

    holder.write(&shared);
    assert_eq!(text_of(&holder.reload(&[]).stdout), "applied: extra-shared-keys\n");
    daemon::wait_until(PATIENCE, "the paths of the key to be offered", || offered() == paths);
    assert_eq!(narinfo(), 404, "it comes from a peer, and nobody here believes who signed it");
    asking.write(&format!("trusted-public-key = [\"{key}\"]\n"));
    assert!(asking.reload(&[]).status.success());
    daemon::wait_until(PATIENCE, "the narinfo to be believed", || narinfo() == 200);

    holder.write("");
    assert!(holder.reload(&[]).status.success());
    let late = Daemon::builder().trust(key).peer(&holder.node.peer).start();
    late.wait_for_members(1);
    assert_eq!(http::get(&format!("{}/{top}.narinfo", late.http)).status, 404, "it is private again");
}

#[test]
fn only_programs_of_this_machine_may_reload() {
    let node = Configured::start("");
    let url = format!("{}/api/v1/reload", node.node.http);
    let ask = |headers: &[(&str, &str)]| http::request("POST", &url, headers).status;
    assert_eq!(ask(&[("Content-Length", "0")]), 200);
    assert_eq!(ask(&[("Content-Length", "0"), ("Origin", "http://example.org")]), 403);
    assert_eq!(http::get(&url).status, 405);
}

#[test]
fn a_node_that_is_not_there_cannot_reload() {
    let output = daemon::p2p_cache(&["reload", "--http", "127.0.0.1:9"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text_of(&output.stderr).contains("p2p-cache serve"));
}

/// Only to make sure that the harness did what it says.
#[test]
fn a_configuration_file_of_a_test_is_read() {
    let node = Configured::start("log = \"error\"\n");
    assert!(Path::new(&node.node.state_dir).exists());
    assert!(node.node.log().is_empty(), "{}", node.node.log());
}
