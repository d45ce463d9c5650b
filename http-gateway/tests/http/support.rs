//! A gateway on a free port, and a client that shows exactly what came over the wire.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use p2p_cache_http_gateway::conformance::Fixture;
use p2p_cache_http_gateway::memory::MemorySource;
use p2p_cache_http_gateway::{ArtifactSource, Gateway, GatewayConfig, GatewayMetrics, NodeStatus, Status};
use p2p_cache_protocol::NarInfo;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// No test waits longer than this for one answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct ReadyNode;

#[async_trait]
impl NodeStatus for ReadyNode {
    fn ready(&self) -> bool {
        true
    }

    async fn status(&self) -> Status {
        Status { version: "1.2.3".into(), ..Status::default() }
    }
}

/// A gateway with the counter that it adds served bytes to.
pub(crate) struct Server {
    pub(crate) gateway: Gateway,
    pub(crate) served: Counter,
}

pub(crate) fn on_a_free_port() -> GatewayConfig {
    GatewayConfig { address: SocketAddr::from(([127, 0, 0, 1], 0)), ..GatewayConfig::default() }
}

impl Server {
    pub(crate) async fn start(source: impl ArtifactSource) -> Self {
        Self::start_with(on_a_free_port(), source).await
    }

    pub(crate) async fn start_with(config: GatewayConfig, source: impl ArtifactSource) -> Self {
        Self::start_node(config, source, ReadyNode).await
    }

    pub(crate) async fn start_node(
        config: GatewayConfig,
        source: impl ArtifactSource,
        node: impl NodeStatus,
    ) -> Self {
        let mut registry = Registry::default();
        let served = Counter::default();
        let metrics = GatewayMetrics::register(&mut registry).with_served_bytes(served.clone());
        let (source, registry) = (Arc::new(source), Arc::new(registry));
        let gateway = Gateway::bind(config, source, Arc::new(node), registry, metrics).await.unwrap();
        Self { gateway, served }
    }

    pub(crate) async fn connect(&self) -> Client {
        Client::connect(self.gateway.local_addr()).await
    }

    /// One request on a connection of its own.
    pub(crate) async fn ask(&self, request: &str) -> Answer {
        let mut client = self.connect().await;
        client.ask(request).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(&get(path)).await
    }

    /// The value of one line of `/metrics`, 0 when it is not there.
    pub(crate) async fn metric(&self, series: &str) -> u64 {
        let text = String::from_utf8(self.get("/metrics").await.body).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.map_or(0, |value| value.trim().parse().unwrap())
    }
}

pub(crate) fn get(path: &str) -> String {
    request("GET", path, "")
}

/// A request head; `headers` are whole lines.
pub(crate) fn request(method: &str, path: &str, headers: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
}

/// A source with the store paths of the conformance suite, and these.
pub(crate) fn stocked() -> (MemorySource, Vec<(NarInfo, Bytes)>) {
    let source = MemorySource::new();
    let paths = Fixture::new().unwrap().paths;
    for (narinfo, nar) in paths.clone() {
        source.insert_nar(narinfo, nar).unwrap();
    }
    (source, paths)
}

pub(crate) fn nar_path(narinfo: &NarInfo) -> String {
    format!("/nar/{}-{}.nar", narinfo.store_path.hash(), narinfo.nar_hash.to_nix32())
}

/// An answer as it came over the wire.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The body has the length that the head promised.
    pub(crate) complete: bool,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let value = found.next();
        assert!(found.next().is_none(), "{name} stands twice in {self:?}");
        value
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

pub(crate) struct Client {
    pub(crate) stream: BufReader<TcpStream>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self { stream: BufReader::new(TcpStream::connect(address).await.unwrap()) }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref()).await
    }

    pub(crate) async fn ask(&mut self, request: &str) -> Answer {
        self.send(request).await.unwrap();
        self.answer(request.starts_with("HEAD ")).await.unwrap().expect("an answer")
    }

    /// The next answer; nothing when the connection ends before one begins.
    pub(crate) async fn answer(&mut self, to_head: bool) -> io::Result<Option<Answer>> {
        tokio::time::timeout(PATIENCE, self.read_answer(to_head)).await.expect("an answer in time")
    }

    async fn read_answer(&mut self, to_head: bool) -> io::Result<Option<Answer>> {
        let Some(mut answer) = self.head().await? else { return Ok(None) };
        assert_eq!(answer.header("transfer-encoding"), None, "every answer has a known length");
        let length: usize = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        if to_head || answer.status == 304 || answer.status < 200 {
            return Ok(Some(answer));
        }
        let mut rest = (&mut self.stream).take(length as u64);
        // A reset in mid-body is as good as an early end: the client knows that it has not got everything.
        let _ = rest.read_to_end(&mut answer.body).await;
        answer.complete = answer.body.len() == length;
        Ok(Some(answer))
    }

    /// The head of the next answer, which must be well formed.
    pub(crate) async fn head(&mut self) -> io::Result<Option<Answer>> {
        let Some(status_line) = self.line().await? else { return Ok(None) };
        let status = status_line.strip_prefix("HTTP/1.1 ").or_else(|| status_line.strip_prefix("HTTP/1.0 "));
        let status = status.and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a status line: {status_line:?}"));
        let mut headers = Vec::new();
        while let Some(line) = self.line().await? {
            if line.is_empty() {
                return Ok(Some(Answer { status, headers, body: Vec::new(), complete: true }));
            }
            let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("not a header: {line:?}"));
            headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
        panic!("the answer's head is cut off: {status} {headers:?}");
    }

    async fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        if self.stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        Ok(Some(line.strip_suffix("\r\n").expect("lines end in CRLF").to_owned()))
    }

    /// Waits until the other side has closed; a reset counts.
    pub(crate) async fn closed(&mut self) {
        let mut rest = Vec::new();
        let end = tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await;
        let _ = end.expect("the connection is closed in time");
    }
}

/// Waits until something has become true.
pub(crate) async fn eventually(what: &str, is_so: impl AsyncFn() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(tokio::time::Instant::now() < deadline, "it never came true that {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
