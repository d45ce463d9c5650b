//! How an operator runs a node: under systemd, and over a metered line.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use p2p_cache_tests::{Daemon, daemon};

/// A start or an end that takes longer is a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon as systemd starts it; killed when dropped.
struct Service(Child);

impl Service {
    /// `socket` becomes file descriptor 3; the variables hold for the process itself, whose id only a shell knows in time.
    fn start(state_dir: &Path, socket: &TcpListener, variables: &str) -> Self {
        let socket: OwnedFd = socket.try_clone().expect("the socket").into();
        let script =
            format!("exec 3<&0 </dev/null; export LISTEN_FDS=1 LISTEN_PID=$$ {variables}; exec \"$@\"");
        let mut command = Command::new("bash");
        command.arg("-c").arg(script).arg("bash").arg(daemon::binary());
        command.args(["serve", "--no-mdns", "--no-dht", "--origin", "none"]);
        command.args(["--listen", "/ip4/127.0.0.1/tcp/0", "--state-dir"]).arg(state_dir);
        command.stdin(Stdio::from(socket)).stdout(Stdio::null()).stderr(Stdio::null());
        Self(command.spawn().expect("the daemon starts"))
    }

    fn terminate(&mut self) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("kill").success());
        let status = self.0.wait().expect("the daemon can be waited for");
        assert!(status.success(), "{status}");
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Sends a request that nobody may answer yet.
fn ask(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the socket listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let request = b"GET /nix-cache-info HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(request).expect("the system takes the request");
    stream
}

fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer in time");
    text
}

#[test]
fn who_comes_before_the_daemon_or_while_it_restarts_is_answered() {
    let state = tempfile::tempdir().expect("a temporary directory");
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("its address");

    let early = ask(address);
    let mut first = Service::start(state.path(), &socket, "");
    assert!(answer(early).contains("Priority: 30"));
    first.terminate();

    let between = ask(address);
    let _second = Service::start(state.path(), &socket, "");
    assert!(answer(between).contains("Priority: 30"));
}

/// What hears the messages of a service.
struct Systemd {
    socket: UnixDatagram,
    path: PathBuf,
}

impl Systemd {
    fn in_directory(directory: &Path) -> Self {
        let path = directory.join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { socket, path }
    }

    fn hear(&self) -> String {
        let mut bytes = [0; 256];
        let length = self.socket.recv(&mut bytes).expect("a message in time");
        String::from_utf8_lossy(&bytes[..length]).trim().to_owned()
    }

    /// What it puts into the environment of the process with this id.
    fn variables(&self, watchdog: Duration, pid: &str) -> String {
        let period = watchdog.as_micros();
        format!("NOTIFY_SOCKET={} WATCHDOG_USEC={period} WATCHDOG_PID={pid}", self.path.display())
    }
}

#[test]
fn systemd_hears_of_readiness_of_life_and_of_the_end() {
    /// Short enough to hear it several times.
    const WATCHDOG: Duration = Duration::from_millis(900);
    let state = tempfile::tempdir().expect("a temporary directory");
    let systemd = Systemd::in_directory(state.path());
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut service = Service::start(state.path(), &socket, &systemd.variables(WATCHDOG, "$$"));

    assert_eq!(systemd.hear(), "READY=1");
    let started = Instant::now();
    for _ in 0..4 {
        assert_eq!(systemd.hear(), "WATCHDOG=1");
    }
    assert!(started.elapsed() >= WATCHDOG / 2, "it is no busy loop");
    service.terminate();
    let last = std::iter::repeat_with(|| systemd.hear()).find(|message| message != "WATCHDOG=1");
    assert_eq!(last.as_deref(), Some("STOPPING=1"));
}

#[test]
fn the_watchdog_of_another_process_is_not_ours() {
    let watchdog = Duration::from_millis(300);
    let state = tempfile::tempdir().expect("a temporary directory");
    let systemd = Systemd::in_directory(state.path());
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut service = Service::start(state.path(), &socket, &systemd.variables(watchdog, "1"));
    assert_eq!(systemd.hear(), "READY=1");
    std::thread::sleep(2 * watchdog);
    service.terminate();
    assert_eq!(systemd.hear(), "STOPPING=1");
}

#[test]
fn two_sockets_are_refused_with_a_remedy() {
    let output = Command::new("bash")
        .args(["-c", "exec 3</dev/null 4</dev/null; export LISTEN_FDS=2 LISTEN_PID=$$; exec \"$@\"", "bash"])
        .arg(daemon::binary())
        .args(["serve", "--no-mdns", "--no-dht", "--http", "127.0.0.1:0", "--listen", "none", "--state-dir"])
        .arg(tempfile::tempdir().expect("a temporary directory").path())
        .output()
        .expect("the daemon runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && error.contains("2 sockets") && error.contains("ListenStream="),
        "{error}"
    );
}

#[test]
fn over_a_metered_line_nothing_is_given_away() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("file");
    fs::write(&file, vec![7; 300_000]).expect("the file");
    for (metered, expected) in [("false", true), ("true", false)] {
        let holder = Daemon::builder().flag("--share", "lan").env("P2P_CACHE_METERED", metered).start();
        let address = holder.http.trim_start_matches("http://");
        let put = daemon::p2p_cache(&["put", &file.display().to_string(), "--http", address]);
        let digest = String::from_utf8_lossy(&put.stdout).lines().next().expect("a digest").to_owned();
        let other = Daemon::builder().peer(&holder.peer).start();
        other.wait_for_members(1);
        let address = other.http.trim_start_matches("http://");
        let got = daemon::p2p_cache(&["get", &digest, "--http", address]);
        assert_eq!(
            got.status.success(),
            expected,
            "metered = {metered}: {}",
            String::from_utf8_lossy(&got.stderr)
        );
    }
}
