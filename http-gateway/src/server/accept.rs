//! Accepting connections and serving each.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::{Request, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::stall::ClientSocket;
use crate::routes::{App, Connection, ROUTE_OTHER, router};
use crate::{GatewayConfig, GatewayMetrics};

/// Pause after the system refused to accept (out of file descriptors, most likely): long enough not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// hyper's buffer for one connection: room for a head, and for uploads to be read in large pieces.
const MIN_BUFFER_BYTES: usize = 128 * 1024;

/// Owns the listening socket and the tasks of its connections.
pub(super) struct Acceptor {
    listener: TcpListener,
    permits: Arc<Semaphore>,
    serving: Serving,
}

/// What each connection needs.
#[derive(Clone)]
struct Serving {
    app: Arc<App>,
    router: Router,
    http: http1::Builder,
    metrics: GatewayMetrics,
    client_stall_timeout: Duration,
    stop: CancellationToken,
}

impl Acceptor {
    pub(super) fn new(
        config: &GatewayConfig,
        listener: TcpListener,
        app: Arc<App>,
        metrics: GatewayMetrics,
        stop: CancellationToken,
    ) -> Self {
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(config.header_read_timeout)
            .max_header_size(config.max_header_bytes)
            .max_buf_size(config.max_header_bytes.max(MIN_BUFFER_BYTES));
        let client_stall_timeout = config.client_stall_timeout;
        let serving =
            Serving { router: router(Arc::clone(&app)), app, http, metrics, client_stall_timeout, stop };
        Self { listener, permits: Arc::new(Semaphore::new(config.max_connections)), serving }
    }

    /// Accepts until told to stop; then hands over the connections that are still open.
    pub(super) async fn run(self) -> JoinSet<()> {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = self.serving.stop.cancelled() => return connections,
                Some(ended) = connections.join_next() => note_end(ended),
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, client)) => self.admit(&mut connections, stream, client),
                    Err(error) => pause_after(&error).await,
                },
            }
        }
    }

    fn admit(&self, connections: &mut JoinSet<()>, stream: TcpStream, client: SocketAddr) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            self.serving.metrics.connection_refused();
            tracing::warn!(%client, "too many connections are open; this one is closed");
            return;
        };
        connections.spawn(self.serving.clone().serve(stream, client, permit));
    }
}

fn note_end(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task panicked");
    }
}

/// A client that gave up between its SYN and our accept is no reason to wait; a lack of resources is.
async fn pause_after(error: &io::Error) {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    if matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset) {
        return;
    }
    tracing::error!(%error, "cannot accept a connection; raise the limit of open files if it was reached");
    tokio::time::sleep(ACCEPT_PAUSE).await;
}

/// Keeps the gauge of open connections true however the task ends.
struct Open(GatewayMetrics);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connection_closed();
    }
}

impl Serving {
    /// Serves one connection to its end. The permit is held as long as the socket.
    async fn serve(self, stream: TcpStream, client: SocketAddr, permit: OwnedSemaphorePermit) {
        self.metrics.connection_opened();
        let _open = Open(self.metrics.clone());
        let _permit = permit;
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%client, %error, "the client left at once");
            return;
        }
        let connection = Arc::new(Connection::new(&self.app, client.ip()));
        let socket = ClientSocket::new(stream, Arc::clone(&connection), self.client_stall_timeout);
        let service = service_fn(|request: Request<Incoming>| {
            let mut router = self.router.clone();
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Arc::clone(&connection));
            async move {
                Service::<Request<Body>>::call(&mut router, request).await as Result<Response, Infallible>
            }
        });
        let mut http = pin!(self.http.serve_connection(TokioIo::new(socket), service));
        let result = tokio::select! {
            result = http.as_mut() => result,
            () = self.stop.cancelled() => {
                // hyper waits for the first request of a connection that has sent none; we do not.
                if !connection.used.load(Ordering::Acquire) {
                    return;
                }
                http.as_mut().graceful_shutdown();
                http.await
            }
        };
        if let Err(error) = result {
            self.note(client, &error);
        }
    }

    /// Tells the log why a connection ended badly; counts the answers that hyper gave to requests it could not read.
    fn note(&self, client: SocketAddr, error: &hyper::Error) {
        if error.is_parse() {
            let status = if error.is_parse_too_large() {
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE
            } else {
                StatusCode::BAD_REQUEST
            };
            self.metrics.answered(ROUTE_OTHER, status);
        }
        tracing::debug!(%client, error = error as &dyn std::error::Error, "the connection ended early");
    }
}
