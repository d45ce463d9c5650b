//! NARs of real trees, beside those that Nix makes of them.

mod against_nix;
mod faults;
mod shapes;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::{Layout, NarReader, dump};

/// A tree to be, at [`Scene::path`].
pub(super) struct Scene {
    directory: TempDir,
}

impl Scene {
    pub(super) fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory") }
    }

    /// For many directories, which disks are slow to make and to remove.
    pub(super) fn in_memory() -> Self {
        let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        Self { directory: directory.expect("a temporary directory") }
    }

    /// The store path.
    pub(super) fn path(&self) -> PathBuf {
        self.directory.path().join("path")
    }

    /// Writes a file, with the directories above it.
    pub(super) fn file(&self, name: &str, contents: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(&path, contents).expect("a file");
        path
    }

    pub(super) fn reader(&self) -> NarReader {
        open(&self.path())
    }

    pub(super) fn dump(&self) -> Vec<u8> {
        let mut nar = Vec::new();
        dump(&self.path(), &mut nar).expect("dumped");
        nar
    }
}

pub(super) fn open(path: &Path) -> NarReader {
    let layout = Layout::scan(path).expect("scanned");
    NarReader::open(path, Arc::new(layout)).expect("opened")
}

/// Strings as a NAR has them.
pub(super) fn strings(texts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::new();
    for text in texts {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(*text);
        out.resize(out.len().next_multiple_of(8), 0);
    }
    out
}

/// Bytes without a pattern that a wrong offset would hide.
pub(super) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}
