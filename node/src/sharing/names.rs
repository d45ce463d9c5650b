//! The names of all that may be shared, in memory. A question about anything else is refused without a look at the disk:
//! what is private is not in the table, just like what is not held, so that both take the same steps and the same time,
//! however many questions are asked at once.

use std::collections::HashSet;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use p2p_cache_protocol::{BlobId, Digest, Sha256Digest, StoreHash};
use tokio::sync::Notify;

/// Names beyond twice those of the last listing, at which everything is listed again: those of what has gone meanwhile
/// are forgotten then. One takes about 20 bytes.
const MAX_STALE_NAMES: usize = 256 * 1024;

/// The first bytes of a digest or of the hash of a store path. Two with the same name are a look at the disk in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Name(u64);

impl Name {
    fn of(digest: &[u8]) -> Self {
        Self(digest.first_chunk().map_or(0, |first| u64::from_le_bytes(*first)))
    }
}

impl From<StoreHash> for Name {
    fn from(hash: StoreHash) -> Self {
        Self::of(hash.as_bytes())
    }
}

impl From<Sha256Digest> for Name {
    fn from(digest: Sha256Digest) -> Self {
        Self::of(&digest.0)
    }
}

impl From<BlobId> for Name {
    fn from(blob: BlobId) -> Self {
        Self::of(&blob.0)
    }
}

impl From<Digest> for Name {
    fn from(digest: Digest) -> Self {
        match digest {
            Digest::Sha256(digest) => digest.into(),
            Digest::Blake3(blob) => blob.into(),
        }
    }
}

/// The table. Until everything that is held was listed once, anything may be in it.
#[derive(Debug, Default)]
pub struct PublicNames {
    table: RwLock<Table>,
    outdated: Notify,
}

#[derive(Debug, Default)]
struct Table {
    names: HashSet<Name>,
    /// Added since a listing began, which may have missed them.
    young: Option<HashSet<Name>>,
    listed: Option<usize>,
}

impl Table {
    fn is_overgrown(&self) -> bool {
        self.listed.is_some_and(|listed| self.names.len() > 2 * listed + MAX_STALE_NAMES)
    }
}

impl PublicNames {
    /// Whether something that may be shared can have this name.
    pub(super) fn may_have(&self, name: Name) -> bool {
        let table = self.read();
        table.listed.is_none() || table.names.contains(&name)
    }

    pub(super) fn add(&self, names: impl IntoIterator<Item = Name>) {
        let mut table = self.write();
        for name in names {
            table.names.insert(name);
            if let Some(young) = &mut table.young {
                young.insert(name);
            }
        }
        if table.is_overgrown() {
            self.outdated.notify_one();
        }
    }

    /// Everything that is held is about to be listed; what comes meanwhile is kept whether or not the listing has it.
    pub fn begin_listing(&self) {
        self.write().young = Some(HashSet::new());
    }

    /// These are all. From now on nothing else is looked for.
    pub fn end_listing(&self, mut listed: HashSet<Name>) {
        let mut table = self.write();
        listed.extend(table.young.take().into_iter().flatten());
        table.listed = Some(listed.len());
        table.names = listed;
    }

    /// What may be shared has changed.
    pub(super) fn are_outdated(&self) {
        self.outdated.notify_one();
    }

    /// Resolves when everything should be listed again: what may be shared has changed, or there are too many names of
    /// what has gone.
    pub async fn outdated(&self) {
        self.outdated.notified().await;
    }

    /// How many names there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().names.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: u64) -> Name {
        Name(number)
    }

    #[test]
    fn until_everything_was_listed_anything_may_be_there() {
        let names = PublicNames::default();
        names.add([name(1)]);
        assert!(names.may_have(name(1)) && names.may_have(name(2)));
        names.begin_listing();
        assert!(names.may_have(name(2)));
        names.end_listing(HashSet::from([name(3)]));
        assert!(names.may_have(name(3)) && !names.may_have(name(2)));
        assert!(!names.may_have(name(1)), "listed as gone");
        names.add([name(2)]);
        assert!(names.may_have(name(2)));
    }

    #[test]
    fn what_comes_during_a_listing_stays() {
        let names = PublicNames::default();
        names.end_listing(HashSet::new());
        names.begin_listing();
        names.add([name(1)]);
        names.end_listing(HashSet::from([name(2)]));
        assert!(names.may_have(name(1)) && names.may_have(name(2)));
    }

    #[tokio::test]
    async fn names_of_what_has_gone_are_bounded() {
        let names = PublicNames::default();
        names.end_listing((0..10).map(name).collect());
        names.add((10..20).map(name));
        let patience = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(patience, names.outdated()).await.is_err());
        names.add((20..MAX_STALE_NAMES as u64 + 21).map(name));
        names.outdated().await;
        names.begin_listing();
        names.end_listing((0..10).map(name).collect());
        assert_eq!(names.len(), 10);
    }

    #[test]
    fn the_names_of_a_blob_and_of_a_path_are_their_first_bytes() {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&7_u64.to_le_bytes());
        assert_eq!(Name::from(BlobId(bytes)), Name(7));
        assert_eq!(Name::from(Digest::Sha256(Sha256Digest(bytes))), Name(7));
        assert_eq!(Name::from(StoreHash::from(*bytes.first_chunk().unwrap())), Name(7));
    }
}
