use std::io;

use bao_tree::io::outboard::{EmptyOutboard, PreOrderOutboard};
use bao_tree::iter::BaoChunk;
use proptest::prelude::*;

use super::geometry::{bao_tree, chunk_ranges};
use super::*;
use crate::digest::BlobId;
use crate::limits::{MAX_BLOB_BYTES, MAX_ENCODED_EXTENT_BYTES, MAX_EXTENT_GROUPS};

const GROUP: usize = GROUP_BYTES as usize;

/// Lengths around every boundary that there is: chunk, group, extent, and one read of hash pairs.
const SIZES: [usize; 19] = [
    0,
    1,
    1023,
    1024,
    1025,
    GROUP - 1,
    GROUP,
    GROUP + 1,
    2 * GROUP,
    2 * GROUP + 1,
    3 * GROUP,
    3 * GROUP + 1024,
    4 * GROUP,
    5 * GROUP + 1,
    64 * GROUP - 1,
    64 * GROUP,
    65 * GROUP,
    130 * GROUP + 77,
    200 * GROUP,
];

/// A blob with its outboard.
struct Blob {
    id: BlobId,
    data: Vec<u8>,
    outboard: Vec<u8>,
}

impl Blob {
    fn new(size: usize) -> Self {
        // No group is like another, so that a swapped one shows.
        let mut data = vec![0; size];
        blake3::Hasher::new().update(&size.to_le_bytes()).finalize_xof().fill(&mut data);
        let mut outboard = Vec::new();
        let id = create_outboard(data.as_slice(), size as u64, &mut outboard).unwrap();
        Self { id, data, outboard }
    }

    fn size(&self) -> u64 {
        self.data.len() as u64
    }

    fn encode(&self, range: GroupRange) -> Vec<u8> {
        let mut out = Vec::new();
        encode_range(self.id, self.size(), self.data.as_slice(), self.outboard.as_slice(), range, &mut out)
            .unwrap();
        out
    }

    fn bytes(&self, range: GroupRange) -> &[u8] {
        let bytes = range.bytes(self.size());
        &self.data[bytes.start as usize..bytes.end as usize]
    }
}

/// Keeps what it is given, in files that begin empty. Fails at a given call.
#[derive(Default)]
struct Sink {
    data: Vec<u8>,
    outboard: Vec<u8>,
    groups: Vec<u64>,
    parents: u64,
    fail_at_group: Option<u64>,
}

impl RangeSink for Sink {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let group = offset / GROUP_BYTES;
        if self.fail_at_group == Some(group) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.groups.push(group);
        self.data.write_all_at(offset, bytes)
    }

    fn parent(&mut self, outboard_offset: u64, pair: &[u8; 64]) -> io::Result<()> {
        self.parents += 1;
        self.outboard.write_all_at(outboard_offset, pair)
    }
}

impl Sink {
    /// Whether all that was delivered is what the blob has there.
    fn assert_right(&self, blob: &Blob) {
        for group in &self.groups {
            let range = GroupRange::new(*group, group + 1);
            let bytes = range.bytes(blob.size());
            assert_eq!(&self.data[bytes.start as usize..bytes.end as usize], blob.bytes(range));
        }
        for (pair, (got, wanted)) in self.outboard.chunks(64).zip(blob.outboard.chunks(64)).enumerate() {
            assert!(got == wanted || got == [0; 64], "hash pair {pair}");
        }
    }
}

fn decode(blob: &Blob, range: GroupRange, encoded: &[u8]) -> (Sink, Result<(), DecodeError>) {
    let mut sink = Sink::default();
    let result = decode_range(blob.id, blob.size(), range, encoded, &mut sink);
    sink.assert_right(blob);
    (sink, result)
}

#[test]
fn whole_blobs_of_every_size_travel() {
    for size in SIZES {
        let blob = Blob::new(size);
        assert_eq!(blob.id, BlobId::of(&blob.data), "{size}");
        assert_eq!(blob.outboard.len() as u64, outboard_bytes(blob.size()), "{size}");
        let all = GroupRange::all(blob.size());
        let encoded = blob.encode(all);
        assert_eq!(encoded.len() as u64, encoded_bytes(blob.size(), all), "{size}");
        let (sink, result) = decode(&blob, all, &encoded);
        result.unwrap();
        assert_eq!((sink.data, sink.outboard), (blob.data, blob.outboard), "{size}");
    }
}

#[test]
fn the_empty_blob_is_checked_against_its_id() {
    let blob = Blob::new(0);
    assert_eq!((group_count(0), outboard_bytes(0)), (0, 0));
    let mut sink = Sink::default();
    decode_range(blob.id, 0, GroupRange::default(), &[], &mut sink).unwrap();
    let wrong = decode_range(BlobId([1; 32]), 0, GroupRange::default(), &[], &mut sink);
    assert!(matches!(wrong, Err(DecodeError::Corrupt { group: 0 })));
    let too_long = decode_range(blob.id, 0, GroupRange::default(), &[0], &mut sink);
    assert!(matches!(too_long, Err(DecodeError::TooLong { got: 1, expected: 0 })));
}

#[test]
fn two_sources_fill_one_blob() {
    let blob = Blob::new(130 * GROUP + 77);
    let mut sink = Sink::default();
    for range in [GroupRange::new(64, 131), GroupRange::new(0, 64)] {
        decode_range(blob.id, blob.size(), range, &blob.encode(range), &mut sink).unwrap();
    }
    assert_eq!((sink.data, sink.outboard), (blob.data, blob.outboard));
}

#[test]
fn a_range_that_was_received_can_be_passed_on() {
    let blob = Blob::new(130 * GROUP + 77);
    let range = GroupRange::new(70, 80);
    let encoded = blob.encode(range);
    let (sink, _) = decode(&blob, range, &encoded);
    let mut again = Vec::new();
    encode_range(blob.id, blob.size(), sink.data.as_slice(), sink.outboard.as_slice(), range, &mut again)
        .unwrap();
    assert_eq!(again, encoded);

    // What was not received cannot: its hash pairs are holes.
    let mut out = b"kept".to_vec();
    let beyond = GroupRange::new(5, 6);
    let error =
        encode_range(blob.id, blob.size(), sink.data.as_slice(), sink.outboard.as_slice(), beyond, &mut out)
            .unwrap_err();
    assert_eq!((error.kind(), out.as_slice()), (io::ErrorKind::InvalidData, b"kept".as_slice()));
}

#[test]
fn short_files_are_errors_and_leave_the_output_alone() {
    let blob = Blob::new(5 * GROUP);
    let all = GroupRange::all(blob.size());
    let mut out = Vec::new();
    let short_data = &blob.data[..4 * GROUP];
    let error =
        encode_range(blob.id, blob.size(), short_data, blob.outboard.as_slice(), all, &mut out).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    let short_outboard = &blob.outboard[..64];
    let error =
        encode_range(blob.id, blob.size(), blob.data.as_slice(), short_outboard, all, &mut out).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    let outside = GroupRange::new(0, 6);
    let error =
        encode_range(blob.id, blob.size(), blob.data.as_slice(), blob.outboard.as_slice(), outside, &mut out)
            .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    assert!(out.is_empty());
    assert!(create_outboard(short_data, blob.size(), Vec::new()).is_err());
}

#[test]
fn a_sink_that_fails_ends_the_decoding() {
    let blob = Blob::new(5 * GROUP);
    let all = GroupRange::all(blob.size());
    let mut sink = Sink { fail_at_group: Some(2), ..Sink::default() };
    let result = decode_range(blob.id, blob.size(), all, &blob.encode(all), &mut sink);
    assert!(matches!(result, Err(DecodeError::Sink(error)) if error.kind() == io::ErrorKind::StorageFull));
    assert_eq!(sink.groups, [0, 1]);
}

#[test]
fn a_wrong_size_shows_with_the_last_group() {
    let blob = Blob::new(5 * GROUP + 9);
    let last = GroupRange::new(5, 6);
    for size in [blob.size() - 1, blob.size() + 1] {
        let mut encoded = blob.encode(last);
        encoded.resize(encoded_bytes(size, last) as usize, 0);
        let result = decode_range(blob.id, size, last, &encoded, &mut Sink::default());
        assert!(matches!(result, Err(DecodeError::Corrupt { group: 5 })), "{size}");
    }
}

#[test]
fn no_extent_is_longer_than_its_limit() {
    for size in [1, GROUP_BYTES, MAX_BLOB_BYTES - 1, MAX_BLOB_BYTES, MAX_BLOB_BYTES / 2 + 5 * GROUP_BYTES + 1]
    {
        let groups = group_count(size);
        for start in
            [0, 1, 31, groups / 2 - groups.min(64) / 2, groups.saturating_sub(64), groups.saturating_sub(1)]
        {
            let range = GroupRange::new(start, (start + MAX_EXTENT_GROUPS).min(groups));
            assert!(encoded_bytes(size, range) <= MAX_ENCODED_EXTENT_BYTES, "{size} {range}");
        }
    }
}

/// A size with a range of its groups.
fn size_and_range(max_groups: u64) -> impl Strategy<Value = (usize, GroupRange)> {
    let size = prop_oneof![
        proptest::sample::select(SIZES.to_vec()),
        0..max_groups as usize * GROUP,
        (0..max_groups as usize).prop_map(|groups| groups * GROUP),
    ];
    (size, any::<(u16, u16)>()).prop_map(|(size, (a, b))| {
        let slots = group_count(size as u64) + 1;
        let (a, b) = (u64::from(a) % slots, u64::from(b) % slots);
        (size, GroupRange::new(a.min(b), a.max(b)))
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_range_of_any_blob_travels((size, range) in size_and_range(40)) {
        let blob = Blob::new(size);
        let encoded = blob.encode(range);
        prop_assert_eq!(encoded.len() as u64, encoded_bytes(blob.size(), range));
        let (sink, result) = decode(&blob, range, &encoded);
        prop_assert!(result.is_ok());
        prop_assert_eq!(sink.groups, (range.start..range.end).collect::<Vec<_>>());
        let bytes = range.bytes(blob.size());
        prop_assert_eq!(bytes.end - bytes.start + sink.parents * PAIR_BYTES, encoded.len() as u64);
    }

    #[test]
    fn the_encoding_is_that_of_bao_tree((size, range) in size_and_range(24)) {
        let blob = Blob::new(size);
        if range.is_empty() {
            return Ok(());
        }
        let tree = bao_tree(blob.size());
        let ranges = chunk_ranges(blob.size(), range);
        let root = blake3::Hash::from(blob.id.0);
        let theirs = PreOrderOutboard { root, tree, data: blob.outboard.as_slice() };
        let mut encoded = Vec::new();
        bao_tree::io::sync::encode_ranges_validated(blob.data.as_slice(), theirs, &ranges, &mut encoded).unwrap();
        prop_assert_eq!(&encoded, &blob.encode(range));
        let mut decoded = Vec::new();
        bao_tree::io::sync::decode_ranges(encoded.as_slice(), &ranges, &mut decoded, EmptyOutboard { tree, root })
            .unwrap();
        let bytes = range.bytes(blob.size());
        prop_assert_eq!(&decoded[bytes.start as usize..bytes.end as usize], blob.bytes(range));
    }

    #[test]
    fn any_damaged_byte_is_found_and_nothing_wrong_is_delivered(
        (size, range) in size_and_range(12),
        position: proptest::sample::Index,
        flip in 1u8..,
    ) {
        let blob = Blob::new(size);
        let mut encoded = blob.encode(range);
        if encoded.is_empty() {
            return Ok(());
        }
        let position = position.index(encoded.len());
        encoded[position] ^= flip;
        let (sink, result) = decode(&blob, range, &encoded);
        match result {
            Err(DecodeError::Corrupt { group }) => {
                prop_assert_eq!(sink.groups, (range.start..group).collect::<Vec<_>>());
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn any_missing_or_added_byte_is_found((size, range) in size_and_range(8), cut: proptest::sample::Index) {
        let blob = Blob::new(size);
        let mut encoded = blob.encode(range);
        if !encoded.is_empty() {
            let (sink, result) = decode(&blob, range, &encoded[..cut.index(encoded.len())]);
            let truncated = matches!(result, Err(DecodeError::Truncated { group, .. })
                if group == range.start + sink.groups.len() as u64);
            prop_assert!(truncated);
        }
        encoded.push(0);
        let (sink, result) = decode(&blob, range, &encoded);
        let too_long = matches!(result, Err(DecodeError::TooLong { .. }));
        prop_assert!(too_long && sink.groups.is_empty());
    }

    #[test]
    fn another_blob_or_range_never_verifies((size, range) in size_and_range(8), shift in 1u64..4) {
        let blob = Blob::new(size);
        if range.is_empty() {
            return Ok(());
        }
        let encoded = blob.encode(range);
        let mut sink = Sink::default();
        let result = decode_range(BlobId([7; 32]), blob.size(), range, &encoded, &mut sink);
        let corrupt = matches!(result, Err(DecodeError::Corrupt { .. }));
        prop_assert!(corrupt && sink.groups.is_empty());
        let elsewhere = GroupRange::new(range.start + shift, range.end + shift);
        let (_, result) = decode(&blob, elsewhere, &encoded);
        prop_assert!(result.is_err());
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        blob: [u8; 32],
        size in prop_oneof![any::<u64>(), 0..MAX_BLOB_BYTES, 0u64..100_000],
        start in prop_oneof![any::<u64>(), 0u64..8],
        end in prop_oneof![any::<u64>(), 0u64..8],
        encoded in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let range = GroupRange::new(start, end);
        let result = decode_range(BlobId(blob), size, range, &encoded, &mut Sink::default());
        prop_assert!(result.is_err() || range.is_empty());
        let mut out = Vec::new();
        // Only ranges that a request may ask for: the output is reserved before the data is read.
        if range.len() <= MAX_EXTENT_GROUPS {
            let _ = encode_range(BlobId(blob), size, encoded.as_slice(), encoded.as_slice(), range, &mut out);
        }
    }

    #[test]
    fn lengths_are_right_for_blobs_of_any_size(size in 1..=MAX_BLOB_BYTES, at: u64, len in 1u64..=MAX_EXTENT_GROUPS) {
        let groups = group_count(size);
        let start = at % groups;
        let range = GroupRange::new(start, (start + len).min(groups));
        let ranges = chunk_ranges(size, range);
        let walked: u64 = bao_tree(size)
            .ranges_pre_order_chunks_iter_ref(&ranges, 0)
            .map(|chunk| match chunk {
                BaoChunk::Parent { .. } => PAIR_BYTES,
                BaoChunk::Leaf { size, .. } => size as u64,
            })
            .sum();
        prop_assert_eq!(encoded_bytes(size, range), walked);
    }
}
