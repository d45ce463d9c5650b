//! Why a transfer ended without a blob.

use std::sync::Arc;

use super::scheduler::FailReason;
use crate::store::StoreError;

/// Why a transfer ended without a blob. Cheap to clone: every reader gets it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FetchError {
    /// Nobody who was asked has it.
    #[error("no peer and no origin has it")]
    NotFound,
    /// Every source failed or left.
    #[error("{reason}{}", last_error(.last))]
    SourcesLost {
        /// What the scheduler found.
        reason: FailReason,
        /// The last error of a source.
        last: Option<Arc<str>>,
    },
    /// The whole does not have the hash that was asked for; nothing of it was kept.
    #[error("wrong content from {culprit}: {detail}")]
    Mismatch {
        /// Who sent it.
        culprit: &'static str,
        /// Expected and actual hash.
        detail: Arc<str>,
    },
    /// The disk or the store's size limit has no room for it.
    #[error("{0}")]
    NoSpace(Arc<str>),
    /// The store failed.
    #[error("{0}")]
    Store(Arc<str>),
    /// Nobody read it for a while.
    #[error("abandoned: nobody was reading it any more")]
    Abandoned,
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Stopped,
}

impl FetchError {
    /// Whether what has arrived is worth keeping for another attempt: neither wrong, nor in the way on a full or
    /// failing disk.
    pub(super) fn leaves_good_bytes(&self) -> bool {
        match self {
            Self::NotFound | Self::SourcesLost { .. } | Self::Abandoned | Self::Stopped => true,
            Self::Mismatch { .. } | Self::NoSpace(_) | Self::Store(_) => false,
        }
    }
}

fn last_error(last: &Option<Arc<str>>) -> String {
    last.as_ref().map(|text| format!("; the last error: {text}")).unwrap_or_default()
}

impl From<StoreError> for FetchError {
    fn from(error: StoreError) -> Self {
        let text = Arc::from(error.to_string());
        if error.is_no_space() { Self::NoSpace(text) } else { Self::Store(text) }
    }
}
