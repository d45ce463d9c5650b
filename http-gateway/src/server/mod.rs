//! The listening socket, its connections, and their ordered end.

mod accept;
mod stall;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::routes::App;
use crate::{ArtifactSource, GatewayConfig, GatewayError, GatewayMetrics, NodeStatus};

/// A running gateway. Dropping it cuts everything; [`Gateway::shutdown`] ends it in order.
#[derive(Debug)]
pub struct Gateway {
    local_addr: SocketAddr,
    grace: Duration,
    stop: CancellationToken,
    acceptor: AbortOnDropHandle<JoinSet<()>>,
}

/// How the connections ended that were open when a shutdown began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShutdownReport {
    /// Ended by themselves within the grace period, idle ones included.
    pub finished: usize,
    /// Cut when the grace period was over; their clients see an incomplete body.
    pub aborted: usize,
    /// Ended by a panic, which the log has; also counted in neither of the others.
    pub panicked: usize,
}

impl Gateway {
    /// Listens on `config.address` (port 0 takes a free one), or takes `config.listener`, and serves until
    /// [`Gateway::shutdown`].
    ///
    /// `metrics` must have been registered in `registry`, the one that `/metrics` shows.
    ///
    /// # Errors
    /// When a setting is out of range or the address cannot be had.
    pub async fn bind(
        config: GatewayConfig,
        source: Arc<dyn ArtifactSource>,
        status: Arc<dyn NodeStatus>,
        registry: Arc<Registry>,
        metrics: GatewayMetrics,
    ) -> Result<Self, GatewayError> {
        config.validate()?;
        let (listener, local_addr) = listen(&config).await?;
        let grace = config.shutdown_grace;
        let stop = CancellationToken::new();
        let app = Arc::new(App::new(&config, source, status, registry, metrics.clone()));
        let acceptor = accept::Acceptor::new(&config, listener, app, metrics, stop.clone());
        let acceptor = AbortOnDropHandle::new(tokio::spawn(acceptor.run()));
        tracing::info!(address = %local_addr, "HTTP gateway listens");
        Ok(Self { local_addr, grace, stop, acceptor })
    }

    /// The address that is listened on, with its actual port.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Ends the gateway within `GatewayConfig::shutdown_grace`, in this order: stop accepting; close idle
    /// connections; let answers under way finish; when the grace period is over cut what is left; join all tasks.
    pub async fn shutdown(self) -> ShutdownReport {
        let grace = self.grace;
        self.shutdown_within(grace).await
    }

    /// As [`Gateway::shutdown`], with another grace period.
    pub async fn shutdown_within(self, grace: Duration) -> ShutdownReport {
        let mut report = ShutdownReport::default();
        self.stop.cancel();
        let mut connections = match self.acceptor.await {
            Ok(connections) => connections,
            Err(error) => {
                tracing::error!(%error, "the task that accepts connections died");
                report.panicked += 1;
                return report;
            }
        };
        let finish = async {
            while let Some(ended) = connections.join_next().await {
                report.note(ended);
            }
        };
        if tokio::time::timeout(grace, finish).await.is_err() {
            connections.abort_all();
            while let Some(ended) = connections.join_next().await {
                report.note(ended);
            }
        }
        tracing::info!(?report, "HTTP gateway stopped");
        report
    }
}

async fn listen(config: &GatewayConfig) -> Result<(TcpListener, SocketAddr), GatewayError> {
    let listening = |listener: TcpListener| listener.local_addr().map(|address| (listener, address));
    match &config.listener {
        Some(given) => {
            let taken = given.try_clone().and_then(|socket| {
                socket.set_nonblocking(true)?;
                TcpListener::from_std(socket)
            });
            taken.and_then(listening).map_err(|error| GatewayError::HandedOver { error })
        }
        None => {
            let address = config.address;
            let bound = TcpListener::bind(address).await.and_then(listening);
            bound.map_err(|error| GatewayError::Bind { address, error })
        }
    }
}

impl ShutdownReport {
    fn note(&mut self, ended: Result<(), tokio::task::JoinError>) {
        match ended {
            Ok(()) => self.finished += 1,
            Err(error) if error.is_cancelled() => self.aborted += 1,
            Err(error) => {
                tracing::error!(%error, "a connection's task panicked");
                self.panicked += 1;
            }
        }
    }
}
