//! What can go wrong while asking a peer.

use std::time::Duration;

use p2p_cache_discovery::PeerId;

use super::BanReason;

/// Why a peer gave no usable answer. Cheap to clone: one broken substream fails every request that waits on it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// No substream could be opened.
    #[error("cannot reach peer {peer}: {reason}; another source is used")]
    Unreachable {
        /// The peer asked.
        peer: PeerId,
        /// What the network said.
        reason: String,
    },
    /// The peer did not answer in time.
    #[error("peer {peer} gave no {what} within {after:?}; another source is used")]
    Timeout {
        /// The peer asked.
        peer: PeerId,
        /// What was waited for.
        what: &'static str,
        /// How long.
        after: Duration,
    },
    /// The peer began a range and stopped, or became too slow.
    #[error("peer {peer} stalled after {received_bytes} bytes of a range, no progress for {after:?}")]
    Stalled {
        /// The peer asked.
        peer: PeerId,
        /// Bytes of this range that had arrived.
        received_bytes: usize,
        /// How long nothing useful arrived.
        after: Duration,
    },
    /// The substream broke or was closed by the peer while the request waited on it.
    #[error("the stream to peer {peer} broke: {reason}")]
    Closed {
        /// The peer asked.
        peer: PeerId,
        /// What the transport said.
        reason: String,
    },
    /// All upload slots of the peer are taken.
    #[error("peer {peer} is busy, asks to be left alone for {retry_after:?}")]
    Busy {
        /// The peer asked.
        peer: PeerId,
        /// When to try again.
        retry_after: Duration,
    },
    /// The peer does not hold the blob, or does not share it: the two look the same.
    #[error("peer {peer} does not offer the blob")]
    NotHeld {
        /// The peer asked.
        peer: PeerId,
    },
    /// The peer speaks no version of the protocol that we speak. Not a fault: it may be older or newer.
    #[error("peer {peer} speaks no common protocol version: {reason}")]
    Incompatible {
        /// The peer asked.
        peer: PeerId,
        /// The two ranges.
        reason: String,
    },
    /// The peer sent what the protocol does not allow. Worth a ban.
    #[error("peer {peer} broke the protocol: {reason}")]
    Protocol {
        /// The peer asked.
        peer: PeerId,
        /// What it did.
        reason: String,
    },
    /// The peer's claim has a wrong signature, signer or digest. Worth a ban.
    #[error("peer {peer} made a false claim: {reason}")]
    FalseClaim {
        /// The peer asked.
        peer: PeerId,
        /// What is wrong with it.
        reason: String,
    },
    /// The caller asked for a range that does not exist or is too long. Our own fault.
    #[error("a range request to peer {peer} is not valid: {reason}")]
    BadRequest {
        /// The peer that was not asked.
        peer: PeerId,
        /// What is wrong with it.
        reason: String,
    },
    /// Too many substreams are open, or the client has shut down.
    #[error("no substream to peer {peer} may be opened: too many are open, or the node is shutting down")]
    NoRoom {
        /// The peer that was not asked.
        peer: PeerId,
    },
}

impl PeerError {
    /// Why the peer deserves a ban; `None` for what can befall an honest peer.
    #[must_use]
    pub fn ban_reason(&self) -> Option<BanReason> {
        match self {
            PeerError::Protocol { .. } => Some(BanReason::ProtocolViolation),
            PeerError::FalseClaim { .. } => Some(BanReason::FalseClaim),
            PeerError::Unreachable { .. }
            | PeerError::Timeout { .. }
            | PeerError::Stalled { .. }
            | PeerError::Closed { .. }
            | PeerError::Busy { .. }
            | PeerError::NotHeld { .. }
            | PeerError::Incompatible { .. }
            | PeerError::BadRequest { .. }
            | PeerError::NoRoom { .. } => None,
        }
    }
}
