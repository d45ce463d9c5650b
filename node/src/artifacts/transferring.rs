//! A blob that is arriving, as a response body.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use p2p_cache_http_gateway::{Artifact, BodyStream, SourceError};
use p2p_cache_protocol::Digest;

use super::source_error;
use crate::fetch::Transfer;

/// Follows a transfer.
pub(super) struct TransferArtifact {
    transfer: Arc<Transfer>,
}

impl TransferArtifact {
    pub(super) fn new(transfer: Arc<Transfer>) -> Self {
        Self { transfer }
    }
}

#[async_trait]
impl Artifact for TransferArtifact {
    fn size(&self) -> u64 {
        self.transfer.size()
    }

    fn digest(&self) -> Digest {
        self.transfer.digest()
    }

    fn read(self: Arc<Self>, range: Range<u64>) -> BodyStream {
        Arc::clone(&self.transfer).read(range)
    }

    async fn ready(&self) -> Result<(), SourceError> {
        self.transfer.ready(0).await.map_err(|error| source_error(&error))
    }
}
