//! What a Nix client does.

use p2p_cache_http_gateway::{GatewayConfig, SourceError};
use p2p_cache_protocol::{Compression, NarInfo, TrustedKeys};

use crate::faults::{Fault, Faulty};
use crate::support::{Server, get, nar_path, on_a_free_port, request, stocked};

#[tokio::test]
async fn the_cache_says_what_it_is() {
    let server = Server::start(stocked().0).await;
    let answer = server.get("/nix-cache-info").await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("text/x-nix-cache-info"));
    assert_eq!(answer.text(), "StoreDir: /nix/store\nWantMassQuery: 1\nPriority: 30\n");
}

#[tokio::test]
async fn store_dir_and_priority_can_be_set() {
    let config = GatewayConfig { store_dir: "/gnu/store".into(), priority: 50, ..on_a_free_port() };
    let server = Server::start_with(config, stocked().0).await;
    let answer = server.get("/nix-cache-info").await;
    assert_eq!(answer.text(), "StoreDir: /gnu/store\nWantMassQuery: 1\nPriority: 50\n");
}

#[tokio::test]
async fn a_narinfo_points_at_the_raw_nar_and_keeps_its_signature() {
    let (source, paths) = stocked();
    let server = Server::start(source).await;
    let keys =
        TrustedKeys::new(vec![p2p_cache_http_gateway::conformance::Fixture::new().unwrap().trusted_key]);
    for (expected, nar) in &paths {
        let answer = server.get(&format!("/{}.narinfo", expected.store_path.hash())).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("text/x-nix-narinfo"));
        assert!(answer.text().ends_with('\n'));
        let narinfo = NarInfo::parse(answer.text()).unwrap();
        assert!(narinfo.verified_by(&keys).is_some());
        assert_eq!(format!("/{}", narinfo.url), nar_path(expected));
        assert_eq!(narinfo.compression, Compression::None);
        assert_eq!(narinfo.file_hash, Some(narinfo.nar_hash));
        assert_eq!(narinfo.file_size, Some(nar.len() as u64));

        let answer = server.get(&format!("/{}", narinfo.url)).await;
        assert_eq!((answer.status, answer.complete), (200, true));
        assert_eq!(answer.body, *nar);
    }
}

#[tokio::test]
async fn head_of_a_narinfo_has_the_length_of_its_get() {
    let (source, paths) = stocked();
    let server = Server::start(source).await;
    let path = format!("/{}.narinfo", paths[0].0.store_path.hash());
    let length = server.get(&path).await.body.len().to_string();
    let mut client = server.connect().await;
    for _ in 0..2 {
        let head = client.ask(&request("HEAD", &path, "")).await;
        assert_eq!((head.status, head.header("content-length")), (200, Some(length.as_str())));
    }
}

#[tokio::test]
async fn a_nar_has_the_headers_that_let_nix_resume() {
    let (source, paths) = stocked();
    let server = Server::start(source).await;
    let (narinfo, nar) = &paths[2];
    for method in ["GET", "HEAD"] {
        let answer =
            server.ask(&request(method, &nar_path(narinfo), "Accept-Encoding: gzip, br, zstd\r\n")).await;
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-type"), Some("application/x-nix-nar"));
        assert_eq!(answer.header("content-length"), Some(nar.len().to_string().as_str()));
        assert_eq!(answer.header("accept-ranges"), Some("bytes"));
        assert_eq!(answer.header("etag"), Some(format!("\"sha256:{}\"", narinfo.nar_hash).as_str()));
        assert_eq!(answer.header("content-encoding"), None);
    }
}

#[tokio::test]
async fn head_of_a_nar_never_starts_a_fetch() {
    let (source, paths) = stocked();
    // This source fails the test's request as soon as an artifact is asked for.
    let server = Server::start(Faulty::new(source, Fault::Refuses(SourceError::NotFound))).await;
    let (narinfo, _) = &paths[1];
    let digest = narinfo.nar_hash;
    for path in [nar_path(narinfo), format!("/blobs/sha256/{digest}")] {
        assert_eq!(server.ask(&request("HEAD", &path, "")).await.status, 200);
        assert_eq!(server.get(&path).await.status, 404);
    }
}

#[tokio::test]
async fn a_nar_is_served_in_ranges() {
    let (source, paths) = stocked();
    let server = Server::start(source).await;
    let (narinfo, nar) = &paths[2];
    let size = nar.len();
    let mut client = server.connect().await;
    for (range, expected) in [
        ("bytes=0-0".to_owned(), 0..1),
        ("bytes=1000-299999".to_owned(), 1000..300_000),
        (format!("bytes={}-", size - 10), size - 10..size),
        ("bytes=-7".to_owned(), size - 7..size),
        (format!("bytes=5-{}", size * 2), 5..size),
    ] {
        let answer = client.ask(&request("GET", &nar_path(narinfo), &format!("Range: {range}\r\n"))).await;
        assert_eq!((answer.status, answer.complete), (206, true), "{range}");
        assert_eq!(answer.body, nar[expected.clone()], "{range}");
        let content_range = format!("bytes {}-{}/{size}", expected.start, expected.end - 1);
        assert_eq!(answer.header("content-range"), Some(content_range.as_str()));
        assert_eq!(answer.header("content-length"), Some(expected.len().to_string().as_str()));
    }
}

#[tokio::test]
async fn a_range_behind_the_end_is_416_with_the_size() {
    let (source, paths) = stocked();
    let server = Server::start(source).await;
    let (narinfo, nar) = &paths[2];
    for range in [format!("bytes={}-", nar.len()), "bytes=-0".to_owned()] {
        let answer = server.ask(&request("GET", &nar_path(narinfo), &format!("Range: {range}\r\n"))).await;
        assert_eq!(answer.status, 416, "{range}");
        assert_eq!(answer.header("content-range"), Some(format!("bytes */{}", nar.len()).as_str()));
    }
}

#[tokio::test]
async fn ranges_that_need_not_be_honoured_give_the_whole() {
    let (source, paths) = stocked();
    let server = Server::start(source).await;
    let (narinfo, nar) = &paths[1];
    for headers in [
        "Range: bytes=abc\r\n",
        "Range: bytes=9-3\r\n",
        "Range: bytes=0-1,4-5\r\n",
        "Range: lines=0-1\r\n",
        "Range: bytes=0-1\r\nRange: bytes=4-5\r\n",
        "Range: bytes=0-1\r\nIf-Range: \"sha256:other\"\r\n",
        "Range: bytes=0-1\r\nIf-Range: Sat, 29 Oct 1994 19:43:31 GMT\r\n",
    ] {
        let answer = server.ask(&request("GET", &nar_path(narinfo), headers)).await;
        assert_eq!((answer.status, answer.body.len()), (200, nar.len()), "{headers}");
    }
    let etag = format!("Range: bytes=0-1\r\nIf-Range: \"sha256:{}\"\r\n", narinfo.nar_hash);
    assert_eq!(server.ask(&request("GET", &nar_path(narinfo), &etag)).await.status, 206);
    let head = server.ask(&request("HEAD", &nar_path(narinfo), "Range: bytes=0-1\r\n")).await;
    assert_eq!((head.status, head.header("content-length")), (200, Some(nar.len().to_string().as_str())));
}

#[tokio::test]
async fn what_is_not_held_is_404() {
    let (source, paths) = stocked();
    let server = Server::start(source).await;
    let known = paths[0].0.store_path.hash();
    let other = paths[1].0.nar_hash.to_nix32();
    let long = "0".repeat(4000);
    for path in [
        "/00000000000000000000000000000000.narinfo",
        "/short.narinfo",
        "/.narinfo",
        "/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee.narinfo",
        "/nothing",
        "/page",
        "/page/page.txt",
        "/nar/",
        "/nar/x.nar",
        &format!("/nar/{known}-{other}.nar"),
        &format!("/nar/{known}-{other}.nar.xz"),
        &format!("/nar/{known}.nar"),
        "/nar/../../etc/passwd",
        "/nar/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/blobs",
        "/%00.narinfo",
        "/%ff%fe.narinfo",
        "//",
        "/api/v1/",
        &format!("/{long}.narinfo"),
    ] {
        for method in ["GET", "HEAD"] {
            let answer = server.ask(&request(method, path, "")).await;
            assert_eq!(answer.status, 404, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_narinfo_of_another_path_is_never_served() {
    let (source, paths) = stocked();
    let wrong = paths[1].0.clone();
    let server = Server::start(Faulty::new(source, Fault::WrongNarInfo(Box::new(wrong)))).await;
    let answer = server.get(&format!("/{}.narinfo", paths[0].0.store_path.hash())).await;
    assert_eq!(answer.status, 404);
}

#[tokio::test]
async fn served_bytes_and_requests_are_counted() {
    let (source, paths) = stocked();
    let server = Server::start(source).await;
    let (narinfo, nar) = &paths[2];
    let text = server.get(&format!("/{}.narinfo", narinfo.store_path.hash())).await.body.len();
    server.get(&nar_path(narinfo)).await;
    server.ask(&request("GET", &nar_path(narinfo), "Range: bytes=0-99\r\n")).await;
    server.get("/nar/unknown").await;
    server.get("/some/path/nobody/knows").await;
    assert_eq!(server.served.get(), (text + nar.len() + 100) as u64);
    for (series, count) in [
        ("p2p_cache_requests_total{route=\"/{hash}.narinfo\",status=\"200\"}", 1),
        ("p2p_cache_requests_total{route=\"/nar/{name}.nar\",status=\"200\"}", 1),
        ("p2p_cache_requests_total{route=\"/nar/{name}.nar\",status=\"206\"}", 1),
        ("p2p_cache_requests_total{route=\"/nar/{name}.nar\",status=\"404\"}", 1),
        ("p2p_cache_requests_total{route=\"other\",status=\"404\"}", 1),
        ("p2p_cache_request_duration_seconds_count{route=\"/nar/{name}.nar\"}", 3),
    ] {
        assert_eq!(server.metric(series).await, count, "{series}");
    }
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let (source, paths) = stocked();
    let server = Server::start(source).await;
    let mut client = server.connect().await;
    for (narinfo, nar) in paths.iter().chain(&paths) {
        let answer = client.ask(&get(&format!("/{}.narinfo", narinfo.store_path.hash()))).await;
        assert_eq!(answer.status, 200);
        assert_eq!(client.ask(&get(&nar_path(narinfo))).await.body, *nar);
        assert_eq!(client.ask(&get("/nothing")).await.status, 404);
    }
    assert_eq!(server.metric("p2p_cache_http_connections").await, 2);
}
