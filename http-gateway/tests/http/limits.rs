//! Bounds on what clients may cost.

use std::time::{Duration, Instant};

use p2p_cache_http_gateway::conformance::sample_bytes;
use p2p_cache_http_gateway::memory::MemorySource;
use p2p_cache_http_gateway::{Gateway, GatewayConfig, GatewayError, GatewayMetrics};
use tokio::io::AsyncReadExt;

use crate::faults::{Fault, Faulty};
use crate::support::{
    Client, ReadyNode, Server, eventually, get, nar_path, on_a_free_port, request, stocked,
};

#[tokio::test]
async fn wrong_methods_are_405_with_what_is_allowed() {
    let server = Server::start(stocked().0).await;
    let mut client = server.connect().await;
    let blob = format!("/blobs/sha256/{}", "a".repeat(64));
    for (method, path, allowed) in [
        ("POST", "/nix-cache-info", "GET,HEAD"),
        ("PUT", "/nix-cache-info", "GET,HEAD"),
        ("DELETE", "/00000000000000000000000000000000.narinfo", "GET,HEAD,PUT"),
        ("POST", "/nar/x.nar", "GET,HEAD,PUT"),
        ("DELETE", "/log/x.drv", "GET,HEAD,PUT"),
        ("POST", blob.as_str(), "GET,HEAD,PUT"),
        ("OPTIONS", "/metrics", "GET,HEAD"),
        ("BREW", "/healthz", "GET,HEAD"),
    ] {
        let answer = client.ask(&request(method, path, "")).await;
        assert_eq!((answer.status, answer.header("allow")), (405, Some(allowed)), "{method} {path}");
        assert_eq!(answer.text(), "method not allowed\n");
    }
    let series = "p2p_cache_requests_total{route=\"/healthz\",status=\"405\"}";
    assert_eq!(server.metric(series).await, 1);
}

#[tokio::test]
async fn one_connection_too_many_is_closed_at_once_and_a_free_place_is_used_again() {
    let config = GatewayConfig { max_connections: 2, ..on_a_free_port() };
    let server = Server::start_with(config, stocked().0).await;
    let (mut first, mut second) = (server.connect().await, server.connect().await);
    assert_eq!(first.ask(&get("/healthz")).await.status, 200);
    assert_eq!(second.ask(&get("/healthz")).await.status, 200);
    server.connect().await.closed().await;

    drop(first);
    eventually("the place of the closed connection is free", async || {
        let mut third = server.connect().await;
        let _ = third.send(get("/metrics")).await;
        let answer = third.answer(false).await.ok().flatten();
        answer.is_some_and(|answer| answer.text().contains("p2p_cache_refused_connections_total"))
    })
    .await;
}

#[tokio::test]
async fn a_request_head_that_does_not_come_closes_the_connection() {
    let config = GatewayConfig { header_read_timeout: Duration::from_millis(100), ..on_a_free_port() };
    let server = Server::start_with(config, stocked().0).await;
    let mut silent = server.connect().await;
    let mut slow = server.connect().await;
    slow.send("GET /healthz HTTP/1.1\r\nHost: l").await.unwrap();
    let mut idle = server.connect().await;
    assert_eq!(idle.ask(&get("/healthz")).await.status, 200);
    for client in [&mut silent, &mut slow, &mut idle] {
        client.closed().await;
    }
}

#[tokio::test]
async fn oversize_and_malformed_heads_are_refused() {
    let server = Server::start(stocked().0).await;
    let large = format!("X: {}\r\n", "x".repeat(40_000));
    let huge = format!("X: {}\r\n", "x".repeat(2_000_000));
    let many = "X: y\r\n".repeat(3000);
    let long_path = format!("/{}", "x".repeat(40_000));
    for (head, statuses) in [
        (request("GET", "/healthz", &large), [431, 431]),
        (request("GET", "/healthz", &huge), [431, 431]),
        (request("GET", "/healthz", &many), [431, 431]),
        (request("GET", &long_path, ""), [431, 414]),
        ("nonsense\r\n\r\n".to_owned(), [400, 400]),
        ("GET /healthz HTTP/9.9\r\n\r\n".to_owned(), [400, 400]),
        (request("GET", "/healthz", "bad header\r\n"), [400, 400]),
        (request("GET", "/healthz", "Content-Length: x\r\n"), [400, 400]),
        (request("PUT", "/blobs/sha256/x", "Content-Length: 1\r\nContent-Length: 2\r\n"), [400, 400]),
    ] {
        let mut client = server.connect().await;
        // The server may hang up before it has taken all of this.
        let _ = client.send(&head).await;
        if let Ok(Some(answer)) = client.answer(false).await {
            assert!(statuses.contains(&answer.status), "{}: {}", &head[..40.min(head.len())], answer.status);
        } else {
            assert!(head.len() > 1_000_000, "only the huge one may end in a reset");
        }
        client.closed().await;
    }
    assert!(server.metric("p2p_cache_requests_total{route=\"other\",status=\"400\"}").await >= 4);
    assert_eq!(server.get("/healthz").await.status, 200);
}

#[tokio::test]
async fn the_header_limit_is_the_one_that_was_set() {
    let config = GatewayConfig { max_header_bytes: 2048, ..on_a_free_port() };
    let server = Server::start_with(config, stocked().0).await;
    let padded = |size| request("GET", "/healthz", &format!("X: {}\r\n", "x".repeat(size)));
    assert_eq!(server.ask(&padded(1000)).await.status, 200);
    assert_eq!(server.ask(&padded(3000)).await.status, 431);
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut() {
    let source = MemorySource::new();
    // More than the buffers of any socket hold.
    let blob = source.insert_blob(sample_bytes(9, 48 * 1024 * 1024), false).unwrap();
    let config = GatewayConfig { client_stall_timeout: Duration::from_millis(200), ..on_a_free_port() };
    let server = Server::start_with(config, source).await;
    let mut lazy = server.connect().await;
    lazy.send(get(&format!("/blobs/sha256/{}", blob.sha256))).await.unwrap();
    eventually("the lazy client is cut", async || {
        server.metric("p2p_cache_broken_bodies_total{cause=\"client\"}").await == 1
            && server.metric("p2p_cache_http_connections").await == 1
    })
    .await;
    assert!(server.served.get() < blob.size);
}

#[tokio::test]
async fn a_slow_client_that_keeps_taking_is_served_to_the_end() {
    let (source, paths) = stocked();
    let config = GatewayConfig { client_stall_timeout: Duration::from_millis(300), ..on_a_free_port() };
    let server = Server::start_with(config, source).await;
    let (narinfo, nar) = &paths[2];
    let mut client = server.connect().await;
    client.send(get(&nar_path(narinfo))).await.unwrap();
    client.head().await.unwrap().unwrap();
    let (mut taken, started) = (0, Instant::now());
    let mut piece = vec![0; 150_000];
    while taken < nar.len() {
        let read = client.stream.read(&mut piece).await.unwrap();
        assert!(read > 0, "cut after {taken} bytes");
        assert_eq!(piece[..read], nar[taken..taken + read]);
        taken += read;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(started.elapsed() < crate::support::PATIENCE);
}

#[tokio::test]
async fn a_taken_address_and_bad_settings_are_clear_errors() {
    let server = Server::start(stocked().0).await;
    let taken = GatewayConfig { address: server.gateway.local_addr(), ..on_a_free_port() };
    let bad = GatewayConfig { max_header_bytes: 1, ..on_a_free_port() };
    for (config, part) in [(taken, "--http"), (bad, "max_header_bytes")] {
        let mut registry = prometheus_client::registry::Registry::default();
        let metrics = GatewayMetrics::register(&mut registry);
        let (source, node) = (std::sync::Arc::new(stocked().0), std::sync::Arc::new(ReadyNode));
        let bound = Gateway::bind(config, source, node, std::sync::Arc::new(registry), metrics).await;
        let error: GatewayError = bound.unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_in_mid_body_is_counted() {
    let (source, paths) = stocked();
    let server = Server::start_with(on_a_free_port(), Faulty::new(source, Fault::StallsAfter(10))).await;
    let mut client = Client::connect(server.gateway.local_addr()).await;
    client.send(get(&nar_path(&paths[2].0))).await.unwrap();
    client.head().await.unwrap().unwrap();
    drop(client);
    eventually("the gateway notices that the client left", async || {
        server.metric("p2p_cache_broken_bodies_total{cause=\"client\"}").await == 1
    })
    .await;
}
