//! What one bao response proves, gathered while it is decoded and written in a few large calls: a call for each group
//! and each hash pair would be more than a hundred for an extent.

use std::fs::File;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileExt;

use p2p_cache_protocol::{GROUP_BYTES, tree};

/// One verified group, still in the response that it came in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Leaf<'e> {
    /// Where it stands in the blob.
    pub(super) offset: u64,
    pub(super) bytes: &'e [u8],
}

impl Leaf<'_> {
    pub(super) fn group(&self) -> u64 {
        self.offset / GROUP_BYTES
    }
}

/// Hash pairs that stand side by side in the outboard.
struct Pairs {
    offset: u64,
    bytes: Vec<u8>,
}

/// Takes what has been verified; bounded by the response, which is an extent at most.
pub(super) struct Batch<'e> {
    /// What of the response the decoder has not passed yet.
    rest: &'e [u8],
    leaves: Vec<Leaf<'e>>,
    pairs: Vec<Pairs>,
}

impl<'e> Batch<'e> {
    pub(super) fn new(encoded: &'e [u8]) -> Self {
        Self { rest: encoded, leaves: Vec::new(), pairs: Vec::new() }
    }

    /// In ascending order.
    pub(super) fn leaves(&self) -> &[Leaf<'e>] {
        &self.leaves
    }

    pub(super) fn write_pairs(&self, outboard: &File) -> io::Result<()> {
        self.pairs.iter().try_for_each(|run| outboard.write_all_at(&run.bytes, run.offset))
    }

    /// The decoder hands over every part of the response once and in order: this is the same part, but it lives as
    /// long as the response.
    fn pass(&mut self, length: usize) -> io::Result<&'e [u8]> {
        let (part, rest) = self.rest.split_at_checked(length).ok_or(io::ErrorKind::UnexpectedEof)?;
        self.rest = rest;
        Ok(part)
    }
}

impl tree::RangeSink for Batch<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let bytes = self.pass(bytes.len())?;
        self.leaves.push(Leaf { offset, bytes });
        Ok(())
    }

    fn parent(&mut self, outboard_offset: u64, pair: &[u8; 64]) -> io::Result<()> {
        self.pass(pair.len())?;
        match self.pairs.last_mut() {
            Some(run) if run.offset + run.bytes.len() as u64 == outboard_offset => run.bytes.extend(pair),
            _ => self.pairs.push(Pairs { offset: outboard_offset, bytes: pair.to_vec() }),
        }
        Ok(())
    }
}

/// Writes leaves that stand side by side.
pub(super) fn write_all_vectored_at(file: &File, leaves: &[Leaf<'_>], mut offset: u64) -> io::Result<()> {
    let mut slices: Vec<_> = leaves.iter().map(|leaf| IoSlice::new(leaf.bytes)).collect();
    let mut rest = &mut slices[..];
    while !rest.is_empty() {
        match rustix::io::pwritev(file, rest, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut rest, written);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leaves_that_stand_side_by_side_arrive_whole() {
        let bytes: Vec<u8> = (0..200_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let file = tempfile::tempfile().expect("a file");
        let leaves: Vec<_> = bytes.chunks(7000).map(|bytes| Leaf { offset: 0, bytes }).collect();
        write_all_vectored_at(&file, &leaves, 11).expect("writes");
        let mut back = vec![0; bytes.len()];
        file.read_exact_at(&mut back, 11).expect("reads");
        assert!(back == bytes);
    }
}
