//! Multicast DNS between two network namespaces joined by a virtual cable. Needs root and iproute2, else it is
//! skipped; each end is this test program started again inside its namespace.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use super::*;

/// Set for the ends; the value is how many peers the end waits for.
const ROLE: &str = "P2P_CACHE_TEST_MULTICAST_END";

/// Two namespaces, removed when dropped.
struct Cable {
    names: [String; 2],
}

impl Cable {
    /// `None` where namespaces cannot be made.
    fn new() -> Option<Self> {
        let tag = std::process::id() % 100_000;
        let names = [format!("pcd{tag}a"), format!("pcd{tag}b")];
        let cable = Self { names };
        let [a, b] = &cable.names;
        let commands = [
            format!("ip netns add {a}"),
            format!("ip netns add {b}"),
            format!("ip link add v{a} netns {a} type veth peer name v{b} netns {b}"),
            format!("ip -n {a} addr add 10.77.1.1/24 dev v{a}"),
            format!("ip -n {b} addr add 10.77.1.2/24 dev v{b}"),
            format!("ip -n {a} link set lo up"),
            format!("ip -n {b} link set lo up"),
            format!("ip -n {a} link set v{a} up"),
            format!("ip -n {b} link set v{b} up"),
            // The cable has no way out; multicast still needs a route.
            format!("ip -n {a} route add default dev v{a}"),
            format!("ip -n {b} route add default dev v{b}"),
        ];
        commands.iter().all(|command| run(command)).then_some(cable)
    }

    fn end(&self, index: usize) -> Child {
        let program = std::env::current_exe().expect("this test program");
        Command::new("ip")
            .args(["netns", "exec", &self.names[index]])
            .arg(program)
            .args(["--exact", "tests::multicast::an_end", "--nocapture"])
            .env(ROLE, "1")
            .stdout(Stdio::null())
            .spawn()
            .expect("the end starts")
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.names {
            run(&format!("ip netns del {name}"));
        }
    }
}

fn run(command: &str) -> bool {
    let mut words = command.split(' ');
    let program = words.next().unwrap_or_default();
    let status = Command::new(program).args(words).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

#[test]
fn two_nodes_on_one_network_find_each_other_without_any_configuration() {
    let Some(cable) = Cable::new() else {
        eprintln!("skipped: network namespaces cannot be made here");
        return;
    };
    let mut ends = [cable.end(0), cable.end(1)];
    // Either may leave first; both must have seen the other.
    let ended = ends.each_mut().map(|end| end.wait().expect("the end ends").success());
    assert_eq!(ended, [true, true]);
}

/// One end of the test above, in a process and a network namespace of its own; alone it does nothing.
#[test]
fn an_end() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let config = NetworkConfig {
            listen: ["/ip4/0.0.0.0/tcp/0", "/ip4/0.0.0.0/udp/0/quic-v1"].map(|a| a.parse().unwrap()).into(),
            ..NetworkConfig::default()
        };
        let node = start(config).await;
        eventually("the other end", async || node.network.peers().len() == 1).await;
        let peer = node.network.peers().remove(0);
        assert_eq!(peer.scope, crate::Scope::Lan);
        assert!(crate::scope::is_tcp(&peer.address), "{}", peer.address);
        node.network.open_stream(peer.peer).await.expect("a stream");
        // Stay until the other end has seen us too.
        tokio::time::sleep(Duration::from_secs(3)).await;
        node.network.shutdown().await;
    });
}
