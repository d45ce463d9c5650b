//! What is no store path, and what stops being one while it is read.

use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::{Scene, noise};
use crate::nix_store::nar::{Layout, NarError, NarReader, dump};

fn fifo(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RWXU, 0).expect("a fifo");
}

fn touch(path: &Path, seconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
    File::open(path).expect("open").set_times(FileTimes::new().set_modified(time)).expect("touched");
}

/// Reads the whole; what it failed with.
fn failure(reader: &NarReader) -> io::Error {
    let mut nar = vec![0; reader.size() as usize];
    reader.read_at(0, &mut nar).expect_err("the tree is not what was scanned")
}

#[test]
fn fifos_and_sockets_are_refused_by_name() {
    let scene = Scene::new();
    scene.file("sub/file", b"x");
    fifo(&scene.path().join("sub/pipe"));
    let error = Layout::scan(&scene.path()).expect_err("a fifo");
    assert!(
        matches!(&error, NarError::Unsupported { what: "fifo", path } if path.ends_with("path/sub/pipe"))
    );
    fs::remove_file(scene.path().join("sub/pipe")).expect("removed");
    let _socket = UnixListener::bind(scene.path().join("s")).expect("a socket");
    let text = dump(&scene.path(), &mut io::sink()).expect_err("a socket").to_string();
    assert!(text.contains("path/s is a socket: a NAR holds"), "{text}");
}

#[test]
fn path_that_is_not_there_is_gone() {
    let scene = Scene::new();
    assert!(Layout::scan(&scene.path()).expect_err("nothing there").is_gone());
}

#[test]
fn file_that_vanished_is_an_error_and_the_rest_is_read_on() {
    let scene = Scene::new();
    scene.file("a", noise(1000, 1));
    let b = scene.file("b", noise(1000, 2));
    let (nar, reader) = (scene.dump(), scene.reader());
    fs::remove_file(b).expect("removed");
    let error = failure(&reader);
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("path/b"), "{error}");
    let mut start = [0; 1000];
    reader.read_exact_at(0, &mut start).expect("a is still there");
    assert!(start == nar[..1000]);
}

#[test]
fn tree_that_vanished_is_an_error() {
    let scene = Scene::new();
    scene.file("sub/a", b"x");
    let (layout, reader) = (Layout::scan(&scene.path()).expect("scanned"), scene.reader());
    fs::remove_dir_all(scene.path()).expect("removed");
    assert_eq!(failure(&reader).kind(), io::ErrorKind::NotFound);
    assert!(NarReader::open(&scene.path(), layout.into()).expect_err("gone").is_gone());
}

#[test]
fn file_that_grew_or_shrank_is_an_error_whether_it_is_open_or_not() {
    for before_reading in [true, false] {
        for (length, how) in [(1001, "and has 1001"), (999, "and has 999"), (0, "and has 0")] {
            let scene = Scene::new();
            let file = scene.file("a", noise(1000, 1));
            let reader = scene.reader();
            let change = || {
                File::options().write(true).open(&file).expect("open").set_len(length).expect("set");
            };
            if before_reading {
                change();
            } else {
                let mut start = [0; 400];
                reader.read_exact_at(0, &mut start).expect("nothing has happened yet");
                change();
            }
            let error = failure(&reader);
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains(how), "{error}");
        }
    }
}

#[test]
fn file_of_the_same_length_with_another_time_or_mode_is_an_error() {
    let scene = Scene::new();
    let file = scene.file("a", b"12345678");
    touch(&file, 1);
    let reader = scene.reader();
    File::options().write(true).open(&file).expect("open").write_all(b"87654321").expect("written");
    assert!(failure(&reader).to_string().contains("it was modified"));
    touch(&file, 1);
    reader.read_at(0, &mut [0; 1000]).expect("time and length are those of the walk");
    fs::set_permissions(&file, Permissions::from_mode(0o755)).expect("its mode");
    assert!(failure(&reader).to_string().contains("it was a file and is a executable file"));
}

#[test]
fn file_that_became_a_fifo_or_a_directory_is_an_error_and_nobody_waits_for_a_writer() {
    let scene = Scene::new();
    let file = scene.file("a", b"12345678");
    let reader = scene.reader();
    fs::remove_file(&file).expect("removed");
    fifo(&file);
    assert!(failure(&reader).to_string().contains("it is a fifo now"));
    let reader = {
        fs::remove_file(&file).expect("removed");
        scene.file("a", b"12345678");
        scene.reader()
    };
    fs::remove_file(&file).expect("removed");
    fs::create_dir(&file).expect("a directory");
    assert!(failure(&reader).to_string().contains("it was a file and is a directory"));
}

#[test]
fn symlinks_that_appear_after_the_walk_lead_nowhere() {
    let scene = Scene::new();
    let outside = tempfile::tempdir().expect("a directory");
    let secret = outside.path().join("a");
    fs::write(&secret, b"secret").expect("a file");
    let inside = scene.file("sub/a", b"public");
    touch(&secret, 1);
    touch(&inside, 1);
    let reader = scene.reader();

    fs::remove_file(&inside).expect("removed");
    symlink(&secret, &inside).expect("a symlink");
    failure(&reader);

    fs::remove_dir_all(scene.path().join("sub")).expect("removed");
    symlink(outside.path(), scene.path().join("sub")).expect("a symlink");
    failure(&afresh(&reader));
}

/// A reader without open descriptors.
fn afresh(reader: &NarReader) -> NarReader {
    NarReader::open(reader.path(), reader.layout().clone()).expect("opened")
}

#[test]
fn dump_reports_a_receiver_that_failed() {
    let scene = Scene::new();
    scene.file("a", noise(100, 1));
    let mut small = [0; 50];
    let error = dump(&scene.path(), &mut small.as_mut_slice()).expect_err("no room");
    assert!(matches!(error, NarError::Write { .. }), "{error}");
}
