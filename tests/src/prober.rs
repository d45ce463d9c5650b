//! A peer that only asks, in frames of its own making, and looks at the clock.

use std::time::{Duration, Instant};

use p2p_cache::discovery::{Identity, IncomingStreams, Network, NetworkConfig, PeerId, PeerStream};
use p2p_cache_protocol::wire::{Hello, Request, Response, encode_frame};
use tokio::io::AsyncWriteExt;
use tokio::runtime::Runtime;

use crate::hostile::{read_frame, write_frame};

/// In which any answer must have come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node without anything, connected with one other. Gone when dropped.
pub struct Prober {
    network: Network,
    node: PeerId,
    runtime: Option<Runtime>,
    incoming: IncomingStreams,
}

/// A substream of the protocol, past its hello.
pub struct Probe {
    stream: PeerStream,
}

impl Prober {
    /// A new identity that dials the node at `address`.
    pub fn of(address: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (_, node) = address.rsplit_once("/p2p/").expect("a peer id");
        let config = NetworkConfig {
            listen: Vec::new(),
            peers: vec![address.parse().expect("an address")],
            mdns: false,
            dht: false,
            ..NetworkConfig::default()
        };
        let started = runtime.block_on(Network::start(config, &Identity::generate()));
        let (network, incoming) = started.expect("the swarm starts");
        let node = node.parse().expect("a peer id");
        Self { network, node, runtime: Some(runtime), incoming }
    }

    /// Runs something on the prober's own threads to its end.
    pub fn run<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.as_ref().expect("it runs until it is dropped").block_on(work)
    }

    /// A new substream.
    pub async fn open(&self) -> Probe {
        let started = Instant::now();
        let mut stream = loop {
            match self.network.open_stream(self.node).await {
                Ok(stream) => break stream,
                Err(error) => assert!(started.elapsed() < PATIENCE, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        write_frame(&mut stream, &Hello::new("prober/1")).await.expect("a hello is taken");
        read_frame::<Hello>(&mut stream).await.expect("a hello is answered");
        Probe { stream }
    }

    /// Whether the node opens a stream to us within `patience`, to ask something itself.
    pub fn is_asked_within(&mut self, patience: Duration) -> bool {
        let runtime = self.runtime.as_ref().expect("it runs until it is dropped");
        let next = async { tokio::time::timeout(patience, self.incoming.next()).await };
        matches!(runtime.block_on(next), Ok(Some(_)))
    }

    /// One request on a substream of its own.
    pub fn ask(&self, request: &Request) -> Response {
        self.run(async { self.open().await.ask(request).await.0 })
    }
}

impl Probe {
    /// The answer, and the time from the request's first byte to the answer's last. Bytes behind a frame are not read.
    pub async fn ask(&mut self, request: &Request) -> (Response, Duration) {
        let (mut answers, took) = self.ask_at_once(std::slice::from_ref(request)).await;
        (answers.remove(0), took)
    }

    /// The answers to requests that are sent in one go, and the time until all of them are here.
    pub async fn ask_at_once(&mut self, requests: &[Request]) -> (Vec<Response>, Duration) {
        let frames: Vec<u8> =
            requests.iter().flat_map(|request| encode_frame(request).expect("a frame")).collect();
        let asking = async {
            let started = Instant::now();
            self.stream.write_all(&frames).await.expect("requests are taken");
            self.stream.flush().await.expect("requests are taken");
            let mut answers = Vec::with_capacity(requests.len());
            for _ in requests {
                answers.push(read_frame(&mut self.stream).await.expect("an answer"));
            }
            (answers, started.elapsed())
        };
        tokio::time::timeout(PATIENCE, asking).await.expect("answers in time")
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
