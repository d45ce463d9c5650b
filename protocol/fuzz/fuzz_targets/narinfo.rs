//! Whatever is accepted as a narinfo survives being written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2p_cache_protocol::NarInfo;

fuzz_target!(|text: &str| {
    if let Ok(info) = NarInfo::parse(text) {
        let _ = info.fingerprint();
        // A field that was in an old form may make the text longer than the limit.
        if let Ok(again) = NarInfo::parse(&info.to_string()) {
            assert_eq!(again, info);
        } else {
            assert!(info.to_string().len() > p2p_cache_protocol::MAX_NARINFO_BYTES);
        }
    }
});
