//! A fetch goes on where an earlier one ended, whatever ended it, and asks only for the rest.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use p2p_cache_tests::hostile::Package;
use p2p_cache_tests::{Daemon, Origin, daemon, http};

const MIB: u64 = 1024 * 1024;
const BLOB_BYTES: u64 = 64 * MIB + 12_345;
const GROUP: u64 = 16 * 1024;
/// Two hashes of 32 bytes.
const PARENT: u64 = 64;
/// MiB per second, slow enough that a kill comes in mid-transfer.
const FAST: u64 = 24;
/// The same for SIGTERM, after which a body that is under way has three more seconds.
const SLOW: u64 = 6;
const RECEIVED_FROM_PEERS: &str = "p2p_cache_received_bytes_total{source=\"peer\"}";
const RECEIVED_FROM_ORIGINS: &str = "p2p_cache_received_bytes_total{source=\"origin\"}";

/// A node that holds a blob and sends it slowly, and one that has fetched part of it.
struct Scene {
    _directory: tempfile::TempDir,
    file: PathBuf,
    path: String,
    a: Daemon,
    state: PathBuf,
}

impl Scene {
    fn new(mib_per_second: u64) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let file = directory.path().join("blob");
        write_blob(&file).expect("the blob");
        let a = Daemon::builder().flag("--upload-rate", format!("{mib_per_second}MiB/s")).start();
        let text = file.display().to_string();
        let put = daemon::p2p_cache(&["put", &text, "--http", a.http.trim_start_matches("http://")]);
        assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
        let path = format!("/blobs/sha256/{}", sha256_of(&file));
        let state = directory.path().join("state");
        Self { _directory: directory, file, path, a, state }
    }

    fn start_b(&self) -> Daemon {
        let b = Daemon::builder().peer(&self.a.peer).state_dir(&self.state).start();
        b.wait_for_peers(1);
        b
    }

    /// Starts a fetch and returns when about half of it has come.
    fn fetch_half(&self, b: &Daemon) {
        let url = format!("{}{}", b.http, self.path);
        let client = std::thread::spawn(move || drain(&url));
        daemon::wait_until(Duration::from_secs(30), "half of the blob", || {
            b.metric(RECEIVED_FROM_PEERS) > BLOB_BYTES / 2
        });
        drop(client);
    }

    /// Fetches the whole and returns what came from the peer for it.
    fn fetch_rest(&self, b: &Daemon) -> u64 {
        let answer = http::get(&format!("{}{}", b.http, self.path));
        assert!(answer.complete, "{}\n{}", answer.head, b.log());
        assert!(answer.body == fs::read(&self.file).expect("the file"), "byte-identical");
        b.wait_until_idle();
        assert_eq!(b.metric("p2p_cache_blobs"), 1, "kept");
        assert_eq!(
            fs::read_dir(self.state.join("partial")).expect("partial").count(),
            0,
            "nothing is left over"
        );
        b.metric(RECEIVED_FROM_PEERS)
    }

    fn leftover(&self, suffix: &str) -> PathBuf {
        let files = fs::read_dir(self.state.join("partial")).expect("partial").flatten();
        let mut paths = files.map(|entry| entry.path());
        paths.find(|path| path.to_string_lossy().ends_with(suffix)).expect("the leftover")
    }
}

fn write_blob(path: &Path) -> std::io::Result<()> {
    let mut out = File::create(path)?;
    let block = p2p_cache_tests::hostile::random_bytes(MIB as usize, 11);
    let mut left = BLOB_BYTES;
    let mut number = 0_u64;
    while left > 0 {
        let mut block = block.clone();
        // No two chunk groups are equal.
        for (group, bytes) in block.chunks_exact_mut(16 * 1024).enumerate() {
            bytes[..8].copy_from_slice(&(number << 32 | group as u64).to_le_bytes());
        }
        let length = left.min(MIB);
        out.write_all(&block[..length as usize])?;
        left -= length;
        number += 1;
    }
    Ok(())
}

/// SHA-256 of a file, by another program than the one under test.
fn sha256_of(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().expect("sha256sum runs");
    String::from_utf8(output.stdout).expect("text").split(' ').next().expect("a digest").to_owned()
}

/// Reads a body to whatever end.
fn drain(url: &str) {
    let (host, path) = url.trim_start_matches("http://").split_once('/').expect("a path");
    let Ok(mut stream) = TcpStream::connect(host) else { return };
    let _ = write!(stream, "GET /{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut buffer = vec![0; 256 * 1024];
    while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
}

#[test]
fn after_kill_9_in_mid_transfer_only_the_rest_is_fetched() {
    let scene = Scene::new(FAST);
    let mut b = scene.start_b();
    scene.fetch_half(&b);
    b.kill();
    let b = scene.start_b();
    let received = scene.fetch_rest(&b);
    // At most a second's progress is lost, and what was in flight.
    let most = BLOB_BYTES / 2 + FAST * MIB * 3 / 2;
    println!("{received} of {BLOB_BYTES} bytes after the kill");
    assert!(received < most && received < BLOB_BYTES * 9 / 10, "{received} of {BLOB_BYTES}\n{}", b.log());
}

#[test]
fn after_sigterm_in_mid_transfer_only_the_rest_is_fetched() {
    let scene = Scene::new(SLOW);
    let mut b = scene.start_b();
    scene.fetch_half(&b);
    assert_eq!(b.terminate().code(), Some(0), "{}", b.log());
    let b = scene.start_b();
    let received = scene.fetch_rest(&b);
    println!("{received} of {BLOB_BYTES} bytes after SIGTERM");
    assert!(received < BLOB_BYTES * 55 / 100, "{received} of {BLOB_BYTES}\n{}", b.log());
}

#[test]
fn a_flipped_byte_in_a_leftover_is_found_and_its_group_fetched_again() {
    let scene = Scene::new(SLOW);
    let mut b = scene.start_b();
    scene.fetch_half(&b);
    assert!(b.terminate().success());
    let data = File::options().read(true).write(true).open(scene.leftover(".data")).expect("the data");
    let present = present_groups(&data);
    let at = present[0] + 777;
    let mut byte = [0];
    data.read_exact_at(&mut byte, at).expect("a byte");
    data.write_all_at(&[byte[0] ^ 1], at).expect("a byte");
    let b = scene.start_b();
    let received = scene.fetch_rest(&b);
    // One group, and no more.
    let is_found = |line: &str| line.contains("damaged on disk") && line.contains("groups=1");
    b.wait_for_log(|log| log.lines().any(is_found));
    // The groups that were missing and the damaged one; the last group of a blob is shorter.
    let missing = BLOB_BYTES.div_ceil(GROUP) - present.len() as u64 + 1;
    let tail = if present.contains(&(BLOB_BYTES / GROUP * GROUP)) { 0 } else { GROUP - BLOB_BYTES % GROUP };
    let content = missing * GROUP - tail;
    // A parent of the tree for each group; besides it each answer has its own path, in how many answers depends on the
    // instant.
    let most = content + missing * PARENT + 64 * 1024;
    println!("{content} bytes of content were to come, {received} came, {most} may");
    assert!((content..most).contains(&received), "{content} <= {received} < {most}");
    assert_eq!(b.metric_sum("p2p_cache_bans_total"), 0);
}

/// The offsets of the groups that are not holes.
fn present_groups(data: &File) -> Vec<u64> {
    let mut group = vec![0; GROUP as usize];
    let is_present = |at: &u64| {
        let read = data.read_at(&mut group, *at).expect("a group");
        group[..read].iter().any(|byte| *byte != 0)
    };
    (0..BLOB_BYTES).step_by(GROUP as usize).filter(is_present).collect()
}

#[test]
fn a_leftover_with_a_garbage_sidecar_is_discarded_with_a_warning() {
    let scene = Scene::new(SLOW);
    let mut b = scene.start_b();
    scene.fetch_half(&b);
    assert!(b.terminate().success());
    fs::write(scene.leftover(".progress"), "garbage").expect("the sidecar");
    let b = scene.start_b();
    b.wait_for_log(|log| log.contains("WARN") && log.contains("discarded"));
    assert_eq!(fs::read_dir(scene.state.join("partial")).expect("partial").count(), 0);
    let received = scene.fetch_rest(&b);
    assert!(received >= BLOB_BYTES, "begun afresh");
}

#[test]
fn a_stream_of_an_origin_goes_on_where_it_ended() {
    for ranges in [true, false] {
        let package = Package::new(24 * MIB as usize, 5);
        let origin = Origin::serve(package.cache());
        origin.set_ranges(ranges);
        origin.set_fault(p2p_cache_tests::Fault::Slow(3 * MIB));
        let directory = tempfile::tempdir().expect("a temporary directory");
        let state = directory.path().join("state");
        let builder = || Daemon::builder().origin(origin.url()).trust(package.public_key()).state_dir(&state);
        let mut node = builder().start();
        let url = format!("{}{}", node.http, package.nar_path());
        let client = std::thread::spawn(move || drain(&url));
        daemon::wait_until(Duration::from_secs(30), "a third of the NAR", || {
            node.metric(RECEIVED_FROM_ORIGINS) > 8 * MIB
        });
        assert!(node.terminate().success(), "{}", node.log());
        client.join().expect("the client");
        origin.set_fault(p2p_cache_tests::Fault::None);

        let node = builder().start();
        let answer = http::get(&format!("{}{}", node.http, package.nar_path()));
        assert!(answer.complete, "{}\n{}", answer.head, node.log());
        assert!(answer.body == package.nar, "byte-identical");
        let received = node.metric(RECEIVED_FROM_ORIGINS);
        println!("{received} bytes from the origin after the restart, ranges {ranges}");
        if ranges {
            assert!((1..17 * MIB).contains(&received), "{received}");
        } else {
            assert!(received >= 24 * MIB, "{received}");
        }
    }
}

#[test]
fn wrong_bytes_that_a_leftover_kept_of_an_origin_are_fetched_again_and_nobody_is_blamed() {
    let package = Package::new(24 * MIB as usize, 6);
    let origin = Origin::serve(package.cache());
    origin.set_ranges(true);
    origin.set_fault(p2p_cache_tests::Fault::Slow(3 * MIB));
    let directory = tempfile::tempdir().expect("a temporary directory");
    let state = directory.path().join("state");
    let builder = || Daemon::builder().origin(origin.url()).trust(package.public_key()).state_dir(&state);
    let mut node = builder().start();
    let url = format!("{}{}", node.http, package.nar_path());
    let client = std::thread::spawn(move || drain(&url));
    daemon::wait_until(Duration::from_secs(30), "a third of the NAR", || {
        node.metric(RECEIVED_FROM_ORIGINS) > 8 * MIB
    });
    assert!(node.terminate().success());
    client.join().expect("the client");
    origin.set_fault(p2p_cache_tests::Fault::None);
    let files = fs::read_dir(state.join("partial")).expect("partial").flatten();
    let data = files.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|end| end == "data"));
    let data = File::options().write(true).open(data.expect("the leftover")).expect("the data");
    data.write_all_at(&[package.nar[5_000_000] ^ 1], 5_000_000).expect("a byte");

    let node = builder().start();
    let url = format!("{}{}", node.http, package.nar_path());
    let first = http::get(&url);
    assert!(!first.complete, "the tail is held back until the whole is right");
    // The origin is asked again: it sent nothing wrong.
    let second = http::get(&url);
    assert!(second.complete && second.body == package.nar, "{}\n{}", second.head, node.log());
}
