//! Writing into a partial blob.
//!
//! Bytes of a present group never change again: readers may have sent them on and the SHA-256 may have passed them.
//! All writes go through one lock for each blob (the kernel serialises writes to one file anyway), so that "not yet
//! present, write, mark present" is one step.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileExt;

use p2p_cache_protocol::{BlobId, GROUP_BYTES, GroupRange, tree};

use super::PartialBlob;
use super::batch::{Batch, Leaf, write_all_vectored_at};
use crate::store::error::WriteError;
use crate::store::inner::lock;

/// Groups begun but not finished by sequential writers that are remembered: one for each writer is enough.
const MAX_OPEN_GROUPS: usize = 16;

/// What sequential writers have begun: for a group, the offset up to which it is filled from its start.
#[derive(Debug, Default)]
pub(super) struct SequentialFill {
    filled_to: BTreeMap<u64, u64>,
    /// Set when the files were left for another fetch, which may be writing to them already.
    closed: bool,
}

impl SequentialFill {
    /// No byte is written from now on.
    pub(super) fn close(&mut self) {
        self.closed = true;
    }

    fn check_open(&self) -> io::Result<()> {
        if self.closed { Err(io::Error::other("the fetch was left for another time")) } else { Ok(()) }
    }

    /// Notes bytes `start..end` of a group; true when the group is whole now.
    fn note(&mut self, group: u64, start: u64, end: u64, whole: &std::ops::Range<u64>) -> bool {
        let filled = self.filled_to.get(&group).copied().unwrap_or(whole.start);
        if start > filled {
            // A gap before these bytes: they cannot count until somebody writes the group from its start.
            return false;
        }
        let filled = filled.max(end);
        if filled >= whole.end {
            self.filled_to.remove(&group);
            return true;
        }
        if self.filled_to.len() >= MAX_OPEN_GROUPS && !self.filled_to.contains_key(&group) {
            self.filled_to.pop_first();
        }
        self.filled_to.insert(group, filled);
        false
    }
}

impl PartialBlob {
    /// Verifies a bao response against `blob` and stores what is new of it. Blocking: call it on a blocking thread.
    /// Groups before a corrupt one are kept.
    ///
    /// # Errors
    /// [`WriteError::Corrupt`] and [`WriteError::WrongLength`] are the sender's fault; the others are ours.
    pub fn write_groups(&self, blob: BlobId, range: GroupRange, encoded: &[u8]) -> Result<(), WriteError> {
        self.check_writable()?;
        let inner = &*self.inner;
        if range.end > inner.progress.group_count() || range.start > range.end {
            return Err(out_of_range(inner.size, range));
        }
        self.set_blob_id(blob)?;
        let mut batch = Batch::new(encoded);
        let result = tree::decode_range(blob, inner.size, range, encoded, &mut batch);
        // What was verified is kept, whatever came behind it; the hash pairs first, for whoever reads the groups.
        let stored = self.store_pairs(&batch).map_err(|e| WriteError::io(&inner.temp.outboard, e));
        let stored = stored.and_then(|()| {
            self.store_verified(batch.leaves()).map_err(|e| WriteError::io(&inner.temp.data, e))
        });
        inner.progress.notify();
        self.note_progress();
        self.check_writable()?;
        stored?;
        result.map_err(|error| match error {
            tree::DecodeError::Corrupt { group } => WriteError::Corrupt { blob, group },
            tree::DecodeError::Truncated { got, expected, .. }
            | tree::DecodeError::TooLong { got, expected } => WriteError::WrongLength { blob, got, expected },
            tree::DecodeError::Range(_) => out_of_range(inner.size, range),
            tree::DecodeError::Sink(source) => WriteError::io(&inner.temp.data, source),
        })
    }

    /// Stores bytes that only the hash of the whole can check (an origin's). Groups that are present already are
    /// skipped; a group counts as present when it has been written whole. Blocking.
    ///
    /// # Errors
    /// [`WriteError::OutOfRange`] past the end of the blob; otherwise the disk's.
    pub fn write_sequential(&self, offset: u64, bytes: &[u8]) -> Result<(), WriteError> {
        self.check_writable()?;
        let inner = &*self.inner;
        let end = offset.saturating_add(bytes.len() as u64);
        if end > inner.size {
            return Err(WriteError::OutOfRange { start: offset, end, size: inner.size });
        }
        let mut at = offset;
        let mut rest = bytes;
        let mut result = Ok(());
        while !rest.is_empty() {
            let group = at / GROUP_BYTES;
            let group_end = (group + 1).saturating_mul(GROUP_BYTES);
            let length = usize::try_from(group_end - at).unwrap_or(usize::MAX).min(rest.len());
            let (now, later) = rest.split_at(length);
            result = self.write_part_of_group(group, at, now);
            if result.is_err() {
                break;
            }
            at += length as u64;
            rest = later;
        }
        inner.progress.notify();
        self.note_progress();
        self.check_writable()?;
        result.map_err(|e| WriteError::io(&inner.temp.data, e))
    }

    fn write_part_of_group(&self, group: u64, at: u64, bytes: &[u8]) -> io::Result<()> {
        let inner = &*self.inner;
        let mut fill = lock(&inner.write);
        fill.check_open()?;
        if inner.progress.has_group(group) {
            fill.filled_to.remove(&group);
            return Ok(());
        }
        inner.data.write_all_at(bytes, at)?;
        let start = group * GROUP_BYTES;
        let whole = start..start.saturating_add(GROUP_BYTES).min(inner.size);
        if fill.note(group, at, at + bytes.len() as u64, &whole) {
            inner.progress.insert(group, false);
            inner.temp.fulfil(whole.end - whole.start);
        }
        Ok(())
    }

    fn store_pairs(&self, batch: &Batch<'_>) -> io::Result<()> {
        let fill = lock(&self.inner.write);
        fill.check_open()?;
        batch.write_pairs(&self.inner.outboard)
    }

    /// Stores verified groups, each run of new ones in one call; checks that bytes that are there already are the same.
    fn store_verified(&self, leaves: &[Leaf<'_>]) -> io::Result<()> {
        let inner = &*self.inner;
        let mut present = Vec::new();
        {
            let mut fill = lock(&inner.write);
            fill.check_open()?;
            let is_new = |leaf: &Leaf<'_>| !inner.progress.has_group(leaf.group());
            for run in leaves.chunk_by(|a, b| is_new(a) && is_new(b) && a.group() + 1 == b.group()) {
                let (Some(first), Some(last)) = (run.first(), run.last()) else { continue };
                if !is_new(first) {
                    present.push(*first);
                    continue;
                }
                write_all_vectored_at(&inner.data, run, first.offset)?;
                fill.filled_to.retain(|group, _| *group < first.group() || *group > last.group());
                inner.progress.insert_range(GroupRange { start: first.group(), end: last.group() + 1 }, true);
                inner.temp.fulfil(run.iter().map(|leaf| leaf.bytes.len() as u64).sum());
            }
        }
        present.iter().try_for_each(|leaf| self.compare_present(leaf))
    }

    fn compare_present(&self, leaf: &Leaf<'_>) -> io::Result<()> {
        let (inner, group) = (&*self.inner, leaf.group());
        if inner.progress.is_verified(GroupRange { start: group, end: group + 1 }) {
            return Ok(());
        }
        let mut present = vec![0; leaf.bytes.len()];
        inner.data.read_exact_at(&mut present, leaf.offset)?;
        if present == leaf.bytes {
            inner.progress.insert(group, true);
        } else {
            // Either the origin or the claimed tree is wrong; the hash of the whole decides. The bytes that
            // readers may have seen stay.
            tracing::warn!(group, "verified bytes differ from the origin's: kept the first");
        }
        Ok(())
    }

    fn check_writable(&self) -> Result<(), WriteError> {
        self.failure().map_or(Ok(()), |reason| Err(WriteError::Aborted(reason)))
    }
}

fn out_of_range(size: u64, range: GroupRange) -> WriteError {
    let [start, end] = [range.start, range.end].map(|group| group.saturating_mul(GROUP_BYTES));
    WriteError::OutOfRange { start, end, size }
}
