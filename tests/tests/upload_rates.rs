//! What a node gives to others, by where they are.

use std::fs;
use std::time::{Duration, Instant};

use p2p_cache_tests::{Daemon, DaemonBuilder, daemon, hostile, http};

const BLOB_BYTES: usize = 40_000_000;
/// Bytes per second of every limit here, as text and as a number.
const RATE: (&str, u64) = ("8MB/s", 8_000_000);
/// Longest time that the blob may take without a limit, and shortest with one: both far from 5 s.
const FAST: Duration = Duration::from_secs(4);
const SLOW: Duration = Duration::from_millis(4700);

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
