//! Cold hosts of one site want the same closure at once, and the origin is behind a slow link. Times are printed:
//! `tests/bench.py site` measures them.

use std::time::Duration;

use p2p_cache_tests::daemon::wait_until;
use p2p_cache_tests::site::{Host, Site};
use p2p_cache_tests::{Closure, Daemon, NixStore};

const HOSTS: usize = 8;
const HOST_RATE: u64 = 1_000_000_000;
const ORIGIN_RATE: u64 = 100_000_000;
/// One copy a site, and a few narinfos or ranges that were asked for twice.
const MAX_COPIES: f64 = 1.05;
/// When the leader is lost the next one begins anew at worst, and some of the others may have gone on alone.
const MAX_COPIES_WITHOUT_LEADER: f64 = 2.5;

/// Bytes of one copy of a cache's narinfos and NARs.
fn unique_bytes(closure: &Closure) -> u64 {
    let length = |entry: std::io::Result<std::fs::DirEntry>| {
        let metadata = entry.expect("an entry").metadata().expect("its length");
        if metadata.is_file() { metadata.len() } else { 0 }
    };
    let directories = [closure.cache(), closure.cache().join("nar")];
    directories.iter().flat_map(|path| std::fs::read_dir(path).expect("the cache")).map(length).sum()
}

fn report(what: &str, closure: &Closure, origin_bytes: u64, slowest: Duration) -> f64 {
    let unique = unique_bytes(closure);
    let ideal = unique as f64 * 8.0 / ORIGIN_RATE as f64;
    let copies = origin_bytes as f64 / unique as f64;
    println!(
        "{what}: {copies:.3} copies of {unique} bytes from the origin; the slowest host took {slowest:?}, \
         {:.2} of the ideal",
        slowest.as_secs_f64() / ideal
    );
    copies
}

/// All hosts at once; gives the slowest.
fn all_at_once(hosts: &[Host], fetch: impl Fn(&Host) -> Duration + Sync) -> Duration {
    std::thread::scope(|scope| {
        let clients: Vec<_> = hosts.iter().map(|host| scope.spawn(|| fetch(host))).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).max().expect("hosts")
    })
}

#[test]
fn cold_hosts_together_get_one_closure_right() {
    let closure = Closure::wide(12, 2_000, "none");
    let Some(mut site) = Site::new(&closure, HOSTS, HOST_RATE, ORIGIN_RATE) else { return };
    let slowest = all_at_once(&site.hosts, |host| {
        host.fetch(&closure).unwrap_or_else(|reason| panic!("{reason}\n{}", host.daemon.log()))
    });
    let copies = report("plain clients", &closure, site.origin.bytes(), slowest);
    assert!(copies <= MAX_COPIES, "{copies} copies from the origin");
}

#[test]
fn nix_on_all_cold_hosts_together_succeeds_at_the_first_try() {
    let closure = Closure::wide(6, 2_000, "xz");
    let Some(mut site) = Site::new(&closure, HOSTS, HOST_RATE, ORIGIN_RATE) else { return };
    let nar = closure.top_nar();
    let slowest = all_at_once(&site.hosts, |host| {
        let store = NixStore::in_netns(&host.namespace);
        let copied = store.copy_from(&host.daemon.http, &closure);
        assert!(copied.success, "{}\n{}", copied.stderr, host.daemon.log());
        assert!(store.dump(&closure) == nar, "the right bytes");
        assert_eq!(store.paths(), 6);
        copied.elapsed
    });
    let copies = report("Nix", &closure, site.origin.bytes(), slowest);
    assert!(copies <= MAX_COPIES, "{copies} copies from the origin");
}

/// All hosts fetch one large NAR; `strike` hits the host that the origin feeds most when the fetch is under way. The
/// others get everything. Gives the copies that the origin sent.
fn leader_lost(strike: impl FnOnce(&Daemon)) -> Option<f64> {
    let closure = Closure::wide(1, 30_000, "none");
    let mut site = Site::new(&closure, HOSTS, HOST_RATE, ORIGIN_RATE)?;
    let slowest = std::thread::scope(|scope| {
        let clients: Vec<_> = site.hosts.iter().map(|host| scope.spawn(|| host.fetch(&closure))).collect();
        let from_origin = || site.hosts.iter().map(|host| host.total("received_origin_bytes"));
        wait_until(Duration::from_secs(30), "bytes from the origin", || {
            from_origin().max() > Some(3_000_000)
        });
        let leader = (0..HOSTS).zip(from_origin()).max_by_key(|(_, bytes)| *bytes).expect("hosts").0;
        strike(&site.hosts[leader].daemon);
        let mut slowest = Duration::ZERO;
        for (host, client) in clients.into_iter().enumerate().filter(|(host, _)| *host != leader) {
            let outcome = client.join().expect("a client");
            let took = outcome.unwrap_or_else(|reason| panic!("{reason}\n{}", site.hosts[host].daemon.log()));
            slowest = slowest.max(took);
        }
        // Its client hangs on it as long as it is only silent.
        site.hosts[leader].daemon.kill_now();
        slowest
    });
    Some(report("without the leader", &closure, site.origin.bytes(), slowest))
}

#[test]
fn a_leader_killed_while_the_others_stream_from_it_costs_them_nothing() {
    let Some(copies) = leader_lost(Daemon::kill_now) else { return };
    assert!(copies <= MAX_COPIES_WITHOUT_LEADER, "{copies} copies from the origin");
}

#[test]
fn a_leader_that_falls_silent_while_the_others_stream_from_it_costs_them_nothing() {
    let Some(copies) = leader_lost(Daemon::pause) else { return };
    assert!(copies <= MAX_COPIES_WITHOUT_LEADER, "{copies} copies from the origin");
}
