//! What clients talk to: the HTTP side of the daemon.
//!
//! The gateway answers the Nix binary cache protocol, plain content-addressed blobs, and the usual pages for
//! operators (`/healthz`, `/readyz`, `/metrics`, `/api/v1/status`). It knows nothing of peers, disks or origins:
//! everything it serves comes from an [`ArtifactSource`], and what it tells about the node from a [`NodeStatus`].
//! Both traits are declared here, by the layer that uses them; the daemon implements them.
//!
//! Nix may also upload: see [`Uploads`]. Who may do so, and by which names the gateway answers at all, is decided here.
//!
//! Three rules shape every answer:
//! * A read is never answered with 429 or 503: clients of binary caches retry those for minutes. When in doubt it is
//!   404, and the client goes on to its next cache.
//! * A body either has exactly the length that its head promised or its connection is cut. It never ends early in
//!   good order.
//! * Everything is bounded: connections, header bytes, the time to send a head, the time a client may refuse to read,
//!   the time a source may take to begin.

mod access;
mod answer;
mod body;
mod conditional;
mod config;
#[doc(hidden)]
pub mod conformance;
pub mod memory;
mod metrics;
mod range;
mod routes;
mod server;
mod source;
mod status;
mod upload;
mod watchdog;

pub use access::{Access, AccessControl, BadWriteToken, WriteToken};
pub use config::{GatewayConfig, GatewayError};
pub use metrics::GatewayMetrics;
pub use server::{Gateway, ShutdownReport};
pub use source::{Artifact, ArtifactSource, BODY_CHUNK_BYTES, BodyStream, PutOutcome, SourceError};
pub use status::{
    LiveStoreStatus, NodeStatus, OriginStatus, PeerStatus, Reloaded, SourceStatus, Status, StoreStatus,
    Totals, TransferStatus,
};
pub use upload::{
    MAX_SIDE_FILE_BYTES, MAX_SIDE_FILE_NAME_BYTES, NarFile, Rejection, SideFile, SideFileName, Uploader,
    Uploads,
};
