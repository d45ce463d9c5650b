//! Beginning a partial blob, with what an earlier fetch of it left.

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use p2p_cache_protocol::{BlobId, Digest, GROUP_BYTES, GroupSet, tree};

use super::ending::Saver;
use super::hasher::PrefixHasher;
use super::progress::Progress;
use super::reverify::reverify;
use super::sidecar::Sidecar;
use super::{Inner, PartialBlob};
use crate::store::error::StoreError;
use crate::store::evict;
use crate::store::inner::StoreInner;
use crate::store::temp_files::TempFiles;

/// Groups of a leftover are hashed for this long before the fetch goes on without the rest; a client waits for it. A
/// slow disk of 200 MB/s has 1 GB checked by then.
const MAX_RECHECK: Duration = Duration::from_secs(5);

/// A partial blob, or the files from which it is to be made.
#[derive(Debug)]
pub(in crate::store) enum Begun {
    Fresh(PartialBlob),
    Leftover(Leftover),
}

/// What an earlier fetch left, before it was looked at.
#[derive(Debug)]
pub(in crate::store) struct Leftover {
    store: Arc<StoreInner>,
    temp: TempFiles,
    expected: Digest,
    size: u64,
}

/// The files of a partial blob and what they hold.
struct Contents {
    data: File,
    outboard: File,
    blob: Option<BlobId>,
    verified: GroupSet,
    unproven: GroupSet,
}

impl PartialBlob {
    /// Makes the sparse files, unless an earlier fetch left some. Blocking, for a short time.
    pub(in crate::store) fn begin(
        store: &Arc<StoreInner>,
        expected: Digest,
        size: u64,
    ) -> Result<Begun, StoreError> {
        evict::check_limit(store, size)?;
        let (temp, left) = TempFiles::for_blob(store, expected, size)?;
        let leftover = Leftover { store: store.clone(), temp, expected, size };
        if left { Ok(Begun::Leftover(leftover)) } else { leftover.start_afresh().map(Begun::Fresh) }
    }

    /// [`PartialBlob::begin`] and all that follows from it.
    #[cfg(test)]
    pub(super) fn create(
        store: &Arc<StoreInner>,
        expected: Digest,
        size: u64,
    ) -> Result<PartialBlob, StoreError> {
        match PartialBlob::begin(store, expected, size)? {
            Begun::Fresh(partial) => Ok(partial),
            Begun::Leftover(leftover) => leftover.take_up(),
        }
    }

    fn of(leftover: Leftover, contents: Contents, taken_up: bool) -> PartialBlob {
        let Leftover { store, temp, expected, size } = leftover;
        let progress = Progress::new(size);
        progress.insert_set(&contents.verified, true);
        progress.insert_set(&contents.unproven, false);
        progress.notify();
        PartialBlob {
            inner: Arc::new(Inner {
                store,
                temp: Arc::new(temp),
                data: Arc::new(contents.data),
                outboard: contents.outboard,
                expected,
                size,
                blob: Mutex::new(contents.blob),
                write: Mutex::default(),
                progress,
                hasher: PrefixHasher::default(),
                saver: Mutex::new(Saver::new()),
                taken_up,
                kept_unproven: !contents.unproven.is_empty(),
                spoiled: AtomicBool::new(false),
                sealed: Mutex::new(None),
                committed: tokio::sync::Mutex::new(None),
            }),
        }
    }
}

impl Leftover {
    /// Checks the files and goes on with what is right of them; begins anew when nothing can be used. Blocking, for
    /// [`MAX_RECHECK`] and a little.
    pub(in crate::store) fn take_up(self) -> Result<PartialBlob, StoreError> {
        let contents = match self.look() {
            Ok(contents) => contents,
            Err(problem) => {
                let (digest, size_bytes) = (self.expected, self.size);
                tracing::warn!(%digest, size_bytes, problem, "what was left of a blob cannot be used: discarded");
                self.temp.clear();
                return self.start_afresh();
            }
        };
        let groups = contents.verified.len() + contents.unproven.len();
        let present = groups.saturating_mul(GROUP_BYTES).min(self.size);
        if let Err(error) = self.promise(present) {
            // There may be room another time.
            if self.temp.settle() {
                self.temp.suspend();
            }
            return Err(error);
        }
        tracing::info!(
            digest = %self.expected, present_bytes = present, size_bytes = self.size, "taking up an unfinished blob again"
        );
        Ok(PartialBlob::of(self, contents, true))
    }

    fn start_afresh(self) -> Result<PartialBlob, StoreError> {
        self.promise(0)?;
        let contents = Contents {
            data: create_sparse(&self.temp.data, self.size)?,
            outboard: create_sparse(&self.temp.outboard, tree::outboard_bytes(self.size))?,
            blob: self.asked_for(),
            verified: GroupSet::new(tree::group_count(self.size)),
            unproven: GroupSet::new(tree::group_count(self.size)),
        };
        Ok(PartialBlob::of(self, contents, false))
    }

    /// Sets room aside for what is still to be written.
    fn promise(&self, present_bytes: u64) -> Result<(), StoreError> {
        self.temp.promise(self.size.saturating_add(tree::outboard_bytes(self.size)));
        self.temp.fulfil(present_bytes);
        evict::check_free(&self.store, 0)
    }

    fn asked_for(&self) -> Option<BlobId> {
        match self.expected {
            Digest::Blake3(id) => Some(id),
            Digest::Sha256(_) => None,
        }
    }

    /// Opens the files and finds out which groups may be used; the error says what is wrong with all of them.
    fn look(&self) -> Result<Contents, String> {
        let path = self.temp.sidecar.as_ref().ok_or("it has no progress file")?;
        let noted = Sidecar::read(path)?;
        if (noted.expected, noted.size) != (self.expected, self.size) {
            return Err("its progress is that of another blob".to_owned());
        }
        let asked_for = self.asked_for();
        if asked_for.is_some() && noted.root != asked_for {
            return Err("its groups were checked against another blob".to_owned());
        }
        let data = open(&self.temp.data, self.size)?;
        let outboard = open(&self.temp.outboard, tree::outboard_bytes(self.size))?;
        let none = GroupSet::new(tree::group_count(self.size));
        let verified = match noted.root {
            Some(root) => self.recheck(&data, &outboard, root, &noted.verified),
            None => none.clone(),
        };
        let unproven = if noted.is_of_this_boot() { noted.unproven } else { none };
        // A root of which nothing was kept binds nobody.
        let blob = noted.root.filter(|_| !verified.is_empty()).or(asked_for);
        Ok(Contents { data, outboard, blob, verified, unproven })
    }

    fn recheck(&self, data: &File, outboard: &File, root: BlobId, claimed: &GroupSet) -> GroupSet {
        let deadline = Instant::now() + MAX_RECHECK;
        let checked = reverify(data, outboard, root, self.size, claimed, deadline);
        let digest = self.expected;
        if checked.damaged > 0 {
            tracing::warn!(
                %digest, groups = checked.damaged, "chunk groups of an unfinished blob were damaged on disk: fetched again"
            );
        }
        if !checked.finished {
            tracing::warn!(%digest, "the disk is too slow to check all of an unfinished blob: the rest is fetched again");
        }
        checked.good
    }
}

fn open(path: &Path, length: u64) -> Result<File, String> {
    let failed = |error: std::io::Error| format!("cannot open {}: {error}", path.display());
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(failed)?;
    let actual = file.metadata().map_err(failed)?.len();
    if actual == length {
        Ok(file)
    } else {
        Err(format!("{} has {actual} bytes instead of {length}", path.display()))
    }
}

fn create_sparse(path: &Path, length: u64) -> Result<File, StoreError> {
    let failed = |e| StoreError::io("cannot create", path, e);
    let file = OpenOptions::new().read(true).write(true).create_new(true).open(path).map_err(failed)?;
    file.set_len(length).map_err(failed)?;
    Ok(file)
}
