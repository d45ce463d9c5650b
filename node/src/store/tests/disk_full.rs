//! A full disk, on a small tmpfs. Mounting needs root; without it the tests say so and pass.

use std::path::{Path, PathBuf};
use std::process::Command;

use p2p_cache_protocol::{BlobId, Digest};

use super::support::{Sample, config, stored_bytes, until_empty};
use crate::store::{BlobStore, StoreConfig, StoreError, WriteError};

const MIB: usize = 1024 * 1024;

struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path) -> Option<SmallDisk> {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=40m", "tmpfs"]).arg(at).status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("skipped: cannot mount a tmpfs here");
            return None;
        }
        Some(SmallDisk(at.to_path_buf()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

async fn open(dir: &Path, min_free_bytes: u64) -> BlobStore {
    BlobStore::open(StoreConfig { min_free_bytes, ..config(dir) }).await.unwrap()
}

fn fill(file: &Path) {
    use std::io::Write;
    let mut filler = std::fs::File::create(file).unwrap();
    while filler.write_all(&[1; 4096]).is_ok() {}
}

#[tokio::test]
async fn blobs_that_begin_are_promised_their_room() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(dir.path()) else { return };
    let store = open(dir.path(), 4 * MIB as u64).await;
    let digest = Digest::Blake3(BlobId([1; 32]));
    let huge = store.create_partial(digest, 1 << 30).await;
    assert!(matches!(huge, Err(StoreError::NoSpace { needed_bytes: Some(n), .. }) if n > 1 << 30));

    let (one, two) = (Sample::new(1, 18 * MIB), Sample::new(2, 18 * MIB));
    let partial = store.create_partial(Digest::Sha256(one.sha256), one.size()).await.unwrap();
    for half in [0, 9 * MIB] {
        let second = store.create_partial(digest, two.size()).await;
        assert!(matches!(second, Err(StoreError::NoSpace { .. })), "sparse files take no room yet");
        let put = store.put(Digest::Sha256(two.sha256), two.body(), false).await;
        assert!(matches!(put, Err(StoreError::NoSpace { .. })), "{put:?}");
        partial.write_sequential(half as u64, &one.bytes[half..half + 9 * MIB]).unwrap();
    }
    drop(partial);
    until_empty(&dir.path().join("partial")).await;
    two.put(&store).await;
    assert_eq!(store.inner.partials.promised_bytes.load(std::sync::atomic::Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_disk_that_others_fill_is_a_clear_error_and_leaves_old_blobs_alone() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_disk) = SmallDisk::mount(dir.path()) else { return };
    let store = open(dir.path(), 0).await;
    let (old, new) = (Sample::new(1, MIB), Sample::new(2, 12 * MIB));
    old.put(&store).await;
    let partial = store.create_partial(Digest::Sha256(new.sha256), new.size()).await.unwrap();
    let filler = dir.path().join("filler");
    fill(&filler);
    let written = partial.write_sequential(0, &new.bytes);
    assert!(matches!(written, Err(WriteError::NoSpace(_))), "{written:?}");
    let put = store.put(Digest::Sha256(new.sha256), new.body(), false).await;
    assert!(put.as_ref().is_err_and(StoreError::is_no_space), "{put:?}");
    // The index may or may not get its few bytes; either way nothing is lost.
    let pinned = store.pin(old.id).await;
    assert!(pinned.as_ref().map_or_else(StoreError::is_no_space, |meta| meta.pinned), "{pinned:?}");
    assert_eq!(stored_bytes(&store, old.id).await, Some(old.bytes.clone()));

    // With room again all goes on.
    std::fs::remove_file(filler).unwrap();
    drop(partial);
    until_empty(&dir.path().join("partial")).await;
    let small = Sample::new(3, 5000);
    small.put(&store).await;
    drop(store);
    let store = open(dir.path(), 0).await;
    new.put(&store).await;
    assert_eq!(store.verify(|_| ()).await.unwrap().bad, Vec::new());
    assert_eq!(stored_bytes(&store, old.id).await.unwrap(), old.bytes);
    assert_eq!(stored_bytes(&store, small.id).await.unwrap(), small.bytes);
}
