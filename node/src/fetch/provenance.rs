//! Which source brought which part of a blob: nothing is decided by it, people look at it.

use std::ops::Range;

use p2p_cache_discovery::PeerId;

/// Pieces that a blob is shown in.
const PIECES: u64 = 64;
/// Sources that are told apart; what others bring is added to the last one's.
const MAX_CONTRIBUTORS: usize = 128;

/// Where bytes come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contributor {
    /// An earlier fetch left them.
    Disk,
    /// An origin sent them.
    Origin,
    /// A peer did, as a holder or as the leader of our site.
    Peer(PeerId),
}

/// The history of one transfer.
#[derive(Debug)]
pub struct Provenance {
    size: u64,
    contributors: Vec<(Contributor, u64)>,
    pieces: [Option<u16>; PIECES as usize],
}

impl Provenance {
    /// Nothing has come of a blob of `size` bytes.
    pub(super) fn new(size: u64) -> Self {
        Self { size, contributors: Vec::new(), pieces: [None; PIECES as usize] }
    }

    pub(super) fn record(&mut self, contributor: Contributor, bytes: Range<u64>) {
        if self.size == 0 || bytes.is_empty() {
            return;
        }
        let index = self.index_of(contributor);
        if let Some((_, total)) = self.contributors.get_mut(index) {
            *total += bytes.end - bytes.start;
        }
        let (first, last) = (self.piece_of(bytes.start), self.piece_of(bytes.end - 1));
        if let Some(pieces) = self.pieces.get_mut(first..=last) {
            pieces.fill(u16::try_from(index).ok());
        }
    }

    /// Who brought how many bytes.
    #[must_use]
    pub fn contributors(&self) -> &[(Contributor, u64)] {
        &self.contributors
    }

    /// For each of 64 pieces of equal length, the index of the contributor that brought the last part of it.
    #[must_use]
    pub fn pieces(&self) -> &[Option<u16>] {
        &self.pieces
    }

    fn index_of(&mut self, contributor: Contributor) -> usize {
        match self.contributors.iter().position(|(known, _)| *known == contributor) {
            Some(index) => index,
            None if self.contributors.len() < MAX_CONTRIBUTORS => {
                self.contributors.push((contributor, 0));
                self.contributors.len() - 1
            }
            None => MAX_CONTRIBUTORS - 1,
        }
    }

    fn piece_of(&self, byte: u64) -> usize {
        let piece = u128::from(byte) * u128::from(PIECES) / u128::from(self.size.max(1));
        usize::try_from(piece).unwrap_or(usize::MAX).min(PIECES as usize - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_piece_names_who_brought_it_last_and_bytes_add_up() {
        let peer = Contributor::Peer(PeerId::random());
        let mut provenance = Provenance::new(6400);
        provenance.record(Contributor::Disk, 0..100);
        provenance.record(peer, 100..3200);
        provenance.record(Contributor::Origin, 3100..3200);
        provenance.record(peer, 3200..3200);
        assert_eq!(
            provenance.contributors(),
            [(Contributor::Disk, 100), (peer, 3100), (Contributor::Origin, 100)]
        );
        let pieces = provenance.pieces();
        assert_eq!(
            (pieces[0], pieces[1], pieces[30], pieces[31], pieces[32]),
            (Some(0), Some(1), Some(1), Some(2), None)
        );
    }

    #[test]
    fn strange_sizes_and_crowds_are_no_trouble() {
        let mut empty = Provenance::new(0);
        empty.record(Contributor::Origin, 0..1);
        assert!(empty.contributors().is_empty());
        let mut huge = Provenance::new(u64::MAX);
        huge.record(Contributor::Origin, u64::MAX - 2..u64::MAX);
        assert_eq!(huge.pieces()[63], Some(0));
        for _ in 0..2 * MAX_CONTRIBUTORS {
            huge.record(Contributor::Peer(PeerId::random()), 0..1);
        }
        assert_eq!(huge.contributors().len(), MAX_CONTRIBUTORS);
    }
}
