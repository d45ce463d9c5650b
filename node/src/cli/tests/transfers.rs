//! `put`, `get` and `status` against a gateway over an in-memory source.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use p2p_cache_http_gateway::memory::MemorySource;
use p2p_cache_http_gateway::{Gateway, GatewayConfig, GatewayMetrics, NodeStatus, Status};
use p2p_cache_protocol::{BlobId, Digest, Sha256Digest};
use prometheus_client::registry::Registry;

use super::faulty::{Answer, FaultyNode};
use super::{Home, Outcome};
use crate::cli::{EXIT_FAILURE, EXIT_USAGE};

/// A node without network and disk.
struct MemoryNode {
    source: Arc<MemorySource>,
    http: String,
    gateway: Option<Gateway>,
    runtime: tokio::runtime::Runtime,
}

struct FixedStatus;

#[async_trait]
impl NodeStatus for FixedStatus {
    fn ready(&self) -> bool {
        true
    }

    async fn status(&self) -> Status {
        Status { version: "9.9.9".into(), peer_id: "12D3KooWfake".into(), ..Status::default() }
    }
}

impl MemoryNode {
    fn start() -> MemoryNode {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let source = Arc::new(MemorySource::new());
        let mut registry = Registry::default();
        let metrics = GatewayMetrics::register(&mut registry);
        let config = GatewayConfig { address: "127.0.0.1:0".parse().unwrap(), ..GatewayConfig::default() };
        let gateway = runtime
            .block_on(Gateway::bind(
                config,
                source.clone(),
                Arc::new(FixedStatus),
                Arc::new(registry),
                metrics,
            ))
            .unwrap();
        MemoryNode { source, http: gateway.local_addr().to_string(), gateway: Some(gateway), runtime }
    }
}

impl Drop for MemoryNode {
    fn drop(&mut self) {
        if let Some(gateway) = self.gateway.take() {
            self.runtime.block_on(gateway.shutdown_within(std::time::Duration::ZERO));
        }
    }
}

/// Text that no chunk boundary of anybody divides evenly.
fn sample() -> Vec<u8> {
    (0..1_000_003_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn put(home: &Home, node: &MemoryNode, more: &[&str]) -> Outcome {
    let file = home.path().join("sample");
    std::fs::write(&file, sample()).unwrap();
    let mut args = vec!["put", file.to_str().unwrap(), "--http", &node.http];
    args.extend_from_slice(more);
    home.run(args)
}

#[test]
fn put_stores_the_file_and_prints_its_digests() {
    let (home, node) = (Home::new(), MemoryNode::start());
    let outcome = put(&home, &node, &[]);
    assert_eq!((outcome.code, outcome.err.as_str()), (0, ""));
    let (sha256, blake3) = (Sha256Digest::of(&sample()), BlobId::of(&sample()));
    assert_eq!(outcome.text(), format!("sha256:{sha256}\nblake3:{blake3}\n"));
    assert!(node.source.is_published(Digest::Sha256(sha256)));
}

#[test]
fn put_private_does_not_publish_and_json_says_so() {
    let (home, node) = (Home::new(), MemoryNode::start());
    let outcome = put(&home, &node, &["--private", "--json"]);
    assert_eq!(outcome.code, 0, "{}", outcome.err);
    let sha256 = Sha256Digest::of(&sample());
    assert!(!node.source.is_published(Digest::Sha256(sha256)));
    let json = outcome.json();
    assert_eq!(json["sha256"], sha256.to_string());
    assert_eq!(json["blake3"], BlobId::of(&sample()).to_string());
    assert_eq!(json["size"], 1_000_003);
    assert_eq!(json["published"], false);
}

#[test]
fn an_empty_file_travels_too() {
    let (home, node) = (Home::new(), MemoryNode::start());
    let file = home.path().join("empty");
    std::fs::write(&file, b"").unwrap();
    assert_eq!(home.run(["put", file.to_str().unwrap(), "--http", &node.http]).code, 0);
    let back = home.path().join("back");
    let digest = format!("sha256:{}", Sha256Digest::of(b""));
    let outcome = home.run(["get", &digest, "-o", back.to_str().unwrap(), "--http", &node.http]);
    assert_eq!(outcome.code, 0, "{}", outcome.err);
    assert_eq!(std::fs::read(back).unwrap(), b"");
}

#[test]
fn put_refuses_what_is_no_file() {
    let (home, node) = (Home::new(), MemoryNode::start());
    for path in ["/nonexistent/file", home.path().to_str().unwrap()] {
        let outcome = home.run(["put", path, "--http", &node.http]);
        assert_eq!(outcome.code, EXIT_FAILURE);
        assert!(
            outcome.err.contains(path) && outcome.err.contains("regular file that you may read"),
            "{}",
            outcome.err
        );
    }
}

#[test]
fn get_writes_to_standard_output_and_to_files_by_every_kind_of_digest() {
    let (home, node) = (Home::new(), MemoryNode::start());
    node.source.insert_blob(Bytes::from(sample()), true).unwrap();
    let sha256 = Sha256Digest::of(&sample());
    let file = home.path().join("out");
    for digest in [
        format!("sha256:{sha256}"),
        format!("sha256:{}", sha256.to_nix32()),
        format!("blake3:{}", BlobId::of(&sample())),
    ] {
        let piped = home.run(["get", &digest, "--http", &node.http]);
        assert_eq!((piped.code, piped.err.as_str()), (0, ""));
        assert_eq!(piped.out, sample());
        let filed = home.run(["get", &digest, "--http", &node.http, "-o", file.to_str().unwrap()]);
        assert_eq!((filed.code, filed.out.len()), (0, 0), "{}", filed.err);
        assert_eq!(std::fs::read(&file).unwrap(), sample());
    }
}

#[test]
fn binary_data_stays_off_a_terminal_unless_insisted() {
    let (home, node) = (Home::new(), MemoryNode::start());
    node.source.insert_blob(Bytes::from(sample()), true).unwrap();
    let digest = format!("sha256:{}", Sha256Digest::of(&sample()));
    let refused = home.run_on(true, ["get", &digest, "--http", &node.http]);
    assert_eq!((refused.code, refused.out.len()), (EXIT_USAGE, 0));
    assert!(refused.err.contains("-o FILE"), "{}", refused.err);
    assert_eq!(home.run_on(true, ["get", &digest, "--http", &node.http, "-o", "-"]).out, sample());
}

#[test]
fn a_blob_that_nobody_has_makes_no_file() {
    let (home, node) = (Home::new(), MemoryNode::start());
    let file = home.path().join("out");
    let digest = format!("blake3:{}", BlobId::of(b"unheard of"));
    let outcome = home.run(["get", &digest, "-o", file.to_str().unwrap(), "--http", &node.http]);
    assert_eq!(outcome.code, EXIT_FAILURE);
    assert!(outcome.err.contains("404") && outcome.err.contains("p2p-cache status"), "{}", outcome.err);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn an_unwritable_target_is_named() {
    let (home, node) = (Home::new(), MemoryNode::start());
    node.source.insert_blob(Bytes::from(sample()), true).unwrap();
    let digest = format!("sha256:{}", Sha256Digest::of(&sample()));
    let outcome = home.run(["get", &digest, "-o", "/nonexistent/dir/out", "--http", &node.http]);
    assert_eq!(outcome.code, EXIT_FAILURE);
    assert!(outcome.err.contains("/nonexistent/dir/out"), "{}", outcome.err);
}

#[test]
fn status_is_told_to_people_and_to_scripts() {
    let (home, node) = (Home::new(), MemoryNode::start());
    let outcome = home.run(["status", "--http", &node.http]);
    assert_eq!((outcome.code, outcome.err.as_str()), (0, ""));
    assert!(outcome.text().starts_with("p2p-cache 9.9.9"), "{}", outcome.text());
    assert_eq!(home.run(["status", "--json", "--http", &node.http]).json()["peer_id"], "12D3KooWfake");
}

#[test]
fn without_a_node_every_client_says_how_to_start_one() {
    let home = Home::new();
    let file = home.path().join("sample");
    std::fs::write(&file, b"x").unwrap();
    // Bound and never accepted from until it is dropped: then the port refuses.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let digest = format!("sha256:{}", Sha256Digest::of(b"x"));
    for args in [vec!["status"], vec!["put", file.to_str().unwrap()], vec!["get", &digest]] {
        let outcome = home.run([args.clone(), vec!["--http", &address]].concat());
        assert_eq!(outcome.code, EXIT_FAILURE, "{args:?}");
        for part in [address.as_str(), "refused", "p2p-cache serve", "--http"] {
            assert!(outcome.err.contains(part), "{args:?}: {}", outcome.err);
        }
    }
}

#[test]
fn a_body_that_breaks_once_is_taken_up_where_it_broke() {
    let home = Home::new();
    let node = FaultyNode::start(sample(), vec![Answer::CutAfter(300_000), Answer::Whole]);
    let digest = format!("sha256:{}", Sha256Digest::of(&sample()));
    let outcome = home.run(["get", &digest, "--http", node.address()]);
    assert_eq!((outcome.code, outcome.err.as_str()), (0, ""));
    assert!(outcome.out == sample());
    assert_eq!(node.ranges(), [None, Some("bytes=300000-".to_owned())]);
}

#[test]
fn a_body_that_breaks_again_leaves_nothing() {
    let home = Home::new();
    let node = FaultyNode::start(sample(), vec![Answer::CutAfter(300_000), Answer::CutAfter(10)]);
    let digest = format!("sha256:{}", Sha256Digest::of(&sample()));
    let file = home.path().join("out");
    let outcome = home.run(["get", &digest, "-o", file.to_str().unwrap(), "--http", node.address()]);
    assert_eq!(outcome.code, EXIT_FAILURE);
    assert!(outcome.err.contains("try again"), "{}", outcome.err);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0);
}

#[test]
fn a_node_that_ignores_the_range_is_not_trusted_with_the_rest() {
    let home = Home::new();
    let node = FaultyNode::start(sample(), vec![Answer::CutAfter(300_000), Answer::IgnoreRange]);
    let digest = format!("sha256:{}", Sha256Digest::of(&sample()));
    let outcome = home.run(["get", &digest, "--http", node.address()]);
    assert_eq!(outcome.code, EXIT_FAILURE);
    assert!(outcome.err.contains("broke off after 300000 bytes"), "{}", outcome.err);
}

#[test]
fn wrong_bytes_are_never_kept() {
    let home = Home::new();
    let file = home.path().join("out");
    std::fs::write(&file, b"before").unwrap();
    let node = FaultyNode::start(sample(), vec![Answer::Whole]);
    let digest = format!("blake3:{}", BlobId::of(b"something else"));
    let outcome = home.run(["get", &digest, "-o", file.to_str().unwrap(), "--http", node.address()]);
    assert_eq!(outcome.code, EXIT_FAILURE);
    assert!(outcome.err.contains("hash to blake3:"), "{}", outcome.err);
    assert_eq!(std::fs::read(&file).unwrap(), b"before");
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 1);
}

#[test]
fn a_status_that_is_none_is_refused() {
    let home = Home::new();
    let node = FaultyNode::start(b"<html>".to_vec(), vec![Answer::Whole]);
    let outcome = home.run(["status", "--http", node.address()]);
    assert_eq!(outcome.code, EXIT_FAILURE);
    assert!(outcome.err.contains("cannot be understood"), "{}", outcome.err);
}
