//! Positioned reads of a NAR that is nowhere written.

use std::io::{self, Read};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use p2p_cache_protocol::tree::ReadAt;
use rustix::fs;
use rustix::io::{Errno, pread};

use super::descriptors::Descriptors;
pub use super::descriptors::MAX_DESCRIPTORS;
use super::error::NarError;
use super::framing::{Kind, fill_tail, write_header};
use super::layout::{Layout, Parts};
use super::scan::FileState;
use crate::system::read_cached;

/// Room for the header of an entry with a usual name.
const HEADER_BYTES: usize = 512;

/// The NAR of a store path, for positioned reads by any number of threads.
///
/// Holds at most [`MAX_DESCRIPTORS`] descriptors. Errors are [`NarError`]s in an [`io::Error`]; after one the reader can
/// be used on, for the parts that are still as they were.
#[derive(Debug)]
pub struct NarReader {
    path: PathBuf,
    layout: Arc<Layout>,
    descriptors: Descriptors,
}

impl NarReader {
    /// A reader of the tree at `path`, of which `layout` was made.
    ///
    /// # Errors
    /// When the root is not there any more, or not a directory any more.
    pub fn open(path: &Path, layout: Arc<Layout>) -> Result<Self, NarError> {
        let descriptors = Descriptors::open(path, &layout)?;
        Ok(Self { path: path.to_owned(), layout, descriptors })
    }

    /// Length of the NAR in bytes.
    pub fn size(&self) -> u64 {
        self.layout.size()
    }

    /// The store path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where everything is.
    pub fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Fills `buffer` with the bytes from `offset` on; fewer than it takes only at the end of the NAR. Blocks.
    ///
    /// # Errors
    /// [`NarError::Changed`] and [`NarError::Io`], as an [`io::Error`].
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.fill(offset, buffer)?)
    }

    /// Fills all of `buffer`. Blocks.
    ///
    /// # Errors
    /// As [`Self::read_at`], and `UnexpectedEof` when the NAR ends before.
    pub fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        if self.read_at(offset, buffer)? == buffer.len() {
            return Ok(());
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }

    /// Reads what can be had without waiting for the disk and without opening a file: contents of one open file that
    /// are in the page cache. 0 when that is nothing.
    ///
    /// # Errors
    /// As [`Self::read_at`].
    pub fn read_cached_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if offset >= self.size() {
            return Ok(0);
        }
        let index = self.layout.locate(offset);
        let Some((from, length)) = self.contents(index, offset) else { return Ok(0) };
        let length = length.min(buffer.len() as u64) as usize;
        let Some(file) = self.descriptors.open_file(index) else { return Ok(0) };
        let read = read_cached(&file, &mut buffer[..length], from)
            .map_err(|error| NarError::io("read", self.path_of(index), error))?;
        self.check(index, &file)?;
        Ok(read)
    }

    /// How many bytes from `offset` on are contents of one file that is open: 0 elsewhere. Does not block.
    pub fn open_bytes(&self, offset: u64) -> u64 {
        if offset >= self.size() {
            return 0;
        }
        let index = self.layout.locate(offset);
        match self.contents(index, offset) {
            Some((_, length)) if self.descriptors.open_file(index).is_some() => length,
            _ => 0,
        }
    }

    /// Reads the NAR from its start to its end.
    pub fn stream(&self) -> NarStream<'_> {
        NarStream { reader: self, position: 0 }
    }

    /// When `offset` is in the contents of the file `index`: where in the file, and how many bytes it has from there on.
    fn contents(&self, index: u32, offset: u64) -> Option<(u64, u64)> {
        let Parts { contents, tail, .. } = self.layout.parts(index);
        let is_file = matches!(self.layout.entry(index).kind, Kind::File | Kind::Executable);
        (is_file && (contents..tail).contains(&offset)).then(|| (offset - contents, tail - offset))
    }

    /// [`Self::read_at`] with its error as it is.
    pub(super) fn fill(&self, offset: u64, buffer: &mut [u8]) -> Result<usize, NarError> {
        let wanted = self.size().saturating_sub(offset).min(buffer.len() as u64) as usize;
        let mut index = self.layout.locate(offset);
        let mut filled = 0;
        while filled < wanted {
            filled += self.fill_from(index, offset + filled as u64, &mut buffer[filled..wanted])?;
            index += 1;
        }
        Ok(wanted)
    }

    /// Fills `out` with the bytes from `offset` on that belong to the entry `index`; returns how many those are.
    fn fill_from(&self, index: u32, offset: u64, out: &mut [u8]) -> Result<usize, NarError> {
        let Parts { header, contents, tail, end } = self.layout.parts(index);
        let mut out = Pieces { out, offset, filled: 0 };
        if let Some((skip, piece)) = out.next(header..contents) {
            self.fill_header(index, skip as usize, piece);
        }
        if let Some((skip, piece)) = out.next(contents..tail) {
            self.fill_contents(index, skip, piece)?;
        }
        if let Some((skip, piece)) = out.next(tail..end) {
            let size = tail - contents;
            fill_tail(piece, size.next_multiple_of(8) - size, skip);
        }
        Ok(out.filled)
    }

    fn fill_header(&self, index: u32, skip: usize, out: &mut [u8]) {
        let entry = self.layout.entry(index);
        let mut header = Vec::with_capacity(HEADER_BYTES);
        write_header(&mut header, self.layout.name(index), entry.kind, entry.size);
        out.copy_from_slice(&header[skip..skip + out.len()]);
    }

    fn fill_contents(&self, index: u32, skip: u64, out: &mut [u8]) -> Result<(), NarError> {
        match self.layout.entry(index).kind {
            Kind::File | Kind::Executable => self.read_file(index, skip, out),
            Kind::Symlink | Kind::Directory => {
                let start = skip as usize;
                out.copy_from_slice(&self.layout.target(index)[start..start + out.len()]);
                Ok(())
            }
        }
    }

    /// Fills `out` from a file.
    fn read_file(&self, index: u32, mut from: u64, mut out: &mut [u8]) -> Result<(), NarError> {
        let file = self.descriptors.file(&self.path, &self.layout, index)?;
        while !out.is_empty() {
            match pread(&file, &mut *out, from) {
                Ok(0) => break,
                Ok(read) => {
                    out = &mut out[read..];
                    from += read as u64;
                }
                Err(Errno::INTR) => {}
                Err(errno) => {
                    // That it is no file any more says more than the system's answer.
                    self.check(index, &file)?;
                    return Err(NarError::io("read", self.path_of(index), errno));
                }
            }
        }
        self.check(index, &file)?;
        if out.is_empty() { Ok(()) } else { Err(NarError::changed(&self.path_of(index), "it ends early")) }
    }

    /// Whether an open file is what the walk saw: asked after each read, since it is the read that counts.
    fn check(&self, index: u32, file: &OwnedFd) -> Result<(), NarError> {
        let entry = self.layout.entry(index);
        let seen = FileState { kind: entry.kind, size: entry.size, mtime: entry.mtime };
        let stat = fs::fstat(file).map_err(|errno| NarError::io("look at", self.path_of(index), errno))?;
        match FileState::of(&stat) {
            Ok(now) if now == seen => Ok(()),
            Ok(now) => Err(NarError::changed(&self.path_of(index), difference(seen, now))),
            Err(what) => Err(NarError::changed(&self.path_of(index), format!("it is a {what} now"))),
        }
    }

    fn path_of(&self, index: u32) -> PathBuf {
        self.layout.path(&self.path, index)
    }
}

fn difference(seen: FileState, now: FileState) -> String {
    if seen.kind != now.kind {
        format!("it was a {} and is a {}", seen.kind.name(), now.kind.name())
    } else if seen.size != now.size {
        format!("it had {} bytes and has {}", seen.size, now.size)
    } else {
        "it was modified".to_owned()
    }
}

/// A buffer that is filled from one part of an entry after the other.
struct Pieces<'a> {
    out: &'a mut [u8],
    /// Where `out` begins in the NAR.
    offset: u64,
    filled: usize,
}

impl Pieces<'_> {
    /// What `part` of the NAR has for the buffer: where to begin in it, and the piece to fill.
    fn next(&mut self, part: Range<u64>) -> Option<(u64, &mut [u8])> {
        let at = self.offset + self.filled as u64;
        let out = &mut self.out[self.filled..];
        let length = part.end.saturating_sub(at).min(out.len() as u64) as usize;
        self.filled += length;
        (length > 0).then(|| (at - part.start, &mut out[..length]))
    }
}

/// A [`NarReader`] from its start to its end, see [`NarReader::stream`]. Give it large buffers.
#[derive(Debug)]
pub struct NarStream<'a> {
    reader: &'a NarReader,
    position: u64,
}

impl Read for NarStream<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read_at(self.position, buffer)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl ReadAt for NarReader {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        NarReader::read_at(self, offset, buffer)
    }
}
