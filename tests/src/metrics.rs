//! What `/metrics` says when much has happened.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::{Daemon, daemon, http};

/// `/metrics` of a node in which everything that is counted by label has happened: a family without samples is not
/// shown.
pub fn of_a_used_node() -> String {
    /// More than sockets buffer, so that the body cannot be through before the client leaves.
    const BLOB_BYTES: usize = 32 * 1024 * 1024;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("file");
    fs::write(&file, vec![7; BLOB_BYTES]).expect("the file");
    let node = Daemon::builder().start();
    let address = node.http.trim_start_matches("http://");
    let put = daemon::p2p_cache(&["put", &file.display().to_string(), "--http", address]);
    let digest = String::from_utf8_lossy(&put.stdout).lines().next().expect("a digest").replace(':', "/");

    http::get(&format!("{}/{}.narinfo", node.http, "0".repeat(32)));
    let mut client = TcpStream::connect(address).expect("the gateway accepts");
    write!(client, "GET /blobs/{digest} HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    client.read_exact(&mut [0; 1024]).expect("the beginning");
    drop(client);
    let broken = || node.metric_sum("p2p_cache_broken_bodies_total") > 0;
    daemon::wait_until(Duration::from_secs(10), "the broken body to be counted", broken);
    http::get(&format!("{}/metrics", node.http)).text()
}
