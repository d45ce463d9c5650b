//! A binary cache behind HTTPS, with a certificate authority of its own and HTTP/2, as the central cache has it.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request, Response, StatusCode, Version, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

/// A running cache; closed when dropped.
pub struct TlsOrigin {
    address: SocketAddr,
    authority: TempDir,
    requests: Arc<Requests>,
    _runtime: Runtime,
}

/// Requests answered, by version of HTTP.
#[derive(Default)]
struct Requests {
    http1: AtomicU64,
    http2: AtomicU64,
}

impl TlsOrigin {
    /// Serves a cache directory on a free loopback port, under the name `localhost`.
    pub fn serve(directory: &Path) -> Self {
        let authority = tempfile::tempdir().expect("a directory");
        let acceptor = TlsAcceptor::from(Arc::new(certified(&authority.path().join("ca.pem"))));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("a socket of the runtime");
        let address = listener.local_addr().expect("its address");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let requests = Arc::new(Requests::default());
        let (directory, counts) = (Arc::<Path>::from(directory), Arc::clone(&requests));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(acceptor.clone(), stream, Arc::clone(&directory), Arc::clone(&counts)));
            }
        });
        Self { address, authority, requests, _runtime: runtime }
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// The certificate of its authority, as a file that `SSL_CERT_FILE` may name.
    pub fn authority(&self) -> String {
        self.authority.path().join("ca.pem").display().to_string()
    }

    /// Requests answered, by HTTP/1.1 and by HTTP/2.
    pub fn requests(&self) -> (u64, u64) {
        (self.requests.http1.load(Ordering::Relaxed), self.requests.http2.load(Ordering::Relaxed))
    }
}

/// Makes an authority, whose certificate goes into `file`, and a server's certificate signed by it.
fn certified(file: &Path) -> ServerConfig {
    let authority_key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = authority.self_signed(&authority_key).expect("a certificate");
    std::fs::write(file, authority.pem()).expect("the authority's file");

    let key = KeyPair::generate().expect("a key");
    let server = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    let server = server.signed_by(&key, &authority, &authority_key).expect("a certificate");
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a private key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = config.expect("protocol versions").with_no_client_auth();
    let mut config = config.with_single_cert(vec![server.der().clone()], key).expect("a configuration");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

/// Serves one connection; one that fails is the client's affair.
async fn converse(acceptor: TlsAcceptor, stream: TcpStream, directory: Arc<Path>, requests: Arc<Requests>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(move |request: Request<Incoming>| {
        let counter = if request.version() == Version::HTTP_2 { &requests.http2 } else { &requests.http1 };
        counter.fetch_add(1, Ordering::Relaxed);
        let file =
            directory.join(PathBuf::from(request.uri().path()).strip_prefix("/").unwrap_or(Path::new("")));
        async move { Ok::<_, Infallible>(answer(request.method(), &file)) }
    });
    let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
}

fn answer(method: &Method, file: &Path) -> Response<Full<Bytes>> {
    let read = if method == Method::GET { std::fs::read(file).ok() } else { None };
    let status = if read.is_some() { StatusCode::OK } else { StatusCode::NOT_FOUND };
    let mut response = Response::new(Full::from(read.unwrap_or_default()));
    *response.status_mut() = status;
    response
}
