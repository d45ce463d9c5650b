//! How a fetch ends without its blob: left for another time, or removed. And the notes that make the first possible
//! after a kill.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::sidecar::{Sidecar, this_boot};
use super::{Inner, PartialBlob};
use crate::store::inner::lock;
use crate::store::temp_files::{TempFiles, off_worker};

/// Progress is noted at most this often while bytes arrive. A kill costs what came since.
const SAVE_INTERVAL: Duration = Duration::from_secs(1);

/// Notes progress from time to time.
#[derive(Debug)]
pub(super) struct Saver {
    last: Instant,
}

impl Saver {
    pub(super) fn new() -> Self {
        Saver { last: Instant::now() }
    }

    /// Time passes for a test.
    #[cfg(test)]
    pub(super) fn make_due(&mut self) {
        self.last = self.last.checked_sub(SAVE_INTERVAL).unwrap_or(self.last);
    }
}

impl PartialBlob {
    /// Notes what is present if that was not done lately. Blocking.
    pub(super) fn note_progress(&self) {
        let inner = &*self.inner;
        let Some(path) = &inner.temp.sidecar else { return };
        // Whoever holds it notes progress, or ends the write.
        let Ok(mut saver) = inner.saver.try_lock() else { return };
        if saver.last.elapsed() < SAVE_INTERVAL || inner.temp.is_ended() {
            return;
        }
        saver.last = Instant::now();
        if let Err(error) = inner.noted().write(path) {
            tracing::debug!(%error, file = %path.display(), "cannot note the progress of a fetch");
        }
    }

    /// Gives the fetch up for now: writers and readers get an error that says `reason`, waiting ones at once, and what
    /// has arrived is left for the next fetch of this blob. Does nothing to a blob that has been committed.
    pub fn suspend(&self, reason: impl Into<Arc<str>>) {
        self.end(reason.into(), |inner| inner.leave());
    }

    /// Gives the fetch up: writers and readers get an error that says `reason`, waiting ones at once, and the files
    /// are removed. Does nothing to a blob that has been committed.
    pub fn abort(&self, reason: impl Into<Arc<str>>) {
        self.end(reason.into(), |inner| inner.temp.remove());
    }

    fn end(&self, reason: Arc<str>, finish: impl FnOnce(&Inner) + Send + 'static) {
        // First of all: whoever tries again because of the failure is to wait for the files.
        if !self.inner.temp.settle() {
            return;
        }
        self.inner.progress.fail(reason);
        let inner = self.inner.clone();
        off_worker(move || {
            let sealed = lock(&inner.sealed);
            if sealed.is_none() {
                finish(&inner);
            }
        });
    }
}

impl Inner {
    /// What is present now.
    fn noted(&self) -> Sidecar {
        let (verified, unproven) = self.progress.by_proof();
        let root = *lock(&self.blob);
        Sidecar { expected: self.expected, size: self.size, root, boot: this_boot(), verified, unproven }
    }

    /// Leaves the files for another fetch. Blocking.
    fn leave(&self) {
        // Groups are written under this lock: when it has been closed the files do not change any more.
        lock(&self.write).close();
        let _saver = lock(&self.saver);
        leave(&self.temp, &self.noted());
    }
}

/// Notes the progress and leaves the files, or removes them when there is nothing to gain.
fn leave(temp: &TempFiles, noted: &Sidecar) {
    let worth = !(noted.verified.is_empty() && noted.unproven.is_empty());
    let Some(path) = temp.sidecar.as_ref().filter(|_| worth && temp.data.exists()) else {
        return temp.remove();
    };
    match noted.write(path) {
        Ok(()) => temp.suspend(),
        Err(error) => {
            tracing::warn!(%error, file = %path.display(), "cannot note what has arrived of a blob: discarded");
            temp.remove();
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The files of a fresh write go with it.
        if !self.taken_up || self.spoiled.load(Ordering::SeqCst) || !self.temp.settle() {
            return;
        }
        let (temp, noted) = (self.temp.clone(), self.noted());
        off_worker(move || leave(&temp, &noted));
    }
}
