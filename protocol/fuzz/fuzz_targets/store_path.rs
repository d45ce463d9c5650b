//! Store paths, digests and base 32: what is accepted is written as it came.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2p_cache_protocol::{Digest, StorePath, base32};

fuzz_target!(|text: &str| {
    if let Ok(path) = text.parse::<StorePath>() {
        assert_eq!(path.to_string(), text);
    }
    if let Ok(bytes) = base32::decode(text) {
        assert_eq!(base32::encode(&bytes), text);
    }
    if let Ok(digest) = text.parse::<Digest>() {
        assert_eq!(digest.to_string().parse(), Ok(digest));
    }
});
