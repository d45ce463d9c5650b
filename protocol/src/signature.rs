//! Signatures and keys of binary caches: ed25519, written `NAME:BASE64` as Nix writes them.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};

use crate::bytes_type::excerpt;
use crate::limits::MAX_KEY_TEXT_BYTES;

/// Base 64 as Nix reads it: padding may be missing, and bits that no byte holds are ignored.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A `Sig` line of a narinfo.
///
/// One that we cannot understand (another algorithm, a damaged payload) is kept as it came and never
/// verifies: a cache may add signatures that newer clients know.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Signature {
    text: String,
    payload: Option<[u8; 64]>,
}

/// A key that may vouch for narinfos.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PublicKey {
    name: String,
    key: VerifyingKey,
}

/// The secret half of a cache key, as `nix-store --generate-binary-cache-key` writes it.
#[derive(Clone)]
pub struct SecretKey {
    name: String,
    key: SigningKey,
}

/// The keys that the owner trusts. Several keys may share a name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TrustedKeys(Vec<PublicKey>);

/// Why a text cannot be a signature line at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// Control characters or spaces, which would break the line it stands on.
    #[error("a signature must be one word without control characters, got {text:?}")]
    Text {
        /// The beginning of the text.
        text: String,
    },
    /// Nothing at all, or far longer than any signature.
    #[error("a signature has 1 to {MAX_KEY_TEXT_BYTES} bytes, got {length}")]
    Length {
        /// Bytes in the text.
        length: usize,
    },
}

/// Why a text is not a key. Never repeats a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not `NAME:BASE64`.
    #[error(
        "a key is written NAME:BASE64, for example cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="
    )]
    Form,
    /// The part after the colon is not base 64, or not of the right length.
    #[error("the key {name:?} does not hold {expected} bytes of base 64 after its colon")]
    Payload {
        /// The name before the colon.
        name: String,
        /// Bytes that a key of this kind has.
        expected: usize,
    },
    /// The bytes are no point of the curve, a weak one, or the halves of a secret key do not match.
    #[error("the key {name:?} is not a valid ed25519 key")]
    Invalid {
        /// The name before the colon.
        name: String,
    },
}

impl Signature {
    /// The name of the key that is said to have signed; empty when there is none.
    pub fn key_name(&self) -> &str {
        self.text.split_once(':').map_or("", |(name, _)| name)
    }

    /// The line as it came.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether the payload is 64 bytes of base 64, so that it might verify.
    pub fn is_understood(&self) -> bool {
        self.payload.is_some()
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Signature {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() || text.len() > MAX_KEY_TEXT_BYTES {
            return Err(SignatureError::Length { length: text.len() });
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace()) {
            return Err(SignatureError::Text { text: excerpt(text) });
        }
        let payload = split_key(text).and_then(|(_, encoded)| decode_payload(encoded));
        Ok(Self { text: text.to_owned(), payload })
    }
}

impl PublicKey {
    /// The name, by which signatures refer to the key.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The 32 bytes of the key.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// Whether `signature` bears this key's name and is its signature of `message`.
    ///
    /// Strict as libsodium, which Nix uses: malleable signatures and weak points are refused.
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        let Some(payload) = &signature.payload else { return false };
        signature.key_name() == self.name
            && self.key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(payload)).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, BASE64.encode(self.key.as_bytes()))
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, bytes) = decode_key::<32>(text)?;
        match VerifyingKey::from_bytes(&bytes) {
            Ok(key) if !key.is_weak() => Ok(Self { name: name.to_owned(), key }),
            _ => Err(KeyError::Invalid { name: excerpt(name) }),
        }
    }
}

impl SecretKey {
    /// A key from its 32-byte seed.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        check_name(name)?;
        Ok(Self { name: name.to_owned(), key: SigningKey::from_bytes(seed) })
    }

    /// The name, which its signatures will bear.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Signs a text, for a narinfo its fingerprint.
    pub fn sign(&self, message: &str) -> Signature {
        let payload = self.key.sign(message.as_bytes()).to_bytes();
        Signature { text: format!("{}:{}", self.name, BASE64.encode(payload)), payload: Some(payload) }
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        PublicKey { name: self.name.clone(), key: self.key.verifying_key() }
    }

    /// The text that Nix reads as a secret key file.
    pub fn to_secret_text(&self) -> String {
        format!("{}:{}", self.name, BASE64.encode(self.key.to_keypair_bytes()))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretKey").field("name", &self.name).finish_non_exhaustive()
    }
}

impl FromStr for SecretKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Key files end in a newline.
        let (name, bytes) = decode_key::<64>(text.trim_end())?;
        match SigningKey::from_keypair_bytes(&bytes) {
            Ok(key) => Ok(Self { name: name.to_owned(), key }),
            Err(_) => Err(KeyError::Invalid { name: excerpt(name) }),
        }
    }
}

impl TrustedKeys {
    /// The keys, in the order in which they are tried.
    pub fn new(keys: Vec<PublicKey>) -> Self {
        Self(keys)
    }

    /// Whether no key is trusted, so that nothing can be verified.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The keys in order.
    pub fn iter(&self) -> std::slice::Iter<'_, PublicKey> {
        self.0.iter()
    }

    /// The first key for which one of `signatures` is a signature of `message`.
    pub fn verify<'k>(&'k self, message: &[u8], signatures: &[Signature]) -> Option<&'k PublicKey> {
        self.0.iter().find(|key| signatures.iter().any(|signature| key.verifies(message, signature)))
    }
}

impl FromIterator<PublicKey> for TrustedKeys {
    fn from_iter<I: IntoIterator<Item = PublicKey>>(keys: I) -> Self {
        Self(keys.into_iter().collect())
    }
}

fn split_key(text: &str) -> Option<(&str, &str)> {
    text.split_once(':').filter(|(name, payload)| !name.is_empty() && !payload.is_empty())
}

fn decode_key<const N: usize>(text: &str) -> Result<(&str, [u8; N]), KeyError> {
    if text.len() > MAX_KEY_TEXT_BYTES {
        return Err(KeyError::Form);
    }
    let (name, encoded) = split_key(text).ok_or(KeyError::Form)?;
    check_name(name)?;
    let bytes =
        decode_payload(encoded).ok_or_else(|| KeyError::Payload { name: excerpt(name), expected: N })?;
    Ok((name, bytes))
}

fn check_name(name: &str) -> Result<(), KeyError> {
    let usable = !name.is_empty() && name.chars().all(|c| c != ':' && !c.is_control() && !c.is_whitespace());
    if usable { Ok(()) } else { Err(KeyError::Form) }
}

fn decode_payload<const N: usize>(encoded: &str) -> Option<[u8; N]> {
    BASE64.decode(encoded).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // Made by `nix-store --generate-binary-cache-key test-key-1`.
    const SECRET: &str =
        "test-key-1:CxreFWVySyLbiPRzsWIT3Sn7rtj02otRX4gHGtzPGPuVkCaCQZu2svx7JYus+NAuGuE8VDiuMEPIAY7PoI+7CQ==";
    const PUBLIC: &str = "test-key-1:lZAmgkGbtrL8eyWLrPjQLhrhPFQ4rjBDyAGOz6CPuwk=";

    #[test]
    fn keys_made_by_nix_are_read_and_written() {
        let secret: SecretKey = SECRET.parse().unwrap();
        assert_eq!(secret.public_key().to_string(), PUBLIC);
        assert_eq!(secret.public_key(), PUBLIC.parse().unwrap());
        assert_eq!(secret.to_secret_text(), SECRET);
        assert!(format!("{SECRET}\n").parse::<SecretKey>().is_ok(), "key files may end in a newline");
    }

    #[test]
    fn a_signature_verifies_for_its_message_key_and_name_only() {
        let secret: SecretKey = SECRET.parse().unwrap();
        let signature: Signature = secret.sign("message").to_string().parse().unwrap();
        assert_eq!(signature, secret.sign("message"));
        let key = secret.public_key();
        assert!(key.verifies(b"message", &signature));
        assert!(!key.verifies(b"massage", &signature));
        let other = SecretKey::from_seed("test-key-1", &[7; 32]).unwrap().public_key();
        assert!(!other.verifies(b"message", &signature));
        let renamed: PublicKey = PUBLIC.replace("key-1", "key-2").parse().unwrap();
        assert!(!renamed.verifies(b"message", &signature));

        let both = TrustedKeys::new(vec![other.clone(), key.clone()]);
        assert_eq!(both.verify(b"message", &[signature]), Some(&key));
        assert_eq!(both.verify(b"message", &[]), None);
    }

    #[test]
    fn a_signature_that_we_do_not_understand_is_kept_and_never_verifies() {
        let key: PublicKey = PUBLIC.parse().unwrap();
        for text in
            ["test-key-1:AAAA", "test-key-1:!", "test-key-1:", "test-key-1", ":", "1;host;KHNpZ25hdHVy"]
        {
            let signature: Signature = text.parse().unwrap();
            assert!(!signature.is_understood() && !key.verifies(b"", &signature));
            assert_eq!(signature.to_string(), text);
        }
        for text in ["", "a b", "a:b\n", &"x".repeat(MAX_KEY_TEXT_BYTES + 1)] {
            assert!(text.parse::<Signature>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn base64_is_read_as_nix_reads_it() {
        let without_padding: PublicKey = PUBLIC.trim_end_matches('=').parse().unwrap();
        assert_eq!(without_padding.to_string(), PUBLIC);
    }

    #[test]
    fn weak_keys_and_damaged_keys_are_refused() {
        let weak = format!("weak:{}", BASE64.encode([0; 32]));
        let swapped = SECRET.replace("CxreFWVy", "CxreFWVz");
        assert!(matches!(weak.parse::<PublicKey>(), Err(KeyError::Invalid { .. })));
        assert!(matches!(swapped.parse::<SecretKey>(), Err(KeyError::Invalid { .. })));
        for text in ["", "name", "name:", ":AAAA", "na me:AAAA", "name:AAAA", SECRET, "name:%%%"] {
            assert!(text.parse::<PublicKey>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn secrets_stay_out_of_logs_and_errors() {
        let secret: SecretKey = SECRET.parse().unwrap();
        assert!(!format!("{secret:?}").contains("CxreFWVy"));
        let error = SECRET.replace("==", "").replace("Cxre", "C").parse::<SecretKey>().unwrap_err();
        assert!(!error.to_string().contains("FWVySyLb"), "{error}");
    }

    proptest! {
        #[test]
        fn no_changed_bit_survives_verification(message: Vec<u8>, byte in 0usize..64, bit in 0u8..8) {
            let secret = SecretKey::from_seed("k", &[3; 32]).unwrap();
            let mut payload = secret.key.sign(&message).to_bytes();
            let key = secret.public_key();
            let line = |payload: &[u8]| format!("k:{}", BASE64.encode(payload)).parse::<Signature>().unwrap();
            prop_assert!(key.verifies(&message, &line(&payload)));
            payload[byte] ^= 1 << bit;
            prop_assert!(!key.verifies(&message, &line(&payload)));
        }

        #[test]
        fn arbitrary_text_never_panics(text in "[a-z]{0,3}:?[A-Za-z0-9+/]{0,90}={0,3}|.{0,40}") {
            let _ = text.parse::<PublicKey>();
            let _ = text.parse::<SecretKey>();
            if let Ok(signature) = text.parse::<Signature>() {
                prop_assert_eq!(signature.to_string(), text);
            }
        }
    }
}
