//! Texts of signatures and keys: accepted ones keep their form, and none verifies by chance.
#![no_main]

use libfuzzer_sys::fuzz_target;
use p2p_cache_protocol::{PublicKey, SecretKey, Signature};

fuzz_target!(|text: &str| {
    let published = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";
    if let Ok(signature) = text.parse::<Signature>() {
        assert_eq!(signature.to_string(), text);
        let key: PublicKey = published.parse().expect("the published key");
        assert!(!key.verifies(b"message", &signature));
    }
    if let Ok(key) = text.parse::<PublicKey>() {
        assert_eq!(key.to_string().parse(), Ok(key));
    }
    if let Ok(key) = text.parse::<SecretKey>() {
        assert!(key.public_key().verifies(b"message", &key.sign("message")));
    }
});
