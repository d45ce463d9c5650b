//! Blobs far larger than the memory that a node may use for them.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use p2p_cache_protocol::Sha256Digest;
use p2p_cache_tests::{Daemon, Origin, daemon, http};
use rand::{RngCore, SeedableRng};

const MIB: usize = 1024 * 1024;
/// Length of the blob. Hashing is most of the work: 1 GiB takes about a minute on two busy cores without SHA
/// instructions.
const BLOB_MIB: usize = 512;
/// What a node may hold in memory at any time, whatever the length of the blob: peaks of 71 MiB were seen.
const MAX_RESIDENT_KIB: u64 = 110 * 1024;
/// Time between two looks at the memory.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(20);

/// Writes `mebibytes` of data in which no two chunk groups are equal: random bytes, with the place in each group.
fn write_data(out: &mut impl Write, mebibytes: usize) -> std::io::Result<()> {
    const GROUP_BYTES: usize = 16 * 1024;
    let mut block = vec![0; MIB];
    rand::rngs::StdRng::seed_from_u64(7).fill_bytes(&mut block);
    for number in 0..mebibytes {
        for (group, bytes) in block.chunks_exact_mut(GROUP_BYTES).enumerate() {
            bytes[..8].copy_from_slice(&((number << 32 | group) as u64).to_le_bytes());
        }
        out.write_all(&block)?;
    }
    Ok(())
}

/// SHA-256 of a file, by another program than the one under test.
fn sha256_of(path: &Path) -> Sha256Digest {
    let output = Command::new("sha256sum").arg(path).output().expect("sha256sum runs");
    let line = String::from_utf8(output.stdout).expect("text");
    line.split(' ').next().expect("a digest").parse().expect("a digest")
}

/// Highest resident memory of each node in KiB while `work` runs.
fn peak_resident_kib<const N: usize>(nodes: [&Daemon; N], work: impl FnOnce()) -> [u64; N] {
    /// Ends the sampling, also when `work` panics.
    struct Ended<'f>(&'f AtomicBool);
    impl Drop for Ended<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sampler = scope.spawn(|| {
            let mut peaks = [0; N];
            while !ended.load(Ordering::SeqCst) {
                for (peak, node) in peaks.iter_mut().zip(nodes) {
                    *peak = node.resident_kib().max(*peak);
                }
                std::thread::sleep(SAMPLE_INTERVAL);
            }
            peaks
        });
        let guard = Ended(&ended);
        work();
        drop(guard);
        sampler.join().expect("the sampler")
    })
}

/// GETs a URL and compares the body with a file while it arrives.
fn assert_body_is(url: &str, path: &Path) {
    let (host, path_of_url) = url.trim_start_matches("http://").split_once('/').expect("a path");
    let mut stream = TcpStream::connect(host).expect("the gateway accepts");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    write!(stream, "GET /{path_of_url} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .expect("sent");
    let mut body = BufReader::with_capacity(MIB, stream);
    let mut line = String::new();
    body.read_line(&mut line).expect("a status line");
    assert!(line.starts_with("HTTP/1.1 200 "), "{line}");
    while line != "\r\n" {
        line.clear();
        body.read_line(&mut line).expect("a header");
    }
    let mut expected = BufReader::with_capacity(MIB, File::open(path).expect("the file"));
    let mut position = 0_u64;
    loop {
        let (got, want) = (body.fill_buf().expect("the body"), expected.fill_buf().expect("the file"));
        let count = got.len().min(want.len());
        assert!(
            got[..count] == want[..count],
            "other bytes between {position} and {}",
            position + count as u64
        );
        if count == 0 {
            assert_eq!(got.len(), want.len(), "the body ends at {position}");
            return;
        }
        body.consume(count);
        expected.consume(count);
        position += count as u64;
    }
}

/// Asks for the last MiB and compares it with the end of the file.
fn assert_last_mebibyte(url: &str, path: &Path) {
    use std::os::unix::fs::FileExt;
    let size = fs::metadata(path).expect("the file").len();
    let mut expected = vec![0; MIB];
    File::open(path).expect("the file").read_exact_at(&mut expected, size - MIB as u64).expect("its end");
    let part = http::request("GET", url, &[("Range", &format!("bytes=-{MIB}"))]);
    assert_eq!(part.status, 206);
    assert!(part.complete && part.body == expected);
}

fn assert_bounded(peaks: &[u64]) {
    println!("peak resident KiB: {peaks:?}");
    for peak in peaks {
        assert!(*peak < MAX_RESIDENT_KIB, "{peak} KiB resident for a blob of {BLOB_MIB} MiB");
    }
}

#[test]
fn a_blob_travels_between_nodes_in_bounded_memory() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("blob");
    write_data(&mut File::create(&file).expect("the file"), BLOB_MIB).expect("the data");
    let a = Daemon::builder().start();
    let b = Daemon::builder().peer(&a.peer).start();
    b.wait_for_peers(1);
    let url = format!("{}/blobs/sha256/{}", b.http, sha256_of(&file));

    let peaks = peak_resident_kib([&a, &b], || {
        let path = file.display().to_string();
        let put = daemon::p2p_cache(&["put", &path, "--http", a.http.trim_start_matches("http://")]);
        assert!(put.status.success(), "{}", String::from_utf8_lossy(&put.stderr));
        assert_body_is(&url, &file);
        b.wait_until_idle();
        assert_last_mebibyte(&url, &file);
    });
    assert_bounded(&peaks);
    assert_eq!(b.metric("p2p_cache_blobs"), 1, "kept");
    assert!(b.metric("p2p_cache_received_bytes_total{source=\"peer\"}") > (BLOB_MIB * MIB) as u64);
}

/// A binary cache with one store path, a single file; returns the path of the gateway's URL for its NAR.
fn write_cache(cache: &Path, mebibytes: usize) -> std::io::Result<String> {
    const STORE_HASH: &str = "0c6kzph7l0dcbfmjap64f0czdafn3b7x";
    fs::create_dir_all(cache.join("nar"))?;
    let nar = cache.join("nar/large.nar");
    let mut out = BufWriter::new(File::create(&nar)?);
    let string = |out: &mut BufWriter<File>, text: &str| {
        out.write_all(&(text.len() as u64).to_le_bytes())?;
        out.write_all(text.as_bytes())?;
        out.write_all(&[0; 7][..text.len().next_multiple_of(8) - text.len()])
    };
    for text in ["nix-archive-1", "(", "type", "regular", "contents"] {
        string(&mut out, text)?;
    }
    out.write_all(&((mebibytes * MIB) as u64).to_le_bytes())?;
    write_data(&mut out, mebibytes)?;
    string(&mut out, ")")?;
    out.flush()?;
    let (hash, size) = (sha256_of(&nar).to_nix32(), fs::metadata(&nar)?.len());
    let narinfo = format!(
        "StorePath: /nix/store/{STORE_HASH}-large\nURL: nar/large.nar\nCompression: none\nFileSize: {size}\n\
         NarHash: sha256:{hash}\nNarSize: {size}\nReferences: \n"
    );
    fs::write(cache.join(format!("{STORE_HASH}.narinfo")), narinfo)?;
    Ok(format!("/nar/{STORE_HASH}-{hash}.nar"))
}

#[test]
fn a_nar_comes_from_an_origin_in_bounded_memory() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let nar_path = write_cache(directory.path(), BLOB_MIB).expect("the cache");
    let origin = Origin::serve(directory.path());
    let node = Daemon::builder().origin(origin.url()).start();
    let (url, nar) = (format!("{}{nar_path}", node.http), directory.path().join("nar/large.nar"));

    let peaks = peak_resident_kib([&node], || {
        assert_body_is(&url, &nar);
        node.wait_until_idle();
        assert_last_mebibyte(&url, &nar);
    });
    assert_bounded(&peaks);
    assert_eq!(node.metric("p2p_cache_blobs"), 1, "kept");
    assert!(origin.bytes() < (BLOB_MIB * MIB) as u64 * 101 / 100, "fetched once");
}
