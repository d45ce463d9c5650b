//! The walk over a tree.
//!
//! Its state is on the heap and it holds one descriptor, that of the directory it is in: no depth exhausts the stack or
//! the descriptors. Names are looked up relative to that directory, so that no length of a path matters and no symlink
//! that appears meanwhile is followed. The way up is `..`, and must lead to where the walk came from.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, Stat};

use super::error::NarError;
use super::framing::Kind;
use super::layout::{Builder, Found, Layout, MAX_TEXT_BYTES};
use crate::system::{LOOK_UP_ONLY, list};

/// For the entries of a directory: a system call for about a thousand of them.
const DIRECTORY_BUFFER_BYTES: usize = 32 * 1024;

const DIRECTORY_FLAGS: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// What must not change while a layout is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileState {
    pub(super) kind: Kind,
    /// Length in bytes; of a file only.
    pub(super) size: u64,
    /// Modification time in nanoseconds since 1970, modulo 2^64. In a Nix store it is one second.
    pub(super) mtime: i64,
}

impl FileState {
    /// The other types have no place in a NAR: their name.
    pub(super) fn of(stat: &Stat) -> Result<Self, &'static str> {
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => Kind::Directory,
            FileType::Symlink => Kind::Symlink,
            FileType::RegularFile if Mode::from_raw_mode(stat.st_mode).contains(Mode::XUSR) => {
                Kind::Executable
            }
            FileType::RegularFile => Kind::File,
            FileType::Fifo => return Err("fifo"),
            FileType::Socket => return Err("socket"),
            FileType::CharacterDevice | FileType::BlockDevice => return Err("device"),
            FileType::Unknown => return Err("file of unknown type"),
        };
        let mtime = stat.st_mtime.wrapping_mul(1_000_000_000).wrapping_add(stat.st_mtime_nsec as i64);
        Ok(Self { kind, size: stat.st_size as u64, mtime })
    }
}

pub(super) fn scan(root: &Path) -> Result<Layout, NarError> {
    let mut builder = Builder::new(root);
    let (state, target) = look(CWD, root, || root.to_owned())?;
    let index = builder.push(&found(0, b"", state, &target))?;
    if state.kind == Kind::Directory {
        let directory = fs::openat(CWD, root, DIRECTORY_FLAGS, Mode::empty())
            .map_err(|errno| NarError::io("open", root.to_owned(), errno))?;
        Walk::new(builder, directory).run(index)
    } else {
        Ok(builder.finish())
    }
}

fn found<'a>(parent: u32, name: &'a [u8], state: FileState, target: &'a [u8]) -> Found<'a> {
    Found { parent, name, kind: state.kind, size: state.size, mtime: state.mtime, target }
}

/// State of an entry, and its target if it is a symlink. `path` is for errors.
fn look<Fd: AsFd>(
    directory: Fd,
    name: impl rustix::path::Arg + Copy,
    path: impl Fn() -> PathBuf,
) -> Result<(FileState, Vec<u8>), NarError> {
    let stat = fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|errno| NarError::io("look at", path(), errno))?;
    let state = FileState::of(&stat).map_err(|what| NarError::Unsupported { path: path(), what })?;
    let target = match state.kind {
        Kind::Symlink => fs::readlinkat(&directory, name, Vec::new())
            .map_err(|errno| NarError::io("read the symlink", path(), errno))?
            .into_bytes(),
        Kind::Directory | Kind::File | Kind::Executable => Vec::new(),
    };
    Ok((state, target))
}

struct Walk<'a> {
    builder: Builder<'a>,
    /// The one that the last of `levels` stands for.
    directory: OwnedFd,
    levels: Vec<Level>,
    /// Entries of all levels that are not yet walked, those of the last level at the end and in reverse order.
    pending: Vec<Name>,
    names: Vec<u8>,
    buffer: Vec<u8>,
}

/// A directory that the walk is in.
struct Level {
    index: u32,
    identity: Identity,
    /// Lengths of `pending` and `names` before its entries were added.
    pending: usize,
    names: usize,
}

/// Device and inode.
type Identity = (fs::Dev, u64);

#[derive(Clone, Copy)]
struct Name {
    start: u32,
    end: u32,
}

impl Name {
    fn of(self, names: &[u8]) -> &[u8] {
        &names[self.start as usize..self.end as usize]
    }
}

impl<'a> Walk<'a> {
    fn new(builder: Builder<'a>, directory: OwnedFd) -> Self {
        Self {
            builder,
            directory,
            levels: Vec::new(),
            pending: Vec::new(),
            names: Vec::new(),
            buffer: Vec::with_capacity(DIRECTORY_BUFFER_BYTES),
        }
    }

    fn run(mut self, root: u32) -> Result<Layout, NarError> {
        self.enter(root)?;
        while let Some(level) = self.levels.last() {
            let index = level.index;
            if self.pending.len() > level.pending {
                self.step(index)?;
            } else {
                self.leave()?;
            }
        }
        Ok(self.builder.finish())
    }

    /// Lists the directory just opened.
    fn enter(&mut self, index: u32) -> Result<(), NarError> {
        let Self { builder, directory, levels, pending, names, buffer } = self;
        let (pending_before, names_before) = (pending.len(), names.len());
        let cannot = |errno| NarError::io("list", builder.path(index), errno);
        let identity = identity(directory).map_err(cannot)?;
        list(directory, buffer, cannot, |name| {
            if matches!(name, b"." | b"..") {
                return Ok(());
            }
            if pending.len() >= builder.room() || names.len() + name.len() > MAX_TEXT_BYTES {
                return Err(NarError::TooMany { path: builder.root().to_owned() });
            }
            let start = names.len() as u32;
            names.extend_from_slice(name);
            pending.push(Name { start, end: names.len() as u32 });
            Ok(())
        })?;
        pending[pending_before..].sort_unstable_by(|a, b| b.of(names).cmp(a.of(names)));
        levels.push(Level { index, identity, pending: pending_before, names: names_before });
        Ok(())
    }

    /// Takes the next entry of the directory `parent`.
    fn step(&mut self, parent: u32) -> Result<(), NarError> {
        let Some(name) = self.pending.pop() else { return Ok(()) };
        let name = name.of(&self.names);
        let (state, target) =
            look(&self.directory, name, || self.builder.path(parent).join(OsStr::from_bytes(name)))?;
        let index = self.builder.push(&found(parent, name, state, &target))?;
        if state.kind != Kind::Directory {
            return Ok(());
        }
        self.directory = fs::openat(&self.directory, name, DIRECTORY_FLAGS, Mode::empty())
            .map_err(|errno| NarError::io("open", self.builder.path(index), errno))?;
        self.enter(index)
    }

    /// Ends a directory and goes up.
    fn leave(&mut self) -> Result<(), NarError> {
        let Some(left) = self.levels.pop() else { return Ok(()) };
        self.names.truncate(left.names);
        self.builder.close(left.index)?;
        let Some(above) = self.levels.last() else { return Ok(()) };
        let cannot = |errno| NarError::io("return to", self.builder.path(above.index), errno);
        let directory = fs::openat(&self.directory, c"..", DIRECTORY_FLAGS | LOOK_UP_ONLY, Mode::empty())
            .map_err(cannot)?;
        if identity(&directory).map_err(cannot)? != above.identity {
            return Err(NarError::changed(&self.builder.path(left.index), "it was moved"));
        }
        self.directory = directory;
        Ok(())
    }
}

fn identity(directory: &OwnedFd) -> rustix::io::Result<Identity> {
    let stat = fs::fstat(directory)?;
    Ok((stat.st_dev, stat.st_ino))
}
