//! Second copies of store paths: what the blob store holds of what Nix has.

use std::io;
use std::path::Path;

use p2p_cache_protocol::{BlobId, Claim, Digest, Sha256Digest};

#[cfg(doc)]
use super::NixStore;
use crate::store::BlobStore;

/// The blobs that the node stores itself, as the [`NixStore`] sees them: a blob whose bytes stand in the Nix store needs
/// no file. All methods block.
pub trait SecondCopies: Send + Sync + 'static {
    /// The blob with this SHA-256 that would be given up: held, and neither pinned nor published by hand.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn held(&self, nar: Sha256Digest) -> io::Result<Option<Claim>>;

    /// Makes the outboard of a blob appear at `to` too; false when the blob is not held.
    ///
    /// # Errors
    /// When it cannot be read, or not be written there.
    fn export_outboard(&self, blob: BlobId, to: &Path) -> io::Result<bool>;

    /// Removes a blob that [`Self::held`] has named, unless it was pinned or published meanwhile. Readers that have it
    /// open go on.
    ///
    /// # Errors
    /// When it cannot be removed.
    fn give_up(&self, blob: BlobId) -> io::Result<bool>;
}

impl SecondCopies for BlobStore {
    fn held(&self, nar: Sha256Digest) -> io::Result<Option<Claim>> {
        let meta = self.find_blocking(Digest::Sha256(nar)).map_err(io::Error::other)?;
        let meta = meta.filter(|meta| !meta.pinned && !meta.published);
        Ok(meta.map(|meta| Claim { sha256: meta.sha256, blob: meta.id, size: meta.size }))
    }

    fn export_outboard(&self, blob: BlobId, to: &Path) -> io::Result<bool> {
        BlobStore::export_outboard(self, blob, to).map_err(io::Error::other)
    }

    fn give_up(&self, blob: BlobId) -> io::Result<bool> {
        BlobStore::give_up(self, blob).map_err(io::Error::other)
    }
}
