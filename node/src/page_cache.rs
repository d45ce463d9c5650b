//! Reads of what the page cache holds.

use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;

use rustix::io::{Errno, ReadWriteFlags};

/// Reads what can be had without waiting for the disk; 0 when that is nothing, or when the file system cannot tell.
pub(crate) fn read_cached(file: impl AsFd, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    match rustix::io::preadv2(file, &mut [IoSliceMut::new(buffer)], offset, ReadWriteFlags::NOWAIT) {
        Ok(read) => Ok(read),
        Err(Errno::AGAIN | Errno::INTR | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    #[test]
    fn what_is_in_the_page_cache_is_read_at_once_and_the_end_of_the_file_is_no_fault() {
        let file = tempfile::tempfile().expect("a file");
        file.write_all_at(b"0123456789", 0).expect("written");
        let mut buffer = [0; 20];
        let read = read_cached(&file, &mut buffer, 4).expect("no fault");
        assert!(read == 0 || buffer[..read] == b"456789"[..read]);
        assert_eq!(read_cached(&file, &mut buffer, 10).expect("no fault"), 0);
    }
}
