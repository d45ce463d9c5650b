//! A live NAR over HTTP, beside nginx with the NAR as a file.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use p2p_cache::artifacts::LiveArtifact;
use p2p_cache::nix_store::nar::{Layout, NarReader, dump};
use p2p_cache_http_gateway::{
    Artifact, ArtifactSource, BodyStream, Gateway, GatewayConfig, GatewayMetrics, NodeStatus, PutOutcome,
    SourceError, Status,
};
use p2p_cache_protocol::{Digest, NarInfo, Sha256Digest, StoreHash};
use prometheus_client::registry::Registry;

use crate::{MB, median};

const ROUNDS: usize = 9;
const NGINX: &str = "127.0.0.1:18391";

/// Downloads by turns.
pub(crate) fn beside_nginx(what: &str, path: &Path, work: &Path) {
    let www = work.join("www");
    fs::create_dir_all(&www).unwrap();
    dump(path, &mut File::create(www.join("nar")).unwrap()).unwrap();
    let Some(_nginx) = Nginx::start(&www, work) else {
        println!("{what}: nginx is not installed, a live NAR over HTTP is not measured");
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let reader = Arc::new(NarReader::open(path, Arc::new(Layout::scan(path).unwrap())).unwrap());
    let size = reader.size();
    let gateway = runtime.block_on(serve(reader));
    let ours = format!("/blobs/blake3/{}", "00".repeat(32));
    let nginx = NGINX.parse().unwrap();
    let (mut ratios, mut rates) = (Vec::new(), (Vec::new(), Vec::new()));
    for round in 0..=ROUNDS {
        let live = size as f64 / MB / download(gateway.local_addr(), &ours, size);
        let file = size as f64 / MB / download(nginx, "/nar", size);
        // The first round warms up.
        if round > 0 {
            ratios.push(live / file);
            rates.0.push(live);
            rates.1.push(file);
        }
    }
    println!(
        "{what}: live NAR of {:.0} MB over HTTP / nginx on the raw file: {:.2} (target >= 0.8); {:.0} and {:.0} MB/s",
        size as f64 / MB,
        median(ratios),
        median(rates.0),
        median(rates.1)
    );
    runtime.block_on(gateway.shutdown());
}

/// Seconds until `size` bytes of body have arrived.
fn download(address: SocketAddr, path: &str, size: u64) -> f64 {
    let started = Instant::now();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut stream = BufReader::with_capacity(256 << 10, stream);
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    assert!(line.contains(" 200 "), "{line}");
    while line != "\r\n" {
        line.clear();
        stream.read_line(&mut line).unwrap();
    }
    let mut rest = size;
    while rest > 0 {
        let read = stream.fill_buf().unwrap().len();
        assert!(read > 0, "{rest} bytes are missing");
        stream.consume(read);
        rest -= read as u64;
    }
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    started.elapsed().as_secs_f64()
}

struct Nginx(Child);

impl Nginx {
    fn start(www: &Path, work: &Path) -> Option<Self> {
        // Its workers change to another user otherwise, who may not read what is here.
        let user = if fs::metadata(www).unwrap().uid() == 0 { "user root;" } else { "" };
        let (root, work) = (www.display(), work.display());
        let text = format!(
            "worker_processes 2; daemon off; pid {work}/nginx.pid; error_log {work}/nginx.log; {user}
            events {{ worker_connections 64; }}
            http {{ access_log off; sendfile on; tcp_nopush on; client_body_temp_path {work}/b;
              proxy_temp_path {work}/p; fastcgi_temp_path {work}/f; uwsgi_temp_path {work}/u; scgi_temp_path {work}/s;
              server {{ listen {NGINX}; root {root}; }} }}"
        );
        let configuration = www.with_extension("conf");
        fs::write(&configuration, text).unwrap();
        let child = Command::new("nginx").arg("-c").arg(configuration).stderr(Stdio::null()).spawn().ok()?;
        let nginx = Self(child);
        let patience = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(NGINX).is_err() {
            assert!(Instant::now() < patience, "nginx did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with it; a kill would leave them.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

async fn serve(reader: Arc<NarReader>) -> Gateway {
    let mut registry = Registry::default();
    let metrics = GatewayMetrics::register(&mut registry);
    let config = GatewayConfig { address: "127.0.0.1:0".parse().unwrap(), ..GatewayConfig::default() };
    Gateway::bind(config, Arc::new(OneNar(reader)), Arc::new(Ready), Arc::new(registry), metrics)
        .await
        .unwrap()
}

/// Whatever digest is asked for.
struct OneNar(Arc<NarReader>);

#[async_trait]
impl ArtifactSource for OneNar {
    async fn blob(&self, digest: Digest) -> Result<Arc<dyn Artifact>, SourceError> {
        Ok(Arc::new(LiveArtifact::new(Arc::clone(&self.0), digest)))
    }

    async fn blob_size(&self, _: Digest) -> Result<u64, SourceError> {
        Ok(self.0.size())
    }

    async fn narinfo(&self, _: StoreHash) -> Result<NarInfo, SourceError> {
        Err(SourceError::NotFound)
    }

    async fn nar(&self, _: StoreHash, nar_hash: Sha256Digest) -> Result<Arc<dyn Artifact>, SourceError> {
        self.blob(Digest::Sha256(nar_hash)).await
    }

    async fn nar_size(&self, _: StoreHash, _: Sha256Digest) -> Result<u64, SourceError> {
        Ok(self.0.size())
    }

    async fn put_blob(&self, _: Digest, _: bool, _: BodyStream) -> Result<PutOutcome, SourceError> {
        Err(SourceError::NoSpace)
    }
}

struct Ready;

#[async_trait]
impl NodeStatus for Ready {
    fn ready(&self) -> bool {
        true
    }

    async fn status(&self) -> Status {
        Status::default()
    }
}
