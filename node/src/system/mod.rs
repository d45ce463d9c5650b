//! What differs between operating systems: Linux first, the rest of Unix with less speed.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(any(not(target_os = "linux"), test))]
#[cfg_attr(target_os = "linux", allow(dead_code, unreachable_pub))]
mod portable;

#[cfg(target_os = "linux")]
use linux as this;
#[cfg(not(target_os = "linux"))]
use portable as this;

pub use this::use_small_pages;
pub(crate) use this::{Changes, LOOK_UP_ONLY, list, read_cached, yield_to_others};

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs::File;
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
        assert_eq!(portable::read_cached(&file, &mut buffer, 4).expect("no fault"), 0);
    }

    #[test]
    fn a_directory_is_listed_whole_however_it_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let names: BTreeSet<String> = (0..300).map(|n| format!("{n}-{}", "x".repeat(n % 200))).collect();
        for name in &names {
            File::create(directory.path().join(name)).expect("a file");
        }
        let open = || File::open(directory.path()).expect("the directory");
        let (mut here, mut elsewhere) = (BTreeSet::new(), BTreeSet::new());
        let mut buffer = Vec::with_capacity(1024);
        let note = |seen: &mut BTreeSet<String>, name: &[u8]| {
            assert!(seen.insert(String::from_utf8_lossy(name).into_owned()), "twice");
            Ok::<_, rustix::io::Errno>(())
        };
        list(open(), &mut buffer, |errno| errno, |name| note(&mut here, name)).expect("listed");
        portable::list(open(), &mut buffer, |errno| errno, |name| note(&mut elsewhere, name))
            .expect("listed");
        assert_eq!(here, elsewhere);
        assert_eq!(here.difference(&names).map(String::as_str).collect::<Vec<_>>(), [".", ".."]);
        assert!(names.is_subset(&here));
    }

    #[tokio::test]
    async fn changes_of_a_directory_are_told_where_the_system_does() {
        let directory = tempfile::tempdir().expect("a directory");
        assert!(portable::Changes::of(directory.path()).is_err());
        let Ok(changes) = Changes::of(directory.path()) else { return };
        File::create(directory.path().join("new")).expect("a file");
        let told = tokio::time::timeout(std::time::Duration::from_secs(10), changes.next()).await;
        told.expect("in time").expect("a change");
    }
}
