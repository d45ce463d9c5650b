//! A local network that a test has for itself: network namespaces joined by a bridge. Needs root and iproute2.

use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::daemon;

/// Networks of this process so far; part of their names.
static NETWORKS: AtomicU32 = AtomicU32::new(0);

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
        let tag = format!("p2pc-{}-{}", std::process::id(), NETWORKS.fetch_add(1, Ordering::Relaxed));
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

impl Drop for Lan {
    fn drop(&mut self) {
        for name in &self.namespaces {
            if let Err(reason) = try_ip(&format!("netns del {name}")) {
                eprintln!("a namespace of the test is left behind: {reason}");
            }
        }
    }
}

/// A command of the CLI, run to its end inside a namespace.
pub fn p2p_cache(namespace: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace]).arg(daemon::binary()).args(arguments);
    command.stdin(Stdio::null()).output().expect("p2p-cache runs")
}

fn ip(arguments: &str) {
    try_ip(arguments).unwrap_or_else(|reason| panic!("{reason}"));
}

fn try_ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("`ip {arguments}`: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("`ip {arguments}`: {}", String::from_utf8_lossy(&output.stderr).trim()))
}
