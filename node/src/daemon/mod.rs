//! The daemon: everything is built here, in the order of its dependencies, and taken down in the reverse one.

mod activation;
mod announcer;
mod collector;
mod holdings;
mod live;
mod names;
mod peers;
mod reload;
mod signals;
mod status;
mod union;
mod watchdog;
mod web;

use std::error::Error;
use std::io;
use std::net::TcpListener;
use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::Duration;

use p2p_cache_discovery::{Identity, Network, NetworkConfig};
use p2p_cache_http_gateway::{AccessControl, Gateway, GatewayMetrics, NodeStatus};
use p2p_cache_protocol::TrustedKeys;
use prometheus_client::registry::Registry;

pub use self::activation::inherited_listener;
use self::announcer::{Announcements, Announcer};
use self::collector::NodeCollector;
use self::names::NameKeeper;
use self::peers::Swarm;
pub use self::reload::Startup;
use self::reload::{Live, Reloader};
use self::signals::{Signal, Signals};
use self::status::StatusReporter;
use self::union::Union;
use crate::artifacts::{Artifacts, NarInfos};
use crate::config::Config;
use crate::fetch::{FetchEngine, OnCommit, Peers};
use crate::key_ring::KeyRing;
use crate::metrics::{Metrics, Sink, Source};
use crate::nix_store::NixStore;
use crate::origin::{OriginConfig, Origins};
use crate::peers::{
    Bans, Holdings, OwnTraffic, PeerClient, UploadLimits, UploadParts, UploadServer, claim_signer,
};
use crate::sharing::{SharingPolicy, SharingRules};
use crate::store::{BlobStore, StoreConfig};

/// Answers to peers that are short enough finish within this; longer ones are cut at a verified boundary.
const PEER_GRACE: Duration = Duration::from_secs(1);
/// The whole shutdown; what has not ended by then is abandoned. The store is crash-safe.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(9);

/// Why the daemon could not start or run.
pub type DaemonError = Box<dyn Error + Send + Sync>;

/// Runs a node until SIGTERM or SIGINT; SIGHUP makes it read its configuration again. `listener` is what
/// [`inherited_listener`] said; without one the node listens where the configuration says.
///
/// # Errors
/// When something that it needs cannot be opened: state directory, identity, listen addresses.
pub async fn run(startup: Startup, listener: io::Result<Option<TcpListener>>) -> Result<(), DaemonError> {
    let mut signals = Signals::listen()?;
    let daemon = Daemon::start(startup, listener?).await?;
    println!("ready http=http://{} peer={}", daemon.http_addr(), daemon.peer_addr());
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]);
    let _watchdog = watchdog::start(daemon.http_addr(), daemon.network.clone());
    let signal = loop {
        match signals.next().await {
            Signal::Reload => drop(daemon.status.reload().await),
            Signal::End(name) => break name,
        }
    };
    tracing::info!(signal, "shutting down");
    let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Stopping]);
    if tokio::time::timeout(SHUTDOWN_LIMIT, daemon.shutdown()).await.is_err() {
        tracing::warn!("shutdown took longer than {} s; the rest is abandoned", SHUTDOWN_LIMIT.as_secs());
    }
    Ok(())
}

/// A running node.
pub struct Daemon {
    gateway: Gateway,
    uploads: UploadServer,
    engine: FetchEngine,
    client: PeerClient,
    announcer: Announcer,
    names: NameKeeper,
    network: Network,
    nix: NixStore,
    store: BlobStore,
    status: Arc<StatusReporter>,
}

impl Daemon {
    /// Opens and binds everything.
    ///
    /// # Errors
    /// See [`run`].
    pub async fn start(startup: Startup, listener: Option<TcpListener>) -> Result<Self, DaemonError> {
        let config = &startup.loaded.config.clone();
        let access = AccessControl::new(web::access(config).await?);
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let store = BlobStore::open(store_config(config)).await?;
        let identity = {
            let state_dir = config.state_dir.clone();
            tokio::task::spawn_blocking(move || Identity::load_or_create(&state_dir)).await??
        };
        let origins = Origins::new(origin_config(config), metrics.received(Source::origin))?;
        let (network, incoming) = Network::start(network_config(config), &identity).await?;

        let bans = Bans::new(Arc::new(network.clone()));
        bans.register(&mut registry);
        let keys = TrustedKeys::new(config.trusted_public_keys.clone());
        let client = PeerClient::new(Arc::new(network.clone()));
        let swarm: Arc<dyn Peers> = Arc::new(Swarm::new(
            network.clone(),
            client.clone(),
            bans.clone(),
            config.swarm_salt.as_bytes(),
            config.dht,
        ));

        let policy = Arc::new(SharingPolicy::new(sharing_rules(config)));
        let (announcements, to_announce) = Announcements::new(&policy, config);
        let nix = live::open(config, &store, &policy, &announcements).await;
        nix.register(&mut registry);
        let holdings: Arc<dyn Holdings> =
            Arc::new(Union::new([Arc::new(store.clone()) as Arc<dyn Holdings>, Arc::new(nix.clone())]));
        let announcer = Announcer::start(
            to_announce,
            Arc::new(network.clone()),
            (store.clone(), nix.clone()),
            Arc::clone(&holdings),
            policy.clone(),
        );
        let names = NameKeeper::start(store.clone(), nix.clone(), policy.clone());
        let on_commit = || on_commit(&announcements, &policy, &nix);
        let (on_put, on_commit) = (on_commit(), on_commit());
        let engine =
            FetchEngine::new(store.clone(), origins.clone(), Arc::clone(&swarm), metrics.clone(), on_commit);
        let narinfos = NarInfos::new(
            store.clone(),
            nix.clone(),
            origins.clone(),
            swarm,
            keys,
            policy.clone(),
            config.origin_missing_memory,
        );
        let accepted_keys = KeyRing::new(web::accepted_keys(config));
        let artifacts = Artifacts::new(
            store.clone(),
            nix.clone(),
            engine.clone(),
            narinfos.clone(),
            policy.clone(),
            on_put,
        )
        .with_uploads(
            web::side_files(config, &origins).await?,
            accepted_keys.clone(),
            config.max_store_size,
        );

        let parts = UploadParts {
            holdings,
            site: Arc::new(artifacts.clone()),
            policy: policy.clone(),
            limits: upload_limits(config),
            own_traffic: own_traffic(&engine),
            signer: claim_signer(&identity),
            bans,
            served_bytes: metrics.served(Sink::peer),
        };
        let uploads = UploadServer::start(incoming, parts);
        let live = Live {
            network: network.clone(),
            nix: nix.clone(),
            narinfos,
            policy,
            uploads: uploads.control(),
            accepted_keys,
            access: access.clone(),
        };
        let reloader = Reloader::new(startup, live);

        let gateway_metrics =
            GatewayMetrics::register(&mut registry).with_served_bytes(metrics.served(Sink::client));
        registry.register_collector(Box::new(NodeCollector::new(
            network.clone(),
            store.clone(),
            nix.clone(),
        )));
        let status = Arc::new(StatusReporter::new(status::Parts {
            network: network.clone(),
            store: store.clone(),
            max_store_bytes: config.max_store_size,
            nix: nix.clone(),
            nix_root: config.nix_store.clone(),
            origins,
            engine: engine.clone(),
            metrics,
            reloader,
        }));
        let gateway = Gateway::bind(
            web::gateway_config(config, listener, access),
            Arc::new(artifacts),
            status.clone(),
            Arc::new(registry),
            gateway_metrics,
        )
        .await?;
        if config.http.port() != 0 && gateway.local_addr() != config.http {
            tracing::warn!(
                socket = %gateway.local_addr(), http = %config.http,
                "the service manager listens elsewhere than the setting http says, where other commands look for the \
                 node: make ListenStream= of p2p-cache.socket and http agree"
            );
        }
        if !gateway.local_addr().ip().is_loopback() {
            tracing::warn!(
                http = %gateway.local_addr(),
                "the gateway is reachable from other machines: they may read what --share and the shared keys let them, \
                 and make this node fetch it"
            );
        }
        status.set_ready(true);
        Ok(Self { gateway, uploads, engine, client, announcer, names, network, nix, store, status })
    }

    /// Where HTTP clients connect.
    pub fn http_addr(&self) -> std::net::SocketAddr {
        self.gateway.local_addr()
    }

    /// The address most likely to reach this node from another machine, with the peer id.
    pub fn peer_addr(&self) -> String {
        let addresses: Vec<_> = self.network.listen_addrs().iter().map(ToString::to_string).collect();
        let prefix = best_for_others(&addresses).map_or("", String::as_str);
        format!("{prefix}/p2p/{}", self.network.local_peer_id())
    }

    /// Stops accepting, lets short answers finish, cuts long ones, and closes everything in the order in which
    /// nothing loses what it still needs.
    pub async fn shutdown(self) {
        self.status.set_ready(false);
        self.gateway.shutdown().await;
        self.uploads.shutdown(PEER_GRACE).await;
        self.engine.shutdown().await;
        self.announcer.shutdown().await;
        self.names.shutdown().await;
        self.client.shutdown(PEER_GRACE).await;
        self.network.shutdown().await;
        self.nix.shutdown().await;
        if let Err(error) = self.store.close().await {
            tracing::error!(%error, "the store could not be flushed; the index is reconciled at the next start");
        }
    }
}

fn upload_limits(config: &Config) -> UploadLimits {
    UploadLimits {
        upload_rate_bytes_per_second: config.upload_rate,
        lan_rate_bytes_per_second: config.upload_rate_lan,
        public_rate_bytes_per_second: config.upload_rate_public,
        slots: NonZeroUsize::new(config.upload_slots as usize).unwrap_or(NonZeroUsize::MIN),
        requests_per_second_per_peer: at_least_one(config.requests_per_second_per_peer),
        failed_lookups_per_minute_per_peer: at_least_one(config.failed_lookups_per_minute_per_peer),
        failed_lookups_per_minute_per_network: at_least_one(config.failed_lookups_per_minute_per_network),
    }
}

/// What has come is offered: to peers that ask at once, to the wide area in turn. It may stand in the Nix store too.
fn on_commit(announcements: &Announcements, policy: &Arc<SharingPolicy>, nix: &NixStore) -> OnCommit {
    let (announcements, policy, nix) = (announcements.clone(), Arc::clone(policy), nix.clone());
    Box::new(move |meta, narinfo| {
        names::note(&policy, meta, narinfo);
        announcements.held(holdings::held(meta));
        nix.blob_committed(meta.sha256);
    })
}

fn sharing_rules(config: &Config) -> SharingRules {
    let keys = config.shared_public_keys.iter().chain(&config.extra_shared_keys);
    SharingRules {
        share: config.effective_share(),
        public_keys: keys.cloned().collect(),
        publish: config.publish.clone(),
        never: config.never_share.clone(),
    }
}

/// Whether a client on this machine waits for a blob that is being fetched.
fn own_traffic(engine: &FetchEngine) -> OwnTraffic {
    let engine = engine.clone();
    Arc::new(move || engine.transfers().iter().any(|transfer| transfer.clients() > 0))
}

/// TCP before QUIC, then what reaches farther than this machine and this link, then IPv4.
fn best_for_others(addresses: &[String]) -> Option<&String> {
    let starts = |address: &str, prefixes: &[&str]| prefixes.iter().any(|prefix| address.starts_with(prefix));
    addresses.iter().min_by_key(|address| {
        let this_machine = starts(address, &["/ip4/127.", "/ip6/::1/"]);
        let this_link = starts(address, &["/ip4/169.254.", "/ip6/fe80:"]);
        (!address.contains("/tcp/"), this_machine, this_link, address.starts_with("/ip6/"))
    })
}

fn at_least_one(value: u32) -> NonZeroU32 {
    NonZeroU32::new(value).unwrap_or(NonZeroU32::MIN)
}

fn store_config(config: &Config) -> StoreConfig {
    StoreConfig { max_bytes: config.max_store_size, ..StoreConfig::new(&config.state_dir) }
}

fn origin_config(config: &Config) -> OriginConfig {
    OriginConfig {
        urls: config.origins.clone(),
        connect_timeout: config.origin_connect_timeout,
        first_byte_timeout: config.origin_first_byte_timeout,
        progress_timeout: config.origin_progress_timeout,
        attempts: config.origin_attempts,
        down_memory: config.origin_down_memory,
        ..OriginConfig::default()
    }
}

fn network_config(config: &Config) -> NetworkConfig {
    NetworkConfig {
        listen: config.listen.clone(),
        peers: config.peers.clone(),
        mdns: config.mdns,
        dht: config.dht,
        allowed_peers: config.allowed_peers.clone(),
        interfaces: config.interfaces.clone(),
        ..NetworkConfig::default()
    }
}
