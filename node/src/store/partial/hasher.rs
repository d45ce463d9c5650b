//! SHA-256 of a growing prefix.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex};

use p2p_cache_protocol::Sha256Digest;

use crate::sha256::Sha256;
use crate::store::inner::lock;

/// Bytes hashed in one turn on a blocking thread: about 5 ms.
pub(super) const SLICE_BYTES: u64 = 8 * 1024 * 1024;
/// Less than this is not worth a turn until the blob is complete.
pub(super) const MIN_SLICE_BYTES: u64 = 1024 * 1024;
/// Bytes read at once.
const BUFFER_BYTES: usize = 256 * 1024;

/// The hash so far. Turns are taken one after the other; the state outlives a caller that stops waiting.
#[derive(Debug, Default)]
pub(super) struct PrefixHasher {
    /// Held by the caller that drives the hash.
    pub(super) turn: tokio::sync::Mutex<()>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    sha256: Sha256,
    offset: u64,
}

impl PrefixHasher {
    /// Bytes hashed so far.
    pub(super) fn offset(&self) -> u64 {
        lock(&self.state).offset
    }

    /// A closure for a blocking thread that hashes on to `end`.
    pub(super) fn slice(&self, end: u64) -> impl FnOnce(&File) -> io::Result<()> + Send + 'static {
        let state = self.state.clone();
        move |file| lock(&state).advance(file, end)
    }

    /// The digest, once all bytes have been hashed.
    pub(super) fn digest(&self) -> Sha256Digest {
        lock(&self.state).sha256.clone().finish()
    }
}

impl State {
    fn advance(&mut self, file: &File, end: u64) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        while self.offset < end {
            let want = usize::try_from(end - self.offset).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
            let read = file.read_at(&mut buffer[..want], self.offset)?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.sha256.update(&buffer[..read]);
            self.offset += read as u64;
        }
        Ok(())
    }
}
