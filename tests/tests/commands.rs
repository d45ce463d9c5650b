//! The command line against running nodes; in `commands/wire.rs`: what such nodes say to plain HTTP clients and to
//! each other.

#[path = "commands/wire.rs"]
mod wire;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use p2p_cache_protocol::{BlobId, Sha256Digest};
use p2p_cache_tests::{Daemon, daemon, http};
use serde_json::Value;
use tempfile::TempDir;

const COMMANDS: [&str; 8] = ["serve", "status", "put", "get", "verify", "gc", "config", "id"];
/// Room for two blobs of a megabyte with their hash trees, not for three.
const TWO_BLOBS_LIMIT: &str = "2500kB";
const MEGABYTE: usize = 1_000_000;

/// A file of random bytes and its names.
struct File {
    path: PathBuf,
    content: Vec<u8>,
    sha256: String,
    blake3: String,
    _directory: TempDir,
}

impl File {
    fn random(length: usize) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut content = vec![0; length];
        rand::fill(&mut content[..]);
        let path = directory.path().join("file");
        fs::write(&path, &content).expect("the file");
        let (sha256, blake3) = (Sha256Digest::of(&content), BlobId::of(&content));
        let (sha256, blake3) = (format!("sha256:{sha256}"), format!("blake3:{blake3}"));
        Self { path, content, sha256, blake3, _directory: directory }
    }

    /// Stores it in a node.
    fn put(&self, node: &Daemon, options: &[&str]) {
        let file = text(&self.path);
        let output = on(node, &[&["put", &file], options].concat());
        let expected = format!("{}\n{}\n", self.sha256, self.blake3);
        assert_eq!(stdout(&output), expected, "{}", stderr(&output));
        assert!(output.status.success());
    }

    fn blob_url(&self, node: &Daemon) -> String {
        format!("{}/blobs/{}", node.http, self.sha256.replace(':', "/"))
    }
}

/// Runs a command against this node.
fn on(node: &Daemon, arguments: &[&str]) -> Output {
    let http = node.http.trim_start_matches("http://");
    daemon::p2p_cache(&[arguments, &["--http", http]].concat())
}

/// Runs a command on this state directory.
fn in_state(state: &Path, arguments: &[&str]) -> Output {
    daemon::p2p_cache(&[arguments, &["--state-dir", &text(state)]].concat())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The JSON on standard output.
fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", stdout(output), stderr(output)))
}

/// The peer id of a ready line.
fn peer_id(node: &Daemon) -> String {
    node.peer.rsplit('/').next().expect("an address").to_owned()
}

/// Two nodes of which the second is connected with the first.
fn pair() -> (Daemon, Daemon) {
    let a = Daemon::builder().start();
    let b = Daemon::builder().peer(&a.peer).start();
    b.wait_for_peers(1);
    (a, b)
}

/// A node that ran with these files in its store, and its directory.
fn stopped_node_with(files: &[File]) -> TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut node = Daemon::builder().state_dir(directory.path()).start();
    for file in files {
        file.put(&node, &[]);
        // Uses are told apart by the millisecond.
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(node.terminate().success());
    directory
}

#[test]
fn what_is_put_on_one_node_is_got_from_another_by_either_digest() {
    let (a, b) = pair();
    let (first, second) = (File::random(700_000), File::random(300_001));
    first.put(&a, &[]);
    second.put(&a, &[]);

    let target = first.path.with_file_name("got");
    let got = on(&b, &["get", &first.sha256, "-o", &text(&target)]);
    assert!(got.status.success(), "{}", stderr(&got));
    assert!(got.stdout.is_empty());
    assert!(fs::read(&target).expect("the file got") == first.content);

    let got = on(&b, &["get", &second.blake3]);
    assert!(got.status.success(), "{}", stderr(&got));
    assert!(got.stdout == second.content, "{} bytes on standard output", got.stdout.len());
    assert!(b.metric("p2p_cache_received_bytes_total{source=\"peer\"}") > 1_000_000);
}

#[test]
fn a_blob_that_nobody_has_is_not_got_and_leaves_no_file() {
    let (_a, b) = pair();
    let unknown = File::random(10);
    let target = unknown.path.with_file_name("got");
    for digest in [&unknown.sha256, &unknown.blake3] {
        let got = on(&b, &["get", digest, "-o", &text(&target)]);
        assert_eq!(got.status.code(), Some(1));
        let message = stderr(&got);
        assert!(message.contains("404") && message.contains("neither the node nor its peers"), "{message}");
        assert!(message.contains(digest.split(':').next_back().expect("hex")), "{message}");
        assert!(!target.exists());
    }
}

#[test]
fn a_private_blob_stays_on_its_node() {
    let (a, b) = pair();
    let file = File::random(200_000);
    file.put(&a, &["--private"]);
    for digest in [&file.sha256, &file.blake3] {
        assert!(on(&a, &["get", digest]).stdout == file.content, "its own node has it");
        assert_eq!(on(&b, &["get", digest]).status.code(), Some(1), "no other node learns of it");
    }
    assert_eq!(a.metric("p2p_cache_served_bytes_total{to=\"peer\"}"), 0);

    // Published later, it is offered: the refusals were about sharing, not about reaching the node.
    file.put(&a, &[]);
    daemon::wait_until(Duration::from_secs(10), "the blob to be offered", || {
        on(&b, &["get", &file.sha256]).stdout == file.content
    });
}

#[test]
fn status_is_a_table_for_people_and_json_for_scripts() {
    let (a, b) = pair();
    File::random(50_000).put(&b, &[]);

    let table = stdout(&on(&b, &["status"]));
    let rows =
        ["p2p-cache 0.", "id ", "http ", "listen ", "store ", "received ", "served ", "peers ", "origins "];
    for row in rows {
        assert!(table.lines().any(|line| line.starts_with(row)), "{row} in\n{table}");
    }
    for part in [peer_id(&a), peer_id(&b), b.http.clone(), "in 1 blobs".to_owned()] {
        assert!(table.contains(&part), "{part} in\n{table}");
    }

    let status = json(&on(&b, &["status", "--json"]));
    assert_eq!(status["peer_id"], peer_id(&b));
    assert_eq!(status["peers"][0]["peer_id"], peer_id(&a));
    assert_eq!(status["peers"][0]["scope"], "lan");
    assert_eq!(status["store"]["blobs"], 1);
    let served = http::get(&format!("{}/api/v1/status", b.http)).text();
    let served: Value = serde_json::from_str(&served).expect("JSON");
    let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&status), keys(&served), "the command prints what the API answers");
}

#[test]
fn without_a_node_status_says_how_to_start_one() {
    let mut node = Daemon::builder().start();
    assert!(node.terminate().success());
    let output = on(&node, &["status"]);
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(message.contains("p2p-cache serve") && message.contains(&node.http), "{message}");
}

#[test]
fn id_prints_the_peer_id_of_the_ready_line() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    assert_eq!(in_state(directory.path(), &["id"]).status.code(), Some(1), "no key yet");
    let created = in_state(directory.path(), &["id", "--create"]);
    let mut node = Daemon::builder().state_dir(directory.path()).start();
    assert_eq!(stdout(&created).trim(), peer_id(&node), "the node keeps the key that was made for it");
    let running = in_state(directory.path(), &["id", "--json"]);
    assert_eq!(json(&running)["peer_id"], peer_id(&node));
    assert!(node.terminate().success());
    assert_eq!(stdout(&in_state(directory.path(), &["id"])).trim(), peer_id(&node));
}

/// `p2p-cache config` with a file and a variable.
fn config(file: &Path, arguments: &[&str]) -> Output {
    Command::new(daemon::binary())
        .args(["config", "--config", &text(file), "--state-dir", "/nowhere"])
        .args(arguments)
        .env("P2P_CACHE_UPLOAD_RATE", "10MB/s")
        .stdin(Stdio::null())
        .output()
        .expect("p2p-cache runs")
}

#[test]
fn config_tells_value_and_source_of_every_setting() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("p2p-cache.toml");
    // The variable beats the file for one key, the flag beats it for another.
    fs::write(&file, "share = \"none\"\nupload-rate = \"1MB/s\"\nmax-store-size = \"1GiB\"\n").expect("file");
    let output = config(&file, &["--max-store-size", "2GiB", "--json"]);
    let settings = &json(&output)["settings"];
    for (key, value, layer) in [
        ("http", "127.0.0.1:5380", "default"),
        ("share", "none", "file"),
        ("upload-rate", "10MB/s", "environment"),
        ("max-store-size", "2GiB", "flag"),
    ] {
        assert_eq!(settings[key]["value"], value, "{key}");
        assert_eq!(settings[key]["source"]["from"], layer, "{key}");
    }
    let table = stdout(&config(&file, &["--max-store-size", "2GiB"]));
    let place = format!("{}:1", text(&file));
    for (key, source) in [
        ("http = ", "default"),
        ("share = ", place.as_str()),
        ("upload-rate = ", "P2P_CACHE_UPLOAD_RATE"),
        ("max-store-size = ", "--max-store-size"),
    ] {
        let line = table.lines().find(|line| line.starts_with(key)).unwrap_or_else(|| panic!("{key}"));
        assert!(line.contains(source), "{source} in {line}");
    }
}

#[test]
fn config_check_accepts_a_good_file_and_reports_every_fault_of_a_bad_one() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("p2p-cache.toml");
    fs::write(&file, "share = \"lan\"\n").expect("file");
    let good = config(&file, &["--check"]);
    assert_eq!((good.status.code(), stdout(&good).as_str()), (Some(0), "ok\n"));

    fs::write(&file, "shar = \"lan\"\nmax-store-size = \"lots\"\n").expect("file");
    let bad = config(&file, &["--check", "--http", "localhost"]);
    assert_eq!(bad.status.code(), Some(64));
    for part in ["shar", "did you mean share?", "max-store-size", "lots", "--http", &text(&file)] {
        assert!(stderr(&bad).contains(part), "{part} in\n{}", stderr(&bad));
    }
}

#[test]
fn verify_names_and_removes_a_blob_with_a_flipped_bit() {
    let files = [File::random(100_000), File::random(50_000)];
    let directory = stopped_node_with(&files);
    let clean = in_state(directory.path(), &["verify"]);
    assert!(clean.status.success(), "{}", stderr(&clean));
    assert!(stdout(&clean).contains("2 blobs") && stdout(&clean).contains("0 bad"), "{}", stdout(&clean));

    let blake3 = files[0].blake3.trim_start_matches("blake3:");
    let sha256 = files[0].sha256.trim_start_matches("sha256:");
    let blob = directory.path().join("blobs").join(&blake3[..2]).join(format!("{blake3}-{sha256}"));
    let file = fs::OpenOptions::new().write(true).open(&blob).expect("the blob file");
    file.write_all_at(&[files[0].content[60_000] ^ 4], 60_000).expect("a flipped bit");

    let found = in_state(directory.path(), &["verify"]);
    assert_eq!(found.status.code(), Some(1));
    assert!(
        stdout(&found).contains(&format!("bad {} {}", files[0].blake3, files[0].sha256)),
        "{}",
        stdout(&found)
    );
    assert!(stderr(&found).contains("1 of 2 blobs were bad"), "{}", stderr(&found));
    assert!(!blob.exists(), "the bad blob is removed");
    let again = json(&in_state(directory.path(), &["verify", "--json"]));
    assert_eq!((&again["blobs"], &again["bad"]), (&1.into(), &Value::Array(Vec::new())));
}

#[test]
fn gc_shrinks_a_store_to_the_limit_and_the_newest_blobs_stay() {
    let files = [File::random(MEGABYTE), File::random(MEGABYTE), File::random(MEGABYTE)];
    let directory = stopped_node_with(&files);
    let report = json(&in_state(directory.path(), &["gc", "--max-store-size", TWO_BLOBS_LIMIT, "--json"]));
    assert_eq!((&report["removed_blobs"], &report["blobs"]), (&1.into(), &2.into()), "{report}");
    assert!(report["bytes"].as_u64().is_some_and(|bytes| bytes <= 2_500_000), "{report}");

    let node = Daemon::builder().state_dir(directory.path()).start();
    let statuses = files.each_ref().map(|file| http::request("HEAD", &file.blob_url(&node), &[]).status);
    assert_eq!(statuses, [404, 200, 200], "the least recently used went");
}

#[test]
fn verify_and_gc_refuse_the_store_of_a_running_node() {
    let node = Daemon::builder().start();
    for command in ["verify", "gc"] {
        let output = in_state(&node.state_dir, &[command]);
        assert_eq!(output.status.code(), Some(1), "{command}");
        let message = stderr(&output);
        for part in ["in use", "stop it", &text(&node.state_dir), &node.pid().to_string()] {
            assert!(message.contains(part), "{part} in {message}");
        }
    }
}

#[test]
fn every_command_explains_itself_with_an_example() {
    for command in COMMANDS {
        let output = daemon::p2p_cache(&[command, "--help"]);
        assert_eq!(output.status.code(), Some(0), "{command}");
        let help = stdout(&output);
        assert!(help.contains("Examples:\n") && help.contains(&format!("  p2p-cache {command}")), "{help}");
    }
    let help = stdout(&daemon::p2p_cache(&["--help"]));
    for command in COMMANDS {
        assert!(help.contains(&format!("  {command} ")), "{command} in\n{help}");
    }
}

#[test]
fn a_full_store_evicts_the_least_recently_used_blob_and_keeps_its_limit() {
    let node = Daemon::builder().flag("--max-store-size", TWO_BLOBS_LIMIT).start();
    let files = [File::random(MEGABYTE), File::random(MEGABYTE), File::random(MEGABYTE)];
    let pause = || std::thread::sleep(Duration::from_millis(10));
    files[0].put(&node, &[]);
    pause();
    files[1].put(&node, &[]);
    pause();
    assert_eq!(http::get(&files[0].blob_url(&node)).body.len(), MEGABYTE, "used again");
    pause();
    files[2].put(&node, &[]);
    daemon::wait_until(Duration::from_secs(10), "the eviction", || node.metric("p2p_cache_blobs") == 2);
    let held = files.each_ref().map(|file| http::get(&file.blob_url(&node)).status);
    assert_eq!(held, [200, 404, 200]);
    assert!(node.metric("p2p_cache_store_bytes") <= 2_500_000);
    assert_eq!(node.blob_files().len(), 2, "the file is gone, too");
}

#[test]
fn sigint_and_sigterm_both_end_a_node_with_exit_code_0() {
    for signal in ["-INT", "-TERM"] {
        let mut node = Daemon::builder().start();
        let pid = node.pid().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill").success());
        let ended =
            || fs::read_to_string(format!("/proc/{pid}/status")).is_ok_and(|text| text.contains("State:\tZ"));
        daemon::wait_until(Duration::from_secs(10), "the node to end", ended);
        // It has ended; this only fetches its exit code.
        assert_eq!(node.terminate().code(), Some(0), "{signal}: {}", node.log());
    }
}
