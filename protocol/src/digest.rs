//! How content is named: SHA-256 to the outside world, BLAKE3 between nodes.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

use crate::base32;
use crate::bytes_type::{excerpt, hex_bytes};
use crate::signature::BASE64;

/// The SHA-256 of a blob. Text: 64 lower-case hex characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Digest(pub [u8; 32]);

/// The BLAKE3 hash of a blob, which is the root of its hash tree. Text: 64 lower-case hex characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobId(pub [u8; 32]);

/// How the outside world names a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Digest {
    /// SHA-256: a NarHash, a key of Bazel's content-addressed store.
    Sha256(Sha256Digest),
    /// BLAKE3.
    Blake3(BlobId),
}

/// Why a text is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// The part after the algorithm is neither hex, Nix base 32 nor base 64 of 32 bytes.
    #[error("{text:?} is not a 256-bit hash: expected 64 hex characters{alternatives}")]
    Value {
        /// The beginning of the text.
        text: String,
        /// What else would have been accepted, as the end of the sentence.
        alternatives: &'static str,
    },
    /// The algorithm is missing or is not one of ours.
    #[error(
        "{text:?} does not begin with an algorithm we know: write sha256:HEX, sha256-BASE64 or blake3:HEX"
    )]
    Algorithm {
        /// The beginning of the text.
        text: String,
    },
}

const SHA256_FORMS: &str = ", 52 characters of Nix base 32 or 44 of base 64";

fn invalid_hex(text: &str) -> DigestError {
    DigestError::Value { text: excerpt(text), alternatives: "" }
}

hex_bytes!(Sha256Digest, 32, DigestError, invalid_hex);
hex_bytes!(BlobId, 32, DigestError, invalid_hex);

impl Sha256Digest {
    /// Hashes bytes that are in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The 52 characters of Nix base 32, as NarHash lines and fingerprints write it.
    pub fn to_nix32(&self) -> String {
        base32::encode(&self.0)
    }

    /// Reads the 52 characters that [`Self::to_nix32`] writes.
    pub fn from_nix32(text: &str) -> Result<Self, DigestError> {
        base32::decode_array(text).map(Self).map_err(|_| Self::invalid(text))
    }

    /// Reads whatever Nix would read after `sha256:`: hex, Nix base 32 or base 64, told apart by length.
    fn from_any(text: &str) -> Result<Self, DigestError> {
        match text.len() {
            64 => text.parse(),
            52 => Self::from_nix32(text),
            _ => Self::from_base64(text),
        }
        .map_err(|_| Self::invalid(text))
    }

    fn from_base64(text: &str) -> Result<Self, DigestError> {
        // Decoding allocates, so a text of another length is refused first.
        let bytes = if text.len() <= 44 { BASE64.decode(text).ok() } else { None };
        bytes.and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or_else(|| Self::invalid(text))
    }

    fn invalid(text: &str) -> DigestError {
        DigestError::Value { text: excerpt(text), alternatives: SHA256_FORMS }
    }
}

impl BlobId {
    /// Hashes bytes that are in memory.
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(digest) => write!(f, "sha256:{digest}"),
            Self::Blake3(blob) => write!(f, "blake3:{blob}"),
        }
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(value) = text.strip_prefix("sha256:") {
            Sha256Digest::from_any(value).map(Self::Sha256)
        } else if let Some(value) = text.strip_prefix("sha256-") {
            Sha256Digest::from_base64(value).map(Self::Sha256)
        } else if let Some(value) = text.strip_prefix("blake3:") {
            value.parse().map(Self::Blake3)
        } else {
            Err(DigestError::Algorithm { text: excerpt(text) })
        }
    }
}

impl From<Sha256Digest> for Digest {
    fn from(digest: Sha256Digest) -> Self {
        Self::Sha256(digest)
    }
}

impl From<BlobId> for Digest {
    fn from(blob: BlobId) -> Self {
        Self::Blake3(blob)
    }
}

/// The form of a [`Digest`] in binary formats.
#[derive(Serialize, Deserialize)]
#[serde(rename = "Digest")]
enum BinaryDigest {
    Sha256(Sha256Digest),
    Blake3(BlobId),
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(self);
        }
        match *self {
            Self::Sha256(digest) => BinaryDigest::Sha256(digest),
            Self::Blake3(blob) => BinaryDigest::Blake3(blob),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
            return text.parse().map_err(serde::de::Error::custom);
        }
        Ok(match BinaryDigest::deserialize(deserializer)? {
            BinaryDigest::Sha256(digest) => Self::Sha256(digest),
            BinaryDigest::Blake3(blob) => Self::Blake3(blob),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EMPTY_HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn every_spelling_of_a_sha256_is_the_same_digest() {
        let digest = Digest::Sha256(Sha256Digest::of(&[]));
        for text in [
            &format!("sha256:{EMPTY_HEX}"),
            &format!("sha256:{}", EMPTY_HEX.to_uppercase()),
            "sha256:0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
            "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
            "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU",
        ] {
            assert_eq!(text.parse(), Ok(digest), "{text}");
        }
        assert_eq!(digest.to_string(), format!("sha256:{EMPTY_HEX}"));
    }

    #[test]
    fn blake3_digests_are_hex() {
        let text = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
        assert_eq!(text.parse(), Ok(Digest::Blake3(BlobId::of(&[]))));
        assert_eq!(Digest::from(BlobId::of(&[])).to_string(), text);
    }

    #[test]
    fn other_texts_are_refused_with_the_remedy() {
        for text in
            ["", "sha256", "sha256:", "sha256-", "sha512:00", "blake3:", EMPTY_HEX, "sha256:zz", "SHA256:00"]
        {
            let error = text.parse::<Digest>().expect_err(text).to_string();
            assert!(error.contains("HEX") || error.contains("hex"), "{error}");
        }
        let long = "x".repeat(10_000);
        assert!(format!("sha256:{long}").parse::<Digest>().expect_err("long").to_string().len() < 300);
    }

    proptest! {
        #[test]
        fn digests_survive_text(bytes: [u8; 32]) {
            let sha256 = Sha256Digest(bytes);
            prop_assert_eq!(sha256.to_string().parse(), Ok(sha256));
            prop_assert_eq!(Sha256Digest::from_nix32(&sha256.to_nix32()), Ok(sha256));
            for digest in [Digest::Sha256(sha256), Digest::Blake3(BlobId(bytes))] {
                prop_assert_eq!(digest.to_string().parse(), Ok(digest));
            }
        }

        #[test]
        fn arbitrary_text_never_panics(text in "(sha256[:-]|blake3:)?.{0,80}") {
            let _ = text.parse::<Digest>();
            let _ = text.parse::<Sha256Digest>();
        }
    }
}
