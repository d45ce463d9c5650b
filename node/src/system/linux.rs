//! What only Linux has.

use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;
use std::path::Path;

use ioprio::{Class, Pid, Priority, Target};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{OFlags, RawDir};
use rustix::io::{Errno, ReadWriteFlags};
use tokio::net::unix::pipe;

/// A directory in which names are only looked up need not be readable.
pub(crate) const LOOK_UP_ONLY: OFlags = OFlags::PATH;

/// The lowest priority.
const NICE: i32 = 19;
const THIS_THREAD: Target = Target::Process(Pid::from_raw(0));

/// What writing to a database, or making one, looks like in its directory.
const WRITING: WatchFlags =
    WatchFlags::MODIFY.union(WatchFlags::CREATE).union(WatchFlags::MOVED_TO).union(WatchFlags::ONLYDIR);

/// Reads what can be had without waiting for the disk; 0 when that is nothing, or when the file system cannot tell.
pub(crate) fn read_cached(file: impl AsFd, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    match rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT) {
        Ok(read) => Ok(read),
        Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

/// Calls `each` with the names in a directory, `.` and `..` among them: one system call for as many as `buffer` has room
/// for. `cannot` words what the system says.
pub(crate) fn list<E>(
    directory: impl AsFd,
    buffer: &mut Vec<u8>,
    cannot: impl Fn(Errno) -> E,
    mut each: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let mut listing = RawDir::new(directory, buffer.spare_capacity_mut());
    while let Some(entry) = listing.next() {
        each(entry.map_err(&cannot)?.file_name().to_bytes())?;
    }
    Ok(())
}

/// Gives the thread that calls it the lowest priority: for processors, and for disks, which serve it when nobody else wants
/// anything.
///
/// # Errors
/// When the system refuses.
pub(crate) fn yield_to_others() -> io::Result<()> {
    rustix::process::setpriority_process(None, NICE)?;
    let idle = Priority::new(Class::Idle);
    ioprio::set_priority(THIS_THREAD, idle).map_err(io::Error::other)
}

/// Where the kernel gives huge pages to everybody, the allocator's half-used ones made 50 MiB of an idle node's 70, and
/// twice that under load. A kernel that cannot do without does no harm.
pub fn use_small_pages() {
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

/// Tells that something in a directory has changed. What inotify tells is read as from a pipe: bytes, or a wait.
pub(crate) struct Changes(pipe::Receiver);

impl Changes {
    /// # Errors
    /// When the directory cannot be watched.
    pub(crate) fn of(directory: &Path) -> io::Result<Self> {
        let watch = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        inotify::add_watch(&watch, directory, WRITING)?;
        Ok(Self(pipe::Receiver::from_owned_fd_unchecked(watch)?))
    }

    /// Returns after a change; may be dropped at any time.
    ///
    /// # Errors
    /// When the system tells of no more changes.
    pub(crate) async fn next(&self) -> io::Result<()> {
        self.0.readable().await?;
        // What has changed does not matter: the database knows better.
        let mut events = [0; 4096];
        loop {
            match self.0.try_read(&mut events) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_yields_is_the_last_for_processors_and_disks_and_others_stay_as_they_are() {
        let before = ioprio::get_priority(THIS_THREAD).expect("a priority");
        let yielding = std::thread::spawn(|| {
            yield_to_others().expect("the system allows it");
            let nice = rustix::process::getpriority_process(None).expect("a priority");
            (nice, ioprio::get_priority(THIS_THREAD).expect("a priority").class())
        });
        assert_eq!(yielding.join().expect("no panic"), (NICE, Some(Class::Idle)));
        assert_eq!(ioprio::get_priority(THIS_THREAD), Ok(before));
        assert_ne!(before.class(), Some(Class::Idle));
    }
}
