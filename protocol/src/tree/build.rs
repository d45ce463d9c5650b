//! Making an outboard while the bytes go by.

use std::io::{self, Write};

use bao_tree::io::sync::WriteAt;

use super::encode::check;
use super::geometry::{first_chunk, group_count, pre_order_index};
use super::hashes::{group_hash, parent_hash};
use super::{GROUP_BYTES, PAIR_BYTES};
use crate::digest::BlobId;
use crate::groups::GroupRange;

const GROUP: usize = GROUP_BYTES as usize;
const PAIR: usize = PAIR_BYTES as usize;
/// Groups of a subtree whose hash pairs, which stand side by side, are written at once. A power of two.
const BATCH_GROUPS: u64 = 64;
const BATCH_BYTES: usize = BATCH_GROUPS as usize * PAIR;

/// The hash of a finished subtree, and its first group.
struct Subtree {
    start: u64,
    hash: [u8; 32],
}

/// Hashes a blob of known size that is written to it in pieces, and writes the outboard as
/// [`create_outboard`](super::create_outboard) does. Memory: one group and 4 KiB, whatever the size.
///
/// ```
/// use std::io::Write;
/// use p2p_cache_protocol::{BlobId, tree::OutboardBuilder};
///
/// let mut builder = OutboardBuilder::new(5, Vec::new())?;
/// builder.write_all(b"hel")?;
/// builder.write_all(b"lo")?;
/// assert_eq!(builder.finish()?, BlobId::of(b"hello"));
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct OutboardBuilder<W> {
    size: u64,
    groups: u64,
    /// The group that is being filled, and its number.
    group: Vec<u8>,
    current: u64,
    /// Finished subtrees that wait for their right neighbours, the largest first.
    left: Vec<Subtree>,
    batch: Vec<u8>,
    outboard: W,
}

impl<W: WriteAt> OutboardBuilder<W> {
    /// For a blob of `size` bytes, whose outboard goes to `outboard`.
    ///
    /// # Errors
    /// `InvalidInput` when no blob can be so large.
    pub fn new(size: u64, outboard: W) -> io::Result<Self> {
        check(size, GroupRange::default())?;
        let groups = group_count(size);
        let group = Vec::with_capacity(GROUP);
        Ok(Self { size, groups, group, current: 0, left: Vec::new(), batch: vec![0; BATCH_BYTES], outboard })
    }

    /// The root, once all bytes have been written.
    ///
    /// # Errors
    /// `UnexpectedEof` when some are missing, and what writing the outboard yields.
    pub fn finish(mut self) -> io::Result<BlobId> {
        if self.current < self.groups {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.outboard.flush()?;
        Ok(self.left.pop().map_or_else(|| BlobId::of(&[]), |root| BlobId(root.hash)))
    }

    /// Bytes that the current group lacks; none when the blob is complete.
    fn missing(&self) -> usize {
        let end = ((self.current + 1) * GROUP_BYTES).min(self.size);
        let start = (self.current * GROUP_BYTES).min(end);
        (end - start) as usize - self.group.len()
    }

    /// Takes the hash of the current group, and joins the subtrees that it completes.
    fn close_group(&mut self, hash: [u8; 32]) -> io::Result<()> {
        self.left.push(Subtree { start: self.current, hash });
        self.current += 1;
        let is_last = self.current == self.groups;
        let joins =
            if is_last { self.left.len() - 1 } else { self.current.trailing_zeros().min(63) as usize };
        for _ in 0..joins {
            self.join()?;
        }
        if is_last || self.current.is_multiple_of(BATCH_GROUPS) {
            self.write_batch()?;
        }
        Ok(())
    }

    fn join(&mut self) -> io::Result<()> {
        let (Some(right), Some(left)) = (self.left.pop(), self.left.pop()) else { return Ok(()) };
        let (start, end) = (left.start, self.current);
        let mut pair = [0; PAIR];
        pair[..32].copy_from_slice(&left.hash);
        pair[32..].copy_from_slice(&right.hash);
        let index = pre_order_index(self.groups, start, end);
        if end - start <= BATCH_GROUPS {
            let (first, last) = self.batch_span();
            let at = (index - pre_order_index(self.groups, first, last)) as usize * PAIR;
            self.batch[at..at + PAIR].copy_from_slice(&pair);
        } else {
            self.outboard.write_all_at(index * PAIR_BYTES, &pair)?;
        }
        let hash = parent_hash(&left.hash, &right.hash, (start, end) == (0, self.groups));
        self.left.push(Subtree { start, hash });
        Ok(())
    }

    /// The groups of the batch that the last closed group belongs to.
    fn batch_span(&self) -> (u64, u64) {
        let first = (self.current - 1) / BATCH_GROUPS * BATCH_GROUPS;
        (first, (first + BATCH_GROUPS).min(self.groups))
    }

    fn write_batch(&mut self) -> io::Result<()> {
        let (first, last) = self.batch_span();
        if last - first < 2 {
            return Ok(());
        }
        let bytes = (last - first - 1) as usize * PAIR;
        let offset = pre_order_index(self.groups, first, last) * PAIR_BYTES;
        self.outboard.write_all_at(offset, &self.batch[..bytes])
    }
}

impl<W: WriteAt> Write for OutboardBuilder<W> {
    /// Fails with `InvalidData` when there are more bytes than the blob has.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let missing = self.missing();
            if missing == 0 {
                let reason = format!("more than the {} bytes of the blob", self.size);
                return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
            }
            let (piece, after) = rest.split_at(missing.min(rest.len()));
            rest = after;
            let (start, is_root) = (first_chunk(self.current), self.groups == 1);
            let hash = if piece.len() < missing {
                self.group.extend_from_slice(piece);
                continue;
            } else if self.group.is_empty() {
                group_hash(start, piece, is_root)
            } else {
                self.group.extend_from_slice(piece);
                let hash = group_hash(start, &self.group, is_root);
                self.group.clear();
                hash
            };
            self.close_group(hash)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tree::{check_outboard, create_outboard, outboard_bytes};

    fn bytes(size: usize) -> Vec<u8> {
        let mut data = vec![0; size];
        blake3::Hasher::new().update(&size.to_le_bytes()).finalize_xof().fill(&mut data);
        data
    }

    /// Root and outboard of what is written in pieces of these lengths, over and over.
    fn build(data: &[u8], pieces: &[usize]) -> (BlobId, Vec<u8>) {
        let mut outboard = vec![0; outboard_bytes(data.len() as u64) as usize];
        let mut builder = OutboardBuilder::new(data.len() as u64, &mut outboard[..]).unwrap();
        let (mut rest, mut lengths) = (data, pieces.iter().cycle());
        while !rest.is_empty() {
            let (piece, after) = rest.split_at((*lengths.next().unwrap()).min(rest.len()));
            builder.write_all(piece).unwrap();
            rest = after;
        }
        (builder.finish().unwrap(), outboard)
    }

    #[test]
    fn outboards_around_every_boundary_are_those_that_are_made_from_the_whole() {
        let boundaries = [0, 1, 2, 3, 4, 5, 63, 64, 65, 66, 127, 128, 129, 192, 200, 257];
        for groups in boundaries {
            for size in [(groups * GROUP).saturating_sub(1), groups * GROUP, groups * GROUP + 1] {
                let data = bytes(size);
                let mut outboard = vec![0; outboard_bytes(size as u64) as usize];
                let id = create_outboard(&data[..], size as u64, &mut outboard[..]).unwrap();
                assert!(build(&data, &[GROUP]) == (id, outboard), "{size} bytes");
            }
        }
    }

    #[test]
    fn too_many_and_too_few_bytes_are_errors() {
        let mut builder = OutboardBuilder::new(GROUP_BYTES + 1, vec![0; 64]).unwrap();
        builder.write_all(&[1; GROUP + 1]).unwrap();
        assert_eq!(builder.write(&[1]).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let mut builder = OutboardBuilder::new(GROUP_BYTES + 2, vec![0; 64]).unwrap();
        builder.write_all(&[1; GROUP + 1]).unwrap();
        assert_eq!(builder.finish().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_the_bytes_come(
            size in 0..70 * GROUP,
            pieces in proptest::collection::vec(1..3 * GROUP, 1..8),
        ) {
            let data = bytes(size);
            prop_assert!(build(&data, &pieces) == build(&data, &[usize::MAX]));
        }

        #[test]
        fn any_damaged_bit_of_an_outboard_is_found(groups in 2..200usize, at: proptest::sample::Index, bit in 0..8) {
            let data = bytes(groups * GROUP - 5);
            let (id, mut outboard) = build(&data, &[usize::MAX]);
            check_outboard(id, data.len() as u64, &outboard[..]).unwrap();
            let cut = &outboard[..outboard.len() - 1];
            prop_assert!(check_outboard(id, data.len() as u64, cut).is_err());
            let at = at.index(outboard.len());
            outboard[at] ^= 1u8 << bit;
            let error = check_outboard(id, data.len() as u64, &outboard[..]).unwrap_err();
            prop_assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }
}
