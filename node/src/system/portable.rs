//! The same for other systems, with what every Unix has. Compiled and tested on Linux, too.

use std::convert::Infallible;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Dir, OFlags};
use rustix::io::Errno;

/// Every directory is opened for reading.
pub(crate) const LOOK_UP_ONLY: OFlags = OFlags::empty();

/// Nothing is known to be cached: all is read off the async workers.
pub(crate) fn read_cached(_: impl AsFd, _: &mut [u8], _: u64) -> io::Result<usize> {
    Ok(0)
}

/// Calls `each` with the names in a directory, `.` and `..` among them. `cannot` words what the system says.
pub(crate) fn list<E>(
    directory: impl AsFd,
    _: &mut Vec<u8>,
    cannot: impl Fn(Errno) -> E,
    mut each: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    for entry in Dir::read_from(directory).map_err(&cannot)? {
        each(entry.map_err(&cannot)?.file_name().to_bytes())?;
    }
    Ok(())
}

/// Elsewhere a priority is that of the whole process, which clients wait for.
pub(crate) fn yield_to_others() -> io::Result<()> {
    Ok(())
}

/// No other system gives huge pages to those who do not ask.
pub fn use_small_pages() {}

/// Nobody tells of changes: whoever wants to know looks from time to time.
pub(crate) struct Changes(Infallible);

impl Changes {
    /// # Errors
    /// Always.
    pub(crate) fn of(_: &Path) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Never called.
    pub(crate) async fn next(&self) -> io::Result<()> {
        match self.0 {}
    }
}
