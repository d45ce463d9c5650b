//! A real Nix client uploads to a node, another one fetches from it; and what is not taken.

use std::fs;
use std::path::Path;

use p2p_cache_tests::http::{get, put, raw, request};
use p2p_cache_tests::{Closure, Daemon, Fault, NixStore, Origin};

/// Files of unfinished writes.
fn unfinished(state_dir: &Path) -> usize {
    fs::read_dir(state_dir.join("partial")).expect("partial").count()
}

/// The closure's narinfo and NAR file as Nix made them: path of the NAR below the cache, and its bytes.
fn nar_file(closure: &Closure, narinfo: &str) -> (String, Vec<u8>) {
    let url = narinfo.lines().find_map(|line| line.strip_prefix("URL: ")).expect("a URL").to_owned();
    let bytes = fs::read(closure.cache().join(&url)).expect("the NAR");
    (url, bytes)
}

#[test]
fn closures_that_one_client_uploads_another_one_fetches() {
    for compression in ["none", "xz", "zstd"] {
        let closure = Closure::build(3_000, "none");
        let node = Daemon::builder().trust(&closure.public_key).start();
        let settings = format!("compression={compression}&{}", closure.secret_key());
        let copied = closure.copy_to(&node.http, &settings, &[]);
        assert!(copied.success, "{compression}: {}\n{}", copied.stderr, node.log());
        assert_eq!(unfinished(&node.state_dir), 0, "nothing waits");
        assert_eq!(node.blob_files().len(), 3);

        let again = closure.copy_to(&node.http, &settings, &[]);
        assert!(again.success, "{}", again.stderr);

        let receiver = NixStore::new();
        let copied = receiver.copy_from(&node.http, &closure);
        assert!(copied.success, "{compression}: {}\n{}", copied.stderr, node.log());
        assert_eq!(receiver.dump(&closure), closure.top_nar(), "byte-identical");
    }
}

#[test]
fn a_client_gets_back_what_it_uploaded_under_the_name_that_it_remembers() {
    for compression in ["none", "xz", "zstd"] {
        let closure = Closure::build(900, "none");
        let directory = tempfile::tempdir().expect("a directory");
        let node = Daemon::builder().state_dir(directory.path()).start();
        let http = node.http.trim_start_matches("http://").to_owned();
        let client = NixStore::new();
        let copied = closure.copy_to_as(&client, &node.http, &format!("compression={compression}"), &[]);
        assert!(copied.success, "{}", copied.stderr);
        drop(node);
        let node = Daemon::builder().state_dir(directory.path()).http(http).start();
        let copied = client.copy_unsigned_from(&node.http, &closure);
        assert!(copied.success, "{compression}: {}\n{}", copied.stderr, node.log());
        assert_eq!(client.dump(&closure), closure.top_nar(), "byte-identical");
        if compression != "none" {
            let nars = "p2p_cache_requests_total{route=\"/nar/{name}.nar\",status=\"200\"}";
            assert!(node.metric(nars) >= 3, "the client asked by the name of its upload");
        }
    }
}

#[test]
fn what_a_shared_key_has_signed_reaches_peers_and_what_nobody_signed_stays_here() {
    let (signed, unsigned) = (Closure::build(500, "none"), Closure::build(500, "none"));
    let node = Daemon::builder().trust(&signed.public_key).start();
    let peer = Daemon::builder().trust(&signed.public_key).peer(&node.peer).start();
    peer.wait_for_members(1);
    let copied = signed.copy_to(&node.http, &format!("compression=zstd&{}", signed.secret_key()), &[]);
    assert!(copied.success, "{}", copied.stderr);
    let copied = unsigned.copy_to(&node.http, "compression=zstd", &[]);
    assert!(copied.success, "{}", copied.stderr);

    let receiver = NixStore::new();
    let copied = receiver.copy_unsigned_from(&node.http, &unsigned);
    assert!(copied.success, "{}\n{}", copied.stderr, node.log());
    assert_eq!(receiver.dump(&unsigned), unsigned.top_nar());

    let (hash, _) = unsigned.top_narinfo();
    assert_eq!(get(&format!("{}/{hash}.narinfo", peer.http)).status, 404, "unsigned builds are private");
    assert_eq!(get(&format!("{}{}", peer.http, unsigned.top_nar_path())).status, 404);
    let receiver = NixStore::new();
    let copied = receiver.copy_from(&peer.http, &signed);
    assert!(copied.success, "{}\n{}", copied.stderr, peer.log());
    assert_eq!(receiver.dump(&signed), signed.top_nar());
}

#[test]
fn a_narinfo_counts_only_with_its_nar_and_a_broken_upload_leaves_nothing() {
    let closure = Closure::build(900, "xz");
    let (hash, narinfo) = closure.top_narinfo();
    let (url, nar) = nar_file(&closure, &narinfo);
    let node = Daemon::builder().start();
    let (narinfo_url, nar_url) = (format!("{}/{hash}.narinfo", node.http), format!("{}/{url}", node.http));

    let early = put(&narinfo_url, &[], narinfo.as_bytes());
    assert_eq!(early.status, 409, "{}", early.text());
    assert!(early.text().contains("upload it first"), "{}", early.text());

    let head = format!("PUT /{url} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", nar.len());
    let address = node.http.trim_start_matches("http://");
    let mut half = std::net::TcpStream::connect(address).expect("the gateway accepts");
    std::io::Write::write_all(&mut half, &[head.as_bytes(), &nar[..nar.len() / 2]].concat()).expect("sent");
    drop(half);
    let mut flipped = nar.clone();
    flipped[nar.len() / 2] ^= 1;
    assert_eq!(put(&nar_url, &[], &flipped).status, 422, "it is not what its name says");
    assert_eq!(put(&nar_url, &[("Content-Encoding", "gzip")], &nar).status, 415);
    assert_eq!(put(&format!("{}/nar/some.nar", node.http), &[], &nar).status, 400);
    assert_eq!(request("HEAD", &nar_url, &[]).status, 404);
    p2p_cache_tests::daemon::wait_until(
        std::time::Duration::from_secs(20),
        "broken uploads to be cleared",
        || unfinished(&node.state_dir) == 0,
    );

    assert_eq!(put(&nar_url, &[], &nar).status, 201);
    let head = request("HEAD", &nar_url, &[]);
    assert_eq!((head.status, head.header("content-length")), (200, Some(nar.len().to_string())));
    for (from, to) in
        [("NarSize: ", "NarSize: 1"), ("FileSize: ", "FileSize: 1"), ("Compression: xz", "Compression: zstd")]
    {
        let wrong = put(&narinfo_url, &[], narinfo.replacen(from, to, 1).as_bytes());
        assert_eq!(wrong.status, 422, "{from}: {}", wrong.text());
    }
    let elsewhere = narinfo.replace("/nix/store/", "/gnu/store/");
    assert_eq!(put(&narinfo_url, &[], elsewhere.as_bytes()).status, 400);
    assert_eq!(put(&narinfo_url, &[], b"nonsense\n").status, 400);
    assert_eq!(get(&narinfo_url).status, 404, "none of them counted");
    assert_eq!(put(&narinfo_url, &[], narinfo.as_bytes()).status, 201);
    assert_eq!(put(&narinfo_url, &[], narinfo.as_bytes()).status, 200);
    assert_eq!(get(&format!("{}{}", node.http, closure.top_nar_path())).body, closure.top_nar());
    assert_eq!(request("HEAD", &nar_url, &[]).status, 200, "another path may have the same NAR");
    assert_eq!(unfinished(&node.state_dir), 0);
}

#[test]
fn an_upload_that_nobody_signed_does_not_take_the_place_of_a_signed_one() {
    let closure = Closure::build(300, "none");
    let other = Closure::build(300, "none");
    let node = Daemon::builder().trust(&closure.public_key).start();
    let copied = closure.copy_to(&node.http, &format!("compression=none&{}", closure.secret_key()), &[]);
    assert!(copied.success, "{}", copied.stderr);
    let (hash, narinfo) = closure.top_narinfo();
    let (_, foreign) = other.top_narinfo();
    let (url, nar) = nar_file(&other, &foreign);
    assert_eq!(put(&format!("{}/{url}", node.http), &[], &nar).status, 201);
    let own = narinfo.lines().find(|line| line.starts_with("StorePath: ")).expect("a path");
    let lines = foreign.lines().filter(|line| !line.starts_with("Sig: ") && !line.starts_with("StorePath: "));
    let claim = std::iter::once(own).chain(lines).map(|line| format!("{line}\n")).collect::<String>();
    let refused = put(&format!("{}/{hash}.narinfo", node.http), &[], claim.as_bytes());
    assert_eq!(refused.status, 409, "{}", refused.text());
    let receiver = NixStore::new();
    assert!(receiver.copy_from(&node.http, &closure).success);
    assert_eq!(receiver.dump(&closure), closure.top_nar());
}

#[test]
fn what_waits_for_a_narinfo_is_gone_after_a_restart() {
    let closure = Closure::build(300, "xz");
    let (hash, narinfo) = closure.top_narinfo();
    let (url, nar) = nar_file(&closure, &narinfo);
    let directory = tempfile::tempdir().expect("a directory");
    let mut node = Daemon::builder().state_dir(directory.path()).start();
    assert_eq!(put(&format!("{}/{url}", node.http), &[], &nar).status, 201);
    assert_eq!(unfinished(directory.path()), 1);
    node.kill();
    let node = Daemon::builder().state_dir(directory.path()).start();
    assert_eq!(unfinished(directory.path()), 0);
    assert_eq!(request("HEAD", &format!("{}/{url}", node.http), &[]).status, 404);
    assert_eq!(put(&format!("{}/{hash}.narinfo", node.http), &[], narinfo.as_bytes()).status, 409);
    assert!(node.blob_files().is_empty());
}

#[test]
fn an_uploaded_path_is_listed_and_read_by_nix_and_the_listing_is_that_of_nix() {
    let closure = Closure::build(900, "none");
    let node = Daemon::builder().start();
    let settings = "compression=zstd&write-nar-listing=true&index-debug-info=true";
    let copied = closure.copy_to(&node.http, settings, &[]);
    assert!(copied.success, "{}\n{}", copied.stderr, node.log());

    let client = NixStore::new();
    let listed = client.nix_output(&["store", "ls", "--store", &node.http, "-R", &closure.top]);
    let listed = String::from_utf8_lossy(&listed).into_owned();
    assert!(listed.contains("./data") && listed.contains("./link"), "{listed}");
    let file = format!("{}/deps", closure.top);
    let contents = client.nix_output(&["store", "cat", "--store", &node.http, &file]);
    assert!(String::from_utf8_lossy(&contents).contains("-small"), "{contents:?}");

    let cache = format!("file://{}", closure.scratch().join("listed").display());
    let copied = closure.copy_to(&cache, "write-nar-listing=true", &[]);
    assert!(copied.success, "{}", copied.stderr);
    let (hash, _) = closure.top_narinfo();
    let expected = fs::read(closure.scratch().join(format!("listed/{hash}.ls"))).expect("a listing");
    let answer = get(&format!("{}/{hash}.ls", node.http));
    assert_eq!((answer.status, answer.header("content-type").as_deref()), (200, Some("application/json")));
    let json = |bytes: &[u8]| serde_json::from_slice::<serde_json::Value>(bytes).expect("JSON");
    assert_eq!(json(&answer.body), json(&expected));
    let head = request("HEAD", &format!("{}/{hash}.ls", node.http), &[]);
    assert_eq!(head.header("content-length"), answer.header("content-length"));
}

#[test]
fn uploads_show_the_write_token_where_there_is_one() {
    let closure = Closure::build(300, "none");
    let secret = "0123456789abcdef-token";
    let token_file = closure.scratch().join("token");
    fs::write(&token_file, format!("{secret}\n")).expect("the token");
    let node = Daemon::builder().flag("--write-token-file", token_file.display().to_string()).start();
    let refused = closure.copy_to(&node.http, "compression=none", &[]);
    assert!(!refused.success && refused.stderr.contains("401"), "{}", refused.stderr);

    let netrc = closure.scratch().join("netrc");
    fs::write(&netrc, format!("machine 127.0.0.1 login anybody password {secret}\n")).expect("a netrc");
    let netrc = netrc.display().to_string();
    let copied = closure.copy_to(&node.http, "compression=none", &["--option", "netrc-file", &netrc]);
    assert!(copied.success, "{}\n{}", copied.stderr, node.log());
    let receiver = NixStore::new();
    assert!(receiver.copy_unsigned_from(&node.http, &closure).success, "reading needs none");

    let log = format!("{}/log/x.drv", node.http);
    let bearer = format!("Bearer {secret}");
    let answer = put(&log, &[], b"a log");
    assert_eq!((answer.status, answer.header("www-authenticate").is_some()), (401, true));
    assert_eq!(put(&log, &[("Authorization", "Bearer 0123456789abcdef-tokem")], b"a log").status, 401);
    assert_eq!(put(&log, &[("Authorization", &bearer), ("Origin", "http://x")], b"a log").status, 403);
    assert_eq!(put(&log, &[("Authorization", &bearer)], b"a log").status, 201);
    let blob = format!("{}/blobs/sha256/{}", node.http, "0".repeat(64));
    assert_eq!(put(&blob, &[], b"x").status, 401);
    assert_eq!(put(&blob, &[("Authorization", &bearer)], b"x").status, 422);
    assert!(!node.log().contains(secret));
}

#[test]
fn a_token_file_that_is_of_no_use_is_said_at_the_start() {
    let directory = tempfile::tempdir().expect("a directory");
    let short = directory.path().join("short");
    fs::write(&short, "abc\n").expect("a file");
    for (path, text) in [(short, "16 to 1024"), (directory.path().join("none"), "cannot be read")] {
        let state_dir = directory.path().join("state").display().to_string();
        let path = path.display().to_string();
        let mut arguments = vec!["serve", "--state-dir", &state_dir, "--http", "127.0.0.1:0", "--no-mdns"];
        arguments.extend([
            "--no-dht",
            "--listen",
            "none",
            "--nix-store",
            "none",
            "--write-token-file",
            &path,
        ]);
        let output = p2p_cache_tests::daemon::p2p_cache(&arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && stderr.contains(text) && !stderr.contains("abc"), "{stderr}");
    }
}

#[test]
fn names_that_are_not_ours_are_refused_to_what_runs_on_this_machine() {
    let node = Daemon::builder().env("P2P_CACHE_ALLOWED_HOSTS", "cache.example.org").start();
    let ask = |host: &str| {
        raw(&node.http, format!("GET /nix-cache-info HTTP/1.1\r\nConnection: close\r\n{host}\r\n").as_bytes())
    };
    for own in [
        "Host: localhost:80\r\n",
        "Host: 127.0.0.1\r\n",
        "Host: [::1]:1\r\n",
        "Host: Cache.example.org\r\n",
        "",
    ] {
        assert_eq!(ask(own).status, 200, "{own}");
    }
    let host_name = fs::read_to_string("/proc/sys/kernel/hostname").expect("a host name");
    assert_eq!(ask(&format!("Host: {}\r\n", host_name.trim())).status, 200);
    for foreign in ["Host: evil.example\r\n", "Host: localhost\r\nHost: evil.example\r\n", "Host: \r\n"] {
        let answer = ask(foreign);
        assert!(answer.status == 421 || answer.status == 400, "{foreign}: {}", answer.status);
    }
    assert!(ask("Host: evil.example\r\n").text().contains("allowed-hosts"));
    let absolute =
        b"GET http://evil.example/metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(raw(&node.http, absolute).status, 421);
    for path in ["/", "/metrics", "/api/v1/status", "/unknown"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
        assert_eq!(raw(&node.http, request.as_bytes()).status, 421, "{path}");
    }
}

#[test]
fn side_files_are_kept_when_uploaded_and_passed_on_when_an_origin_has_them() {
    let closure = Closure::build(300, "none");
    let passed_on = "debuginfo/00112233445566778899aabbccddeeff00112233";
    fs::create_dir_all(closure.cache().join("debuginfo")).expect("a directory");
    fs::write(closure.cache().join(passed_on), "{}").expect("a file");
    let origin = Origin::serve(&closure.cache());
    let directory = tempfile::tempdir().expect("a directory");
    let mut node = Daemon::builder().state_dir(directory.path()).origin(origin.url()).start();
    let uploaded = [
        "log/7rjj86a15146cq1d3qy068lml7n7ykzm-hello-2.12.1.drv",
        "realisations/sha256:0a1b!out.doi",
        "build-trace-v2/7rjj86a15146cq1d3qy068lml7n7ykzm-hello.drv/out.doi",
        "debuginfo/ffeeddccbbaa99887766554433221100ffeeddcc",
    ];
    for path in uploaded {
        let url = format!("{}/{path}", node.http);
        assert_eq!(get(&url).status, 404);
        assert_eq!(put(&url, &[("Content-Encoding", "br")], path.as_bytes()).status, 201, "{path}");
        assert_eq!(put(&url, &[("Content-Encoding", "br")], path.as_bytes()).status, 200, "{path}");
    }
    assert_eq!(put(&format!("{}/log/x", node.http), &[("Content-Encoding", "odd")], b"x").status, 415);
    assert_eq!(put(&format!("{}/log/.hidden", node.http), &[], b"x").status, 404);
    assert_eq!(put(&format!("{}/log/long", node.http), &[], &vec![b'x'; 16 * 1024 * 1024 + 1]).status, 413);
    assert_eq!(get(&format!("{}/{passed_on}", node.http)).text(), "{}");
    origin.stop();
    node.terminate();

    let node = Daemon::builder().state_dir(directory.path()).origin(origin.url()).start();
    for path in uploaded {
        let answer = get(&format!("{}/{path}", node.http));
        assert_eq!((answer.status, answer.text().as_str()), (200, path));
        assert_eq!(answer.header("content-encoding").as_deref(), Some("br"));
    }
    assert_eq!(get(&format!("{}/{passed_on}", node.http)).text(), "{}", "also with the origin gone");
}

#[test]
fn a_file_that_an_index_of_the_origin_names_is_passed_on_as_it_is() {
    let cache = tempfile::tempdir().expect("a directory");
    fs::create_dir(cache.path().join("nar")).expect("a directory");
    let file = p2p_cache_tests::hostile::random_bytes(700_000, 3);
    let name = format!("nar/{}.nar.xz", p2p_cache_protocol::Sha256Digest::of(&file).to_nix32());
    let other = format!("nar/{}.nar.xz", p2p_cache_protocol::Sha256Digest::of(b"other").to_nix32());
    for name in [&name, &other] {
        fs::write(cache.path().join(name), &file).expect("a file");
    }
    let origin = Origin::serve(cache.path());
    let node = Daemon::builder().origin(origin.url()).start();
    let answer = get(&format!("{}/{name}", node.http));
    assert!(answer.status == 200 && answer.complete && answer.body == file, "{}", answer.head);
    assert!(!get(&format!("{}/{other}", node.http)).complete, "the name has another hash");
    assert_eq!(get(&format!("{}/{}", node.http, name.replace(".xz", ".zst"))).status, 404);
    assert!(node.blob_files().is_empty(), "nothing is kept");
}

#[test]
fn what_no_origin_has_is_not_asked_for_again_at_once_and_forgotten_when_it_is_uploaded_or_a_peer_has_it() {
    let closure = Closure::build(300, "none");
    let empty = tempfile::tempdir().expect("a directory");
    let origin = Origin::serve(empty.path());
    let asking = |builder: p2p_cache_tests::DaemonBuilder| {
        builder
            .origin(origin.url())
            .trust(&closure.public_key)
            .env("P2P_CACHE_ORIGIN_MISSING_MEMORY", "1h")
            .start()
    };
    let node = asking(Daemon::builder());
    let peer = asking(Daemon::builder().peer(&node.peer));
    peer.wait_for_members(1);
    let (hash, _) = closure.top_narinfo();
    let narinfo = |of: &Daemon| get(&format!("{}/{hash}.narinfo", of.http)).status;
    assert_eq!((narinfo(&node), narinfo(&peer)), (404, 404));
    let asked = origin.requests();
    for _ in 0..5 {
        assert_eq!((narinfo(&node), narinfo(&peer)), (404, 404));
    }
    assert_eq!(origin.requests(), asked, "the origin has said so");
    let copied = closure.copy_to(&node.http, &format!("compression=none&{}", closure.secret_key()), &[]);
    assert!(copied.success, "{}", copied.stderr);
    assert_eq!((narinfo(&node), narinfo(&peer)), (200, 200));
}

#[test]
fn everything_known_is_served_without_waiting_for_an_origin_that_is_gone() {
    let (fetched, uploaded) = (Closure::build(300, "xz"), Closure::build(300, "none"));
    let origin = Origin::serve(&fetched.cache());
    let node = Daemon::builder().origin(origin.url()).trust(&fetched.public_key).start();
    assert!(NixStore::new().copy_from(&node.http, &fetched).success);
    let copied = uploaded.copy_to(&node.http, "compression=none", &[]);
    assert!(copied.success, "{}", copied.stderr);
    node.wait_until_idle();
    // Worse than one that refuses: it takes requests and never answers.
    origin.set_fault(Fault::Hang);

    let receiver = NixStore::new();
    let copied = receiver.copy_from(&node.http, &fetched);
    assert!(copied.success, "{}\n{}", copied.stderr, node.log());
    assert!(copied.elapsed.as_secs() < 8, "{:?}", copied.elapsed);
    let receiver = NixStore::new();
    let copied = receiver.copy_unsigned_from(&node.http, &uploaded);
    assert!(copied.success, "{}\n{}", copied.stderr, node.log());
    assert_eq!(receiver.dump(&uploaded), uploaded.top_nar());
    // One look-up of the three may find out that the origin is dead; an answer takes eleven seconds without patience.
    assert!(copied.elapsed.as_secs() < 10, "{:?}", copied.elapsed);
}
