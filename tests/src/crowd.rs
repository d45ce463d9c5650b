//! Nodes that hold a closure and are its only source, and clients that must notice none of their faults.

use std::time::{Duration, Instant};

use crate::{Closure, Daemon, NixStore, Origin, http};

/// Sample of a seeder's bytes to peers.
pub const SERVED_TO_PEERS: &str = "p2p_cache_served_bytes_total{to=\"peer\"}";
/// Sample of a node's bytes from origins.
pub const RECEIVED_FROM_ORIGIN: &str = "p2p_cache_received_bytes_total{source=\"origin\"}";

/// A closure, and nodes that hold all of it. The origin that they had it from is gone.
pub struct Crowd {
    /// What they hold.
    pub closure: Closure,
    /// The NAR of its top path.
    pub nar: Vec<u8>,
    /// Who holds it.
    pub seeders: Vec<Daemon>,
    origin: Origin,
}

impl Crowd {
    /// A closure with a NAR of about `kilobytes`, and `count` nodes that hold it and upload at `rate` each.
    pub fn new(kilobytes: u64, count: usize, rate: &str) -> Self {
        let closure = Closure::build(kilobytes, "none");
        let nar = closure.top_nar();
        let origin = Origin::serve(&closure.cache());
        let seeders: Vec<_> = (0..count)
            .map(|_| {
                let builder = Daemon::builder().origin(origin.url()).trust(&closure.public_key);
                builder.flag("--upload-rate", rate).start()
            })
            .collect();
        std::thread::scope(|scope| {
            for seeder in &seeders {
                scope.spawn(|| fill(seeder, &closure));
            }
        });
        origin.stop();
        Self { closure, nar, seeders, origin }
    }

    /// A cold node that is connected with all seeders and with the peers at `others`.
    pub fn cold_node(&self, others: &[&str]) -> Daemon {
        let mut builder = Daemon::builder().origin(self.origin.url()).trust(&self.closure.public_key);
        let seeders = self.seeders.iter().map(|seeder| seeder.peer.as_str());
        for peer in seeders.chain(others.iter().copied()) {
            builder = builder.peer(peer);
        }
        let node = builder.start();
        node.wait_for_peers(self.seeders.len() + others.len());
        node
    }

    /// Nix copies the closure through the node while another client gets the largest NAR: both succeed at the first
    /// try with the right bytes, none of them from the origin. Prints, and gives, how long Nix took.
    pub fn assert_served(&self, node: &Daemon) -> Duration {
        std::thread::scope(|scope| {
            let plain = scope.spawn(|| get_right_body(node, &self.closure, &self.nar));
            let store = NixStore::new();
            let copied = store.copy_from(&node.http, &self.closure);
            plain.join().expect("the plain client");
            assert!(copied.success, "at the first try: {}\n{}", copied.stderr, node.log());
            assert!(store.dump(&self.closure) == self.nar, "Nix has the right bytes");
            assert_eq!(node.metric(RECEIVED_FROM_ORIGIN), 0, "it is gone");
            println!("Nix took {:?}", copied.elapsed);
            copied.elapsed
        })
    }

    /// What all seeders have sent together.
    pub fn served(&self) -> u64 {
        self.seeders.iter().map(|seeder| seeder.metric(SERVED_TO_PEERS)).sum()
    }
}

/// Fetches a closure through a node and waits until all of it is kept.
pub fn fill(node: &Daemon, closure: &Closure) {
    for (hash, text) in closure.narinfos() {
        let narinfo = http::get(&format!("{}/{hash}.narinfo", node.http));
        assert_eq!(narinfo.status, 200, "{}", node.log());
        let field = text.lines().find_map(|line| line.strip_prefix("NarHash: sha256:")).expect("a NarHash");
        let nar = http::get(&format!("{}/nar/{hash}-{field}.nar", node.http));
        assert!(nar.status == 200 && nar.complete, "{}", node.log());
    }
    node.wait_until_idle();
}

/// Gets the largest NAR as a plain client does and compares every byte that came.
fn get_right_body(node: &Daemon, closure: &Closure, nar: &[u8]) {
    let started = Instant::now();
    let narinfo = http::get(&format!("{}/{}.narinfo", node.http, closure.top_narinfo().0));
    assert_eq!(narinfo.status, 200, "{}", node.log());
    let answer = http::get(&format!("{}{}", node.http, closure.top_nar_path()));
    assert!(nar.starts_with(&answer.body) || answer.status != 200, "no wrong byte");
    assert!(answer.status == 200 && answer.complete, "{}\n{}", answer.head, node.log());
    println!("the plain client took {:?}", started.elapsed());
}
