//! Arbitrary requests: never a panic, always a well-formed answer or a closed connection.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tokio::io::AsyncWriteExt;
use tokio::runtime::{Builder, Runtime};

use crate::support::{Server, nar_path, request, stocked};

const CASES: u32 = 200;

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn runner() -> TestRunner {
    TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() })
}

/// After everything, the gateway still works and no task has panicked.
fn unharmed(runtime: &Runtime, server: Server) {
    runtime.block_on(async {
        assert_eq!(server.get("/healthz").await.status, 200);
        assert_eq!(server.gateway.shutdown().await.panicked, 0);
    });
}

#[test]
fn any_path_is_answered() {
    let runtime = runtime();
    let server = runtime.block_on(Server::start(stocked().0));
    let method = prop_oneof![Just("GET"), Just("HEAD"), Just("POST"), Just("DELETE")];
    let path = prop_oneof![
        "/[!-~]{0,60}",
        "/[0-9a-z]{30,34}(.narinfo)?",
        "/nar/[0-9a-z-]{0,90}(.nar)?",
        "/blobs/(sha256|blake3|md5)/[0-9a-fA-F]{60,66}",
        "/(%[0-9a-f]{2}){0,20}(.narinfo)?(\\?[a-z=&%]{0,10})?",
    ];
    let strategy = (method, path);
    let check = |(method, path): (&'static str, String)| {
        let answer = runtime.block_on(server.ask(&request(method, &path, "")));
        prop_assert!((200..500).contains(&answer.status), "{method} {path}: {}", answer.status);
        prop_assert!(answer.status != 429 && answer.complete);
        Ok(())
    };
    runner().run(&strategy, check).unwrap();
    unharmed(&runtime, server);
}

#[test]
fn any_range_is_answered_with_the_bytes_that_its_head_names() {
    let runtime = runtime();
    let (source, paths) = stocked();
    let (narinfo, nar) = paths[1].clone();
    let server = runtime.block_on(Server::start(source));
    let range = prop_oneof![
        "bytes=[0-9]{0,6}-[0-9]{0,6}",
        "bytes=[0-9]{0,24}-[0-9]{0,24}",
        "[ -~]{0,30}",
        "bytes=[0-9,-]{0,20}",
    ];
    let check = |range: String| {
        let head = request("GET", &nar_path(&narinfo), &format!("Range: {range}\r\n"));
        let answer = runtime.block_on(server.ask(&head));
        prop_assert!(answer.complete);
        match answer.status {
            200 => prop_assert_eq!(&answer.body, &nar),
            206 => {
                let named = answer.header("content-range").unwrap().strip_prefix("bytes ").unwrap();
                let (first, rest) = named.split_once('-').unwrap();
                let (last, size) = rest.split_once('/').unwrap();
                let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
                prop_assert_eq!(size, nar.len().to_string());
                prop_assert_eq!(&answer.body, &nar[first..=last]);
            }
            status => prop_assert_eq!(status, 416),
        }
        Ok(())
    };
    runner().run(&range, check).unwrap();
    unharmed(&runtime, server);
}

#[test]
fn any_bytes_are_answered_or_hung_up_on() {
    let runtime = runtime();
    let server = runtime.block_on(Server::start(stocked().0));
    let bytes = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..300),
        "(GET|PUT|HEAD) [!-~]{0,20} HTTP/1.[01]\r\n([A-Za-z-]{1,10}:[ -~]{0,20}\r\n){0,5}\r\n[ -~]{0,50}"
            .prop_map(String::into_bytes),
        "(PUT|GET) /blobs/sha256/[0-9a-f]{64} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n([0-9a-f]{1,17}\r\n[ -~]{0,20}\r\n){0,4}"
            .prop_map(String::into_bytes),
    ];
    let check = |bytes: Vec<u8>| {
        runtime.block_on(async {
            let mut client = server.connect().await;
            let _ = client.send(&bytes).await;
            let _ = client.stream.get_mut().shutdown().await;
            // Whatever comes is well formed, or the client's asserts fail.
            if let Ok(Some(answer)) = client.answer(bytes.starts_with(b"HEAD ")).await {
                assert!(answer.status < 500, "{}", answer.status);
            }
        });
        Ok(())
    };
    runner().run(&bytes, check).unwrap();
    unharmed(&runtime, server);
}
