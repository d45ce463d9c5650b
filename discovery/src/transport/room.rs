//! A buffer that bytes go into at the end and out of at the front, large while it is busy and small when it is not.

use std::io;

/// The longest record that a peer may send, header included: plaintext and what encryption may add to it.
pub(super) const MAX_RECORD_BYTES: usize = 5 + 16 * 1024 + 256;
/// Size of the buffer of a quiet connection, in bytes: a whole record fits.
const MIN_BYTES: usize = MAX_RECORD_BYTES;
/// Size up to which it grows while the socket fills it; what one busy connection costs in memory, each way.
const MAX_READ_BYTES: usize = 256 * 1024;
/// After so many short uses in a row, a large buffer is given back.
const QUIET_USES: u32 = 64;

/// See the module's documentation. Costs nothing before its first use.
#[derive(Debug, Default)]
pub(super) struct Room {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
    quiet_uses: u32,
}

impl Room {
    pub(super) fn filled(&self) -> &[u8] {
        self.bytes.get(self.start..self.end).unwrap_or_default()
    }

    pub(super) fn filled_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.start..self.end).unwrap_or_default()
    }

    /// Forgets bytes at the front.
    pub(super) fn consume(&mut self, length: usize) {
        self.start = (self.start + length).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Moves bytes from the front `into` a buffer, as many as fit.
    pub(super) fn take(&mut self, into: &mut [u8]) -> usize {
        let length = self.filled().len().min(into.len());
        into[..length].copy_from_slice(&self.filled()[..length]);
        self.consume(length);
        if self.end == 0 {
            self.note_use(length);
        }
        length
    }

    /// Room for what the socket has: more each time it was filled to the end.
    pub(super) fn room_for_reading(&mut self) -> &mut [u8] {
        let was_full = self.end == self.bytes.len();
        self.move_to_front();
        if self.bytes.is_empty() {
            self.bytes.resize(MIN_BYTES, 0);
        } else if was_full && self.end > 0 && self.bytes.len() < MAX_READ_BYTES {
            self.bytes.resize((2 * self.bytes.len()).min(MAX_READ_BYTES), 0);
        }
        &mut self.bytes[self.end..]
    }

    /// So many bytes were put into that room.
    pub(super) fn was_read(&mut self, length: usize) {
        let alone = self.end == 0;
        self.end = (self.end + length).min(self.bytes.len());
        if alone {
            self.note_use(length);
        }
    }

    /// Appends what `fill` writes to the room that it is given: `expected` bytes at first, and as many as it asks for
    /// if that is too little.
    pub(super) fn append(
        &mut self,
        expected: usize,
        mut fill: impl FnMut(&mut [u8]) -> io::Result<Result<usize, usize>>,
    ) -> io::Result<()> {
        let mut needed = expected;
        loop {
            self.make_room(needed);
            match fill(&mut self.bytes[self.end..])? {
                Ok(written) => {
                    self.end = (self.end + written).min(self.bytes.len());
                    self.note_use(written);
                    return Ok(());
                }
                Err(required) if required > self.bytes.len() - self.end => needed = required,
                Err(_) => return Err(io::ErrorKind::InvalidData.into()),
            }
        }
    }

    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.make_room(bytes.len());
        self.bytes[self.end..self.end + bytes.len()].copy_from_slice(bytes);
        self.end += bytes.len();
    }

    fn make_room(&mut self, length: usize) {
        if self.bytes.len() - self.end < length {
            self.move_to_front();
        }
        if self.bytes.len() - self.end < length {
            self.bytes.resize(self.end + length, 0);
        }
    }

    fn move_to_front(&mut self) {
        if self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    /// Gives a large buffer back that has been used for little for some time.
    fn note_use(&mut self, length: usize) {
        self.quiet_uses = if length < MIN_BYTES / 2 { self.quiet_uses.saturating_add(1) } else { 0 };
        if self.quiet_uses >= QUIET_USES && self.bytes.len() > MIN_BYTES && self.end <= MIN_BYTES {
            self.bytes.truncate(MIN_BYTES.max(self.end));
            self.bytes.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(room: &mut Room, bytes: &[u8]) -> usize {
        let place = room.room_for_reading();
        let length = place.len().min(bytes.len());
        place[..length].copy_from_slice(&bytes[..length]);
        room.was_read(length);
        length
    }

    #[test]
    fn it_grows_while_it_is_filled_and_shrinks_when_it_is_quiet() {
        let mut room = Room::default();
        let bytes = vec![7; 2 * MAX_READ_BYTES];
        for _ in 0..20 {
            read(&mut room, &bytes);
            room.consume(usize::MAX);
        }
        assert!(room.bytes.len() <= MAX_READ_BYTES);
        for _ in 0..=QUIET_USES {
            read(&mut room, &bytes[..100]);
            room.consume(100);
        }
        assert_eq!(room.bytes.len(), MIN_BYTES);
    }

    #[test]
    fn a_record_that_needs_more_room_than_was_expected_gets_it() {
        let mut room = Room::default();
        room.extend(b"before");
        room.append(3, |place| Ok(if place.len() < 10_000 { Err(10_000) } else { Ok(10_000) })).unwrap();
        assert_eq!((room.filled().len(), &room.filled()[..6]), (10_006, &b"before"[..]));
        assert!(room.append(3, |_| Ok(Err(0))).is_err());
    }

    proptest! {
        #[test]
        fn bytes_leave_in_the_order_in_which_they_came(steps in prop::collection::vec((0..3_u8, 0..20_000_usize), 0..20)) {
            let (mut room, mut wanted) = (Room::default(), Vec::new());
            for (number, (step, length)) in steps.into_iter().enumerate() {
                let bytes = vec![number as u8; length];
                match step {
                    0 => {
                        let taken = read(&mut room, &bytes);
                        wanted.extend_from_slice(&bytes[..taken]);
                    }
                    1 => {
                        room.extend(&bytes);
                        wanted.extend_from_slice(&bytes);
                    }
                    _ => {
                        let mut into = vec![0; length];
                        let got = room.take(&mut into);
                        prop_assert!(got == length.min(wanted.len()));
                        prop_assert!(wanted[..got] == into[..got]);
                        wanted.drain(..got);
                    }
                }
                prop_assert!(room.filled() == wanted);
            }
        }
    }
}
