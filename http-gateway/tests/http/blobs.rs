//! Blobs in and out, and the pages for operators.

use std::time::Duration;

use async_trait::async_trait;
use p2p_cache_http_gateway::conformance::sample_bytes;
use p2p_cache_http_gateway::memory::MemorySource;
use p2p_cache_http_gateway::{GatewayConfig, NodeStatus, SourceError, Status};
use p2p_cache_protocol::{BlobId, Sha256Digest};

use crate::faults::{Fault, Faulty};
use crate::support::{Answer, Client, Server, on_a_free_port, request, stocked};

async fn put(client: &mut Client, path: &str, headers: &str, body: &[u8]) -> Answer {
    let headers = format!("Content-Length: {}\r\n{headers}", body.len());
    client.send(request("PUT", path, &headers)).await.unwrap();
    // The answer may come before all of the body has been taken.
    let _ = client.send(body).await;
    client.answer(false).await.unwrap().expect("an answer")
}

#[tokio::test]
async fn a_blob_goes_in_and_comes_out_by_both_names() {
    let server = Server::start(MemorySource::new()).await;
    let mut client = server.connect().await;
    for size in [0, 1, 2_000_000] {
        let bytes = sample_bytes(1, size);
        let (sha256, blob) = (Sha256Digest::of(&bytes), BlobId::of(&bytes));
        let first = put(&mut client, &format!("/blobs/blake3/{blob}"), "", &bytes).await;
        assert_eq!(first.status, 201);
        let names: serde_json::Value = serde_json::from_slice(&first.body).unwrap();
        let expected =
            serde_json::json!({"sha256": sha256.to_string(), "blake3": blob.to_string(), "size": size});
        assert_eq!(names, expected);
        assert_eq!(put(&mut client, &format!("/blobs/sha256/{sha256}"), "", &bytes).await.status, 200);

        for (path, tag) in [
            (format!("/blobs/sha256/{sha256}"), format!("\"sha256:{sha256}\"")),
            (format!("/blobs/blake3/{blob}"), format!("\"blake3:{blob}\"")),
        ] {
            let answer = client.ask(&request("GET", &path, "")).await;
            assert_eq!((answer.status, answer.complete), (200, true));
            assert_eq!(answer.body, bytes);
            assert_eq!(answer.header("etag"), Some(tag.as_str()));
            assert_eq!(answer.header("content-type"), Some("application/octet-stream"));
            let head = client.ask(&request("HEAD", &path, "")).await;
            assert_eq!((head.status, head.header("content-length")), (200, Some(size.to_string().as_str())));
        }
    }
}

#[tokio::test]
async fn who_has_the_blob_already_is_told_so() {
    let server = Server::start(MemorySource::new()).await;
    let mut client = server.connect().await;
    let bytes = sample_bytes(2, 100);
    let path = format!("/blobs/sha256/{}", Sha256Digest::of(&bytes));
    put(&mut client, &path, "", &bytes).await;
    let tag = format!("\"sha256:{}\"", Sha256Digest::of(&bytes));
    for method in ["GET", "HEAD"] {
        let fresh = client.ask(&request(method, &path, &format!("If-None-Match: W/\"x\", {tag}\r\n"))).await;
        assert_eq!((fresh.status, fresh.header("etag")), (304, Some(tag.as_str())));
        assert_eq!(client.ask(&request(method, &path, "If-None-Match: \"x\"\r\n")).await.status, 200);
        assert_eq!(client.ask(&request(method, &path, "If-Match: \"x\"\r\n")).await.status, 412);
    }
    let unknown = format!("/blobs/sha256/{}", Sha256Digest::of(b"unknown"));
    assert_eq!(client.ask(&request("GET", &unknown, "If-None-Match: *\r\n")).await.status, 404);
}

#[tokio::test]
async fn a_chunked_upload_is_taken() {
    let server = Server::start(MemorySource::new()).await;
    let mut client = server.connect().await;
    let path = format!("/blobs/sha256/{}?publish=true", Sha256Digest::of(b"hello world"));
    let head = request("PUT", &path, "Transfer-Encoding: chunked\r\n");
    let answer = client.ask(&format!("{head}6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n")).await;
    assert_eq!(answer.status, 201);
}

#[tokio::test]
async fn uploads_that_are_not_what_they_say_are_refused() {
    let server = Server::start(MemorySource::with_max_bytes(1000)).await;
    let right = format!("/blobs/sha256/{}", Sha256Digest::of(b"right"));
    let big = sample_bytes(3, 1001);
    let big_path = format!("/blobs/sha256/{}", Sha256Digest::of(&big));
    for (path, headers, body, status) in [
        (right.as_str(), "", b"wrong".as_slice(), 422),
        (&big_path, "", &big, 413),
        (&right, "Content-Range: bytes 0-4/5\r\n", b"right", 400),
        (&right, "Content-Encoding: gzip\r\n", b"right", 415),
        (&right, "Origin: http://evil.example\r\n", b"right", 403),
        (&format!("{right}?publish=perhaps"), "", b"right", 400),
        ("/blobs/sha256/abc", "", b"right", 400),
        ("/blobs/md5/abc", "", b"right", 404),
    ] {
        let answer = put(&mut server.connect().await, path, headers, body).await;
        assert_eq!(answer.status, status, "{path} {headers}");
        assert!(answer.text().len() < 80, "{}", answer.text());
    }
    assert_eq!(server.get(&right).await.status, 404);
}

#[tokio::test]
async fn failures_of_an_upload_are_told_to_the_writer() {
    for (error, status) in [
        (SourceError::NoSpace, 507),
        (SourceError::TooLarge, 413),
        (SourceError::Internal("secret".into()), 500),
    ] {
        let server = Server::start(Faulty::new(MemorySource::new(), Fault::Refuses(error))).await;
        let path = format!("/blobs/sha256/{}", Sha256Digest::of(b"x"));
        let answer = put(&mut server.connect().await, &path, "", b"x").await;
        assert_eq!(answer.status, status);
        assert!(!answer.text().contains("secret"));
    }
}

#[tokio::test]
async fn the_answer_to_a_refused_upload_is_not_lost_in_a_reset() {
    let server = Server::start(Faulty::new(MemorySource::new(), Fault::Refuses(SourceError::NoSpace))).await;
    let body = sample_bytes(4, 8_000_000);
    let path = format!("/blobs/sha256/{}", Sha256Digest::of(&body));
    let answer = put(&mut server.connect().await, &path, "", &body).await;
    assert_eq!((answer.status, answer.header("connection")), (507, Some("close")));
}

#[tokio::test]
async fn a_refused_upload_that_asked_first_is_not_told_to_go_on() {
    let server = Server::start(MemorySource::new()).await;
    let headers = "Content-Length: 1000000\r\nExpect: 100-continue\r\nOrigin: null\r\n";
    let path = format!("/blobs/sha256/{}", Sha256Digest::of(b"x"));
    assert_eq!(server.ask(&request("PUT", &path, headers)).await.status, 403);

    let mut client = server.connect().await;
    let headers = "Content-Length: 1\r\nExpect: 100-continue\r\n";
    assert_eq!(client.ask(&request("PUT", &path, headers)).await.status, 100);
    assert_eq!(client.ask("x").await.status, 201);
}

#[tokio::test]
async fn an_upload_that_stalls_or_breaks_off_leaves_nothing() {
    let config = GatewayConfig { client_stall_timeout: Duration::from_millis(100), ..on_a_free_port() };
    let server = Server::start_with(config, MemorySource::new()).await;
    let path = format!("/blobs/sha256/{}", Sha256Digest::of(b"hello"));
    let answer = server.ask(&format!("{}hel", request("PUT", &path, "Content-Length: 5\r\n"))).await;
    assert_eq!(answer.status, 408);

    let mut client = server.connect().await;
    client.send(format!("{}hel", request("PUT", &path, "Content-Length: 5\r\n"))).await.unwrap();
    drop(client);
    assert_eq!(server.get(&path).await.status, 404);
}

#[tokio::test]
async fn probes_metrics_and_status_answer() {
    let server = Server::start(stocked().0).await;
    let mut client = server.connect().await;
    for (path, body) in [("/healthz", "ok\n"), ("/readyz", "ready\n")] {
        let answer = client.ask(&request("GET", path, "")).await;
        assert_eq!((answer.status, answer.text()), (200, body));
    }
    let metrics = client.ask(&request("GET", "/metrics", "")).await;
    assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert!(metrics.text().contains("p2p_cache_requests_total{route=\"/healthz\",status=\"200\"} 1"));
    assert!(metrics.text().ends_with("# EOF\n"));
    let status = client.ask(&request("GET", "/api/v1/status", "")).await;
    assert_eq!(status.header("content-type"), Some("application/json"));
    let status: Status = serde_json::from_slice(&status.body).unwrap();
    assert_eq!(status.version, "1.2.3");
}

struct NotReady;

#[async_trait]
impl NodeStatus for NotReady {
    fn ready(&self) -> bool {
        false
    }

    async fn status(&self) -> Status {
        Status::default()
    }
}

#[tokio::test]
async fn a_node_that_is_not_ready_says_so_to_probes_only() {
    let (source, paths) = stocked();
    let server = Server::start_node(on_a_free_port(), source, NotReady).await;
    assert_eq!(server.get("/readyz").await.status, 503);
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(server.get(&format!("/{}.narinfo", paths[0].0.store_path.hash())).await.status, 200);
}
