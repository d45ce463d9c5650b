//! NARs of live store paths beside what could be done at best, in one run, so that the ratios mean something on any
//! machine: `cargo bench -p p2p-cache --bench nar`. Trees are made below TMPDIR, about 1.2 GB, and what is measured
//! comes from the page cache.

#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

mod http;
mod tree;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest;
use p2p_cache::nix_store::nar::{Layout, NarReader, dump};

use self::tree::{Random, Shape};

// As the daemon does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MB: f64 = 1e6;
const RANGE_BYTES: u64 = 1 << 20;
const RANGES: usize = 3000;
const ROUNDS: usize = 5;

fn main() {
    let directory = tempfile::tempdir().unwrap();
    let small = directory.path().join("small");
    tree::create(&small, Shape::SmallFiles { entries: 50_000, bytes: 600_000_000 });
    ranges(&small);
    hashing("50,000 entries", &small);
    std::fs::remove_dir_all(&small).unwrap();
    for (what, shape) in [
        ("4 files", Shape::LargeFiles { files: 4, bytes: 190_000_000 }),
        ("15,000 entries", Shape::SmallFiles { entries: 15_000, bytes: 190_000_000 }),
    ] {
        let path = directory.path().join("path");
        tree::create(&path, shape);
        hashing(what, &path);
        http::beside_nginx(what, &path, directory.path());
        std::fs::remove_dir_all(&path).unwrap();
    }
}

/// Random ranges by position, and what the index costs.
fn ranges(path: &Path) {
    let started = Instant::now();
    let layout = Layout::scan(path).unwrap();
    let scanned = started.elapsed();
    println!(
        "layout of {} entries, {:.0} MB: {:.0} ms, {:.1} MiB of memory",
        layout.entries(),
        layout.size() as f64 / MB,
        milliseconds(scanned),
        layout.heap_bytes() as f64 / f64::from(1 << 20),
    );
    let reader = NarReader::open(path, Arc::new(layout)).unwrap();
    let mut random = Random::new(7);
    let mut buffer = vec![0; RANGE_BYTES as usize];
    let mut times: Vec<Duration> = (0..RANGES)
        .map(|_| {
            let start = random.below(reader.size() - RANGE_BYTES);
            let started = Instant::now();
            reader.read_exact_at(start, &mut buffer).unwrap();
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    let quantile = |share: f64| milliseconds(times[(share * (times.len() - 1) as f64) as usize]);
    println!(
        "random ranges of 1 MiB: p50 {:.2} ms, p99 {:.2} ms (target < 5), slowest {:.2} ms",
        quantile(0.5),
        quantile(0.99),
        quantile(1.0)
    );
}

/// What verification hashes.
struct Hashes {
    blake3: blake3::Hasher,
    sha256: digest::Context,
}

impl Hashes {
    fn new() -> Self {
        Self { blake3: blake3::Hasher::new(), sha256: digest::Context::new(&digest::SHA256) }
    }

    fn finish(self) -> (blake3::Hash, Vec<u8>) {
        (self.blake3.finalize(), self.sha256.finish().as_ref().to_vec())
    }
}

impl Write for Hashes {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.blake3.update(bytes);
        self.sha256.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A dump that is hashed on the way, beside the same bytes hashed in memory.
fn hashing(what: &str, path: &Path) {
    let mut nar = Vec::new();
    dump(path, &mut nar).unwrap();
    let mut ratios = Vec::new();
    let mut rates = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (dumped, from_store) = timed(|| {
            let mut hashes = Hashes::new();
            dump(path, &mut hashes).unwrap();
            hashes.finish()
        });
        let (plain, from_memory) = timed(|| {
            let mut hashes = Hashes::new();
            nar.chunks(1 << 20).for_each(|piece| hashes.write_all(piece).unwrap());
            hashes.finish()
        });
        assert!(dumped == plain, "other bytes");
        ratios.push(from_memory.as_secs_f64() / from_store.as_secs_f64());
        rates.0.push(nar.len() as f64 / MB / from_store.as_secs_f64());
        rates.1.push(nar.len() as f64 / MB / from_memory.as_secs_f64());
    }
    println!(
        "{what}: dump through BLAKE3 and SHA-256 / the same bytes from memory: {:.2} (target >= 0.7); {:.0} and {:.0} MB/s",
        median(ratios),
        median(rates.0),
        median(rates.1)
    );
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let result = work();
    (result, started.elapsed())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
