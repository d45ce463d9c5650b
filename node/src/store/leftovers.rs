//! Leftovers: the files of blobs that were not finished, kept for the next time that the blob is asked for.
//!
//! ```text
//! partial/<sha256|blake3>-<digest>-<size>.data       sparse
//! partial/<sha256|blake3>-<digest>-<size>.obao       the inner hashes that came with verified groups
//! partial/<sha256|blake3>-<digest>-<size>.progress   which groups are present, see `partial/sidecar.rs`
//! ```
//!
//! Their number, bytes and age are bounded; the least recently used go first. They count towards the size limit of the
//! store, of which they take at most an eighth, and are given up when the disk has no room for a new blob.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use p2p_cache_protocol::{Digest, tree};

use super::error::StoreError;
use super::inner::StoreInner;
use super::layout::{self, Layout, OUTBOARD_SUFFIX};
use super::partial::Sidecar;
use super::partials::{Leftover, stem};

/// The extension of the sparse data file, with its dot.
const DATA_SUFFIX: &str = ".data";
/// The extension of the file that says what is present, with its dot.
const SIDECAR_SUFFIX: &str = ".progress";
/// Appended to that while it is being written.
pub(super) const UNFINISHED_SUFFIX: &str = ".new";
/// Leftovers take at most this fraction of the size limit.
const LIMIT_DIVISOR: u64 = 8;
/// The unit of a file's allocated blocks, whatever the file system's own.
const BLOCK_BYTES: u64 = 512;

/// What is being written: the name of its files without extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LeftoverName {
    pub(super) expected: Digest,
    pub(super) size: u64,
}

impl fmt::Display for LeftoverName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.expected {
            Digest::Sha256(digest) => write!(f, "sha256-{digest}-{}", self.size),
            Digest::Blake3(blob) => write!(f, "blake3-{blob}-{}", self.size),
        }
    }
}

impl LeftoverName {
    /// Reads what [`fmt::Display`] writes, and no other spelling of it.
    pub(super) fn parse(text: &str) -> Option<LeftoverName> {
        let mut parts = text.splitn(3, '-');
        let (kind, digest, size) = (parts.next()?, parts.next()?, parts.next()?);
        let expected = match kind {
            "sha256" => Digest::Sha256(digest.parse().ok()?),
            "blake3" => Digest::Blake3(digest.parse().ok()?),
            _ => return None,
        };
        let name = LeftoverName { expected, size: size.parse().ok()? };
        (name.to_string() == text).then_some(name)
    }
}

/// Data, outboard and sidecar of a name in `partial/`.
pub(super) fn paths(layout: &Layout, name: &str) -> [PathBuf; 3] {
    let dir = layout.partials();
    [DATA_SUFFIX, OUTBOARD_SUFFIX, SIDECAR_SUFFIX].map(|suffix| dir.join(format!("{name}{suffix}")))
}

/// Removes all files of a name, the sidecar first: data without one counts for nothing. Blocking.
pub(super) fn remove_files(layout: &Layout, name: &str) {
    let [data, outboard, sidecar] = paths(layout, name);
    let unfinished = with_suffix(&sidecar, UNFINISHED_SUFFIX);
    for path in [&sidecar, &unfinished, &data, &outboard] {
        if let Err(error) = layout::remove_file(path) {
            // gc and the next start clear the directory again.
            tracing::warn!(%error, "cannot remove a temporary file");
        }
    }
}

pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Bytes that a (sparse) file takes on disk; 0 when there is none.
pub(super) fn disk_bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.blocks().saturating_mul(BLOCK_BYTES))
}

/// Finds the leftovers of earlier runs and removes everything else from `partial/`; for the start, before any write.
/// Returns the number of unfinished writes whose files were removed.
pub(super) fn adopt(store: &StoreInner) -> Result<u64, StoreError> {
    let dir = store.layout.partials();
    let mut writes: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in layout::file_names(&dir)? {
        let file = file?;
        writes.entry(stem(&file).to_owned()).or_default().push(file);
    }
    let mut removed = 0;
    for (name, files) in writes {
        match usable(store, &name) {
            Ok(Some(leftover)) => {
                layout::remove_file(&with_suffix(&paths(&store.layout, &name)[2], UNFINISHED_SUFFIX))?;
                store.partials.keep(&name, leftover);
                continue;
            }
            Ok(None) => {}
            Err(problem) => {
                tracing::warn!(
                    name,
                    problem,
                    "an unfinished blob of an earlier run cannot be used: discarded"
                );
            }
        }
        for file in files {
            layout::remove_file(&dir.join(file))?;
        }
        removed += 1;
    }
    Ok(removed + enforce(store))
}

/// Whether the files of a name can be taken up again. `None` for those that have no progress to tell of, an error for
/// those that should have.
fn usable(store: &StoreInner, name: &str) -> Result<Option<Leftover>, String> {
    let Some(parsed) = LeftoverName::parse(name) else { return Ok(None) };
    let [data, outboard, sidecar] = paths(&store.layout, name);
    let (Ok(meta), Ok(data_meta)) = (fs::metadata(&sidecar), fs::metadata(&data)) else { return Ok(None) };
    let noted = Sidecar::read(&sidecar)?;
    if (noted.expected, noted.size) != (parsed.expected, parsed.size) {
        return Err("its progress is that of another blob".to_owned());
    }
    let outboard_bytes = fs::metadata(&outboard).map_or(0, |meta| meta.len());
    if (data_meta.len(), outboard_bytes) != (parsed.size, tree::outboard_bytes(parsed.size)) {
        return Err("its files do not have the right lengths".to_owned());
    }
    let age = meta.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    let used_ms = u64::try_from(age.as_millis()).unwrap_or(0);
    Ok(Some(Leftover { bytes: disk_bytes(&data) + disk_bytes(&outboard), used_ms }))
}

/// Gives up what is too old, and the least recently used beyond the bounds. Returns how many. Blocking.
pub(super) fn enforce(store: &StoreInner) -> u64 {
    let config = &store.config;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let oldest = now.saturating_sub(config.max_leftover_age).as_millis();
    let mut removed = 0;
    while remove_one(store, |_, leftover| u128::from(leftover.used_ms) < oldest) {
        removed += 1;
    }
    let max_bytes =
        config.max_bytes.map_or(u64::MAX, |max| max / LIMIT_DIVISOR).min(config.max_leftover_bytes);
    while (store.partials.idle_count() > config.max_leftovers || store.partials.idle_bytes() > max_bytes)
        && make_room(store)
    {
        removed += 1;
    }
    removed
}

/// Gives up one leftover, the least recently used, to make room. False when there is none. Blocking.
pub(super) fn make_room(store: &StoreInner) -> bool {
    remove_one(store, |_, _| true)
}

/// Gives up all leftovers; returns how many. Blocking.
pub(super) fn clear(store: &StoreInner) -> u64 {
    let mut removed = 0;
    while make_room(store) {
        removed += 1;
    }
    removed
}

/// Gives up what is left of a blob that is held now. Blocking.
pub(super) fn forget(store: &StoreInner, digests: [Digest; 2], size: u64) {
    let names = digests.map(|expected| LeftoverName { expected, size }.to_string());
    while remove_one(store, |name, _| names.iter().any(|known| known == name)) {}
}

fn remove_one(store: &StoreInner, wanted: impl Fn(&str, &Leftover) -> bool) -> bool {
    let Some((name, leftover)) = store.partials.evict(wanted) else { return false };
    remove_files(&store.layout, &name);
    store.partials.forget(&name);
    tracing::debug!(name, bytes = leftover.bytes, "gave up what was left of an unfinished blob");
    true
}

#[cfg(test)]
mod tests {
    use p2p_cache_protocol::{BlobId, Sha256Digest};

    use super::*;

    #[test]
    fn names_round_trip_and_have_one_spelling() {
        for expected in [Digest::Sha256(Sha256Digest([0xab; 32])), Digest::Blake3(BlobId([1; 32]))] {
            let name = LeftoverName { expected, size: 1 << 40 };
            assert_eq!(LeftoverName::parse(&name.to_string()), Some(name));
            assert_eq!(LeftoverName::parse(&name.to_string().to_uppercase()), None);
        }
        let hex = "ab".repeat(32);
        for text in
            ["", "left", &hex, &format!("md5-{hex}-5"), &format!("sha256-{hex}"), &format!("sha256-{hex}-05")]
        {
            assert_eq!(LeftoverName::parse(text), None, "{text}");
        }
    }
}
