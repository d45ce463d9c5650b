//! Store paths as NARs, without writing them anywhere: any range of the bytes that `nix-store --dump` would write.
//!
//! [`Layout`] says where in the NAR each file, symlink and directory of a store path begins; it is made by one walk
//! that reads no contents. [`NarReader`] answers positioned reads with it: the framing is made up as it is needed,
//! contents are read from the files. [`dump`] writes the whole.
//!
//! The tree may change or vanish at any time, through garbage collection for one. Files are only ever `read`, never
//! mapped; they are opened one path component at a time, without following symlinks, and what was read counts only
//! if type, length and modification time of the file are still those of the walk. The bytes themselves can only be
//! proved by their hash, which is up to the caller.
//!
//! All of it blocks.

mod descriptors;
mod error;
mod framing;
mod layout;
mod reader;
mod scan;
#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

pub use error::NarError;
pub use layout::{Layout, MAX_ENTRIES, MAX_TEXT_BYTES};
pub use reader::{MAX_DESCRIPTORS, NarReader, NarStream};

/// What [`dump`] reads and writes at a time; also what it costs in memory, beside the [`Layout`].
const DUMP_BUFFER_BYTES: usize = 1 << 20;

/// Writes the NAR of `path`, in pieces of at most 1 MiB, and returns its length in bytes.
///
/// # Errors
/// As [`Layout::scan`] and [`NarReader`]; [`NarError::Write`] for those of `out`.
pub fn dump(path: &Path, out: &mut impl Write) -> Result<u64, NarError> {
    let reader = NarReader::open(path, Arc::new(Layout::scan(path)?))?;
    let size = reader.size();
    let mut buffer = vec![0; size.min(DUMP_BUFFER_BYTES as u64) as usize];
    let mut written = 0;
    while written < size {
        let read = reader.fill(written, &mut buffer)?;
        out.write_all(&buffer[..read]).map_err(|error| NarError::Write { error })?;
        written += read as u64;
    }
    Ok(size)
}
