//! The compression of the file that a narinfo points to.

use std::fmt;
use std::str::FromStr;

use crate::bytes_type::excerpt;

/// How a NAR is compressed in a cache.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Compression {
    /// Not at all.
    None,
    /// xz, what cache.nixos.org holds mostly.
    Xz,
    /// Zstandard.
    Zstd,
    /// bzip2, also the meaning of a narinfo that does not say.
    Bzip2,
    /// gzip.
    Gzip,
    /// Brotli.
    Br,
    /// One that we cannot undo. The narinfo can still be passed on.
    Other(String),
}

/// Not the name of a compression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not the name of a compression")]
pub struct CompressionError {
    /// The beginning of the text.
    text: String,
}

impl fmt::Display for Compression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Xz => "xz",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Gzip => "gzip",
            Self::Br => "br",
            Self::Other(name) => name,
        })
    }
}

impl FromStr for Compression {
    type Err = CompressionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const MAX_NAME_BYTES: usize = 64;
        Ok(match text {
            "none" => Self::None,
            "xz" => Self::Xz,
            "zstd" | "zst" => Self::Zstd,
            "bzip2" | "bz2" => Self::Bzip2,
            "gzip" | "gz" => Self::Gzip,
            "br" | "brotli" => Self::Br,
            name => {
                let word = name.bytes().all(|c| c.is_ascii_graphic());
                if name.is_empty() || name.len() > MAX_NAME_BYTES || !word {
                    return Err(CompressionError { text: excerpt(text) });
                }
                Self::Other(name.to_owned())
            }
        })
    }
}
