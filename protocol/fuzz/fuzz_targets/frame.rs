//! Whatever is accepted as a message can be sent on and means the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2p_cache_protocol::{Hello, Request, Response, WireMessage, decode_frame, encode_frame, frame_len};

fn check<T: WireMessage + PartialEq + std::fmt::Debug>(payload: &[u8]) {
    if let Ok(message) = decode_frame::<T>(payload) {
        let frame = encode_frame(&message).expect("what was decoded can be encoded");
        assert_eq!(decode_frame::<T>(&frame[4..]).as_ref(), Ok(&message));
    }
}

fuzz_target!(|payload: &[u8]| {
    if let Some(header) = payload.first_chunk() {
        let _ = frame_len(*header);
    }
    check::<Hello>(payload);
    check::<Request>(payload);
    check::<Response>(payload);
});
