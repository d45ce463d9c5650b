//! Trees that are unusually deep, wide or long, and readers side by side.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::path::Path;

use p2p_cache_protocol::GroupRange;
use p2p_cache_protocol::tree::{create_outboard, encode_range, group_count, outboard_bytes};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, mkdirat, openat, unlinkat};

use super::{Scene, noise, open, strings};
use crate::nix_store::nar::{Layout, MAX_DESCRIPTORS, NarReader, dump};

/// A stack on which no recursion of that depth has room.
const SMALL_STACK_BYTES: usize = 128 << 10;

const DIRECTORY: OFlags = OFlags::DIRECTORY.union(OFlags::CLOEXEC);

fn enter(directory: &OwnedFd, name: &str) -> OwnedFd {
    openat(directory, name, DIRECTORY, Mode::empty()).expect("opened")
}

fn deep_tree(path: &Path, levels: usize) {
    fs::create_dir(path).expect("a directory");
    let mut directory = openat(CWD, path, DIRECTORY, Mode::empty()).expect("opened");
    for _ in 1..levels {
        mkdirat(&directory, "d", Mode::RWXU).expect("a directory");
        directory = enter(&directory, "d");
    }
    let file = openat(&directory, "f", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).expect("a file");
    rustix::io::write(&file, b"deep").expect("written");
}

/// The standard library would recurse, with a descriptor a level.
fn remove_deep_tree(path: &Path, levels: usize) {
    let mut directory = openat(CWD, path, DIRECTORY, Mode::empty()).expect("opened");
    for _ in 1..levels {
        directory = enter(&directory, "d");
    }
    unlinkat(&directory, "f", AtFlags::empty()).expect("removed");
    for _ in 1..levels {
        directory = enter(&directory, "..");
        unlinkat(&directory, "d", AtFlags::REMOVEDIR).expect("removed");
    }
}

fn deep_nar(levels: usize) -> Vec<u8> {
    let mut nar = strings(&[b"nix-archive-1", b"(", b"type", b"directory"]);
    for _ in 1..levels {
        nar.extend(strings(&[b"entry", b"(", b"name", b"d", b"node", b"(", b"type", b"directory"]));
    }
    nar.extend(strings(&[
        b"entry",
        b"(",
        b"name",
        b"f",
        b"node",
        b"(",
        b"type",
        b"regular",
        b"contents",
        b"deep",
    ]));
    // Two of the file and of each directory but the root.
    (0..2 * levels + 1).for_each(|_| nar.extend(strings(&[b")"])));
    nar
}

#[test]
fn tree_of_5000_levels_needs_neither_stack_nor_descriptors() {
    let scene = Scene::in_memory();
    let path = scene.path();
    deep_tree(&path, 5000);
    let expected = deep_nar(5000);
    let walk = {
        let path = path.clone();
        move || {
            let mut nar = Vec::new();
            dump(&path, &mut nar).expect("dumped");
            (nar, open(&path))
        }
    };
    let thread = std::thread::Builder::new().stack_size(SMALL_STACK_BYTES).spawn(walk).expect("a thread");
    let (nar, reader) = thread.join().expect("no overflow");
    assert!(nar == expected);
    let contents = expected.windows(4).position(|bytes| bytes == b"deep").expect("the file");
    let mut bytes = [0; 12];
    reader.read_exact_at(contents as u64 - 8, &mut bytes).expect("read");
    assert_eq!(bytes, *b"\x04\0\0\0\0\0\0\0deep");
    remove_deep_tree(&path, 5000);
}

#[test]
fn sparse_files_of_several_gib_are_read_by_range() {
    const GIB: u64 = 1 << 30;
    let scene = Scene::new();
    for (name, length) in [("a", 5 * GIB + 3), ("b", 7 * GIB)] {
        File::options()
            .write(true)
            .open(scene.file(name, b"start"))
            .expect("open")
            .set_len(length)
            .expect("long");
    }
    let reader = scene.reader();
    let header = |name: &[u8]| {
        strings(&[b"entry", b"(", b"name", name, b"node", b"(", b"type", b"regular", b"contents"])
    };
    let mut between = vec![0; 3 + 5];
    between.extend(strings(&[b")", b")"]));
    between.extend(header(b"b"));
    between.extend((7 * GIB).to_le_bytes());
    between.extend(b"start\0");
    let before = strings(&[b"nix-archive-1", b"(", b"type", b"directory"]).len() + header(b"a").len() + 8;
    let mut found = vec![1; between.len()];
    reader.read_exact_at(before as u64 + 5 * GIB, &mut found).expect("read");
    assert_eq!(found, between);
    let mut end = [1; 8 + 3 * 16];
    reader.read_exact_at(reader.size() - end.len() as u64, &mut end).expect("read");
    assert_eq!(end.to_vec(), [strings(&[b"", b")", b")", b")"])].concat());
    assert!(reader.read_exact_at(reader.size() - 3, &mut end).is_err());
}

/// Files of all kinds of lengths in nested directories.
fn bushy() -> Scene {
    let scene = Scene::new();
    for n in 0..120 {
        let path = ["a", "b/c", "b/d/e", "f/g/h/i/j"][n % 4];
        scene.file(&format!("{path}/{}/{n}", n % 7), noise(n * n * 7, n as u64));
    }
    scene
}

#[test]
fn ranges_are_proved_from_the_live_tree_as_from_a_file() {
    let scene = bushy();
    let (nar, reader) = (scene.dump(), scene.reader());
    let size = reader.size();
    let mut outboard = vec![0; outboard_bytes(size) as usize];
    let blob = create_outboard(reader.stream(), size, outboard.as_mut_slice()).expect("hashed");
    assert_eq!(blob.0, *blake3::hash(&nar).as_bytes());
    for start in (0..group_count(size)).step_by(13) {
        let range = GroupRange { start, end: (start + 64).min(group_count(size)) };
        let (mut live, mut stored) = (Vec::new(), Vec::new());
        encode_range(blob, size, &reader, outboard.as_slice(), range, &mut live).expect("encoded");
        encode_range(blob, size, nar.as_slice(), outboard.as_slice(), range, &mut stored).expect("encoded");
        assert!(live == stored, "{range}");
    }
}

#[test]
fn threads_read_side_by_side_within_the_bound_of_descriptors() {
    let scene = bushy();
    let (nar, reader) = (scene.dump(), scene.reader());
    std::thread::scope(|scope| {
        for thread in 0..8usize {
            let (nar, reader) = (&nar, &reader);
            scope.spawn(move || {
                for turn in 0..200 {
                    let start = (thread * 7919 + turn * 104_729) % nar.len();
                    let mut buffer = vec![0; 50_000.min(nar.len() - start)];
                    reader.read_exact_at(start as u64, &mut buffer).expect("read");
                    assert!(buffer == nar[start..start + buffer.len()], "from {start}");
                }
            });
        }
    });
    assert!(open_below(&scene.path()) <= MAX_DESCRIPTORS, "{} are open", open_below(&scene.path()));
    drop(reader);
    assert_eq!(open_below(&scene.path()), 0);
}

/// Descriptors of this process in a directory.
fn open_below(path: &Path) -> usize {
    let all = fs::read_dir("/proc/self/fd").expect("procfs");
    all.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).filter(|to| to.starts_with(path)).count()
}

#[test]
fn cached_reads_give_contents_of_open_files_only() {
    let scene = Scene::new();
    let contents = noise(300_000, 1);
    scene.file("large", &contents);
    let (nar, reader) = (scene.dump(), scene.reader());
    let start = nar.windows(16).position(|bytes| bytes == &contents[..16]).expect("the contents");
    let mut buffer = vec![0; 400_000];
    let mut read = |offset: usize| {
        let read = reader.read_cached_at(offset as u64, &mut buffer).expect("no fault");
        assert!(buffer[..read] == nar[offset..offset + read]);
        read
    };
    assert_eq!(read(start + 5), 0, "nobody has opened it");
    let mut byte = [0];
    reader.read_exact_at(start as u64, &mut byte).expect("read");
    assert!(read(start + 5) <= contents.len() - 5);
    assert_eq!((read(0), read(start - 1), read(start + contents.len()), read(nar.len() - 1)), (0, 0, 0, 0));
}

#[test]
fn roots_that_are_no_directories_are_read_too() {
    let scene = Scene::new();
    fs::write(scene.path(), b"text").expect("a file");
    let nar = strings(&[b"nix-archive-1", b"(", b"type", b"regular", b"contents", b"text", b")"]);
    assert_eq!(scene.dump(), nar);
    fs::remove_file(scene.path()).expect("removed");
    std::os::unix::fs::symlink("../there", scene.path()).expect("a symlink");
    let nar = strings(&[b"nix-archive-1", b"(", b"type", b"symlink", b"target", b"../there", b")"]);
    assert_eq!(scene.dump(), nar);
    let reader: NarReader = scene.reader();
    assert_eq!(reader.layout().entries(), 1);
    assert_eq!(Layout::scan(&scene.path()).expect("scanned").size(), nar.len() as u64);
}
