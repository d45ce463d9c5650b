//! Large buffers that are used again. A fresh one costs page faults and zeroing, for every byte that passes through.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// Lends buffers. The one that came back last is lent first: it is most likely still in the processor's cache.
pub(crate) struct BufferPool {
    spare: Mutex<Vec<Vec<u8>>>,
    max_spare: usize,
}

impl BufferPool {
    /// Keeps at most `max_spare` buffers that nobody uses.
    pub(crate) fn new(max_spare: usize) -> Arc<Self> {
        Arc::new(Self { spare: Mutex::default(), max_spare })
    }

    /// A buffer of `length` bytes, with anything in them.
    pub(crate) fn take(self: &Arc<Self>, length: usize) -> Buffer {
        let spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut bytes = spare.unwrap_or_default();
        if bytes.len() < length {
            bytes.resize(length, 0);
        }
        Buffer { bytes, length, pool: Arc::clone(self) }
    }

    fn give_back(&self, bytes: Vec<u8>) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < self.max_spare {
            spare.push(bytes);
        }
    }
}

/// A lent buffer; goes back when dropped.
pub(crate) struct Buffer {
    /// Never shortened, so that nothing is zeroed twice.
    bytes: Vec<u8>,
    length: usize,
    pool: Arc<BufferPool>,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.bytes.get_mut(..self.length).unwrap_or_default()
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.give_back(std::mem::take(&mut self.bytes));
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("length", &self.length).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_and_no_more_are_kept_than_the_bound() {
        let pool = BufferPool::new(2);
        let lent: Vec<_> = (0..5).map(|_| pool.take(1000)).collect();
        let place = lent[0].as_ptr();
        drop(lent);
        assert_eq!(pool.spare.lock().unwrap().len(), 2);
        let again: Vec<_> = (0..2).map(|_| pool.take(10)).collect();
        assert!(again.iter().any(|buffer| buffer.as_ptr() == place && buffer.len() == 10));
    }

    #[test]
    fn a_buffer_that_was_short_can_be_long_again() {
        let pool = BufferPool::new(1);
        drop(pool.take(10));
        assert_eq!(pool.take(1 << 20).len(), 1 << 20);
        assert_eq!(pool.take(3).len(), 3);
        assert_eq!(pool.take(100)[..], [0; 100]);
    }
}
