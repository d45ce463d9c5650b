//! Buffers of response bodies, to be used again: a body has one chunk with the socket and one or two being filled.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Buffers of one body that wait to be used again; with the one being filled and the one with the socket this is what
/// a body may cost in memory.
const MAX_SPARE_BUFFERS: usize = 2;

/// The buffers of one body, zeroed once and not at every use.
#[derive(Default)]
pub(super) struct Buffers {
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Buffers {
    /// A buffer of that length, with whatever it held last.
    pub(super) fn take(&self, length: usize) -> Vec<u8> {
        let mut buffer = self.lock().pop().unwrap_or_default();
        buffer.resize(length, 0);
        buffer
    }

    /// Gives the bytes away; the buffer comes back when the last of them was sent.
    pub(super) fn lend(self: &Arc<Self>, buffer: Vec<u8>) -> Bytes {
        Bytes::from_owner(Lent { buffer, home: Arc::clone(self) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Lent {
    buffer: Vec<u8>,
    home: Arc<Buffers>,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let mut spare = self.home.lock();
        if spare.len() < MAX_SPARE_BUFFERS {
            spare.push(std::mem::take(&mut self.buffer));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_no_more_are_kept_than_the_bound() {
        let buffers = Arc::new(Buffers::default());
        let lent: Vec<_> = (0..5).map(|_| buffers.lend(buffers.take(1000))).collect();
        let place = lent[0].as_ptr();
        drop(lent);
        assert_eq!(buffers.lock().len(), MAX_SPARE_BUFFERS);
        let again: Vec<_> = (0..MAX_SPARE_BUFFERS).map(|_| buffers.take(10)).collect();
        assert!(again.iter().any(|buffer| buffer.as_ptr() == place && buffer.len() == 10));
    }
}
