//! Nodes of one site that want the same thing at the same time: the origin sends one copy, and what has arrived at one
//! node is passed on to the others.

use std::time::{Duration, Instant};

use p2p_cache_tests::hostile::{Lies, LyingPeer, Manner, Package};
use p2p_cache_tests::http::{self, Answer};
use p2p_cache_tests::{Daemon, Fault, Origin, daemon};

const MB: usize = 1_000_000;

/// Nodes that are all connected with each other.
fn site(count: usize, package: &Package, origin: &str, flags: &[(&str, &str)]) -> Vec<Daemon> {
    let mut nodes: Vec<Daemon> = Vec::new();
    for _ in 0..count {
        let mut builder = Daemon::builder().origin(origin).trust(package.public_key());
        for (flag, value) in flags {
            builder = builder.flag(flag, *value);
        }
        for node in &nodes {
            builder = builder.peer(&node.peer);
        }
        nodes.push(builder.start());
    }
    for node in &nodes {
        node.wait_for_members(count - 1);
    }
    nodes
}

/// As Nix would: the narinfo, then the NAR.
fn fetch(node: &str, package: &Package) -> Answer {
    let narinfo = http::get(&format!("{node}{}", package.narinfo_path()));
    assert_eq!(narinfo.status, 200);
    http::get(&format!("{node}{}", package.nar_path()))
}

fn fetch_all(nodes: &[&str], package: &Package) -> Vec<Answer> {
    std::thread::scope(|scope| {
        let clients: Vec<_> = nodes.iter().map(|node| scope.spawn(|| fetch(node, package))).collect();
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    })
}

#[track_caller]
fn assert_whole(answer: &Answer, package: &Package, node: &Daemon) {
    assert_eq!(answer.status, 200, "{}", node.log());
    assert!(answer.complete, "{} of {} bytes\n{}", answer.body.len(), package.nar.len(), node.log());
    assert!(answer.body == package.nar, "byte-identical");
}

fn from_origin(node: &Daemon) -> u64 {
    node.metric("p2p_cache_received_bytes_total{source=\"origin\"}")
}

#[test]
fn nodes_that_want_the_same_nar_at_once_cost_the_origin_one_copy() {
    let package = Package::new(12 * MB, 1);
    let origin = Origin::serve(package.cache());
    origin.set_fault(Fault::Slow(6_000_000));
    let nodes = site(4, &package, &origin.url(), &[]);
    let answers = fetch_all(&nodes.iter().map(|node| node.http.as_str()).collect::<Vec<_>>(), &package);
    for (answer, node) in answers.iter().zip(&nodes) {
        assert_whole(answer, &package, node);
    }
    let ratio = origin.bytes() as f64 / package.nar.len() as f64;
    assert!(ratio <= 1.05, "the origin sent {ratio:.2} copies");
    let logs: String = nodes.iter().map(Daemon::log).collect();
    assert_eq!(origin.requests(), 2, "one narinfo, one NAR\n{logs}");
}

#[test]
fn a_leader_that_dies_while_others_stream_from_it_is_replaced() {
    let package = Package::new(24 * MB, 2);
    let origin = Origin::serve(package.cache());
    origin.set_fault(Fault::Slow(6_000_000));
    let mut nodes = site(3, &package, &origin.url(), &[]);
    let urls: Vec<String> = nodes.iter().map(|node| node.http.clone()).collect();
    std::thread::scope(|scope| {
        let clients: Vec<_> = urls.iter().map(|url| scope.spawn(|| fetch(url, &package))).collect();
        daemon::wait_until(Duration::from_secs(20), "a leader in mid-transfer", || {
            nodes.iter().any(|node| from_origin(node) > 6_000_000)
        });
        let leader = nodes.iter().position(|node| from_origin(node) > 6_000_000).expect("just seen");
        let streamed = |node: &Daemon| node.metric("p2p_cache_received_bytes_total{source=\"peer\"}") > 0;
        assert!(nodes.iter().enumerate().all(|(index, node)| index == leader || streamed(node)));
        nodes[leader].kill();
        for (index, client) in clients.into_iter().enumerate() {
            let answer = client.join().expect("a client");
            if index != leader {
                assert_whole(&answer, &package, &nodes[index]);
            }
        }
    });
}

#[test]
fn nodes_that_share_nothing_lead_for_nobody_and_hinder_nobody() {
    let package = Package::new(MB, 3);
    let origin = Origin::serve(package.cache());
    let nodes = site(3, &package, &origin.url(), &[("--share", "none")]);
    let started = Instant::now();
    let answers = fetch_all(&nodes.iter().map(|node| node.http.as_str()).collect::<Vec<_>>(), &package);
    for (answer, node) in answers.iter().zip(&nodes) {
        assert_whole(answer, &package, node);
        assert_eq!(node.metric("p2p_cache_served_bytes_total{to=\"peer\"}"), 0);
    }
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn a_leader_that_relays_wrong_bytes_is_banned_and_none_of_them_reaches_the_client() {
    let package = Package::new(3 * MB, 4);
    let origin = Origin::serve(package.cache());
    let node = Daemon::builder().origin(origin.url()).trust(package.public_key());
    // The liar has to be known at the start of the node, whose name decides who leads.
    let state = tempfile::tempdir().expect("a directory");
    let first = node.clone().state_dir(state.path()).start();
    let mut wrong = package.nar.clone();
    wrong[MB] ^= 1;
    let liar = LyingPeer::leading(&package, &first.peer, || Lies::relayed(wrong.clone(), Manner::Leads));
    drop(first);
    let node = node.state_dir(state.path()).peer(&liar.address).start();
    node.wait_for_peers(1);
    assert_whole(&fetch(&node.http, &package), &package, &node);
    assert_eq!(node.metric_sum("p2p_cache_bans_total"), 1, "{}", node.log());
}

/// A leader that does this is left, and the origin asked instead, in this time.
#[track_caller]
fn assert_passed_over(manner: impl Fn() -> Manner, within: Duration) {
    let package = Package::new(3 * MB, 5);
    let origin = Origin::serve(package.cache());
    let node = Daemon::builder().origin(origin.url()).trust(package.public_key());
    let state = tempfile::tempdir().expect("a directory");
    let first = node.clone().state_dir(state.path()).start();
    let lies = || Lies::relayed(package.nar.clone(), manner());
    let liar = LyingPeer::leading(&package, &first.peer, lies);
    drop(first);
    let node = node.state_dir(state.path()).peer(&liar.address).start();
    node.wait_for_peers(1);
    let started = Instant::now();
    assert_whole(&fetch(&node.http, &package), &package, &node);
    assert!(started.elapsed() < within, "{:?}", started.elapsed());
}

#[test]
fn a_leader_that_falls_silent_is_passed_over() {
    assert_passed_over(|| Manner::SilentAfterHalf, Duration::from_secs(15));
}

#[test]
fn a_leader_that_trickles_is_passed_over() {
    assert_passed_over(|| Manner::Trickle, Duration::from_secs(25));
}

#[test]
fn nodes_that_fetch_from_one_holder_exchange_what_they_have_got() {
    let package = Package::new(24 * MB, 6);
    let origin = Origin::serve(package.cache());
    // Slow enough for a node that begins late, on a busy machine, to have something that another one lacks.
    let seeder = Daemon::builder()
        .origin(origin.url())
        .trust(package.public_key())
        .flag("--upload-rate", "3MB/s")
        .start();
    assert_whole(&fetch(&seeder.http, &package), &package, &seeder);
    seeder.wait_until_idle();
    origin.stop();

    let mut nodes: Vec<Daemon> = Vec::new();
    for _ in 0..3 {
        let builder = Daemon::builder().origin(origin.url()).trust(package.public_key()).peer(&seeder.peer);
        nodes.push(nodes.iter().fold(builder, |builder, node| builder.peer(&node.peer)).start());
    }
    for node in &nodes {
        node.wait_for_peers(3);
    }
    let answers = fetch_all(&nodes.iter().map(|node| node.http.as_str()).collect::<Vec<_>>(), &package);
    for (answer, node) in answers.iter().zip(&nodes) {
        assert_whole(answer, &package, node);
    }
    let copies = seeder.metric("p2p_cache_served_bytes_total{to=\"peer\"}") as f64 / package.nar.len() as f64;
    println!("the seeder sent {copies:.2} copies to {} nodes", nodes.len());
    assert!(copies < 2.0, "the seeder sent {copies:.2} copies to {} nodes", nodes.len());
    let passed_on = |node: &Daemon| node.metric("p2p_cache_served_bytes_total{to=\"peer\"}");
    assert!(nodes.iter().all(|node| passed_on(node) > 0), "every node gave something");
}
