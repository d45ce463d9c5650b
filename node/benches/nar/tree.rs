//! Trees like those of packages.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// Of what a tree is made.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// One directory.
    LargeFiles { files: u64, bytes: u64 },
    /// Nested directories of about 50 entries. Nine files of ten are a sixteenth as large as the tenth; one entry of
    /// twenty is a symlink.
    SmallFiles { entries: u64, bytes: u64 },
}

/// Numbers that are the same in each run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

pub(crate) fn create(path: &Path, shape: Shape) {
    let mut random = Random::new(1);
    match shape {
        Shape::LargeFiles { files, bytes } => {
            fs::create_dir(path).unwrap();
            for n in 0..files {
                write(&path.join(format!("lib{n}.so")), bytes / files, &mut random);
            }
        }
        Shape::SmallFiles { entries, bytes } => small_files(path, entries, bytes, &mut random),
    }
}

fn small_files(path: &Path, entries: u64, bytes: u64, random: &mut Random) {
    const PER_DIRECTORY: u64 = 50;
    let directories = entries / PER_DIRECTORY;
    // About 280 bytes of framing an entry. Of a hundred entries two are directories and five symlinks.
    let mean = (bytes - 280 * entries) / (entries * 93 / 100);
    let small = mean * 10 / (9 + 16);
    let mut made = 0;
    for directory in 0..directories {
        let below = path.join(format!(
            "share/{}/module-{directory}",
            ["lib", "doc/html", "src/a/b"][directory as usize % 3]
        ));
        fs::create_dir_all(&below).unwrap();
        for n in 1..PER_DIRECTORY {
            let name = below.join(format!("some-file-{n}.txt"));
            made += 1;
            if made % 20 == 0 {
                symlink(format!("some-file-{}.txt", n / 2), name).unwrap();
            } else {
                let size = if made % 10 == 1 { 16 * small } else { small };
                write(&name, size / 2 + random.below(size), random);
            }
        }
    }
}

fn write(path: &Path, length: u64, random: &mut Random) {
    let words = (0..length.div_ceil(8)).flat_map(|_| random.next().to_le_bytes());
    fs::write(path, words.take(length as usize).collect::<Vec<u8>>()).unwrap();
}
