//! A local network that a test has for itself: network namespaces joined by a bridge. Needs root and iproute2.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::daemon;

/// Networks of this process so far; part of their names.
static NETWORKS: AtomicU32 = AtomicU32::new(0);
/// Begins the name of every namespace of a test; the process's id follows.
const PREFIX: &str = "p2pc-";
/// Bytes that a shaped link may send at once are those of this much time: a tick of a slow kernel clock.
const BURST_SECONDS: f64 = 0.004;
/// A burst takes at least one large segment of the network stack.
const MIN_BURST_BYTES: u64 = 70_000;
/// What waits in front of a shaped link for longer than this is dropped.
const QUEUE_MS: u64 = 30;

/// Hosts on one switch. The switch is a namespace too, so that nothing is left when the namespaces are removed,
/// which happens on drop.
pub struct Lan {
    namespaces: Vec<String>,
    hosts: usize,
}

impl Lan {
    /// A host for each address (`10.0.0.1/24`), its own loopback and the network up; `None`, and the reason is
    /// printed, where namespaces cannot be made.
    pub fn new(addresses: &[&str]) -> Option<Self> {
        sweep();
        let tag = format!("{PREFIX}{}-{}", std::process::id(), NETWORKS.fetch_add(1, Ordering::Relaxed));
        let mut lan = Self { namespaces: Vec::new(), hosts: addresses.len() };
        let switch = format!("{tag}-switch");
        for name in (0..lan.hosts).map(|host| format!("{tag}-{host}")).chain([switch.clone()]) {
            if let Err(reason) = try_ip(&format!("netns add {name}")) {
                println!("SKIPPED: no network namespaces here (they need root and iproute2): {reason}");
                return None;
            }
            lan.namespaces.push(name);
        }
        ip(&format!("-n {switch} link add bridge type bridge"));
        ip(&format!("-n {switch} link set bridge up"));
        for (index, address) in addresses.iter().enumerate() {
            lan.plug_in(index, address, &switch);
        }
        Some(lan)
    }

    /// Hosts `10.77.0.1/24`, `10.77.0.2/24` and so on, one for each rate in bit/s, which bounds what it sends and what
    /// it gets. `None`, and the reason is printed, where such a network cannot be made.
    pub fn shaped(bits_per_second: &[u64]) -> Option<Self> {
        let addresses: Vec<_> =
            (0..bits_per_second.len()).map(|host| format!("{}/24", address(host))).collect();
        let lan = Self::new(&addresses.iter().map(String::as_str).collect::<Vec<_>>())?;
        for (host, rate) in bits_per_second.iter().enumerate() {
            if let Err(reason) = lan.limit(host, *rate) {
                println!(
                    "SKIPPED: links cannot be shaped here (it needs tc and the tbf discipline): {reason}"
                );
                return None;
            }
        }
        Some(lan)
    }

    /// Bounds what a host sends and what it gets to this rate each.
    fn limit(&self, host: usize, bits_per_second: u64) -> Result<(), String> {
        let burst = ((bits_per_second as f64 / 8.0 * BURST_SECONDS) as u64).max(MIN_BURST_BYTES);
        let shape = format!("root tbf rate {bits_per_second}bit burst {burst} latency {QUEUE_MS}ms");
        let switch = self.namespaces.last().expect("the switch is the last");
        run("tc", &format!("-n {} qdisc add dev eth0 {shape}", self.host(host)))?;
        run("tc", &format!("-n {switch} qdisc add dev port{host} {shape}"))
    }

    /// The namespace of a host.
    pub fn host(&self, index: usize) -> &str {
        assert!(index < self.hosts, "no such host");
        &self.namespaces[index]
    }

    fn plug_in(&self, index: usize, address: &str, switch: &str) {
        let host = self.host(index);
        ip(&format!("link add eth0 netns {host} type veth peer name port{index} netns {switch}"));
        ip(&format!("-n {switch} link set port{index} master bridge up"));
        ip(&format!("-n {host} addr add {address} dev eth0"));
        ip(&format!("-n {host} link set lo up"));
        ip(&format!("-n {host} link set eth0 up"));
        // There is no way out; multicast needs a route all the same.
        ip(&format!("-n {host} route add default dev eth0"));
    }
}

/// The address of a host of [`Lan::shaped`].
pub fn address(host: usize) -> String {
    format!("10.77.0.{}", host + 1)
}

/// Removes the networks of test processes that died without a chance to do so.
fn sweep() {
    let Ok(names) = Command::new("ip").args(["netns", "list"]).stdin(Stdio::null()).output() else { return };
    for name in String::from_utf8_lossy(&names.stdout).split_whitespace() {
        let process = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        if process.is_some_and(|process| !Path::new("/proc").join(process).exists()) {
            let _ = try_ip(&format!("netns del {name}"));
        }
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for name in &self.namespaces {
            if let Err(reason) = try_ip(&format!("netns del {name}")) {
                eprintln!("a namespace of the test is left behind: {reason}");
            }
        }
    }
}

/// A command that will run inside a namespace.
pub fn command(namespace: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(program);
    command
}

/// A command of the CLI, run to its end inside a namespace.
pub fn p2p_cache(namespace: &str, arguments: &[&str]) -> Output {
    command(namespace, daemon::binary())
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("p2p-cache runs")
}

fn ip(arguments: &str) {
    try_ip(arguments).unwrap_or_else(|reason| panic!("{reason}"));
}

fn try_ip(arguments: &str) -> Result<(), String> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &str) -> Result<(), String> {
    let output = Command::new(program).args(arguments.split(' ')).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("`{program} {arguments}`: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("`{program} {arguments}`: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
