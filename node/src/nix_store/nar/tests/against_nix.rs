//! Random trees: `nix-store --dump` and we must write the same bytes.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::{Scene, noise};
use crate::nix_store::nar::NarReader;

/// Names that sort or that Nix on other systems treats in a way of their own.
const CHOSEN: &[&str] =
    &["a", "A", "B~nix~case~hack~1", "b~nix~case~hack~2", "b", ".hidden", "...", "a.b", "a-b", " ", "\u{e4}"];

#[derive(Debug, Clone)]
enum Node {
    File { length: usize, mode: u32, seed: u64 },
    Symlink(Vec<u8>),
    Directory(BTreeMap<Vec<u8>, Node>),
}

/// Bytes that a name or a target may have. Nix refuses no name.
fn text(length: std::ops::Range<usize>, with_slash: bool) -> impl Strategy<Value = Vec<u8>> {
    let byte = (1..=255u8).prop_map(move |byte| if byte == b'/' && !with_slash { b'.' } else { byte });
    vec(byte, length)
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => proptest::sample::select(CHOSEN).prop_map(|name| name.as_bytes().to_vec()),
        3 => text(1..24, false),
        1 => text(255..256, false),
    ]
    .prop_filter("these are no names", |name| !matches!(name.as_slice(), b"." | b".."))
}

fn node() -> impl Strategy<Value = Node> {
    let length = prop_oneof![
        0..=17usize,
        (4096 - 9..4096 + 9usize),
        (65_536 - 9..65_536 + 9usize),
        (131_072 - 9..131_072 + 9usize),
        0..300_000usize,
    ];
    // Only the owner's bit makes it executable.
    let mode = proptest::sample::select(&[0o644, 0o444, 0o755, 0o555, 0o744, 0o655]);
    let leaf = prop_oneof![
        4 => (length, mode, any::<u64>()).prop_map(|(length, mode, seed)| Node::File { length, mode, seed }),
        2 => text(1..60, true).prop_map(Node::Symlink),
        1 => Just(Node::Directory(BTreeMap::new())),
    ];
    leaf.prop_recursive(4, 40, 8, |inner| btree_map(name(), inner, 0..8).prop_map(Node::Directory))
}

fn create(node: &Node, path: &Path) {
    match node {
        Node::File { length, mode, seed } => {
            fs::write(path, noise(*length, *seed)).expect("a file");
            fs::set_permissions(path, Permissions::from_mode(*mode)).expect("its mode");
        }
        Node::Symlink(target) => symlink(OsStr::from_bytes(target), path).expect("a symlink"),
        Node::Directory(children) => {
            fs::create_dir(path).expect("a directory");
            for (name, child) in children {
                create(child, &path.join(OsStr::from_bytes(name)));
            }
        }
    }
}

/// What Nix makes of it; `None` when it is not installed.
fn nix_dump(path: &Path) -> Option<Vec<u8>> {
    let output = match Command::new("nix-store").arg("--dump").arg(path).output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: nix-store is not installed, NARs are not compared with those of Nix");
            return None;
        }
        Err(error) => panic!("nix-store: {error}"),
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(output.stdout)
}

fn read(reader: &NarReader, offset: usize, length: usize) -> Vec<u8> {
    let mut buffer = vec![0xaa; length];
    let read = reader.read_at(offset as u64, &mut buffer).expect("read");
    buffer.truncate(read);
    buffer
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nar_and_every_range_of_it_are_those_of_nix(
        tree in node(),
        ranges in vec((any::<proptest::sample::Index>(), 0..200_000usize), 24),
        step in 1..70_000usize,
    ) {
        let scene = Scene::new();
        create(&tree, &scene.path());
        let Some(expected) = nix_dump(&scene.path()) else { return Ok(()) };
        prop_assert!(scene.dump() == expected, "the dump differs");
        let reader = scene.reader();
        prop_assert_eq!(reader.size(), expected.len() as u64);
        for (start, length) in ranges {
            let start = start.index(expected.len());
            let end = (start + length).min(expected.len());
            prop_assert!(read(&reader, start, length) == expected[start..end], "{start}..{end} differs");
        }
        for start in (0..expected.len()).step_by(step) {
            let end = (start + step).min(expected.len());
            prop_assert!(read(&reader, start, step) == expected[start..end], "{start}..{end} differs");
        }
        prop_assert_eq!(read(&reader, expected.len(), 10), Vec::<u8>::new());
    }
}

#[test]
fn each_byte_read_alone_is_that_of_nix() {
    let scene = Scene::new();
    scene.file("bin/run", b"#!/bin/sh\n");
    fs::set_permissions(scene.path().join("bin/run"), Permissions::from_mode(0o555)).expect("its mode");
    scene.file("empty", b"");
    scene.file("share/eight", b"12345678");
    fs::create_dir(scene.path().join("share/none")).expect("a directory");
    symlink("nowhere", scene.path().join("dangling")).expect("a symlink");
    let Some(expected) = nix_dump(&scene.path()) else { return };
    let reader = scene.reader();
    let bytes: Vec<u8> = (0..expected.len()).flat_map(|offset| read(&reader, offset, 1)).collect();
    assert_eq!(bytes, expected);
}
