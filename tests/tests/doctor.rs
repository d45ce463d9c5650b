//! `p2p-cache doctor` finds the usual faults and says what mends them.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use p2p_cache_tests::{Daemon, daemon};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);
const KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// A machine as the doctor finds it: a Nix that says what the test wants, and an origin.
struct Machine {
    directory: tempfile::TempDir,
    origin: String,
}

impl Machine {
    /// The clock of its origin is `ahead` seconds ahead.
    fn new(ahead: i64) -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory"), origin: origin(ahead) }
    }

    fn with_nix(self, substituters: &str, keys: &str) -> Self {
        let path = self.bin().join("nix");
        fs::create_dir_all(self.bin()).expect("a directory");
        let text =
            format!("#!/bin/sh\necho 'substituters = {substituters}'\necho 'trusted-public-keys = {keys}'\n");
        fs::write(&path, text).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it can be run");
        self
    }

    fn bin(&self) -> PathBuf {
        self.directory.path().join("bin")
    }

    /// Exit code and findings.
    fn examine(&self, http: &str, flags: &[&str]) -> (i32, Value) {
        let mut command = Command::new(daemon::binary());
        command.args(["doctor", "--json", "--http", http.trim_start_matches("http://"), "--listen", "none"]);
        command.arg("--state-dir").arg(self.directory.path().join("state"));
        if !flags.contains(&"--origin") {
            command.args(["--origin", &self.origin]);
        }
        // Only what the test provides is in the way of `nix`.
        command.args(flags).env("PATH", self.bin());
        let output = command.output().expect("the doctor runs");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| {
            panic!("{error}: {}", String::from_utf8_lossy(&output.stderr));
        });
        let code = output.status.code().expect("no signal");
        assert_eq!(report["ok"], code == 0, "{report}");
        (code, report["findings"].clone())
    }
}

/// The finding of one check; everything that is not well has a remedy.
fn finding<'f>(findings: &'f Value, check: &str) -> &'f Value {
    let found = findings.as_array().expect("a list").iter().find(|finding| finding["check"] == check);
    let found = found.unwrap_or_else(|| panic!("no {check} in {findings:#}"));
    assert_eq!(found["remedy"].is_string(), found["level"] != "ok", "{found}");
    found
}

fn level(findings: &Value, check: &str) -> String {
    finding(findings, check)["level"].as_str().expect("a level").to_owned()
}

/// Answers every request with the time of its own.
fn origin(ahead: i64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let when = format!("{ahead} seconds");
            let format = ["-u", "-d", &when, "+%a, %d %b %Y %H:%M:%S GMT"];
            let date = Command::new("date").env("LC_ALL", "C").args(format).output().expect("date");
            let _ = stream.read(&mut [0; 4096]);
            let date = String::from_utf8_lossy(&date.stdout).trim().to_owned();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
    });
    url
}

#[test]
fn a_healthy_machine_has_no_failure() {
    let other = Daemon::builder().start();
    let node = Daemon::builder().peer(&other.peer).start();
    node.wait_for_peers(1);
    let machine = Machine::new(0).with_nix(&format!("https://cache.nixos.org/ {}", node.http), KEY);
    let (code, findings) = machine.examine(&node.http, &[]);
    assert_eq!(code, 0, "{findings:#}");
    for check in ["node", "peers", "substituter", "keys", "origin", "clock"] {
        assert_eq!(level(&findings, check), "ok", "{findings:#}");
    }
}

#[test]
fn a_node_that_does_not_run_and_a_port_that_is_taken_are_told_apart() {
    let machine = Machine::new(0).with_nix("", KEY);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ =
                stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    let (code, findings) = machine.examine(&address, &[]);
    let node = finding(&findings, "node");
    assert_eq!((code, node["level"].as_str()), (1, Some("fail")));
    assert!(node["message"].as_str().expect("text").contains("something else has the port"), "{node}");
    assert!(node["remedy"].as_str().expect("text").contains("ss -ltnp"), "{node}");

    let (code, findings) = machine.examine("127.0.0.1:9", &[]);
    let node = finding(&findings, "node");
    assert_eq!((code, node["level"].as_str()), (1, Some("fail")));
    assert!(node["remedy"].as_str().expect("text").contains("systemctl start p2p-cache"), "{node}");
}

#[test]
fn a_nix_that_does_not_ask_or_believe_the_node_is_noticed() {
    let node = Daemon::builder().start();
    let machine = Machine::new(0).with_nix("https://cache.nixos.org/", "other-1:AAAA");
    let (code, findings) = machine.examine(&node.http, &[]);
    assert_eq!(
        (code, level(&findings, "substituter"), level(&findings, "keys")),
        (1, "fail".into(), "fail".into())
    );
    let remedy = finding(&findings, "substituter")["remedy"].to_string();
    assert!(remedy.contains(&format!("extra-substituters = {}", node.http)), "{remedy}");
    assert!(finding(&findings, "keys")["remedy"].to_string().contains(KEY));
    assert_eq!(level(&findings, "peers"), "warn", "nobody else is there");

    // A machine without Nix may want blobs only.
    let (code, findings) = Machine::new(0).examine(&node.http, &[]);
    assert_eq!((code, level(&findings, "nix")), (0, "warn".into()), "{findings:#}");
}

#[test]
fn a_clock_that_is_wrong_and_an_origin_that_is_gone_are_noticed() {
    let node = Daemon::builder().start();
    let (code, findings) = Machine::new(7200).with_nix(&node.http, KEY).examine(&node.http, &[]);
    assert_eq!((code, level(&findings, "clock")), (1, "fail".into()), "{findings:#}");
    assert!(finding(&findings, "clock")["message"].to_string().contains("behind"), "{findings:#}");

    let machine = Machine::new(0).with_nix(&node.http, KEY);
    let (code, findings) = machine.examine(&node.http, &["--origin", "http://127.0.0.1:9"]);
    assert_eq!((code, level(&findings, "origin")), (1, "fail".into()), "{findings:#}");
}

#[test]
fn a_nix_store_that_cannot_be_read_is_told_with_its_reason_in_status_too() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let node = Daemon::builder().nix_store(directory.path()).start();
    let machine = Machine::new(0).with_nix(&node.http, KEY);
    daemon::wait_until(PATIENCE, "the store to be tried", || {
        let (_, findings) = machine.examine(&node.http, &[]);
        finding(&findings, "nix store")["message"].to_string().contains("db.sqlite")
    });
    let http = node.http.trim_start_matches("http://");
    let status = daemon::p2p_cache(&["status", "--http", http]);
    let text = String::from_utf8_lossy(&status.stdout);
    let line = format!("nix store  {} cannot be read: there is no Nix database", directory.path().display());
    assert!(text.contains(&line), "{text}");
    let level = || finding(&machine.examine(&node.http, &[]).1, "nix store")["level"].clone();
    assert_eq!(level(), "warn", "Nix may not have run yet");
    let database = directory.path().join("nix/var/nix/db");
    std::fs::create_dir_all(&database).expect("a directory");
    std::fs::write(database.join("db.sqlite"), "no database").expect("a file");
    assert_eq!(level(), "fail");
}

#[test]
fn the_report_for_people_names_each_check_and_ends_with_what_failed() {
    let output = Command::new(daemon::binary())
        .args([
            "doctor",
            "--http",
            "127.0.0.1:9",
            "--origin",
            "none",
            "--listen",
            "none",
            "--state-dir",
            "/tmp",
        ])
        .env("PATH", "/nonexistent")
        .output()
        .expect("the doctor runs");
    let (text, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("fail  node          nothing answers on http://127.0.0.1:9"), "{text}");
    assert!(text.contains("\n                    -> start it: "), "{text}");
    assert!(error.contains("1 of ") && error.contains(" checks failed"), "{error}");
}
