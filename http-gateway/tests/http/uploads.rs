//! Uploads of binary caches: who may, what is taken, and what a client hears.

use p2p_cache_http_gateway::memory::MemorySource;
use p2p_cache_http_gateway::{Access, AccessControl, GatewayConfig, SourceError, WriteToken};

use crate::faults::{Fault, Faulty};
use crate::support::{Answer, Server, on_a_free_port, request, stocked};

async fn put(server: &Server, path: &str, headers: &str, body: &[u8]) -> Answer {
    let mut client = server.connect().await;
    let headers = format!("Content-Length: {}\r\n{headers}", body.len());
    client.send(request("PUT", path, &headers)).await.unwrap();
    // The answer may come before all of the body has been taken.
    let _ = client.send(body).await;
    client.answer(false).await.unwrap().expect("an answer")
}

#[tokio::test]
async fn a_nar_and_its_narinfo_go_in_and_come_out() {
    let server = Server::start(MemorySource::new()).await;
    for (narinfo, nar) in stocked().1 {
        let hash = narinfo.store_path.hash();
        let (narinfo_path, nar_path) = (format!("/{hash}.narinfo"), format!("/{}", narinfo.url));
        let text = narinfo.to_string();
        assert_eq!(put(&server, &narinfo_path, "", text.as_bytes()).await.status, 409);
        assert_eq!(server.ask(&request("HEAD", &nar_path, "")).await.status, 404);
        assert_eq!(put(&server, &nar_path, "", &nar).await.status, 201);
        assert_eq!(server.ask(&request("HEAD", &nar_path, "")).await.status, 200);
        assert_eq!(put(&server, &narinfo_path, "", text.as_bytes()).await.status, 201);
        assert_eq!(put(&server, &narinfo_path, "", text.as_bytes()).await.status, 200);
        assert_eq!(server.get(&crate::support::nar_path(&narinfo)).await.body, nar);
        assert_eq!(
            server.get(&nar_path).await.body,
            nar,
            "clients remember under which name they uploaded it"
        );
    }
}

#[tokio::test]
async fn uploads_that_make_no_sense_are_refused_with_a_reason() {
    let server = Server::start(MemorySource::new()).await;
    let (narinfo, _) = stocked().1.remove(0);
    let own = format!("/{}.narinfo", narinfo.store_path.hash());
    let text = narinfo.to_string();
    let foreign = text.replace("/nix/store/", "/gnu/store/");
    let large = vec![b'x'; 300 * 1024];
    for (path, headers, body, status) in [
        (own.as_str(), "", &b"no narinfo\n"[..], 400),
        (&own, "", b"\xff\n", 400),
        (&own, "", foreign.as_bytes(), 400),
        (&own, "", &large, 413),
        (&own, "Content-Encoding: gzip\r\n", text.as_bytes(), 415),
        (&own, "Content-Range: bytes 0-4/5\r\n", text.as_bytes(), 400),
        (&own, "Origin: http://evil.example\r\n", text.as_bytes(), 403),
        ("/00000000000000000000000000000000.narinfo", "", text.as_bytes(), 400),
        ("/nix.narinfo", "", text.as_bytes(), 404),
        ("/nar/x.nar", "", b"x", 400),
        ("/log/.x", "", b"x", 404),
    ] {
        let answer = put(&server, path, headers, body).await;
        assert_eq!(answer.status, status, "{path} {headers}: {}", answer.text());
        assert!(answer.text().len() > 4, "{path} {headers}");
    }
}

#[tokio::test]
async fn listings_and_side_files_are_taken_and_side_files_given() {
    let server = Server::start(MemorySource::new()).await;
    let listing = "/00000000000000000000000000000000.ls";
    assert_eq!(put(&server, listing, "Content-Encoding: br\r\n", b"{}").await.status, 200);
    assert_eq!(server.get(listing).await.status, 404, "it is made from the NAR");
    let names = [
        ("/log/x.drv", "text/plain; charset=utf-8"),
        ("/realisations/sha256:00!out.doi", "application/json"),
    ];
    for (path, kind) in names {
        assert_eq!(server.get(path).await.status, 404);
        assert_eq!(put(&server, path, "Content-Encoding: br\r\n", b"some").await.status, 201);
        assert_eq!(put(&server, path, "", b"other").await.status, 200);
        let answer = server.get(path).await;
        assert_eq!((answer.status, answer.text(), answer.header("content-type")), (200, "other", Some(kind)));
        assert_eq!(answer.header("content-encoding"), None);
        assert_eq!(server.ask(&request("HEAD", path, "")).await.header("content-length"), Some("5"));
    }
    let escaped = server.get("/realisations/sha256%3A00%21out.doi").await;
    assert_eq!(escaped.status, 200);
}

#[tokio::test]
async fn a_node_that_takes_none_says_so() {
    let server = Server::start(Faulty::new(MemorySource::new(), Fault::Refuses(SourceError::NotFound))).await;
    assert_eq!(put(&server, "/log/x.drv", "", b"x").await.status, 405);
}

#[tokio::test]
async fn with_a_write_token_every_upload_shows_it() {
    let token = WriteToken::new("0123456789abcdef").unwrap();
    let access = AccessControl::new(Access { write_token: Some(token), ..Access::default() });
    let config = GatewayConfig { access: access.clone(), ..on_a_free_port() };
    let server = Server::start_with(config, MemorySource::new()).await;
    for path in ["/log/x.drv", "/00000000000000000000000000000000.ls"] {
        let refused = put(&server, path, "", b"x").await;
        assert_eq!(
            (refused.status, refused.header("www-authenticate")),
            (401, Some("Basic realm=\"p2p-cache\""))
        );
        let shown = "Authorization: Bearer 0123456789abcdef\r\n";
        assert!(put(&server, path, shown, b"x").await.status < 300);
        let from_a_page = format!("{shown}Origin: null\r\n");
        assert_eq!(put(&server, path, &from_a_page, b"x").await.status, 403);
    }
    assert_eq!(server.get("/log/x.drv").await.status, 200, "reading needs none");

    access.set(Access {
        write_token: Some(WriteToken::new("another-0123456789").unwrap()),
        ..Access::default()
    });
    let with = |token: &str| format!("Authorization: Bearer {token}\r\n");
    assert_eq!(put(&server, "/log/x.drv", &with("0123456789abcdef"), b"x").await.status, 401);
    assert!(put(&server, "/log/x.drv", &with("another-0123456789"), b"x").await.status < 300);
}

#[tokio::test]
async fn requests_to_foreign_names_are_refused_on_every_route() {
    let allowed_hosts = vec!["cache.example.org".to_owned()];
    let access = AccessControl::new(Access { allowed_hosts, ..Access::default() });
    let server = Server::start_with(GatewayConfig { access, ..on_a_free_port() }, stocked().0).await;
    for (method, path) in
        [("GET", "/"), ("GET", "/metrics"), ("PUT", "/log/x"), ("GET", "/nowhere"), ("POST", "/")]
    {
        let ask =
            |host: &str| format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n");
        let refused = server.ask(&ask("evil.example:80")).await;
        assert_eq!(refused.status, 421, "{method} {path}");
        assert!(refused.text().contains("allowed-hosts"));
        assert_ne!(server.ask(&ask("cache.example.org:80")).await.status, 421, "{method} {path}");
    }
}
