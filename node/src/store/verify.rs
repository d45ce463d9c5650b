//! Reading everything back: SHA-256, BLAKE3 and outboard of every blob.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use p2p_cache_protocol::{BlobId, Sha256Digest, WriteAt, tree};

use super::blob;
use super::error::StoreError;
use super::index::BlobRecord;
use super::inner::StoreInner;
use super::outboard::{FromStart, READ_BYTES};
use crate::sha256::Sha256;

/// How often the caller hears of progress while one blob is being read.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// How far a verification is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Blobs read to the end.
    pub blobs: u64,
    /// Blobs in the store when the run began.
    pub total_blobs: u64,
    /// Bytes of blobs read.
    pub bytes: u64,
    /// Bytes of blobs and outboards in the store when the run began.
    pub total_bytes: u64,
}

/// The outcome of a verification.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Blobs read to the end.
    pub blobs: u64,
    /// Bytes of blobs read.
    pub bytes: u64,
    /// Blobs that were damaged; they have been removed.
    pub bad: Vec<BadBlob>,
}

/// A damaged blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadBlob {
    /// Its name in the store.
    pub id: BlobId,
    /// Its other name.
    pub sha256: Sha256Digest,
    /// The length that it should have.
    pub size: u64,
    /// What is wrong, in words.
    pub problem: String,
}

/// Sets the flag when the caller stops waiting, so that the reading thread stops soon after.
struct CancelOnDrop(Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Reads every blob back. `progress` is called after each blob and a few times a second.
pub(super) async fn verify(
    store: &Arc<StoreInner>,
    mut progress: impl FnMut(VerifyProgress) + Send,
) -> Result<VerifyReport, StoreError> {
    let mut at = VerifyProgress {
        total_blobs: store.totals.blobs.load(Ordering::Relaxed),
        total_bytes: store.totals.bytes.load(Ordering::Relaxed),
        ..VerifyProgress::default()
    };
    let cancelled = Arc::new(AtomicBool::new(false));
    let _cancel = CancelOnDrop(cancelled.clone());
    let read = Arc::new(AtomicU64::new(0));
    let mut report = VerifyReport::default();
    for shard in 0..=u8::MAX {
        let listing = store.clone();
        let blobs = store
            .blocking
            .short("listing blobs", move || listing.index.shard(shard).collect::<Result<Vec<_>, _>>())
            .await?;
        for (id, record) in blobs {
            let Some(record) = record else { continue };
            let (owned, cancelled, counter) = (store.clone(), cancelled.clone(), read.clone());
            let checking = store
                .blocking
                .long("verify", move || check_and_remove(&owned, id, &record, &cancelled, &counter));
            tokio::pin!(checking);
            let bad = loop {
                tokio::select! {
                    result = &mut checking => break result?,
                    () = tokio::time::sleep(PROGRESS_INTERVAL) => {
                        at.bytes = read.load(Ordering::Relaxed);
                        progress(at);
                    }
                }
            };
            at.blobs += 1;
            at.bytes = read.load(Ordering::Relaxed);
            progress(at);
            report.bad.extend(bad);
        }
    }
    (report.blobs, report.bytes) = (at.blobs, at.bytes);
    if !report.bad.is_empty() {
        store.index.flush().await?;
    }
    Ok(report)
}

fn check_and_remove(
    store: &StoreInner,
    id: BlobId,
    record: &BlobRecord,
    cancelled: &AtomicBool,
    read: &AtomicU64,
) -> Result<Option<BadBlob>, StoreError> {
    let files = blob::open_files(store, id, record)?;
    let problem = match &files {
        None => Some("data or outboard is missing or has a wrong length".to_string()),
        Some((data, outboard)) => match check(data, outboard, id, record, cancelled, read) {
            Ok(problem) => problem,
            Err(e) if cancelled.load(Ordering::Relaxed) => {
                return Err(StoreError::io("cannot verify", &store.layout.data(id, record.sha256), e));
            }
            // A file that the disk can no longer read is as lost as one with wrong bytes.
            Err(e) => Some(format!("cannot be read: {e}")),
        },
    };
    let Some(problem) = problem else { return Ok(None) };
    let _shard = store.lock_shard(id.0[0]);
    if store.index.get(id)?.is_none() || !same_file(store, id, record, files.as_ref())? {
        // Evicted, or committed anew, while we read.
        return Ok(None);
    }
    tracing::error!(blob = %id, sha256 = %record.sha256, size = record.size, problem, "damaged blob removed");
    store.remove_locked(id, record)?;
    Ok(Some(BadBlob { id, sha256: record.sha256, size: record.size, problem }))
}

/// True when the files that were judged are still those in place.
fn same_file(
    store: &StoreInner,
    id: BlobId,
    record: &BlobRecord,
    judged: Option<&(File, File)>,
) -> Result<bool, StoreError> {
    let now = blob::open_files(store, id, record)?;
    Ok(match (judged, &now) {
        (None, None) => true,
        (Some((data, outboard)), Some((data_now, outboard_now))) => {
            same_inode(data, data_now) && same_inode(outboard, outboard_now)
        }
        (Some(_), None) => true,
        (None, Some(_)) => false,
    })
}

fn same_inode(a: &File, b: &File) -> bool {
    match (a.metadata(), b.metadata()) {
        (Ok(a), Ok(b)) => (a.dev(), a.ino()) == (b.dev(), b.ino()),
        _ => false,
    }
}

/// One pass over the data for both hashes and the comparison of the outboard. Returns what is wrong.
fn check(
    data: &File,
    outboard: &File,
    id: BlobId,
    record: &BlobRecord,
    cancelled: &AtomicBool,
    read: &AtomicU64,
) -> io::Result<Option<String>> {
    let mut tee = Tee { inner: FromStart::new(data), sha256: Sha256::default(), cancelled, read };
    let mut compare = CompareOutboard { outboard, differs: false };
    let reader = BufReader::with_capacity(READ_BYTES, &mut tee);
    let actual_id = tree::create_outboard(reader, record.size, &mut compare)?;
    let actual_sha256 = tee.sha256.finish();
    Ok(if actual_id != id {
        Some(format!("its bytes hash to blake3:{actual_id}"))
    } else if actual_sha256 != record.sha256 {
        Some(format!("its bytes hash to sha256:{actual_sha256}, not sha256:{}", record.sha256))
    } else if compare.differs {
        Some("its outboard does not match its bytes".to_string())
    } else {
        None
    })
}

/// Hashes what passes, counts it, and stops when the caller is gone.
struct Tee<'a> {
    inner: FromStart<'a>,
    sha256: Sha256,
    cancelled: &'a AtomicBool,
    read: &'a AtomicU64,
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::other("verification was cancelled"));
        }
        let length = self.inner.read(buffer)?;
        self.sha256.update(&buffer[..length]);
        self.read.fetch_add(length as u64, Ordering::Relaxed);
        Ok(length)
    }
}

/// Compares instead of writing, so that no second outboard is ever held.
struct CompareOutboard<'a> {
    outboard: &'a File,
    differs: bool,
}

impl WriteAt for CompareOutboard<'_> {
    fn write_at(&mut self, position: u64, bytes: &[u8]) -> io::Result<usize> {
        let mut there = vec![0; bytes.len()];
        match FileExt::read_exact_at(self.outboard, &mut there, position) {
            Ok(()) => self.differs |= there != bytes,
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => self.differs = true,
            Err(e) => return Err(e),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
