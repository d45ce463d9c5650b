//! The file beside a partial blob that says which of its groups are present.
//!
//! It is written at most once a second and when a fetch ends without the blob, into another file that is then renamed,
//! and never synced: it is a hint. Groups that came with their path in the hash tree are checked against it again
//! before they count. Groups of an origin, which only the hash of the whole can check, count when the machine has not
//! been started anew since: what was written before the sidecar was is in the page cache then, whatever killed the
//! process. All numbers are little-endian; a BLAKE3 hash of everything before it ends the file.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::OnceLock;

use p2p_cache_protocol::{BlobId, Digest, GroupRange, GroupSet, Sha256Digest, tree};

use crate::store::leftovers::{UNFINISHED_SUFFIX, with_suffix};

const MAGIC: &[u8; 8] = b"p2pcpar1";
const HASH_BYTES: usize = 32;
/// A blob in so many pieces that its sidecar would be longer is not taken up again. One million runs.
const MAX_SIDECAR_BYTES: usize = 16 * 1024 * 1024;

/// This start of the machine, or zeros where the system does not tell.
pub(in crate::store) type Boot = [u8; 16];

/// What is known of an unfinished blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct Sidecar {
    pub(in crate::store) expected: Digest,
    pub(in crate::store) size: u64,
    /// The root that verified groups were checked against.
    pub(in crate::store) root: Option<BlobId>,
    pub(in crate::store) boot: Boot,
    /// Groups that came with their path in the hash tree.
    pub(in crate::store) verified: GroupSet,
    /// Groups that only the hash of the whole can check.
    pub(in crate::store) unproven: GroupSet,
}

/// This start of the machine.
pub(in crate::store) fn this_boot() -> Boot {
    static BOOT: OnceLock<Boot> = OnceLock::new();
    *BOOT.get_or_init(|| {
        let id = fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let hash = blake3::hash(&id);
        let known = !id.is_empty();
        hash.as_bytes().first_chunk().filter(|_| known).copied().unwrap_or_default()
    })
}

impl Sidecar {
    /// Whether what this process could have written before is still what the files hold.
    pub(in crate::store) fn is_of_this_boot(&self) -> bool {
        self.boot == this_boot() && self.boot != Boot::default()
    }

    /// Replaces the file at `path`, in one step for whoever reads it. Blocking.
    pub(in crate::store) fn write(&self, path: &Path) -> io::Result<()> {
        let bytes = self.encode();
        if bytes.len() > MAX_SIDECAR_BYTES {
            return Err(io::Error::other("the blob is in too many pieces"));
        }
        let unfinished = with_suffix(path, UNFINISHED_SUFFIX);
        fs::write(&unfinished, bytes)?;
        fs::rename(&unfinished, path)
    }

    /// Reads a file that [`Sidecar::write`] wrote; the error says what is wrong with it. Blocking.
    pub(in crate::store) fn read(path: &Path) -> Result<Sidecar, String> {
        let length = fs::metadata(path).map_err(|error| error.to_string())?.len();
        if length > MAX_SIDECAR_BYTES as u64 {
            return Err(format!("its progress file of {length} bytes is too long"));
        }
        let bytes = fs::read(path).map_err(|error| error.to_string())?;
        Sidecar::decode(&bytes).ok_or_else(|| "its progress file is damaged".to_owned())
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        let (kind, digest) = match self.expected {
            Digest::Sha256(digest) => (0, digest.0),
            Digest::Blake3(blob) => (1, blob.0),
        };
        out.push(kind);
        out.extend_from_slice(&digest);
        out.extend_from_slice(&self.size.to_le_bytes());
        out.push(u8::from(self.root.is_some()));
        out.extend_from_slice(&self.root.unwrap_or(BlobId([0; 32])).0);
        out.extend_from_slice(&self.boot);
        for set in [&self.verified, &self.unproven] {
            let runs: Vec<GroupRange> = set.present().collect();
            out.extend_from_slice(&(runs.len() as u64).to_le_bytes());
            for run in runs {
                out.extend_from_slice(&run.start.to_le_bytes());
                out.extend_from_slice(&run.end.to_le_bytes());
            }
        }
        let hash = blake3::hash(&out);
        out.extend_from_slice(hash.as_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Sidecar> {
        let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH_BYTES)?)?;
        if blake3::hash(body).as_bytes() != hash {
            return None;
        }
        let mut reader = Reader(body.strip_prefix(MAGIC)?);
        let expected = match (reader.array::<1>()?, reader.array()?) {
            ([0], digest) => Digest::Sha256(Sha256Digest(digest)),
            ([1], digest) => Digest::Blake3(BlobId(digest)),
            _ => return None,
        };
        let size = reader.number()?;
        let root = match (reader.array::<1>()?, reader.array()?) {
            ([0], _) => None,
            ([1], root) => Some(BlobId(root)),
            _ => return None,
        };
        let boot = reader.array()?;
        GroupRange::all(size).check(size).ok()?;
        let (verified, unproven) = (reader.groups(size)?, reader.groups(size)?);
        reader.0.is_empty().then_some(Sidecar { expected, size, root, boot, verified, unproven })
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn groups(&mut self, size: u64) -> Option<GroupSet> {
        let mut set = GroupSet::new(tree::group_count(size));
        for _ in 0..self.number()? {
            let range = GroupRange { start: self.number()?, end: self.number()? };
            range.check(size).ok()?;
            set.insert(range);
        }
        Some(set)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sidecar() -> impl Strategy<Value = Sidecar> {
        let runs = || proptest::collection::vec((0..500u64, 0..40u64), 0..20);
        (any::<bool>(), any::<[u8; 32]>(), 0..8_000_000u64, any::<Option<[u8; 32]>>(), runs(), runs())
            .prop_map(|(blake3, digest, size, root, verified, unproven)| {
                let set = |runs: Vec<(u64, u64)>| {
                    let mut set = GroupSet::new(tree::group_count(size));
                    for (start, len) in runs {
                        set.insert(GroupRange { start, end: start + len });
                    }
                    set
                };
                let expected = if blake3 {
                    Digest::Blake3(BlobId(digest))
                } else {
                    Digest::Sha256(Sha256Digest(digest))
                };
                let (verified, unproven) = (set(verified), set(unproven));
                Sidecar { expected, size, root: root.map(BlobId), boot: this_boot(), verified, unproven }
            })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_any_damage_is_noticed(
            sidecar in sidecar(), at in any::<prop::sample::Index>(), cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = sidecar.encode();
            prop_assert_eq!(Sidecar::decode(&bytes), Some(sidecar));
            prop_assert_eq!(Sidecar::decode(&bytes[..cut.index(bytes.len())]), None);
            let at = at.index(bytes.len());
            bytes[at] ^= 0x10;
            prop_assert_eq!(Sidecar::decode(&bytes), None);
        }

        #[test]
        fn garbage_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(Sidecar::decode(&bytes), None);
            // With a right hash the contents are looked at all the same.
            let mut sealed = MAGIC.to_vec();
            sealed.extend_from_slice(&bytes);
            let hash = blake3::hash(&sealed);
            sealed.extend_from_slice(hash.as_bytes());
            if let Some(read) = Sidecar::decode(&sealed) {
                prop_assert!(read.verified.len() <= read.verified.count());
            }
        }
    }
}
