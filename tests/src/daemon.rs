//! A daemon as a process of its own.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// A start that takes longer is a failure.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The binary under test: `DAEMON_UNDER_TEST`, else the one beside the running test.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("DAEMON_UNDER_TEST") {
        return path.into();
    }
    beside_the_test("p2p-cache")
}

/// A program of the workspace, from the target directory that the running test is in.
pub(crate) fn beside_the_test(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("the path of the running test");
    let path = test.ancestors().nth(2).expect("target directory").join(name);
    assert!(path.exists(), "{} is missing: cargo build --workspace", path.display());
    path
}

/// Settings of a daemon for a test: everything on loopback and port 0, no discovery but what the test asks for.
#[derive(Debug, Clone, Default)]
pub struct DaemonBuilder {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    mdns: bool,
    listen: Option<String>,
    http: Option<String>,
    origins: Vec<String>,
    state_dir: Option<PathBuf>,
    nix_store: Option<PathBuf>,
    netns: Option<String>,
    config: Option<PathBuf>,
}

impl DaemonBuilder {
    /// An origin to ask.
    pub fn origin(mut self, url: impl Into<String>) -> Self {
        self.origins.push(url.into());
        self
    }

    /// A static peer.
    pub fn peer(self, address: impl Into<String>) -> Self {
        self.flag("--peer", address)
    }

    /// The key of a public cache: what it signed is taken from peers, and given to them.
    pub fn trust(self, key: impl Into<String>) -> Self {
        let key = key.into();
        self.trust_only(key.clone()).share_key(key)
    }

    /// A key whose paths are taken from peers and kept to this node.
    pub fn trust_only(self, key: impl Into<String>) -> Self {
        self.flag("--trusted-public-key", key)
    }

    /// A key whose paths are given to peers.
    pub fn share_key(self, key: impl Into<String>) -> Self {
        self.flag("--extra-shared-keys", key)
    }

    /// Any flag with its value.
    pub fn flag(mut self, flag: &str, value: impl Into<String>) -> Self {
        self.arguments.push(flag.to_owned());
        self.arguments.push(value.into());
        self
    }

    /// A configuration file; it says what is logged, too.
    pub fn config(mut self, path: &Path) -> Self {
        self.config = Some(path.to_owned());
        self
    }

    /// A variable of the daemon's environment.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Leaves multicast discovery on.
    pub fn with_mdns(mut self) -> Self {
        self.mdns = true;
        self
    }

    /// Listens for peers here instead of on a free loopback port.
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen = Some(address.into());
        self
    }

    /// Serves clients here instead of on a free loopback port.
    pub fn http(mut self, address: impl Into<String>) -> Self {
        self.http = Some(address.into());
        self
    }

    /// Uses a state directory that outlives the daemon.
    pub fn state_dir(mut self, path: &Path) -> Self {
        self.state_dir = Some(path.to_owned());
        self
    }

    /// Offers the live Nix store below this root; otherwise there is none.
    pub fn nix_store(mut self, root: &Path) -> Self {
        self.nix_store = Some(root.to_owned());
        self
    }

    /// Runs in this network namespace.
    pub fn netns(mut self, name: &str) -> Self {
        self.netns = Some(name.to_owned());
        self
    }

    /// The command that would be started, without a state directory.
    fn command(&self, state_dir: &Path) -> Command {
        let mut command = match &self.netns {
            Some(name) => crate::netns::command(name, binary()),
            None => Command::new(binary()),
        };
        command.arg("serve").arg("--state-dir").arg(state_dir);
        command.args(["--http", self.http.as_deref().unwrap_or("127.0.0.1:0")]);
        command.args(["--listen", self.listen.as_deref().unwrap_or("/ip4/127.0.0.1/tcp/0")]);
        if !self.mdns {
            command.arg("--no-mdns");
        }
        command.arg("--nix-store").arg(self.nix_store.as_deref().unwrap_or(Path::new("none")));
        for origin in &self.origins {
            command.args(["--origin", origin]);
        }
        command.args(&self.arguments);
        command.env_remove("P2P_CACHE_CONFIG").env_remove("JOURNAL_STREAM");
        match &self.config {
            Some(path) => command.arg("--config").arg(path),
            None => command.env("P2P_CACHE_LOG", "info,p2p_cache=debug"),
        };
        if self.origins.is_empty() {
            command.args(["--origin", "none"]);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts it and waits until it is ready.
    pub fn start(self) -> Daemon {
        let temporary = match self.state_dir {
            Some(_) => None,
            None => Some(tempfile::tempdir().expect("a temporary directory")),
        };
        let state_dir = self
            .state_dir
            .clone()
            .unwrap_or_else(|| temporary.as_ref().expect("just made").path().join("state"));
        let mut command = self.command(&state_dir);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the daemon starts");
        let log = collect(child.stderr.take().expect("stderr is piped"));
        let ready = first_line(&mut child);
        let Some(ready) = ready else {
            let status = child.wait().expect("the daemon can be waited for");
            panic!("the daemon was not ready ({status}):\n{}", log.text());
        };
        let field = |name: &str| {
            let value = ready.split_whitespace().find_map(|word| word.strip_prefix(name));
            value.unwrap_or_else(|| panic!("no {name} in {ready:?}")).to_owned()
        };
        let (http, peer) = (field("http="), field("peer="));
        Daemon { child, http, peer, state_dir, log, _temporary: temporary }
    }
}

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    /// Base URL of its gateway.
    pub http: String,
    /// Its address for peers, with the peer id.
    pub peer: String,
    /// Its state directory.
    pub state_dir: PathBuf,
    log: Log,
    _temporary: Option<TempDir>,
}

impl Daemon {
    /// A daemon on loopback that knows nobody.
    pub fn builder() -> DaemonBuilder {
        DaemonBuilder::default()
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// One sample of `/metrics`, for example `p2p_cache_received_bytes_total{source="origin"}`; 0 when absent.
    pub fn metric(&self, sample: &str) -> u64 {
        let text = crate::http::get(&format!("{}/metrics", self.http)).text();
        let line = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        line.map_or(0, |value| value.trim().parse::<f64>().expect("a number") as u64)
    }

    /// The sum of all samples of a family, whatever their labels.
    pub fn metric_sum(&self, family: &str) -> u64 {
        let text = crate::http::get(&format!("{}/metrics", self.http)).text();
        let lines = text.lines().filter(|line| {
            line.strip_prefix(family).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
        });
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() as u64
    }

    /// Waits until it is connected with `count` peers.
    pub fn wait_for_peers(&self, count: usize) {
        wait_until(Duration::from_secs(30), "peers to connect", || self.peers() >= count);
    }

    /// What `/api/v1/status` says.
    fn status(&self) -> serde_json::Value {
        let text = crate::http::get(&format!("{}/api/v1/status", self.http)).text();
        serde_json::from_str(&text).expect("the status is JSON")
    }

    /// Connected peers.
    pub fn peers(&self) -> usize {
        self.status()["peers"].as_array().map_or(0, Vec::len)
    }

    /// Waits until this many peers have said who they are: before that they are no members of the site.
    pub fn wait_for_members(&self, count: usize) {
        wait_until(Duration::from_secs(20), "peers to say who they are", || {
            let status = self.status();
            let peers = status["peers"].as_array();
            peers.is_some_and(|peers| peers.iter().filter(|peer| peer["agent"].is_string()).count() >= count)
        });
    }

    /// Waits until no transfer is under way, so that everything fetched has been committed.
    pub fn wait_until_idle(&self) {
        wait_until(Duration::from_secs(30), "transfers to end", || {
            self.status()["transfers"].as_array().is_some_and(Vec::is_empty)
        });
    }

    /// Resident memory in KiB.
    pub fn resident_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("/proc");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
    }

    /// The blob files that it holds.
    pub fn blob_files(&self) -> Vec<PathBuf> {
        let mut found = Vec::new();
        for directory in fs::read_dir(self.state_dir.join("blobs")).expect("blobs").flatten() {
            for file in fs::read_dir(directory.path()).expect("a blob directory").flatten() {
                if file.path().extension().is_none() {
                    found.push(file.path());
                }
            }
        }
        found
    }

    /// `kill -9`, also while others look at it. It is waited for when it is dropped.
    pub fn kill_now(&self) {
        self.signal("-KILL");
    }

    fn signal(&self, name: &str) {
        let done = Command::new("kill").args([name, &self.pid().to_string()]).status().expect("kill");
        assert!(done.success());
    }

    /// SIGHUP: it reads its configuration again.
    pub fn hang_up(&self) {
        self.signal("-HUP");
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().expect("the daemon can be killed");
        self.child.wait().expect("the daemon can be waited for");
    }

    /// SIGSTOP: it does nothing more, and its connections stay open. Killing it still works.
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// SIGTERM; panics unless it ends within 10 s.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal("-TERM");
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("the daemon can be waited for") {
                return status;
            }
            assert!(
                started.elapsed() < Duration::from_secs(10),
                "no end within 10 s of SIGTERM:\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it has logged so far. Read from a pipe: what it has said just now may be missing.
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// Waits until its log is as it should be; panics after 20 s, and then its end shows the log.
    #[track_caller]
    pub fn wait_for_log(&self, is_right: impl Fn(&str) -> bool) {
        wait_until(Duration::from_secs(20), "its log", || is_right(&self.log()));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.log.text();
        if std::thread::panicking() {
            eprintln!("--- log of {} ---\n{log}", self.http);
        } else {
            assert!(!log.contains("panicked at"), "the daemon panicked:\n{log}");
        }
    }
}

/// A command of the CLI, run to its end.
pub fn p2p_cache(arguments: &[&str]) -> std::process::Output {
    Command::new(binary()).args(arguments).stdin(Stdio::null()).output().expect("p2p-cache runs")
}

/// Polls until `done`; panics after `limit`.
#[track_caller]
pub fn wait_until(limit: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < limit, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The log of a process, read all the time so that it never blocks on a full pipe.
struct Log {
    text: std::sync::Arc<std::sync::Mutex<String>>,
}

impl Log {
    fn text(&self) -> String {
        self.text.lock().expect("the log").clone()
    }
}

fn collect(stream: impl Read + Send + 'static) -> Log {
    let text = std::sync::Arc::new(std::sync::Mutex::new(String::new()));
    let sink = text.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            let mut text = sink.lock().expect("the log");
            text.push_str(&line);
            text.push('\n');
        }
    });
    Log { text }
}

/// The first line on stdout; `None` when the process ends without one.
fn first_line(child: &mut Child) -> Option<String> {
    let stdout = child.stdout.take().expect("stdout is piped");
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(stdout).lines();
        let _ = sender.send(lines.next().and_then(Result::ok));
        for _ in lines {}
    });
    match receiver.recv_timeout(START_LIMIT) {
        Ok(line) => line,
        Err(_) => panic!("no ready line within {START_LIMIT:?}"),
    }
}
