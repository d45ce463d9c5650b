//! The effective configuration as the daemon consumes it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use p2p_cache_discovery::{Multiaddr, PeerId};
use p2p_cache_protocol::signature::PublicKey;
use url::Url;

use crate::logging::LogFormat;
use crate::sharing::{NamePattern, PublishedPath, Share};

/// Every setting of a node, checked. Made by [`load`](super::load) or [`Config::built_in`].
#[derive(Debug, Clone)]
pub struct Config {
    /// Directory of blobs, index, lock and node key; absolute.
    pub state_dir: PathBuf,
    /// Address that clients on this machine talk to; port 0 means any free port.
    pub http: SocketAddr,
    /// Addresses on which other nodes reach this one.
    pub listen: Vec<Multiaddr>,
    /// Static peers, with or without a trailing `/p2p/ID`.
    pub peers: Vec<Multiaddr>,
    /// Upstream binary caches, the first one preferred.
    pub origins: Vec<Url>,
    /// Keys of which one must have signed a narinfo that comes from a peer.
    pub trusted_public_keys: Vec<PublicKey>,
    /// How far blobs of this node may travel.
    pub share: Share,
    /// Keys of which one signature makes a store path public.
    pub shared_public_keys: Vec<PublicKey>,
    /// More of them, which do not replace the others.
    pub extra_shared_keys: Vec<PublicKey>,
    /// Store paths that are shared without a signature.
    pub publish: Vec<PublishedPath>,
    /// Names of store paths that are never shared.
    pub never_share: Vec<NamePattern>,
    /// Whether nodes on the local network are found by multicast DNS.
    pub mdns: bool,
    /// Names of the network interfaces on which peers are met; none is all of them.
    pub interfaces: Vec<String>,
    /// Whether what is sent costs money: nothing is uploaded then.
    pub metered: bool,
    /// Whether the wide-area hash table is used.
    pub dht: bool,
    /// Limit of the blob store in bytes; `None` is unlimited.
    pub max_store_size: Option<u64>,
    /// Limit of all uploads to peers together, in bytes per second; `None` is unlimited.
    pub upload_rate: Option<u64>,
    /// The same for peers of the local network, within the limit of all.
    pub upload_rate_lan: Option<u64>,
    /// The same for public peers, within the limit of all.
    pub upload_rate_public: Option<u64>,
    /// Directory that has `nix/store` and `nix/var/nix/db` below it, absolute; `None` leaves it alone.
    pub nix_store: Option<PathBuf>,
    /// Limit of hashing store paths in the background, in bytes per second; `None` is unlimited.
    pub hash_rate: Option<u64>,
    /// Time for a connection to an origin.
    pub origin_connect_timeout: Duration,
    /// Time until the first byte of an origin's answer, the connection included.
    pub origin_first_byte_timeout: Duration,
    /// Longest silence of an origin in mid-answer.
    pub origin_progress_timeout: Duration,
    /// How often a request to one origin is tried, the first time included.
    pub origin_attempts: u32,
    /// How long an origin that failed is skipped.
    pub origin_down_memory: Duration,
    /// How long it is believed that no origin has what none had.
    pub origin_missing_memory: Duration,
    /// File with what uploads must show; `None` takes them from this machine alone.
    pub write_token_file: Option<PathBuf>,
    /// Names, in lower case, by which clients on this machine may ask for the node.
    pub allowed_hosts: Vec<String>,
    /// Extents that are read and sent to peers at the same time. Each holds up to 1 MiB of memory.
    pub upload_slots: u32,
    /// Requests per second that one peer may make.
    pub requests_per_second_per_peer: u32,
    /// Look-ups of blobs that are not held, per minute, that one peer may make.
    pub failed_lookups_per_minute_per_peer: u32,
    /// The same for all peers of one network together.
    pub failed_lookups_per_minute_per_network: u32,
    /// Peers that may connect; `None` is everybody. An empty list in a layer means `None` too.
    pub allowed_peers: Option<Vec<PeerId>>,
    /// Mixed into the keys of provider records: only nodes with the same salt find each other's blobs.
    pub swarm_salt: String,
    /// Which log events are written, as a filter of `tracing_subscriber::EnvFilter`.
    pub log: String,
    /// How they are written.
    pub log_format: LogFormat,
}

impl Config {
    /// How far blobs travel after all that bears on it: not at all over a metered connection.
    #[must_use]
    pub fn effective_share(&self) -> Share {
        if self.metered { Share::None } else { self.share }
    }

    /// A configuration in which nothing is set yet; the defaults of the settings table fill it.
    pub(super) fn blank() -> Config {
        Config {
            state_dir: PathBuf::new(),
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            listen: Vec::new(),
            peers: Vec::new(),
            origins: Vec::new(),
            trusted_public_keys: Vec::new(),
            share: Share::None,
            shared_public_keys: Vec::new(),
            extra_shared_keys: Vec::new(),
            publish: Vec::new(),
            never_share: Vec::new(),
            mdns: true,
            interfaces: Vec::new(),
            metered: false,
            dht: true,
            max_store_size: None,
            upload_rate: None,
            upload_rate_lan: None,
            upload_rate_public: None,
            nix_store: None,
            hash_rate: None,
            origin_connect_timeout: Duration::ZERO,
            origin_first_byte_timeout: Duration::ZERO,
            origin_progress_timeout: Duration::ZERO,
            origin_attempts: 0,
            origin_down_memory: Duration::ZERO,
            origin_missing_memory: Duration::ZERO,
            write_token_file: None,
            allowed_hosts: Vec::new(),
            upload_slots: 0,
            requests_per_second_per_peer: 0,
            failed_lookups_per_minute_per_peer: 0,
            failed_lookups_per_minute_per_network: 0,
            allowed_peers: None,
            swarm_salt: String::new(),
            log: String::new(),
            log_format: LogFormat::Auto,
        }
    }
}
