//! One extent from one peer: asked for, verified, stored.

use std::sync::Arc;

use p2p_cache_discovery::PeerId;
use p2p_cache_protocol::{BlobId, GroupRange};
use tokio::sync::mpsc;

use super::driver::Report;
use super::scheduler::{Event, Fault, SourceId};
use super::{FetchError, Shared};
use crate::metrics::Source;
use crate::peers::PeerError;
use crate::store::PartialBlob;

/// Which extent, of what, from whom.
pub(super) struct ExtentRequest {
    pub(super) source: SourceId,
    pub(super) peer: PeerId,
    pub(super) blob: BlobId,
    pub(super) extent: GroupRange,
}

/// Asks a peer for an extent, verifies it and stores it.
pub(super) async fn fetch_extent(
    shared: Arc<Shared>,
    partial: PartialBlob,
    reports: mpsc::Sender<Report>,
    request: ExtentRequest,
) {
    let ExtentRequest { source, peer, blob, extent } = request;
    let report = match shared.peers.range(peer, blob, partial.size(), extent).await {
        Err(error) => Report::PeerFailed { source, extent, error },
        Ok((encoded, timing)) => {
            shared.metrics.received(Source::peer).inc_by(encoded.len() as u64);
            let written =
                tokio::task::spawn_blocking(move || partial.write_groups(blob, extent, &encoded)).await;
            match written {
                Ok(Ok(())) => Report::Event(Event::ExtentDone { source, extent, timing }),
                Ok(Err(error)) => Report::WriteFailed { source, extent, error },
                Err(error) => Report::Fatal(FetchError::Store(Arc::from(error.to_string()))),
            }
        }
    };
    let _ = reports.send(report).await;
}

/// What a failed request means to the scheduler.
pub(super) fn fault_of(error: &PeerError) -> Fault {
    match error {
        PeerError::Busy { retry_after, .. } => Fault::Busy { retry_after: *retry_after },
        PeerError::NotHeld { .. } => Fault::NotHeld,
        PeerError::Timeout { .. } | PeerError::Stalled { .. } => Fault::Stalled,
        PeerError::Protocol { .. } | PeerError::FalseClaim { .. } => Fault::Corrupt,
        PeerError::Unreachable { .. }
        | PeerError::Closed { .. }
        | PeerError::Incompatible { .. }
        | PeerError::BadRequest { .. }
        | PeerError::NoRoom { .. } => Fault::Closed,
    }
}
