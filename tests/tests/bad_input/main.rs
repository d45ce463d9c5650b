//! Nonsense in the configuration, at the HTTP port and at the peer port: clear answers, no panic, no growth.

mod configuration;
mod http_port;
mod peer_port;

use std::net::TcpStream;
use std::time::Duration;

use p2p_cache_tests::hostile::Package;
use p2p_cache_tests::http;
use p2p_cache_tests::{Daemon, Origin};

/// What the resident memory may grow by under any attack, in KiB. Buffers of a few hundred connections fit into it,
/// what an attacker sends does not.
const MAX_GROWTH_KIB: u64 = 32 * 1024;

/// A daemon that holds a package, and what its memory was when it had just begun to.
struct Target {
    package: Package,
    node: Daemon,
    before_kib: u64,
    _origin: Origin,
}

impl Target {
    fn new() -> Self {
        let package = Package::new(300_000, 1);
        let origin = Origin::serve(package.cache());
        let node = Daemon::builder().origin(origin.url()).trust(package.public_key()).start();
        let target = Self { package, node, before_kib: 0, _origin: origin };
        target.assert_serves();
        target.node.wait_until_idle();
        // Working memory that every later request shares.
        for _ in 0..50 {
            target.assert_serves();
        }
        Self { before_kib: target.node.resident_kib(), ..target }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.node.http)
    }

    fn assert_serves(&self) {
        let answer = http::get(&self.url(&self.package.nar_path()));
        assert!(answer.complete && answer.body == self.package.nar, "{}", answer.head);
    }

    fn assert_unharmed(&self) {
        self.assert_serves();
        let now = self.node.resident_kib();
        println!("resident: {} KiB, then {now} KiB", self.before_kib);
        assert!(now < self.before_kib + MAX_GROWTH_KIB, "grew from {} to {now} KiB", self.before_kib);
    }

    fn http_socket(&self) -> TcpStream {
        connect(self.node.http.trim_start_matches("http://"))
    }

    fn peer_socket(&self) -> TcpStream {
        let mut parts = self.node.peer.split('/').skip(2).step_by(2);
        let (ip, port) = (parts.next().expect("an address"), parts.next().expect("a port"));
        connect(&format!("{ip}:{port}"))
    }
}

fn connect(address: &str) -> TcpStream {
    let stream = TcpStream::connect(address).expect("it accepts");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    stream
}

fn printed_seed() -> u64 {
    let seed = rand::random();
    println!("seed {seed}");
    seed
}

/// File descriptors of the daemon.
fn open_files(node: &Daemon) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", node.pid())).expect("/proc").count()
}
