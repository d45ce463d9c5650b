//! What else might tell: the pages of a gateway that other machines reach, and what a node asks in turn.

use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use p2p_cache_protocol::wire::Response;
use p2p_cache_tests::daemon::wait_until;
use p2p_cache_tests::{Daemon, Fault, Origin, Prober, http};
use serde_json::Value;

use super::scene::{Cache, Subject, fetch, put};

/// For what must happen.
const PATIENCE: Duration = Duration::from_secs(20);
/// In which a node would ask back.
const MOMENT: Duration = Duration::from_millis(1500);

/// An address of this machine that is not its loopback; `None`, and it is said, where there is none. Nothing is sent.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").expect("a socket");
    let address = socket.connect("198.51.100.1:9").and_then(|()| socket.local_addr());
    let address =
        address.ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified());
    if address.is_none() {
        println!("SKIPPED: this machine has no address but its loopback");
    }
    address
}

/// Every spelling by which a thing could be named.
fn names(subject: &Subject) -> [String; 4] {
    let Subject { path, sha256, blob, .. } = subject;
    [path.to_string(), sha256.to_string(), sha256.to_nix32(), blob.to_string()]
}

#[test]
fn pages_for_other_machines_name_nothing_that_is_held_or_on_its_way() {
    let Some(address) = own_address() else { return };
    let cache = Cache::new();
    let trusted = Some(&cache.trusted);
    let held = cache.add("held", "work", false, trusted);
    let (arriving, unknown) = (cache.add("arriving", "more-work", false, trusted), Subject::random());
    let origin = Origin::serve(cache.directory.path());
    let builder = Daemon::builder()
        .http("0.0.0.0:0")
        .origin(origin.url())
        .share_key(cache.shared.public_key().to_string());
    let node = builder.trust_only(cache.trusted.public_key().to_string()).start();
    fetch(&node, &held);
    node.wait_until_idle();
    origin.set_fault(Fault::HangInNar(50_000));
    let page = |host: &str, path: &str| {
        let (_, port) = node.http.rsplit_once(':').expect("a port");
        http::get(&format!("http://{host}:{port}{path}")).text()
    };
    let status = |host: &str| -> Value { serde_json::from_str(&page(host, "/api/v1/status")).expect("JSON") };
    let names_nothing = || {
        for path in ["/api/v1/status", "/metrics"] {
            let page = page(&address.to_string(), path);
            assert!(page.len() > 100, "{page}");
            for name in [&held, &arriving, &unknown].iter().flat_map(|subject| names(subject)) {
                assert!(!page.contains(&name), "{path} names {name}:\n{page}");
            }
        }
    };
    std::thread::scope(|threads| {
        let nar = format!("{}/nar/{}-{}.nar", node.http, arriving.path, arriving.sha256.to_nix32());
        threads.spawn(move || http::get(&nar));
        let ours = || page("127.0.0.1", "/api/v1/status");
        wait_until(PATIENCE, "a transfer", || ours().contains(&arriving.sha256.to_string()));
        names_nothing();
        assert_eq!(status(&address.to_string())["store"]["blobs"], 1, "counts are told");
        // The last failure is told with the URL of the narinfo or of the NAR, whichever fails later.
        origin.stop();
        http::get(&format!("{}/{}.narinfo", node.http, unknown.path));
        let urls = [unknown.path.to_string(), arriving.sha256.to_nix32()];
        wait_until(PATIENCE, "a failure", || urls.iter().any(|url| ours().contains(url)));
        names_nothing();
    });
}

#[test]
fn other_machines_read_what_may_be_shared_and_nothing_else() {
    let Some(address) = own_address() else { return };
    let cache = Cache::new();
    let public = cache.add("public", "hello", false, Some(&cache.shared));
    let private = [
        cache.add("unsigned", "build", false, None),
        cache.add("of a trusted cache", "work", false, Some(&cache.trusted)),
        cache.add("excluded", "my-secret", false, Some(&cache.shared)),
    ];
    let origin = Origin::serve(cache.directory.path());
    // The address may be a public one.
    let builder = Daemon::builder().http("0.0.0.0:0").origin(origin.url()).flag("--share", "public");
    let builder = builder.flag("--never-share", "*secret*").trust(cache.shared.public_key().to_string());
    let node = builder.trust_only(cache.trusted.public_key().to_string()).start();
    private.iter().chain([&public]).for_each(|subject| fetch(&node, subject));
    node.wait_until_idle();
    let by_hand = [put(&node, "published", &[]), put(&node, "private", &["--private"])];
    let (_, port) = node.http.rsplit_once(':').expect("a port");
    let theirs = |path: &str| http::get(&format!("http://{address}:{port}{path}"));
    let paths = |subject: &Subject| {
        let Subject { path, sha256, blob, .. } = subject;
        let nar = format!("/nar/{path}-{}.nar", sha256.to_nix32());
        [format!("/{path}.narinfo"), nar, format!("/blobs/sha256/{sha256}"), format!("/blobs/blake3/{blob}")]
    };
    let statuses = |subject: &Subject| paths(subject).map(|path| theirs(&path).status);
    assert_eq!(statuses(&public), [200; 4]);
    let unknown = Subject::random();
    for subject in private.iter().chain([&unknown]) {
        assert_eq!(statuses(subject), [404; 4], "{}", subject.what);
        let answer = theirs(&paths(subject)[0]);
        assert_eq!(answer.body, theirs(&paths(&unknown)[0]).body, "{}", subject.what);
    }
    let of_blobs = by_hand.each_ref().map(|subject| statuses(subject)[2]);
    assert_eq!(of_blobs, [200, 404]);
    // Its own machine reads all of it.
    for subject in &private {
        assert_eq!(http::get(&format!("{}{}", node.http, paths(subject)[2])).status, 200, "{}", subject.what);
    }
}

/// A node that gets a path slowly from one peer, which another peer looks up. The answer to that, and whether the node
/// asks the other peer in turn.
fn asked_for_while_it_arrives(shared: bool) -> (Response, bool) {
    let cache = Cache::new();
    let subject = cache.add("arriving", "work", false, Some(&cache.trusted));
    let key = cache.trusted.public_key().to_string();
    let origin = Origin::serve(cache.directory.path());
    let holder = Daemon::builder().origin(origin.url()).trust(&key).flag("--upload-rate", "20kB/s").start();
    fetch(&holder, &subject);
    holder.wait_until_idle();
    let builder = Daemon::builder().peer(&holder.peer);
    let node = if shared { builder.trust(&key) } else { builder.trust_only(&key) }.start();
    node.wait_for_peers(1);
    std::thread::scope(|threads| {
        threads.spawn(|| fetch(&node, &subject));
        let arrived = || node.metric("p2p_cache_received_bytes_total{source=\"peer\"}") > 20_000;
        wait_until(PATIENCE, "the first bytes", arrived);
        let mut prober = Prober::of(&node.peer);
        let answers = subject.requests().map(|request| prober.ask(&request));
        if !shared {
            assert!(answers.iter().all(|answer| *answer == Response::NotFound), "{answers:?}");
        }
        (answers[1].clone(), prober.is_asked_within(MOMENT))
    })
}

#[test]
fn what_arrives_and_is_private_is_denied_and_nobody_is_asked_back_about_it() {
    let (answer, asked_back) = asked_for_while_it_arrives(true);
    assert!(matches!(answer, Response::Partial { .. }) && asked_back, "{answer:?}, asked back: {asked_back}");
    let (answer, asked_back) = asked_for_while_it_arrives(false);
    assert!(answer == Response::NotFound && !asked_back, "{answer:?}, asked back: {asked_back}");
}
