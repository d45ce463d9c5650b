//! Origins behind HTTPS, with certificates that are checked.

use std::time::Duration;

use p2p_cache_tests::tls_origin::TlsOrigin;
use p2p_cache_tests::{Closure, Daemon, NixStore, daemon, http};

#[test]
fn a_closure_comes_from_an_https_origin_narinfos_by_http2_and_nars_on_connections_of_their_own() {
    let closure = Closure::build(3_000, "xz");
    let origin = TlsOrigin::serve(&closure.cache());
    let builder = Daemon::builder().origin(origin.url()).trust(&closure.public_key);
    let node = builder.env("SSL_CERT_FILE", origin.authority()).start();
    let store = NixStore::new();
    let copied = store.copy_from(&node.http, &closure);
    assert!(copied.success, "{}\n{}", copied.stderr, node.log());
    assert_eq!(store.dump(&closure), closure.top_nar(), "byte-identical");
    assert_eq!(origin.requests(), (3, 3), "three NARs, three narinfos");
}

#[test]
fn an_origin_whose_certificate_nobody_vouches_for_is_not_used_and_the_status_says_why() {
    let closure = Closure::build(300, "xz");
    let (origin, other) = (TlsOrigin::serve(&closure.cache()), TlsOrigin::serve(&closure.cache()));
    let builder = Daemon::builder().origin(origin.url()).trust(&closure.public_key);
    let node = builder.env("SSL_CERT_FILE", other.authority()).start();
    let narinfo = format!("{}/{}.narinfo", node.http, closure.top_narinfo().0);
    assert_eq!(http::get(&narinfo).status, 404);
    assert_eq!(origin.requests(), (0, 0), "nothing is asked of it");
    let status = || http::get(&format!("{}/api/v1/status", node.http)).text();
    daemon::wait_until(Duration::from_secs(30), "the reason", || status().contains("certificate"));
}
