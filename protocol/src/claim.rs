//! Claims: "this SHA-256 of this size is this BLAKE3 tree", signed by the node that says so.
//!
//! A claim is a hint that lets ranges be proved while they arrive. Only hashing the whole blob shows that it
//! was true; a false one is evidence against its signer.

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::bytes_type::{excerpt, hex_bytes};
use crate::digest::{BlobId, Sha256Digest};
use crate::limits::MAX_BLOB_BYTES;

/// Keeps a claim's signature from being one of anything else that the key signs.
const DOMAIN: &[u8; 19] = b"p2p-cache claim v1\0";
const MESSAGE_BYTES: usize = DOMAIN.len() + 32 + 32 + 8;

/// The ed25519 public key of a node. Text: 64 lower-case hex characters.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKey(pub [u8; 32]);

hex_bytes!(NodeKey, 32, ClaimError, |text| ClaimError::KeyText { text: excerpt(text) });

/// What a node says about a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Claim {
    /// The name by which the blob was asked for.
    pub sha256: Sha256Digest,
    /// The root of its hash tree.
    pub blob: BlobId,
    /// Its length in bytes.
    pub size: u64,
}

/// A claim with its signer. Nothing in it may be used before [`SignedClaim::verify`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SignedClaim {
    /// What is claimed.
    pub claim: Claim,
    /// Who claims it. The caller compares it with the peer that it came from.
    pub signer: NodeKey,
    /// The ed25519 signature of the claim under [`Self::signer`].
    #[serde(serialize_with = "serialize_signature", deserialize_with = "deserialize_signature")]
    pub signature: [u8; 64],
}

/// Why a claim is worth nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClaimError {
    /// The signer's bytes are not an ed25519 public key.
    #[error("the claim's signer {signer} is not an ed25519 key")]
    Signer {
        /// The key as it came.
        signer: NodeKey,
    },
    /// The signature is not the signer's, or not of this claim.
    #[error("the signature on the claim for {sha256} is not one of {signer}")]
    Signature {
        /// The blob that was claimed.
        sha256: Sha256Digest,
        /// Who is said to have signed.
        signer: NodeKey,
    },
    /// The size is beyond any blob that we handle.
    #[error("the claim for {sha256} says {size} bytes; blobs have at most {MAX_BLOB_BYTES}")]
    Size {
        /// The blob that was claimed.
        sha256: Sha256Digest,
        /// Its size, as claimed.
        size: u64,
    },
    /// Not the text of a node key.
    #[error("{text:?} is not a node key: expected 64 hex characters")]
    KeyText {
        /// The beginning of the text.
        text: String,
    },
}

impl Claim {
    fn message(&self) -> [u8; MESSAGE_BYTES] {
        let mut message = [0; MESSAGE_BYTES];
        let parts: [&[u8]; 4] = [DOMAIN, &self.sha256.0, &self.blob.0, &self.size.to_le_bytes()];
        let mut at = 0;
        for part in parts {
            message[at..at + part.len()].copy_from_slice(part);
            at += part.len();
        }
        message
    }
}

impl SignedClaim {
    /// Signs `claim` with the key of this node.
    pub fn sign(claim: Claim, key: &SigningKey) -> Self {
        Self {
            claim,
            signer: NodeKey(key.verifying_key().to_bytes()),
            signature: key.sign(&claim.message()).to_bytes(),
        }
    }

    /// The claim, if its signature is right and its size is one that a blob may have.
    pub fn verify(&self) -> Result<&Claim, ClaimError> {
        let Claim { sha256, size, .. } = self.claim;
        if size > MAX_BLOB_BYTES {
            return Err(ClaimError::Size { sha256, size });
        }
        let key = VerifyingKey::from_bytes(&self.signer.0)
            .map_err(|_| ClaimError::Signer { signer: self.signer })?;
        key.verify_strict(&self.claim.message(), &ed25519_dalek::Signature::from_bytes(&self.signature))
            .map_err(|_| ClaimError::Signature { sha256, signer: self.signer })?;
        Ok(&self.claim)
    }
}

/// Serde knows arrays of up to 32 elements only; two of those have the same binary form as one of 64.
fn serialize_signature<S: Serializer>(signature: &[u8; 64], serializer: S) -> Result<S::Ok, S::Error> {
    let (halves, _) = signature.as_chunks::<32>();
    (halves[0], halves[1]).serialize(serializer)
}

fn deserialize_signature<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 64], D::Error> {
    let (first, second) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&first);
    signature[32..].copy_from_slice(&second);
    Ok(signature)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim() -> Claim {
        Claim { sha256: Sha256Digest::of(b"blob"), blob: BlobId::of(b"blob"), size: 4 }
    }

    fn key() -> SigningKey {
        SigningKey::from_bytes(&[9; 32])
    }

    #[test]
    fn a_claim_verifies_and_nothing_else_does() {
        let signed = SignedClaim::sign(claim(), &key());
        assert_eq!(signed.verify(), Ok(&claim()));
        let changes: [fn(&mut SignedClaim); 6] = [
            |signed| signed.claim.sha256.0[0] ^= 1,
            |signed| signed.claim.blob.0[31] ^= 1,
            |signed| signed.claim.size += 1,
            |signed| signed.signature[0] ^= 1,
            |signed| signed.signer = NodeKey(SigningKey::from_bytes(&[8; 32]).verifying_key().to_bytes()),
            |signed| {
                (signed.claim.sha256.0, signed.claim.blob.0) = (signed.claim.blob.0, signed.claim.sha256.0)
            },
        ];
        for change in changes {
            let mut changed = signed;
            change(&mut changed);
            assert!(changed.verify().is_err(), "{changed:?}");
        }
    }

    #[test]
    fn a_signature_of_the_bare_fields_is_not_a_claim() {
        let mut signed = SignedClaim::sign(claim(), &key());
        signed.signature = key().sign(&claim().message()[DOMAIN.len()..]).to_bytes();
        assert!(matches!(signed.verify(), Err(ClaimError::Signature { .. })));
    }

    #[test]
    fn the_signed_message_stays_what_it_is() {
        let claim = Claim { sha256: Sha256Digest([1; 32]), blob: BlobId([2; 32]), size: 0x0102_0304_0506 };
        let mut message = b"p2p-cache claim v1\0".to_vec();
        message.extend([1; 32]);
        message.extend([2; 32]);
        message.extend([6, 5, 4, 3, 2, 1, 0, 0]);
        assert_eq!(claim.message().as_slice(), message);
    }

    #[test]
    fn an_impossible_size_is_refused_even_when_signed() {
        let signed = SignedClaim::sign(Claim { size: MAX_BLOB_BYTES + 1, ..claim() }, &key());
        assert!(matches!(signed.verify(), Err(ClaimError::Size { .. })));
    }

    proptest! {
        #[test]
        fn arbitrary_claims_never_panic(sha256: [u8; 32], blob: [u8; 32], size: u64, signer: [u8; 32], half: [u8; 32]) {
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(&half);
            let claim = Claim { sha256: Sha256Digest(sha256), blob: BlobId(blob), size };
            let signed = SignedClaim { claim, signer: NodeKey(signer), signature };
            prop_assert!(signed.verify().is_err());
        }
    }
}
