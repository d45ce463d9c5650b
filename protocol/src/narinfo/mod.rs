//! The narinfo: what a binary cache says about a store path, and who vouches for it.
//!
//! The format is that of Nix (`NarInfo` in its libstore): lines of `Field: value`. What a key signs is only
//! the fingerprint, that is the store path, the hash and size of its NAR and its references; everything else
//! may be rewritten by a proxy.

mod compression;
mod format;
mod parse;
#[cfg(test)]
mod tests;
mod url;

use crate::digest::Sha256Digest;
use crate::limits::{MAX_NARINFO_BYTES, MAX_NARINFO_SIGNATURES, MAX_NARINFO_UNKNOWN_FIELDS};
use crate::signature::{PublicKey, Signature, SignatureError, TrustedKeys};
use crate::store_path::{StorePath, StorePathError};

pub use compression::{Compression, CompressionError};

/// A narinfo. Its `Display` is the text of the file, with the final newline that Nix insists on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NarInfo {
    /// The store path that it describes.
    pub store_path: StorePath,
    /// Where the NAR is: a path relative to the cache, or a whole `http` or `https` URL.
    pub url: String,
    /// How the file at [`Self::url`] is compressed.
    pub compression: Compression,
    /// The hash of the file at [`Self::url`]. `None` also when the cache gave another algorithm than SHA-256.
    pub file_hash: Option<Sha256Digest>,
    /// The size of the file at [`Self::url`], in bytes.
    pub file_size: Option<u64>,
    /// The hash of the uncompressed NAR.
    pub nar_hash: Sha256Digest,
    /// The size of the uncompressed NAR in bytes, 1 to [`MAX_BLOB_BYTES`](crate::limits::MAX_BLOB_BYTES).
    pub nar_size: u64,
    /// Base names (`HASH-NAME`) of the store paths that it refers to, in the order of the file.
    pub references: Vec<String>,
    /// Base name of the derivation that built it. Not vouched for by any signature.
    pub deriver: Option<String>,
    /// The system it was built for, as old caches say.
    pub system: Option<String>,
    /// All signatures, those that we cannot check too.
    pub signatures: Vec<Signature>,
    /// The content address, for paths that have one.
    pub ca: Option<String>,
    /// Lines with fields that we do not know, in the order of the file.
    pub unknown: Vec<(String, String)>,
}

/// Why a text is not a narinfo.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NarInfoError {
    /// Longer than any narinfo that we handle.
    #[error("a narinfo of {length} bytes: at most {MAX_NARINFO_BYTES} are allowed")]
    Length {
        /// Bytes of the text.
        length: usize,
    },
    /// The last line has no newline: the file was cut off.
    #[error("the narinfo does not end in a newline, so it was cut off")]
    Unfinished,
    /// A line that is not `Field: value`, or that has control characters.
    #[error("line {line} of the narinfo is not `Field: value` in printable characters")]
    Line {
        /// Number of the line, from 1.
        line: usize,
    },
    /// A field that must stand once stands again.
    #[error("the narinfo has two lines {field}")]
    Duplicate {
        /// Name of the field.
        field: &'static str,
    },
    /// A field that every narinfo has is missing.
    #[error("the narinfo has no line {field}")]
    Missing {
        /// Name of the field.
        field: &'static str,
    },
    /// A field with a value that it cannot have.
    #[error("the narinfo's {field} cannot be {value:?}: {reason}")]
    Value {
        /// Name of the field.
        field: &'static str,
        /// The beginning of the value.
        value: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A store path, reference or deriver that is not one.
    #[error("the narinfo's {field}: {source}")]
    StorePath {
        /// Name of the field.
        field: &'static str,
        /// What is wrong with it.
        source: StorePathError,
    },
    /// A signature that cannot be one.
    #[error("the narinfo's Sig: {0}")]
    Signature(#[from] SignatureError),
    /// More signatures or unknown fields than we keep.
    #[error(
        "the narinfo has too many lines {field}: at most {MAX_NARINFO_SIGNATURES} signatures and {MAX_NARINFO_UNKNOWN_FIELDS} unknown fields are allowed"
    )]
    TooMany {
        /// Name of the field.
        field: &'static str,
    },
}

impl NarInfo {
    /// Reads the text of a narinfo file.
    ///
    /// Accepts what Nix accepts and caches write, and refuses what Nix would call corrupt. Sizes beyond
    /// [`MAX_BLOB_BYTES`](crate::limits::MAX_BLOB_BYTES) and URLs that climb out of the cache are refused as well.
    ///
    /// ```
    /// use p2p_cache_protocol::{NarInfo, TrustedKeys};
    ///
    /// let narinfo = NarInfo::parse(include_str!("../../tests/data/hello-2.12.1.narinfo"))?;
    /// let key = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=".parse()?;
    /// assert_eq!(narinfo.store_path.name(), "hello-2.12.1");
    /// assert!(narinfo.verified_by(&TrustedKeys::new(vec![key])).is_some());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn parse(text: &str) -> Result<Self, NarInfoError> {
        parse::parse(text)
    }

    /// The text that a cache key signs: `1;StorePath;NarHash;NarSize;References`.
    pub fn fingerprint(&self) -> String {
        format::fingerprint(self)
    }

    /// The first of `keys` that has signed the fingerprint, if any has.
    pub fn verified_by<'k>(&self, keys: &'k TrustedKeys) -> Option<&'k PublicKey> {
        let trusted = |signature: &Signature| keys.iter().any(|key| key.name() == signature.key_name());
        // Most narinfos that nobody trusts are told apart without writing their fingerprint.
        if !self.signatures.iter().any(trusted) {
            return None;
        }
        keys.verify(self.fingerprint().as_bytes(), &self.signatures)
    }

    /// Adds a signature of the fingerprint by `key`.
    pub fn sign(&mut self, key: &crate::signature::SecretKey) {
        let signature = key.sign(&self.fingerprint());
        self.signatures.push(signature);
    }
}
