//! Hash trees of files, through shared handles: positioned reads and writes only.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;

use p2p_cache_protocol::{BlobId, WriteAt, tree};

/// Bytes read at once when a whole blob is hashed.
pub(super) const READ_BYTES: usize = 256 * 1024;

/// Hashes the first `size` bytes of `data` and writes their outboard. Memory: [`READ_BYTES`].
pub(super) fn build(data: &File, size: u64, outboard: &File) -> io::Result<BlobId> {
    outboard.set_len(tree::outboard_bytes(size))?;
    let reader = BufReader::with_capacity(READ_BYTES, FromStart::new(data));
    tree::create_outboard(reader, size, Shared(outboard))
}

/// Reads a file from its start, leaving the shared file position alone.
pub(super) struct FromStart<'a> {
    file: &'a File,
    offset: u64,
}

impl<'a> FromStart<'a> {
    pub(super) fn new(file: &'a File) -> Self {
        FromStart { file, offset: 0 }
    }
}

impl Read for FromStart<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// A file that is written through a shared reference.
struct Shared<'a>(&'a File);

impl WriteAt for Shared<'_> {
    fn write_at(&mut self, position: u64, bytes: &[u8]) -> io::Result<usize> {
        self.0.write_at(bytes, position)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
