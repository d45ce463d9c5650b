//! Where in a NAR each entry of a tree begins.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::error::NarError;
use super::framing::{Kind, closing_bytes, header_bytes};
use super::scan;

/// Files, symlinks and directories in one NAR: 80 MiB of memory, far more than any package has.
pub const MAX_ENTRIES: usize = 1 << 21;
/// Bytes of their names and symlink targets together.
pub const MAX_TEXT_BYTES: usize = 128 << 20;

/// The index of one NAR: 40 bytes an entry and its name. Holds no descriptors.
#[derive(Debug)]
pub struct Layout {
    /// In the order of the NAR: parents before their children, siblings by the bytes of their names.
    entries: Vec<Entry>,
    /// For each entry its name, and the target if it is a symlink.
    text: Vec<u8>,
    size: u64,
}

/// One file, symlink or directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    /// Of its header, from the start of the NAR.
    pub(super) offset: u64,
    /// Length of the file, or of the symlink's target.
    pub(super) size: u64,
    /// See [`FileState`](super::scan::FileState).
    pub(super) mtime: i64,
    text: u32,
    /// Index of its directory; 0 for the root too.
    pub(super) parent: u32,
    name_bytes: u16,
    pub(super) kind: Kind,
}

/// The parts of an entry, as offsets from the start of the NAR.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts {
    pub(super) header: u64,
    pub(super) contents: u64,
    /// Zeros up to a multiple of 8, then closing brackets.
    pub(super) tail: u64,
    pub(super) end: u64,
}

impl Layout {
    /// Walks a store path without following symlinks or reading files.
    ///
    /// A few system calls an entry, one directory open at a time however deep the tree is.
    ///
    /// # Errors
    /// [`NarError::Unsupported`] for sockets, fifos and devices; [`NarError::TooMany`] and [`NarError::TooLong`] for
    /// what has no place in memory; [`NarError::Changed`] when a directory is moved meanwhile.
    pub fn scan(path: &Path) -> Result<Self, NarError> {
        scan::scan(path)
    }

    /// Length of the NAR in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Number of files, symlinks and directories, the root included.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// What it costs in memory, in bytes.
    pub fn heap_bytes(&self) -> usize {
        size_of::<Entry>() * self.entries.capacity() + self.text.capacity()
    }

    /// The entry that the byte at `offset` belongs to.
    pub(super) fn locate(&self, offset: u64) -> u32 {
        self.entries.partition_point(|entry| entry.offset <= offset).saturating_sub(1) as u32
    }

    pub(super) fn entry(&self, index: u32) -> &Entry {
        &self.entries[index as usize]
    }

    pub(super) fn parts(&self, index: u32) -> Parts {
        let entry = self.entry(index);
        let name = (index != 0).then_some(usize::from(entry.name_bytes));
        let contents = entry.offset + header_bytes(name, entry.kind);
        let end = self.entries.get(index as usize + 1).map_or(self.size, |next| next.offset);
        Parts { header: entry.offset, contents, tail: contents + entry.size, end }
    }

    /// `None` for the root.
    pub(super) fn name(&self, index: u32) -> Option<&[u8]> {
        (index != 0).then(|| name(self.entry(index), &self.text))
    }

    /// Empty for anything but a symlink.
    pub(super) fn target(&self, index: u32) -> &[u8] {
        let entry = self.entry(index);
        if entry.kind != Kind::Symlink {
            return &[];
        }
        let start = entry.text as usize + usize::from(entry.name_bytes);
        &self.text[start..start + entry.size as usize]
    }

    /// For messages; opened is one component at a time.
    pub(super) fn path(&self, root: &Path, index: u32) -> PathBuf {
        path(&self.entries, &self.text, root, index)
    }
}

fn name<'a>(entry: &Entry, text: &'a [u8]) -> &'a [u8] {
    &text[entry.text as usize..][..usize::from(entry.name_bytes)]
}

fn path(entries: &[Entry], text: &[u8], root: &Path, mut index: u32) -> PathBuf {
    let mut names = Vec::new();
    while index != 0 {
        let entry = &entries[index as usize];
        names.push(OsStr::from_bytes(name(entry, text)));
        index = entry.parent;
    }
    let mut path = root.to_owned();
    path.extend(names.iter().rev());
    path
}

/// What a walk has seen of an entry.
pub(super) struct Found<'a> {
    pub(super) parent: u32,
    pub(super) name: &'a [u8],
    pub(super) kind: Kind,
    /// Length of the file; not used for the others.
    pub(super) size: u64,
    pub(super) mtime: i64,
    /// Empty for anything but a symlink.
    pub(super) target: &'a [u8],
}

/// A layout that grows in the order of the NAR.
pub(super) struct Builder<'a> {
    root: &'a Path,
    layout: Layout,
}

impl<'a> Builder<'a> {
    pub(super) fn new(root: &'a Path) -> Self {
        Self { root, layout: Layout { entries: Vec::new(), text: Vec::new(), size: 0 } }
    }

    /// Adds an entry. A directory stays open until [`Builder::close`].
    pub(super) fn push(&mut self, found: &Found<'_>) -> Result<u32, NarError> {
        let Layout { entries, text, size } = &mut self.layout;
        let is_root = entries.is_empty();
        let too_many = || NarError::TooMany { path: self.root.to_owned() };
        if entries.len() == MAX_ENTRIES || text.len() + found.name.len() + found.target.len() > MAX_TEXT_BYTES
        {
            return Err(too_many());
        }
        let name_bytes = u16::try_from(found.name.len()).map_err(|_| too_many())?;
        let entry = Entry {
            offset: *size,
            size: match found.kind {
                Kind::Directory => 0,
                Kind::File | Kind::Executable => found.size,
                Kind::Symlink => found.target.len() as u64,
            },
            mtime: found.mtime,
            text: text.len() as u32,
            parent: found.parent,
            name_bytes,
            kind: found.kind,
        };
        let header = header_bytes((!is_root).then_some(found.name.len()), found.kind);
        let closing = if found.kind == Kind::Directory { 0 } else { closing_bytes(is_root) };
        let end = entry
            .size
            .checked_next_multiple_of(8)
            .and_then(|padded| size.checked_add(header)?.checked_add(padded)?.checked_add(closing));
        *size = end.ok_or_else(|| NarError::TooLong { path: self.root.to_owned() })?;
        text.extend_from_slice(found.name);
        text.extend_from_slice(found.target);
        entries.push(entry);
        Ok((entries.len() - 1) as u32)
    }

    /// Ends the directory that was opened last, which is `index`.
    pub(super) fn close(&mut self, index: u32) -> Result<(), NarError> {
        let end = self.layout.size.checked_add(closing_bytes(index == 0));
        self.layout.size = end.ok_or_else(|| NarError::TooLong { path: self.root.to_owned() })?;
        Ok(())
    }

    pub(super) fn root(&self) -> &'a Path {
        self.root
    }

    /// Entries that still fit.
    pub(super) fn room(&self) -> usize {
        MAX_ENTRIES - self.layout.entries.len()
    }

    pub(super) fn path(&self, index: u32) -> PathBuf {
        self.layout.path(self.root, index)
    }

    pub(super) fn finish(mut self) -> Layout {
        self.layout.entries.shrink_to_fit();
        self.layout.text.shrink_to_fit();
        self.layout
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(name: &[u8], size: u64) -> Found<'_> {
        Found { parent: 0, name, kind: Kind::File, size, mtime: 1, target: b"" }
    }

    fn directory() -> Found<'static> {
        Found { parent: 0, name: b"", kind: Kind::Directory, size: 4096, mtime: 1, target: b"" }
    }

    #[test]
    fn fifty_thousand_entries_cost_less_than_four_mib() {
        let mut builder = Builder::new(Path::new("/x"));
        builder.push(&directory()).expect("room");
        for n in 1..50_000 {
            builder.push(&file(format!("lib-of-usual-length-{n}").as_bytes(), n)).expect("room");
        }
        builder.close(0).expect("short");
        let layout = builder.finish();
        assert_eq!(layout.entries(), 50_000);
        assert!(layout.heap_bytes() < 4 << 20, "{}", layout.heap_bytes());
        assert!(layout.heap_bytes() > 50_000 * 40);
        for index in [0, 1, 2, 777, 49_999] {
            let Parts { header, contents, tail, end } = layout.parts(index);
            assert_eq!([header, contents - 1, tail - 1, end - 1].map(|at| layout.locate(at)), [index; 4]);
        }
    }

    #[test]
    fn entries_and_names_are_bounded() {
        let mut builder = Builder::new(Path::new("/x"));
        builder.push(&directory()).expect("room");
        let first = builder.layout.entries[0];
        builder.layout.entries.resize(MAX_ENTRIES - 1, first);
        builder.push(&directory()).expect("room");
        assert!(matches!(builder.push(&directory()), Err(NarError::TooMany { .. })));

        let mut builder = Builder::new(Path::new("/x"));
        let target = vec![b'x'; MAX_TEXT_BYTES];
        let link = |length: usize| Found { kind: Kind::Symlink, target: &target[..length], ..directory() };
        builder.push(&link(MAX_TEXT_BYTES)).expect("room");
        assert!(matches!(builder.push(&link(1)), Err(NarError::TooMany { .. })));
    }

    #[test]
    fn lengths_beyond_64_bits_are_refused() {
        for sizes in [vec![u64::MAX], vec![u64::MAX - 7], vec![i64::MAX as u64; 3], vec![u64::MAX - 500, 300]]
        {
            let mut builder = Builder::new(Path::new("/x"));
            builder.push(&directory()).expect("short");
            let all: Result<Vec<u32>, _> =
                sizes.iter().map(|size| builder.push(&file(b"f", *size))).collect();
            assert!(matches!(all, Err(NarError::TooLong { .. })), "{sizes:?}");
        }
    }
}
