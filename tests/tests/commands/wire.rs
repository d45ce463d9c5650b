//! What nodes say to plain HTTP clients, and to each other over TCP and QUIC.

use p2p_cache_tests::{Closure, Daemon, Origin, http};

use super::{File, on, stderr};

const TCP_LOOPBACK: &str = "/ip4/127.0.0.1/tcp/0";
const QUIC_LOOPBACK: &str = "/ip4/127.0.0.1/udp/0/quic-v1";

/// What RFC 9110 asks of a resource with this content.
fn speaks_http(url: &str, content: &[u8]) {
    let whole = http::get(url);
    assert_eq!(whole.status, 200, "{url}");
    assert!(whole.complete && whole.body == content);
    assert_eq!(whole.header("accept-ranges").as_deref(), Some("bytes"));
    let etag = whole.header("etag").expect("an entity tag");
    let size = content.len();

    let head = http::request("HEAD", url, &[]);
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some(size.to_string()));
    assert_eq!(head.header("etag").as_ref(), Some(&etag));

    for (range, expected) in
        [("bytes=100-199", 100..200), ("bytes=-10", size - 10..size), ("bytes=20000-", 20_000..size)]
    {
        let part = http::request("GET", url, &[("Range", range)]);
        assert_eq!(part.status, 206, "{range}");
        assert!(part.complete && part.body == content[expected.clone()], "{range}");
        let told = format!("bytes {}-{}/{size}", expected.start, expected.end - 1);
        assert_eq!(part.header("content-range"), Some(told));
    }
    let beyond = http::request("GET", url, &[("Range", &format!("bytes={size}-"))]);
    assert_eq!((beyond.status, beyond.header("content-range")), (416, Some(format!("bytes */{size}"))));
    for method in ["GET", "HEAD"] {
        let same = http::request(method, url, &[("If-None-Match", &etag)]);
        assert_eq!((same.status, same.body.len()), (304, 0), "{method}");
        let other = http::request(method, url, &[("If-None-Match", "\"other\"")]);
        assert_eq!(other.status, 200, "{method}");
    }
    let stale = http::request("GET", url, &[("Range", "bytes=0-9"), ("If-Range", "\"other\"")]);
    assert_eq!((stale.status, stale.body.len()), (200, size), "the range of another content");
}

#[test]
fn blobs_answer_ranges_and_conditions() {
    let node = Daemon::builder().start();
    let file = File::random(123_457);
    file.put(&node, &[]);
    speaks_http(&file.blob_url(&node), &file.content);
    speaks_http(&format!("{}/blobs/{}", node.http, file.blake3.replace(':', "/")), &file.content);
}

#[test]
fn nars_answer_ranges_and_conditions() {
    let closure = Closure::build(400, "xz");
    let origin = Origin::serve(&closure.cache());
    let node = Daemon::builder().origin(origin.url()).trust(&closure.public_key).start();
    speaks_http(&format!("{}{}", node.http, closure.top_nar_path()), &closure.top_nar());
}

/// Two connected nodes that listen on nothing but `listen`, with a file for the session keys in their environment.
fn pair_on(listen: &str, keys: &std::path::Path) -> (Daemon, Daemon) {
    let builder = || Daemon::builder().listen(listen).env("SSLKEYLOGFILE", keys.display().to_string());
    let a = builder().start();
    let b = builder().peer(&a.peer).start();
    a.wait_for_peers(1);
    b.wait_for_peers(1);
    (a, b)
}

/// How the only peer of a node is reached.
fn peer_address(node: &Daemon) -> String {
    let status = http::get(&format!("{}/api/v1/status", node.http)).text();
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    status["peers"][0]["address"].as_str().expect("an address").to_owned()
}

/// Puts a file on one node and gets it on another; both listen on `listen` only.
fn transfers_over(listen: &str, part_of_address: &str) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let keys = directory.path().join("session-keys");
    let (a, b) = pair_on(listen, &keys);
    for node in [&a, &b] {
        assert!(peer_address(node).contains(part_of_address), "{}", peer_address(node));
    }
    let file = File::random(3_000_000);
    file.put(&a, &[]);
    let got = on(&b, &["get", &file.sha256]);
    assert!(got.status.success(), "{}", stderr(&got));
    assert!(got.stdout == file.content);
    assert!(b.metric("p2p_cache_received_bytes_total{source=\"peer\"}") > 3_000_000);
    assert!(!keys.exists(), "session keys were written to a file");
}

#[test]
fn nodes_transfer_over_tcp_and_never_write_their_session_keys() {
    transfers_over(TCP_LOOPBACK, "/tcp/");
}

#[test]
fn nodes_transfer_over_quic_alone_and_never_write_their_session_keys() {
    transfers_over(QUIC_LOOPBACK, "/quic-v1");
}
