//! What the log looks like, by where it goes.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use p2p_cache_tests::{Daemon, daemon, http};

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn json_is_one_object_a_line_with_the_id_of_the_request() {
    let node = Daemon::builder().env("P2P_CACHE_LOG_FORMAT", "json").start();
    assert_eq!(http::get(&format!("{}/nix-cache-info", node.http)).status, 200);
    assert_eq!(http::get(&format!("{}/nonsense/path", node.http)).status, 404);
    daemon::wait_until(PATIENCE, "the log of both", || node.log().contains("/nonsense/path"));
    let lines: Vec<serde_json::Value> = node
        .log()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    let answered = |path: &str| {
        let line = lines.iter().find(|line| line["message"] == "answered" && line["span"]["path"] == path);
        line.unwrap_or_else(|| panic!("no answer for {path}")).clone()
    };
    let (found, missing) = (answered("/nix-cache-info"), answered("/nonsense/path"));
    assert_eq!((&found["status"], &missing["status"]), (&200.into(), &404.into()));
    assert_eq!(found["level"], "DEBUG");
    assert_ne!(found["span"]["id"], missing["span"]["id"]);
}

#[test]
fn polls_do_not_drown_other_requests() {
    let node = Daemon::builder().env("P2P_CACHE_LOG", "debug,p2p_cache_http_gateway=debug").start();
    for path in ["/metrics", "/healthz", "/readyz", "/api/v1/status"] {
        assert_eq!(http::get(&format!("{}{path}", node.http)).status, 200);
    }
    http::get(&format!("{}/nix-cache-info", node.http));
    daemon::wait_until(PATIENCE, "the log of the request", || node.log().contains("/nix-cache-info"));
    let log = node.log();
    assert!(
        !log.contains("/metrics") && !log.contains("/healthz") && !log.contains("/api/v1/status"),
        "{log}"
    );
}

#[test]
fn the_journal_gets_a_priority_in_front_and_no_time() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("journal");
    let file = File::create(&path).expect("the journal");
    let metadata = file.metadata().expect("its metadata");
    let stream = format!("{}:{}", metadata.dev(), metadata.ino());
    // A port that cannot be had: the daemon says so and ends.
    let run = |format: &str, stderr: File| {
        let mut command = Command::new(daemon::binary());
        command.args(["serve", "--no-mdns", "--no-dht", "--origin", "none", "--http", "127.0.0.1:0"]);
        command.args(["--listen", "/ip4/127.0.0.1/tcp/0", "--nix-store", "/nonexistent", "--state-dir"]);
        command.arg(directory.path().join("state")).stdout(Stdio::null()).stderr(stderr);
        command.env("JOURNAL_STREAM", &stream).env("P2P_CACHE_LOG_FORMAT", format);
        let mut child = command.spawn().expect("the daemon starts");
        daemon::wait_until(PATIENCE, "the complaint about the Nix store", || {
            fs::read_to_string(&path).expect("the journal").contains("live Nix store")
        });
        child.kill().expect("it runs");
        child.wait().expect("it ends");
    };
    run("auto", file);
    let text = fs::read_to_string(&path).expect("the journal");
    let complaint = text.lines().find(|line| line.contains("live Nix store")).expect("the complaint");
    assert!(complaint.starts_with("<4>") && !complaint.contains("WARN"), "{complaint}");
    run("human", File::create(&path).expect("the journal"));
    assert!(fs::read_to_string(&path).expect("the journal").contains(" WARN "));
}
