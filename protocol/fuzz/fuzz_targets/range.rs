//! Nothing reaches the sink that the blob does not hold, whatever the bytes, the size and the range.
#![no_main]

use std::io;

use libfuzzer_sys::fuzz_target;
use p2p_cache_protocol::{BlobId, GroupRange, RangeSink, decode_range};

struct NothingArrives;

impl RangeSink for NothingArrives {
    fn data(&mut self, _: u64, bytes: &[u8]) -> io::Result<()> {
        panic!("{} unproved bytes", bytes.len());
    }

    fn parent(&mut self, _: u64, _: &[u8; 64]) -> io::Result<()> {
        panic!("an unproved hash pair");
    }
}

fuzz_target!(|input: (u64, u64, u64, &[u8])| {
    let (size, start, end, encoded) = input;
    // No input hashes to this root.
    let _ = decode_range(BlobId([0; 32]), size, GroupRange::new(start, end), encoded, &mut NothingArrives);
});
