//! What can go wrong, in words for the owner of the machine.

use std::{path::PathBuf, time::Duration};

use libp2p::{Multiaddr, PeerId};

/// Failures of the swarm and of what is asked of it.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A listen address could not be bound.
    #[error(
        "cannot listen on {address}: {reason}; choose another `listen` address or stop what holds the port"
    )]
    Listen {
        /// The address of the configuration.
        address: Multiaddr,
        /// What the system said.
        reason: String,
    },
    /// A setting that cannot work.
    #[error("bad network setting `{setting}`: {reason}")]
    Setting {
        /// Name of the field of [`NetworkConfig`](crate::NetworkConfig).
        setting: &'static str,
        /// Why, and what would do.
        reason: String,
    },
    /// The transports could not be built.
    #[error("cannot set up the peer transports: {0}")]
    Transport(String),
    /// No connection to the peer could be made.
    #[error("peer {peer} cannot be reached: {reason}")]
    Unreachable {
        /// The peer.
        peer: PeerId,
        /// The last failure of a dial, or that no address is known.
        reason: String,
    },
    /// The connection broke while the stream was being opened.
    #[error("the connection to peer {peer} broke while a stream was being opened: {reason}")]
    Broken {
        /// The peer.
        peer: PeerId,
        /// What happened.
        reason: String,
    },
    /// The peer did not answer in time.
    #[error("peer {peer} gave no stream within {} ms", after.as_millis())]
    Timeout {
        /// The peer.
        peer: PeerId,
        /// The limit that passed.
        after: Duration,
    },
    /// The peer is connected but does not speak our protocol.
    #[error("peer {peer} does not speak {}", crate::PROTOCOL_NAME)]
    Unsupported {
        /// The peer.
        peer: PeerId,
    },
    /// A bounded queue is full.
    #[error("too much at once for peer {peer}: {queue} holds {limit} already; ask again later")]
    Busy {
        /// The peer.
        peer: PeerId,
        /// Which queue.
        queue: &'static str,
        /// Its bound, in entries.
        limit: usize,
    },
    /// The peer is banned or not on the allow-list.
    #[error("peer {peer} is refused: {reason}")]
    Refused {
        /// The peer.
        peer: PeerId,
        /// Why.
        reason: &'static str,
    },
    /// The network has been shut down.
    #[error("the network is shut down")]
    Closed,
}

/// Failures of the node identity on disk.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others than the owner may read or write the key.
    #[error(
        "{} has mode {mode:04o}, but it holds the node's private key: run `chmod 600 {}`, or, if others may have read it, remove it to get a new identity",
        path.display(), path.display()
    )]
    Permissions {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is no key of ours.
    #[error("{} is no node key ({reason}): restore it from a backup, or remove it to get a new identity", path.display())]
    Malformed {
        /// The key file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
}

/// Failures of a [`ProviderDirectory`](crate::ProviderDirectory).
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The bound on advertised keys is reached.
    #[error("{limit} keys are advertised already: withdraw some first")]
    Full {
        /// The bound, in keys.
        limit: usize,
    },
    /// Too many look-ups run at once.
    #[error("{limit} look-ups are running already: ask again later")]
    Busy {
        /// The bound, in look-ups.
        limit: usize,
    },
    /// The network has been shut down.
    #[error("the directory is shut down")]
    Closed,
}
