//! SHA-256 of streams.
//!
//! Every byte of every blob passes here, so the implementation matters: AWS-LC, which TLS brings in already, is 1.6 to
//! 1.9 times as fast as portable code on processors without SHA instructions (docs/performance.md).

use std::fmt;

use aws_lc_rs::digest;
use p2p_cache_protocol::Sha256Digest;

/// A hash of the bytes that passed so far.
#[derive(Clone)]
pub(crate) struct Sha256(digest::Context);

impl Sha256 {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    pub(crate) fn finish(self) -> Sha256Digest {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.finish().as_ref());
        Sha256Digest(bytes)
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sha256")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_hash_like_the_whole() {
        let mut hash = Sha256::default();
        hash.update(b"hel");
        hash.update(b"lo");
        assert_eq!(hash.finish(), Sha256Digest::of(b"hello"));
    }
}
