//! Who holds a blob and how to reach them: the libp2p swarm of p2p-cache.
//!
//! [`Network`] is the handle of one swarm that runs in one task: it keeps connections with the peers of the
//! local network (multicast DNS), of the configuration, and of the wide area (Kademlia), opens and accepts byte
//! streams with them, and answers as a [`ProviderDirectory`]. What it is told by others (addresses, names,
//! records) is filtered and bounded before it is kept.

mod access;
mod addresses;
mod behaviour;
mod config;
mod dht;
pub mod directory;
mod error;
mod identity;
mod interfaces;
mod network;
mod peers;
mod prefix;
mod redial;
mod scope;
mod streams;
mod task;
#[cfg(test)]
mod tests;
mod transport;

pub use config::{DEFAULT_PORT, MAX_INTERFACES, MAX_LISTEN_ADDRESSES, MAX_STATIC_PEERS, NetworkConfig};
pub use dht::{KAD_PROTOCOL, MAX_ADVERTISED_KEYS};
pub use directory::{MAX_PROVIDERS, MemoryDirectory, MemoryWorld, ProviderDirectory, ProviderKey};
pub use error::{DirectoryError, IdentityError, NetworkError};
pub use identity::{Identity, KEY_FILE};
pub use libp2p::{Multiaddr, PeerId};
pub use network::{IncomingStreams, Network};
pub use p2p_cache_protocol::wire::PROTOCOL_NAME;
pub use peers::{PeerEvent, PeerInfo};
pub use prefix::NetworkPrefix;
pub use scope::Scope;
pub use streams::{MAX_INBOUND_STREAMS_PER_CONNECTION, PeerStream};
