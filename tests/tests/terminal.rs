//! What people see while they wait: `status --watch`, and progress by source.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use p2p_cache_tests::{Daemon, daemon, hostile};

const PATIENCE: Duration = Duration::from_secs(30);

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn watch(node: &Daemon, flags: &[&str]) -> Running {
    let mut command = Command::new(daemon::binary());
    command.args(["status", "--watch", "--http", node.http.trim_start_matches("http://")]).args(flags);
    Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts"))
}

#[test]
fn watching_is_plain_without_a_terminal_and_ends_cleanly_on_an_interrupt() {
    let node = Daemon::builder().start();
    let mut watching = watch(&node, &[]);
    let mut lines = BufReader::new(watching.0.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let heads = lines.by_ref().inspect(|line| assert!(!line.contains('\x1b'), "{line:?}"));
    assert_eq!(heads.filter(|line| line.starts_with("p2p-cache ")).take(2).count(), 2, "it goes on");

    let pid = watching.0.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill").success());
    let rest = lines.count();
    assert!(rest < 100, "{rest}");
    assert_eq!(watching.0.wait().expect("it ends").code(), Some(0));
}

#[test]
fn watching_as_json_is_a_line_each_time_and_a_node_that_goes_is_waited_for() {
    let mut node = Daemon::builder().start();
    let mut watching = watch(&node, &["--json"]);
    let mut lines = BufReader::new(watching.0.stdout.take().expect("piped")).lines().map_while(Result::ok);
    for _ in 0..2 {
        let status: serde_json::Value = serde_json::from_str(&lines.next().expect("a line")).expect("JSON");
        assert!(status["uptime_seconds"].is_number(), "{status}");
    }
    node.kill();
    // As JSON there is nothing to say of a node that is not there.
    assert!(lines.all(|line| line.starts_with('{')));
    assert_eq!(watching.0.wait().expect("it ends").code(), Some(1));
}

#[test]
fn a_terminal_shows_who_brings_how_much() {
    let holder = Daemon::builder().flag("--upload-rate", "2MB/s").start();
    let node = Daemon::builder().peer(&holder.peer).start();
    node.wait_for_members(1);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (file, copy) = (directory.path().join("blob"), directory.path().join("copy"));
    let blob = hostile::random_bytes(8_000_000, 11);
    fs::write(&file, &blob).expect("the blob");
    let http = holder.http.trim_start_matches("http://");
    let put = daemon::p2p_cache(&["put", &file.display().to_string(), "--http", http]);
    let digest = String::from_utf8_lossy(&put.stdout).lines().next().expect("a digest").to_owned();

    let http = node.http.trim_start_matches("http://");
    let get = format!("{} get {digest} -o {} --http {http}", daemon::binary().display(), copy.display());
    // A terminal of its own.
    let shown = Command::new("script").args(["-qec", &get, "/dev/null"]).stdin(Stdio::null()).output();
    let Ok(shown) = shown else { return println!("skipped: there is no `script`, which makes terminals") };
    let text = String::from_utf8_lossy(&shown.stdout);
    assert!(fs::read(&copy).is_ok_and(|bytes| bytes == blob), "{text}");
    let peer = holder.peer.rsplit('/').next().expect("a peer id");
    assert!(text.contains(&format!("peer {}", &peer[peer.len() - 8..])), "{text}");
    assert!(text.contains("receiving"), "{text}");
    daemon::wait_until(PATIENCE, "the transfer to end", || node.blob_files().len() == 1);
}
