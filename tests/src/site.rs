//! A site: cold nodes on fast links in one local network, and an origin behind a slow one. Every host is a network
//! namespace with processes of its own.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::netns::{self, Lan};
use crate::{Closure, Daemon, daemon};

/// Port of the origin in its namespace.
const ORIGIN_PORT: u16 = 8080;
/// NARs that a client fetches at a time.
const PARALLEL: usize = 2;
/// In which the nodes of a site have found each other.
const PATIENCE: Duration = Duration::from_secs(45);

/// Cold nodes that found each other by multicast, and the origin of one closure. Gone when dropped.
pub struct Site {
    /// The hosts, each with its node.
    pub hosts: Vec<Host>,
    /// Where they get the closure from.
    pub origin: OriginHost,
    // The last to go: its namespaces are those of the processes above.
    _lan: Lan,
}

impl Site {
    /// `hosts` cold nodes on links of `host_rate` and an origin of the closure behind `origin_rate`, both in bit/s.
    /// `None`, and the reason is printed, where there are no network namespaces.
    pub fn new(closure: &Closure, hosts: usize, host_rate: u64, origin_rate: u64) -> Option<Self> {
        let rates: Vec<_> = (0..hosts).map(|_| host_rate).chain([origin_rate]).collect();
        let lan = Lan::shaped(&rates)?;
        let address = format!("{}:{ORIGIN_PORT}", netns::address(hosts));
        let origin = OriginHost::start(lan.host(hosts), &closure.cache(), &address);
        let start = |host: usize| {
            // As the daemon listens by default.
            let builder = Daemon::builder().with_mdns().listen("/ip4/0.0.0.0/tcp/5381");
            let builder =
                builder.flag("--listen", "/ip4/0.0.0.0/udp/5381/quic-v1").env("P2P_CACHE_NO_DHT", "true");
            let builder = builder.origin(format!("http://{address}")).trust(&closure.public_key);
            Host { daemon: builder.netns(lan.host(host)).start(), namespace: lan.host(host).to_owned() }
        };
        let site = Self { hosts: (0..hosts).map(start).collect(), origin, _lan: lan };
        for host in &site.hosts {
            daemon::wait_until(PATIENCE, "a full mesh", || host.peers() >= hosts - 1);
        }
        Some(site)
    }
}

/// A host of a site.
pub struct Host {
    /// Its node.
    pub daemon: Daemon,
    /// The network namespace that it runs in.
    pub namespace: String,
}

impl Host {
    /// What `p2p-cache status` says here; `None` when the node is gone.
    pub fn status(&self) -> Option<Value> {
        let address = self.daemon.http.trim_start_matches("http://");
        let output = netns::p2p_cache(&self.namespace, &["status", "--json", "--http", address]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    /// A number of bytes among the totals of the status; 0 when the node is gone.
    pub fn total(&self, name: &str) -> u64 {
        self.status().and_then(|status| status["totals"][name].as_u64()).unwrap_or(0)
    }

    fn peers(&self) -> usize {
        self.status().and_then(|status| status["peers"].as_array().map(Vec::len)).unwrap_or(0)
    }

    /// A plain client on this host gets the whole closure, each narinfo and then its NAR, two at a time and once each,
    /// and checks every body. What it took, or what went wrong.
    pub fn fetch(&self, closure: &Closure) -> Result<Duration, String> {
        let mut command = netns::command(&self.namespace, daemon::beside_the_test("p2p-cache-test-host"));
        let command = command.args(["fetch", &self.daemon.http, &PARALLEL.to_string()]);
        let mut client = piped(command);
        let mut wanted = client.stdin.take().expect("its input");
        for (hash, text) in closure.narinfos() {
            let field =
                text.lines().find_map(|line| line.strip_prefix("NarHash: sha256:")).expect("a NarHash");
            writeln!(wanted, "{hash} {field}").expect("it reads");
        }
        drop(wanted);
        let output = client.wait_with_output().expect("the client ends");
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        match said.split_once(' ').map(|(_, took)| took.parse()) {
            Some(Ok(milliseconds)) if output.status.success() => Ok(Duration::from_millis(milliseconds)),
            _ => Err(said),
        }
    }
}

/// An HTTP binary cache on a host of its own; ends when dropped.
pub struct OriginHost {
    process: Child,
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl OriginHost {
    fn start(namespace: &str, directory: &Path, address: &str) -> Self {
        let mut command = netns::command(namespace, daemon::beside_the_test("p2p-cache-test-host"));
        let mut process = piped(command.arg("origin").arg(directory).arg(address));
        let questions = process.stdin.take();
        let answers = BufReader::new(process.stdout.take().expect("its output"));
        let mut origin = Self { process, questions, answers };
        assert_eq!(origin.line(), "ready");
        origin
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the origin answers");
        line.trim().to_owned()
    }

    /// Bytes of bodies that it has sent.
    pub fn bytes(&mut self) -> u64 {
        writeln!(self.questions.as_mut().expect("until it is dropped")).expect("the origin lives");
        let line = self.line();
        line.split(' ').next().and_then(|bytes| bytes.parse().ok()).expect("a number")
    }
}

impl Drop for OriginHost {
    fn drop(&mut self) {
        self.questions = None;
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn piped(command: &mut Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the helper starts")
}
