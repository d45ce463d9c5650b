//! What clients of a binary cache bring, and what the gateway needs from the layer above to take it in.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use p2p_cache_protocol::{Compression, NarInfo, Sha256Digest};

use crate::{BodyStream, SourceError};

/// Largest side file, in bytes: a build log is the only one that can be long.
pub const MAX_SIDE_FILE_BYTES: usize = 16 * 1024 * 1024;
/// Longest name of a side file, in bytes.
pub const MAX_SIDE_FILE_NAME_BYTES: usize = 400;

/// Takes in what a client uploads. Whether that client may upload at all has been decided by then.
#[async_trait]
pub trait Uploads: Send + Sync + 'static {
    /// The length of the file of a NAR that is held or waits for its narinfo. Asks nobody else.
    async fn nar_file_size(&self, file: &NarFile) -> Result<u64, SourceError>;

    /// Takes the file of a NAR, which counts for nothing until a narinfo names it. `body` may fail half way, and then
    /// nothing is kept.
    async fn put_nar_file(&self, file: NarFile, body: BodyStream) -> Result<(), SourceError>;

    /// Takes a narinfo whose NAR was uploaded or is held. True when the store path is new here.
    async fn put_narinfo(&self, narinfo: NarInfo, from: Uploader) -> Result<bool, SourceError>;

    /// Keeps a side file; replaces the one of the same name. True when there was none.
    async fn put_side_file(&self, name: SideFileName, file: SideFile) -> Result<bool, SourceError>;
}

/// Who uploads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Uploader {
    /// A client on this machine.
    ThisMachine,
    /// A client on another machine, which knows the write token.
    Other,
}

/// Why an upload is not taken; unlike the detail of other failures this is told to the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The URL of the narinfo names no NAR that was uploaded.
    NarMissing,
    /// The NAR is not the one that the narinfo describes.
    NarDiffers,
    /// The file does not have the hash in its name.
    FileDiffers,
    /// The file cannot be decompressed.
    BadFile,
    /// It names another store directory than this cache has.
    OtherStore,
    /// It comes from another machine and no accepted key has signed it.
    Unsigned,
    /// A signed narinfo of the path with another NAR is held.
    Superseded,
    /// Too much waits for its narinfo.
    TooManyWaiting,
}

impl Rejection {
    /// What to tell the client.
    pub fn reason(self) -> &'static str {
        match self {
            Self::NarMissing => "the NAR of this narinfo is not here: upload it first",
            Self::NarDiffers => {
                "the NAR that was uploaded has another NarHash, NarSize, FileHash or FileSize"
            }
            Self::FileDiffers => "the bytes do not have the hash in the name of the file",
            Self::BadFile => {
                "the bytes cannot be decompressed: use compression none, xz, zstd, bzip2, gzip or br"
            }
            Self::OtherStore => "the store path is not in the store directory that /nix-cache-info names",
            Self::Unsigned => {
                "from another machine only what an accepted key has signed is taken: sign it, or add its key to \
                 trusted-public-key"
            }
            Self::Superseded => "a signed narinfo of this path with another NAR is held",
            Self::TooManyWaiting => "too many uploaded NARs wait for their narinfos: try again later",
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.reason())
    }
}

/// The file of a NAR under the name that Nix gives it: `nar/<FileHash>.nar`, and the ending of its compression.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NarFile {
    /// SHA-256 of the file.
    pub file_hash: Sha256Digest,
    /// How it is compressed.
    pub compression: Compression,
}

/// Endings of file names. gzip has one of its own here; Nix gives it none.
const ENDINGS: [(&str, Compression); 6] = [
    ("", Compression::None),
    (".xz", Compression::Xz),
    (".zst", Compression::Zstd),
    (".bz2", Compression::Bzip2),
    (".gz", Compression::Gzip),
    (".br", Compression::Br),
];

impl NarFile {
    /// Reads a path relative to the root of the cache, as it stands in the `URL` of a narinfo.
    pub fn parse(url: &str) -> Option<Self> {
        let (hash, ending) = url.strip_prefix("nar/")?.split_once(".nar")?;
        let file_hash = Sha256Digest::from_nix32(hash).ok()?;
        let (_, compression) = ENDINGS.iter().find(|(known, _)| *known == ending)?;
        Some(Self { file_hash, compression: compression.clone() })
    }
}

impl fmt::Display for NarFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = ENDINGS.iter().find(|(_, compression)| *compression == self.compression);
        write!(f, "nar/{}.nar{}", self.file_hash.to_nix32(), known.map_or("", |(ending, _)| ending))
    }
}

/// The path of a small file that a binary cache has beside narinfos and NARs, relative to the root of the cache.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SideFileName(String);

impl SideFileName {
    /// `log/<drv>`, `realisations/<id>.doi`, `build-trace-v2/<drv>/<output>.doi` or `debuginfo/<build id>`.
    pub fn parse(path: &str) -> Option<Self> {
        let mut segments = path.split('/');
        let kind = segments.next()?;
        let wanted = match kind {
            "log" | "debuginfo" | "realisations" => 1,
            "build-trace-v2" => 2,
            _ => return None,
        };
        let names: Vec<&str> = segments.collect();
        let ending = matches!(kind, "realisations" | "build-trace-v2");
        let right = names.len() == wanted
            && names.iter().all(|name| is_plain(name))
            && (!ending || names.last().is_some_and(|name| name.ends_with(".doi")))
            && path.len() <= MAX_SIDE_FILE_NAME_BYTES;
        right.then(|| Self(path.to_owned()))
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What a client takes it for when the uploader did not say.
    pub fn content_type(&self) -> &'static str {
        if self.0.starts_with("log/") { "text/plain; charset=utf-8" } else { "application/json" }
    }
}

impl fmt::Display for SideFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One segment of what Nix writes: `sha256:<hex>!out.doi`, the name of a derivation, a build id. It is what it looks like
/// in a URL and in a file system.
fn is_plain(name: &str) -> bool {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || b"+-._?=:!^".contains(&byte);
    !name.is_empty() && !name.starts_with('.') && name.bytes().all(usual)
}

/// A side file as it was uploaded or came from an origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideFile {
    /// The body.
    pub bytes: Bytes,
    /// How the body is compressed, as `Content-Encoding` says it.
    pub encoding: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_of_nar_files_are_read_as_they_are_written() {
        for (ending, compression) in ENDINGS {
            let file = NarFile { file_hash: Sha256Digest::of(b"file"), compression };
            let url = file.to_string();
            assert!(url.ends_with(&format!(".nar{ending}")), "{url}");
            assert_eq!(NarFile::parse(&url), Some(file));
        }
        let hash = Sha256Digest::of(b"file").to_nix32();
        for bad in ["nar/x.nar", "nar/.nar", "nar/", &format!("nar/{hash}.nar.7z"), &format!("{hash}.nar")] {
            assert_eq!(NarFile::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn side_files_are_the_four_kinds_that_a_cache_has() {
        for good in [
            "log/7rjj86a15146cq1d3qy068lml7n7ykzm-hello-2.12.1.drv",
            "realisations/sha256:0a1b!out.doi",
            "build-trace-v2/7rjj86a15146cq1d3qy068lml7n7ykzm-hello.drv/out.doi",
            "debuginfo/00112233445566778899aabbccddeeff00112233",
        ] {
            assert_eq!(SideFileName::parse(good).unwrap().as_str(), good);
        }
        let long = format!("log/{}", "x".repeat(MAX_SIDE_FILE_NAME_BYTES));
        for bad in ["", "log", "log/", "log/../x", "log/a/b", "log/.x", "log/a b", "log/a%2fb", "narinfo/x"] {
            assert_eq!(SideFileName::parse(bad), None, "{bad}");
        }
        for bad in ["realisations/x", "build-trace-v2/x.doi", "build-trace-v2/x/y", long.as_str()] {
            assert_eq!(SideFileName::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_path_is_read_or_refused_without_a_panic(path in "(nar/|log/|realisations/|build-trace-v2/)?\\PC{0,80}") {
            let _ = (NarFile::parse(&path), SideFileName::parse(&path));
        }
    }
}
