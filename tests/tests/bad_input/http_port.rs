//! The HTTP port: paths, ranges, methods, heads and bodies that no client of a cache sends.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::Duration;

use p2p_cache_tests::daemon::wait_until;
use p2p_cache_tests::hostile::random_bytes;
use p2p_cache_tests::http;

use super::{Target, open_files, printed_seed};

#[test]
fn bad_paths_and_hashes_are_answered_with_404_or_400() {
    let target = Target::new();
    let (hash, hex) = (target.package.narinfo.store_path.hash().to_string(), "a".repeat(64));
    let mut paths: Vec<String> =
        ["/page", "//", "/nar/", "/nar/x.nar", "/nar/-.nar", "/.narinfo", "/x.narinfo", "/%00"]
            .iter()
            .map(|path| (*path).to_owned())
            .collect();
    paths.extend([
        format!("/{}.narinfo", "e".repeat(32)),
        format!("/{}.narinfo", &hash[1..]),
        format!("/{hash}"),
    ]);
    paths
        .extend([format!("/{}.narinfo", hash.to_uppercase()), format!("/nar/{hash}-{}.nar", "0".repeat(51))]);
    paths.extend([
        format!("/nar/{hash}-{hex}.nar"),
        format!("/nar/{hash}-.nar"),
        format!("/{hash}.narinfo/x"),
    ]);
    paths.extend(
        ["/../etc/passwd", "/nar/../../node.key", "/..%2f..%2fnode.key", "/blobs/", "/blobs/sha256"]
            .map(Into::into),
    );
    for name in ["md5", "sha256", "blake3", "SHA256", ".."] {
        for hex in ["", "zz", &hex[1..], &hex.to_uppercase(), &format!("{hex}a"), "..", &hex] {
            paths.push(format!("/blobs/{name}/{hex}"));
        }
    }
    paths.push(format!("/{}", "a".repeat(20_000)));
    for path in &paths {
        for method in ["GET", "HEAD"] {
            let answer = http::request(method, &target.url(path), &[]);
            assert!([400, 404].contains(&answer.status), "{method} {path:.200}: {}", answer.head);
        }
    }
    target.assert_unharmed();
}

#[test]
fn any_range_is_answered_with_the_bytes_that_its_head_names() {
    let target = Target::new();
    let nar = &target.package.nar;
    let mut ranges: Vec<String> =
        ["bytes=5-2", "bytes=-", "bytes=", "bytes=a-b", "lines=1-2", "bytes=0-0,2-3", "bytes=-0"]
            .iter()
            .map(|range| (*range).to_owned())
            .collect();
    ranges.extend(
        ["bytes=299999-", "bytes=300000-", "bytes=0-99999999999999999999", "bytes=-18446744073709551616"]
            .map(Into::into),
    );
    ranges.extend(
        ["bytes=1-3", "bytes=-7", "bytes=18446744073709551615-", "bytes=--1", "\u{1F4A9}"].map(Into::into),
    );
    ranges.push(format!("bytes={}", "0-1,".repeat(4000)));
    for range in &ranges {
        let answer = http::request("GET", &target.url(&target.package.nar_path()), &[("Range", range)]);
        assert!(answer.complete || answer.status == 416, "{range:.100}: {}", answer.head);
        match answer.status {
            200 => assert!(answer.body == *nar, "{range:.100}"),
            206 => {
                let named = answer.header("content-range").expect("a Content-Range");
                let (first, rest) = named.trim_start_matches("bytes ").split_once('-').expect("two ends");
                let (last, size) = rest.split_once('/').expect("a size");
                let (first, last): (usize, usize) =
                    (first.parse().expect("a number"), last.parse().expect("one"));
                assert_eq!(size, nar.len().to_string());
                assert!(answer.body == nar[first..=last], "{range:.100}");
            }
            status => assert_eq!(status, 416, "{range:.100}: {}", answer.head),
        }
    }
    target.assert_unharmed();
}

#[test]
fn methods_that_a_path_does_not_take_are_405_with_what_it_takes() {
    let target = Target::new();
    let blob = format!("/blobs/sha256/{}", "a".repeat(64));
    let (narinfo, nar) = (target.package.narinfo_path(), target.package.nar_path());
    let reads =
        ["/nix-cache-info", "/healthz", "/readyz", "/metrics", "/api/v1/status", &narinfo, &nar, &blob];
    let takes_uploads = [&narinfo, &nar, &blob];
    for path in reads {
        let is_written = takes_uploads.iter().any(|written| *written == path);
        for method in ["POST", "DELETE", "PATCH", "OPTIONS", "TRACE", "PUT", "BREW"] {
            if is_written && method == "PUT" {
                continue;
            }
            let answer = http::request(method, &target.url(path), &[]);
            assert_eq!(answer.status, 405, "{method} {path}: {}", answer.head);
            let allow = answer.header("allow").unwrap_or_else(|| panic!("{method} {path}: {}", answer.head));
            assert!(allow.contains("GET") && allow.contains("HEAD"), "{method} {path}: {allow}");
            assert_eq!(allow.contains("PUT"), is_written, "{method} {path}: {allow}");
        }
    }
    target.assert_unharmed();
}

#[test]
fn oversize_heads_are_refused_and_cost_no_memory() {
    let target = Target::new();
    let line = |bytes: usize| format!("X-Long: {}\r\n", "a".repeat(bytes));
    let heads = [
        line(40_000),
        line(1_000_000),
        "X: y\r\n".repeat(5000),
        "X: y\r\n".repeat(200_000),
        line(30_000).repeat(400),
    ];
    for head in heads {
        let request = format!("GET /healthz HTTP/1.1\r\nHost: localhost\r\n{head}\r\n");
        let answer = http::raw(&target.node.http, request.as_bytes());
        // 0: the answer was lost, because the rest of the request met a closed connection.
        assert!([400, 431, 0].contains(&answer.status), "{} bytes: {}", request.len(), answer.head);
    }
    let request = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(500_000));
    let status = http::raw(&target.node.http, request.as_bytes()).status;
    assert!([400, 414, 431, 0].contains(&status), "{status}");
    target.assert_unharmed();
}

#[test]
fn garbage_instead_of_http_is_answered_or_hung_up_on() {
    let target = Target::new();
    let seed = printed_seed();
    let openings: [&[u8]; 9] = [
        b"",
        b"GET ",
        b"GET /healthz HTTP/9.9\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost\r\n\r\n",
        b"\r\n\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /healthz HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"PUT /blobs/sha256/x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    ];
    for round in 0..300 {
        let noise = random_bytes((round as usize * 37) % 5000 + 1, seed.wrapping_add(round));
        let bytes = [openings[round as usize % openings.len()], &noise].concat();
        let mut stream = target.http_socket();
        let _ = stream.write_all(&bytes);
        let _ = stream.shutdown(Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        let text = String::from_utf8_lossy(&answer);
        let status = text.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok()).unwrap_or(0);
        assert!(status < 500 && status != 429, "round {round} of seed {seed}: {text:.200}");
    }
    target.assert_unharmed();
}

#[test]
fn half_requests_hang_ups_and_thousands_of_connections_leave_nothing_behind() {
    let target = Target::new();
    let request = format!("GET {} HTTP/1.1\r\nHost: localhost\r\n\r\n", target.package.nar_path());
    for round in 0..2000 {
        let mut stream = target.http_socket();
        // Every length of the beginning of a request, some whole ones with their answer unread.
        let end = round % (request.len() + 1);
        stream.write_all(&request.as_bytes()[..end]).expect("it is sent");
    }
    for _ in 0..2000 {
        let answer = http::get(&target.url("/healthz"));
        assert_eq!(answer.status, 200);
    }
    wait_until(Duration::from_secs(40), "the connections to be closed", || open_files(&target.node) < 100);
    target.assert_unharmed();
}

#[test]
fn an_upload_with_the_wrong_digest_is_422_and_not_kept() {
    let target = Target::new();
    let held = target.node.blob_files();
    for bytes in [0, 1, 20_000, 3_000_000] {
        let body = random_bytes(bytes, 5);
        for name in ["sha256", "blake3"] {
            let path = format!("/blobs/{name}/{}?publish", "a".repeat(64));
            let head = format!(
                "PUT {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {bytes}\r\n\r\n"
            );
            let answer = http::raw(&target.node.http, &[head.as_bytes(), &body].concat());
            assert_eq!(answer.status, 422, "{bytes}: {}", answer.head);
            assert_eq!(http::get(&target.url(&path)).status, 404);
            // Its end never comes.
            let answer = {
                let mut stream = target.http_socket();
                let cut = format!(
                    "PUT {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n",
                    bytes + 1
                );
                let _ = stream.write_all(&[cut.as_bytes(), &body].concat());
                let _ = stream.shutdown(Shutdown::Write);
                let mut answer = String::new();
                let _ = stream.read_to_string(&mut answer);
                answer
            };
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
        }
    }
    assert_eq!(target.node.blob_files(), held, "nothing is kept");
    // A cut upload may be noticed after its connection has ended.
    let partial = target.node.state_dir.join("partial");
    let left_overs = || std::fs::read_dir(&partial).expect("partial").count();
    wait_until(Duration::from_secs(5), "left-overs to be removed", || left_overs() == 0);
    target.assert_unharmed();
}
