//! Going through everything that is held, one thing after the other.

use std::ops::ControlFlow;

use p2p_cache_protocol::NarInfo;

use super::blob::BlobMeta;
use super::error::StoreError;
use super::inner::StoreInner;
use super::narinfos;

/// Is shown everything that a store holds; a break ends it.
pub trait Visitor: Send + 'static {
    /// A narinfo, whether or not its NAR is held. All of them come before the first blob.
    fn narinfo(&mut self, narinfo: &NarInfo) -> ControlFlow<()>;

    /// A blob.
    fn blob(&mut self, blob: &BlobMeta) -> ControlFlow<()>;
}

/// Blocking. What comes or goes meanwhile may or may not be shown.
pub(super) fn visit<V: Visitor>(store: &StoreInner, mut visitor: V) -> Result<V, StoreError> {
    for entry in store.index.narinfos() {
        let (hash, _) = entry?;
        if let Some(narinfo) = narinfos::get(store, hash)?
            && visitor.narinfo(&narinfo).is_break()
        {
            return Ok(visitor);
        }
    }
    for entry in store.index.blobs() {
        let (id, record) = entry?;
        if visitor.blob(&BlobMeta::new(id, &record)).is_break() {
            break;
        }
    }
    Ok(visitor)
}
