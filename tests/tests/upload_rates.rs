//! What a node gives to others, by where they are.

use std::fs;
use std::time::{Duration, Instant};

use p2p_cache_tests::netns::{self, Lan};
use p2p_cache_tests::{Daemon, DaemonBuilder, daemon, hostile, http};

const BLOB_BYTES: usize = 12_000_000;
/// Bytes per second of every limit here, as text and as a number.
const RATE: (&str, u64) = ("2MB/s", 2_000_000);
/// Shortest time that the blob may take with a limit, and longest without one, on a machine that has much else to do.
const SLOW: Duration = Duration::from_millis(5700);
const FAST: Duration = Duration::from_millis(5500);

/// Puts a blob on `a` and times how long `b` takes to get it.
fn fetch(a: DaemonBuilder, b: DaemonBuilder) -> Duration {
    let a = a.start();
    let b = b.peer(&a.peer).start();
    b.wait_for_peers(1);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("blob");
    let blob = hostile::random_bytes(BLOB_BYTES, 3);
    fs::write(&file, &blob).expect("the blob");
    let text = file.display().to_string();
    let put = daemon::p2p_cache(&["put", &text, "--http", a.http.trim_start_matches("http://")]);
    assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
    let hash = p2p_cache_protocol::Sha256Digest::of(&blob);
    let started = Instant::now();
    let answer = http::get(&format!("{}/blobs/sha256/{hash}", b.http));
    let elapsed = started.elapsed();
    assert!(answer.complete && answer.body == blob, "{}", answer.head);
    elapsed
}

#[test]
fn a_limit_for_one_scope_leaves_the_other_alone() {
    let lan = fetch(Daemon::builder().flag("--upload-rate-lan", RATE.0), Daemon::builder());
    let public = fetch(Daemon::builder().env("P2P_CACHE_UPLOAD_RATE_PUBLIC", RATE.0), Daemon::builder());
    println!("on the LAN: {lan:?} with a limit for it, {public:?} with one for the others");
    assert!(
        lan >= SLOW && lan <= SLOW + Duration::from_secs(3),
        "{lan:?} for {BLOB_BYTES} bytes at {RATE:?}"
    );
    assert!(public < FAST, "{public:?} without a limit");
}

/// How long a node takes to get the blob over public addresses from one with this flag.
fn fetch_across_the_internet(flag: &str) -> Option<Duration> {
    let lan = Lan::new(&["203.0.113.1/24", "203.0.113.2/24"])?;
    let address = "/ip4/203.0.113.1/tcp/5381";
    let a = Daemon::builder().netns(lan.host(0)).listen(address).flag("--share", "public").flag(flag, RATE.0);
    let b = Daemon::builder().netns(lan.host(1)).listen("/ip4/203.0.113.2/tcp/5381").peer(address);
    let (a, b) = (a.start(), b.start());
    let run = |host: usize, node: &Daemon, arguments: &[&str]| {
        let http = ["--http", node.http.trim_start_matches("http://")];
        let output = netns::p2p_cache(lan.host(host), &[arguments, &http].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    daemon::wait_until(Duration::from_secs(30), "the peers to meet", || {
        String::from_utf8_lossy(&run(1, &b, &["status", "--json"])).contains("203.0.113.1")
    });
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("blob");
    let blob = hostile::random_bytes(BLOB_BYTES, 4);
    fs::write(&file, &blob).expect("the blob");
    run(0, &a, &["put", &file.display().to_string()]);
    let digest = format!("sha256:{}", p2p_cache_protocol::Sha256Digest::of(&blob));
    let started = Instant::now();
    let got = run(1, &b, &["get", &digest, "-o", "-"]);
    let elapsed = started.elapsed();
    assert!(got == blob);
    Some(elapsed)
}

#[test]
fn peers_of_the_wide_area_have_a_limit_of_their_own() {
    let Some(public) = fetch_across_the_internet("--upload-rate-public") else { return };
    let Some(lan) = fetch_across_the_internet("--upload-rate-lan") else { return };
    println!("in the wide area: {public:?} with a limit for it, {lan:?} with one for the LAN");
    assert!(public >= SLOW, "{public:?} for {BLOB_BYTES} bytes at {RATE:?}");
    assert!(lan < FAST, "{lan:?} without a limit");
}
