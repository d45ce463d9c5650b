//! One pass over the NAR of a store path: SHA-256, which Nix noted, and the BLAKE3 tree, which peers want.

use std::io::{self, Write};
use std::path::Path;

use p2p_cache_protocol::{BlobId, OutboardBuilder, Sha256Digest};

use crate::nix_store::nar::{self, NarError};
use crate::nix_store::outboards::{NewOutboard, Outboards, Sink};
use crate::sha256::Sha256;

/// How a pass ended.
pub(super) enum Outcome {
    /// The bytes are those that Nix noted; their outboard is finished and not in its place yet.
    Right { blob: BlobId, outboard: NewOutboard },
    /// They are not, or cannot be read.
    Wrong { reason: String, remedy: Option<&'static str> },
    /// The path, or a part of it, is not there.
    Gone,
    /// It was time to stop.
    Stopped,
}

/// What is said of damage.
const REPAIR: &str = "run nix-store --verify-path, and nix-store --repair-path if it confirms the damage";

/// Hashes the NAR of `path`, which is said to have `size` bytes and the hash `expected`. Memory: about 1 MiB, and the
/// layout of the tree. `each` is told of the bytes that went by, and stops the pass by `false`.
///
/// # Errors
/// Only those of writing the outboard.
pub(super) fn hash(
    path: &Path,
    size: u64,
    expected: Sha256Digest,
    outboards: &Outboards,
    each: impl FnMut(usize) -> bool,
) -> io::Result<Outcome> {
    let (outboard, tree) = outboards.create(size)?;
    let mut tee = Tee { sha256: Sha256::default(), tree, left: size, each, end: None };
    match nar::dump(path, &mut tee) {
        Ok(_) => {}
        Err(NarError::Write { error }) => {
            return match tee.end {
                Some(End::Stopped) => Ok(Outcome::Stopped),
                Some(End::TooLong) => Ok(damaged(format!("its NAR is longer than {size} bytes"))),
                None => Err(error),
            };
        }
        Err(error) if error.is_gone() => return Ok(Outcome::Gone),
        Err(error @ (NarError::TooMany { .. } | NarError::TooLong { .. })) => {
            return Ok(Outcome::Wrong { reason: error.to_string(), remedy: None });
        }
        Err(error) => return Ok(damaged(error.to_string())),
    }
    if tee.left > 0 {
        return Ok(damaged(format!("its NAR has {} bytes, not {size}", size - tee.left)));
    }
    let actual = tee.sha256.finish();
    if actual != expected {
        return Ok(damaged(format!("its NAR has the hash sha256:{actual}, not sha256:{expected}")));
    }
    Ok(Outcome::Right { blob: tee.tree.finish()?, outboard })
}

fn damaged(reason: String) -> Outcome {
    Outcome::Wrong { reason, remedy: Some(REPAIR) }
}

/// Takes the NAR; ends it early when it is too long or when it is time to stop.
struct Tee<F> {
    sha256: Sha256,
    tree: OutboardBuilder<Sink>,
    left: u64,
    each: F,
    end: Option<End>,
}

enum End {
    Stopped,
    TooLong,
}

impl<F: FnMut(usize) -> bool> Write for Tee<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(left) = self.left.checked_sub(bytes.len() as u64) else {
            self.end = Some(End::TooLong);
            return Err(io::ErrorKind::InvalidData.into());
        };
        self.left = left;
        self.sha256.update(bytes);
        self.tree.write_all(bytes)?;
        if !(self.each)(bytes.len()) {
            self.end = Some(End::Stopped);
            return Err(io::Error::other("stopped"));
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
