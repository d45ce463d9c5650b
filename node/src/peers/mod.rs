//! The wire between nodes: asking peers, serving peers, banning liars.
//!
//! [`PeerClient`] asks over a few long-lived substreams a peer, [`UploadServer`] answers within the owner's
//! [`UploadLimits`] and the [`SharingPolicy`](crate::sharing::SharingPolicy), [`Bans`] keeps away who breaks the rules. All three know the network and
//! the store through traits ([`Dialer`], [`Incoming`], [`Gatekeeper`], [`Holdings`]) alone.

mod bans;
mod client;
mod error;
mod fair_queue;
mod frames;
pub mod limits;
mod pace;
mod server;
mod tasks;
#[cfg(test)]
mod testing;
mod transport;
mod uplink;

pub use bans::{BanReason, Bans, Gatekeeper};
pub use client::{Arriving, Offer, PeerClient, RangeAnswer, RangeTiming, Watched};
pub use error::PeerError;
#[cfg(test)]
pub(crate) use server::conformance;
pub use server::{
    ArrivingBlob, ClaimSigner, Held, HeldBlob, Holdings, Led, Site, UploadControl, UploadLimits, UploadParts,
    UploadServer, claim_signer,
};
pub use transport::{BoxStream, Dialer, Incoming, Stream, Visitor};
pub use uplink::{OwnTraffic, UploadRates};
