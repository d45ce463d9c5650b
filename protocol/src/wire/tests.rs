use proptest::prelude::*;

use super::*;
use crate::claim::{Claim, NodeKey, SignedClaim};
use crate::digest::{BlobId, Digest, Sha256Digest};
use crate::groups::GroupRange;
use crate::limits::{
    GROUP_BYTES, MAX_AGENT_BYTES, MAX_BLOB_BYTES, MAX_ENCODED_EXTENT_BYTES, MAX_EXTENT_GROUPS,
    MAX_NARINFO_BYTES, MAX_RUNS,
};
use crate::store_path::StoreHash;

fn payload<T: WireMessage>(message: &T) -> Vec<u8> {
    let frame = encode_frame(message).unwrap();
    let (header, payload) = frame.split_first_chunk::<FRAME_HEADER_BYTES>().unwrap();
    assert_eq!(frame_len(*header), Ok(payload.len()));
    payload.to_vec()
}

fn range_request(size: u64, start: u64, end: u64) -> Request {
    Request::Range { blob: BlobId([2; 32]), size, range: GroupRange::new(start, end) }
}

/// Every kind of request, with the bytes that it must always have.
fn golden_requests() -> Vec<(Request, Vec<u8>)> {
    vec![
        (Request::NarInfo { hash: StoreHash::from([9; 20]) }, [&[0][..], &[9; 20]].concat()),
        (Request::Lookup { digest: Digest::Sha256(Sha256Digest([1; 32])) }, [&[1, 0][..], &[1; 32]].concat()),
        (Request::Lookup { digest: Digest::Blake3(BlobId([2; 32])) }, [&[1, 1][..], &[2; 32]].concat()),
        (range_request(0x10_0000, 3, 64), [&[2][..], &[2; 32], &[252, 0, 0, 16, 0, 3, 64]].concat()),
        (Request::Resolve { hash: StoreHash::from([9; 20]) }, [&[3][..], &[9; 20]].concat()),
        (
            Request::Follow { hash: StoreHash::from([9; 20]), nar: Sha256Digest([1; 32]), offset: 7 },
            [&[4][..], &[9; 20], &[1; 32], &[7]].concat(),
        ),
        (Request::Watch { blob: BlobId([2; 32]), size: 300 }, [&[5][..], &[2; 32], &[251, 44, 1]].concat()),
    ]
}

/// Every kind of response, with the bytes that it must always have.
fn golden_responses() -> Vec<(Response, Vec<u8>)> {
    let claim = SignedClaim {
        claim: Claim { sha256: Sha256Digest([1; 32]), blob: BlobId([2; 32]), size: 300 },
        signer: NodeKey([3; 32]),
        signature: [4; 64],
    };
    let claim_bytes = [&[2][..], &[1; 32], &[2; 32], &[251, 44, 1], &[3; 32], &[4; 64]].concat();
    vec![
        (Response::NotFound, vec![0]),
        (Response::NarInfo { text: "a\n".to_owned() }, vec![1, 2, b'a', b'\n']),
        (Response::Have { claim }, claim_bytes),
        (Response::Data { encoded_bytes: 0x0001_0040 }, vec![3, 252, 64, 0, 1, 0]),
        (Response::Busy { retry_after_ms: 250 }, vec![4, 250]),
        (
            Response::Partial { blob: BlobId([2; 32]), size: 300 },
            [&[5][..], &[2; 32], &[251, 44, 1]].concat(),
        ),
        (Response::Arriving { size: 300 }, vec![6, 251, 44, 1]),
        (
            Response::Groups { runs: vec![GroupRange::new(1, 3), GroupRange::new(4, 5)] },
            vec![7, 2, 1, 3, 4, 5],
        ),
    ]
}

#[test]
fn the_bytes_of_every_message_stay_what_they_are() {
    for (message, bytes) in golden_requests() {
        assert_eq!(payload(&message), bytes, "{message:?}");
        assert_eq!(decode_frame(&bytes), Ok(message));
    }
    for (message, bytes) in golden_responses() {
        assert_eq!(payload(&message), bytes, "{message:?}");
        assert_eq!(decode_frame(&bytes), Ok(message));
    }
    let hello = Hello { min_version: 1, max_version: 2, agent: "x/1".to_owned() };
    assert_eq!(encode_frame(&hello).unwrap(), [6, 0, 0, 0, 1, 2, 3, b'x', b'/', b'1']);
}

#[test]
fn truncated_and_overlong_frames_are_refused() {
    let check = |bytes: &[u8], decode: fn(&[u8]) -> Result<(), FrameError>| {
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err());
        }
        let longer = [bytes, &[0]].concat();
        assert_eq!(decode(&longer), Err(FrameError::Trailing { extra: 1 }));
    };
    for (_, bytes) in golden_requests() {
        check(&bytes, |bytes| decode_frame::<Request>(bytes).map(drop));
    }
    for (_, bytes) in golden_responses() {
        check(&bytes, |bytes| decode_frame::<Response>(bytes).map(drop));
    }
}

#[test]
fn frame_lengths_are_bounded() {
    for length in [0, MAX_FRAME_BYTES as u32 + 1, u32::MAX] {
        assert_eq!(frame_len(length.to_le_bytes()), Err(FrameError::Length { length: length as usize }));
    }
    assert_eq!(frame_len((MAX_FRAME_BYTES as u32).to_le_bytes()), Ok(MAX_FRAME_BYTES));
    assert!(decode_frame::<Response>(&vec![0; MAX_FRAME_BYTES + 1]).is_err());
    let largest = Response::NarInfo { text: "x".repeat(MAX_NARINFO_BYTES) };
    assert_eq!(decode_frame(&payload(&largest)), Ok(largest));
}

#[test]
fn ranges_that_nobody_may_ask_for_are_neither_sent_nor_accepted() {
    let size = 100 * GROUP_BYTES - 1;
    for fine in [range_request(size, 0, 1), range_request(size, 36, 100), range_request(1, 0, 1)] {
        assert_eq!(decode_frame(&payload(&fine)), Ok(fine));
    }
    for wrong in [
        range_request(size, 5, 5),
        range_request(size, 6, 5),
        range_request(size, 99, 101),
        range_request(size, 0, MAX_EXTENT_GROUPS + 1),
        range_request(size, u64::MAX - 1, u64::MAX),
        range_request(0, 0, 0),
        range_request(0, 0, 1),
        range_request(MAX_BLOB_BYTES + 1, 0, 1),
        range_request(u64::MAX, 0, 1),
    ] {
        assert!(matches!(encode_frame(&wrong), Err(FrameError::Message(_))), "{wrong:?}");
        let bytes = bincode::serde::encode_to_vec(&wrong, bincode::config::standard()).unwrap();
        assert!(matches!(decode_frame::<Request>(&bytes), Err(FrameError::Message(_))), "{wrong:?}");
    }
}

fn many_runs(count: usize) -> Vec<GroupRange> {
    (0..count as u64)
        .map(|run| (MAX_BLOB_BYTES / GROUP_BYTES) - 2 * run)
        .rev()
        .map(|end| GroupRange::new(end - 1, end))
        .collect()
}

#[test]
fn the_most_runs_of_the_largest_numbers_fit_a_frame() {
    let largest = Response::Groups { runs: many_runs(MAX_RUNS) };
    assert_eq!(decode_frame(&payload(&largest)), Ok(largest));
}

#[test]
fn requests_beyond_the_largest_blob_are_refused() {
    let (hash, nar, blob) = (StoreHash::from([9; 20]), Sha256Digest([1; 32]), BlobId([2; 32]));
    for wrong in [
        Request::Follow { hash, nar, offset: MAX_BLOB_BYTES + 1 },
        Request::Watch { blob, size: MAX_BLOB_BYTES + 1 },
    ] {
        let bytes = bincode::serde::encode_to_vec(&wrong, bincode::config::standard()).unwrap();
        assert!(matches!(decode_frame::<Request>(&bytes), Err(FrameError::Message(_))));
        assert!(encode_frame(&wrong).is_err());
    }
}

#[test]
fn responses_that_promise_too_much_are_refused() {
    let claim = Claim { sha256: Sha256Digest([0; 32]), blob: BlobId([0; 32]), size: MAX_BLOB_BYTES + 1 };
    let claim = SignedClaim { claim, signer: NodeKey([0; 32]), signature: [0; 64] };
    for wrong in [
        Response::Have { claim },
        Response::Data { encoded_bytes: MAX_ENCODED_EXTENT_BYTES as u32 + 1 },
        Response::NarInfo { text: "x".repeat(MAX_NARINFO_BYTES + 1) },
        Response::Partial { blob: BlobId([0; 32]), size: MAX_BLOB_BYTES + 1 },
        Response::Arriving { size: u64::MAX },
        Response::Groups { runs: vec![GroupRange::new(3, 3)] },
        Response::Groups { runs: vec![GroupRange::new(3, 4), GroupRange::new(4, 5)] },
        Response::Groups { runs: vec![GroupRange::new(3, 4), GroupRange::new(1, 2)] },
        Response::Groups { runs: vec![GroupRange::new(0, u64::MAX)] },
        Response::Groups { runs: many_runs(MAX_RUNS + 1) },
    ] {
        let bytes = bincode::serde::encode_to_vec(&wrong, bincode::config::standard()).unwrap();
        assert!(matches!(decode_frame::<Response>(&bytes), Err(FrameError::Message(_))));
        assert!(encode_frame(&wrong).is_err());
    }
}

#[test]
fn a_string_that_claims_to_be_huge_allocates_nothing() {
    // NarInfo with a text of 2^62 bytes, of which none follow.
    let mut bytes = vec![1, 253];
    bytes.extend((1u64 << 62).to_le_bytes());
    assert!(matches!(decode_frame::<Response>(&bytes), Err(FrameError::Decode { .. })));
}

#[test]
fn the_agent_of_a_hello_is_short_printable_text() {
    for agent in ["x".repeat(MAX_AGENT_BYTES + 1), "line\nbreak".to_owned(), "\u{1b}[31m".to_owned()] {
        let hello = Hello::new(agent);
        assert!(matches!(encode_frame(&hello), Err(FrameError::Message(MessageError::Agent { .. }))));
        let bytes = bincode::serde::encode_to_vec(&hello, bincode::config::standard()).unwrap();
        assert!(decode_frame::<Hello>(&bytes).is_err());
    }
    let hello = Hello::new("x".repeat(MAX_AGENT_BYTES));
    assert_eq!(decode_frame(&payload(&hello)), Ok(hello));
    assert!(decode_frame::<Hello>(&[2, 1, 0]).is_err(), "versions in the wrong order");
}

#[test]
fn the_newest_common_version_is_agreed_on() {
    let hello = |min_version, max_version| Hello { min_version, max_version, agent: String::new() };
    for (ours, theirs, expected) in [
        ((1, 1), (1, 1), Some(1)),
        ((1, 3), (2, 5), Some(3)),
        ((2, 5), (1, 2), Some(2)),
        ((1, 1), (2, 3), None),
        ((4, 9), (1, 3), None),
    ] {
        let (ours, theirs) = (hello(ours.0, ours.1), hello(theirs.0, theirs.1));
        assert_eq!(negotiate(&ours, &theirs).ok(), expected);
        assert_eq!(negotiate(&theirs, &ours).ok(), expected, "both sides agree");
    }
    let error = negotiate(&hello(1, 1), &hello(2, 3)).unwrap_err().to_string();
    assert!(error.contains("upgrade"), "{error}");
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        // What is accepted says the same when it is written again.
        if let Ok(message) = decode_frame::<Request>(&bytes) {
            prop_assert_eq!(decode_frame(&payload(&message)), Ok(message));
        }
        if let Ok(message) = decode_frame::<Response>(&bytes) {
            prop_assert_eq!(decode_frame(&payload(&message)), Ok(message));
        }
        if let Ok(message) = decode_frame::<Hello>(&bytes) {
            prop_assert_eq!(decode_frame(&payload(&message)), Ok(message));
        }
    }

    #[test]
    fn valid_ranges_survive(blob: [u8; 32], size in 1..=MAX_BLOB_BYTES, at: u64, len in 1..=MAX_EXTENT_GROUPS) {
        let groups = crate::tree::group_count(size);
        let start = at % groups;
        let range = GroupRange::new(start, (start + len).min(groups));
        let request = Request::Range { blob: BlobId(blob), size, range };
        prop_assert_eq!(decode_frame(&payload(&request)), Ok(request));
    }
}
