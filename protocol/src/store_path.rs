//! Store paths: `/nix/store/<32 characters of hash>-<name>`.

use std::fmt;
use std::str::FromStr;

use crate::base32;
use crate::bytes_type::{bytes_serde, excerpt};
use crate::limits::{MAX_STORE_DIR_BYTES, MAX_STORE_NAME_BYTES};

/// Characters of the hash part of a store path.
const HASH_CHARS: usize = 32;

/// The hash part of a store path: 20 bytes, written as 32 characters of Nix base 32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreHash([u8; 20]);

/// A store path in any store directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StorePath {
    dir: String,
    hash: StoreHash,
    name: String,
}

/// Why a text is not a store path or a part of one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorePathError {
    /// The hash is not 32 characters of Nix base 32.
    #[error("{text:?} is not the hash of a store path: expected 32 characters of Nix base 32")]
    Hash {
        /// The beginning of the text.
        text: String,
    },
    /// No hyphen after the hash.
    #[error("{text:?} is not HASH-NAME, the last part of a store path")]
    BaseName {
        /// The beginning of the text.
        text: String,
    },
    /// The name is empty, too long, or has characters or a beginning that Nix refuses.
    #[error(
        "{text:?} cannot be the name of a store path: 1 to {MAX_STORE_NAME_BYTES} letters, digits and +-._?= are allowed"
    )]
    Name {
        /// The beginning of the text.
        text: String,
    },
    /// The store directory is not a plain absolute path.
    #[error("{text:?} is not a store directory: expected a plain absolute path such as /nix/store")]
    Dir {
        /// The beginning of the text.
        text: String,
    },
}

impl StoreHash {
    /// The 20 bytes.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl From<[u8; 20]> for StoreHash {
    fn from(bytes: [u8; 20]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for StoreHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&base32::encode(&self.0))
    }
}

impl fmt::Debug for StoreHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreHash({self})")
    }
}

impl FromStr for StoreHash {
    type Err = StorePathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        base32::decode_array(text).map(Self).map_err(|_| StorePathError::Hash { text: excerpt(text) })
    }
}

bytes_serde!(StoreHash, 20);

impl StorePath {
    /// The path of `base_name` (`HASH-NAME`) in the store directory `dir`.
    pub fn from_base_name(dir: &str, base_name: &str) -> Result<Self, StorePathError> {
        check_dir(dir)?;
        let (hash, name) = split_base_name(base_name)?;
        Ok(Self { dir: dir.to_owned(), hash, name: name.to_owned() })
    }

    /// The store directory, without a slash at the end: `/nix/store`.
    pub fn dir(&self) -> &str {
        &self.dir
    }

    /// The hash part, under which a binary cache files the narinfo.
    pub fn hash(&self) -> StoreHash {
        self.hash
    }

    /// What follows the hash and the hyphen.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `HASH-NAME`, the last component of the path.
    pub fn base_name(&self) -> String {
        format!("{}-{}", self.hash, self.name)
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}-{}", self.dir, self.hash, self.name)
    }
}

impl FromStr for StorePath {
    type Err = StorePathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (dir, base_name) =
            text.rsplit_once('/').ok_or_else(|| StorePathError::Dir { text: excerpt(text) })?;
        Self::from_base_name(dir, base_name)
    }
}

/// Splits `HASH-NAME`, checking both parts.
pub fn split_base_name(text: &str) -> Result<(StoreHash, &str), StorePathError> {
    let invalid = || StorePathError::BaseName { text: excerpt(text) };
    let (hash, rest) = text.split_at_checked(HASH_CHARS).ok_or_else(invalid)?;
    let name = rest.strip_prefix('-').ok_or_else(invalid)?;
    let hash = hash.parse()?;
    check_name(name)?;
    Ok((hash, name))
}

/// The rules of current Nix: a leading dot is fine unless the name looks like `.` or `..`.
fn check_name(name: &str) -> Result<(), StorePathError> {
    let allowed = |c: u8| c.is_ascii_alphanumeric() || b"+-._?=".contains(&c);
    let dots = name == "." || name == ".." || name.starts_with(".-") || name.starts_with("..-");
    if name.is_empty() || name.len() > MAX_STORE_NAME_BYTES || dots || !name.bytes().all(allowed) {
        return Err(StorePathError::Name { text: excerpt(name) });
    }
    Ok(())
}

/// A store directory is part of the signed fingerprint, so it must not hold the separators of that text.
fn check_dir(dir: &str) -> Result<(), StorePathError> {
    let plain = |c: u8| c.is_ascii_graphic() && !b";,:\"'\\".contains(&c);
    let component = |part: &str| !part.is_empty() && part != "." && part != "..";
    let well_formed = dir.len() <= MAX_STORE_DIR_BYTES
        && dir.strip_prefix('/').is_some_and(|rest| rest.split('/').all(component))
        && dir.bytes().all(plain);
    if well_formed { Ok(()) } else { Err(StorePathError::Dir { text: excerpt(dir) }) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HASH: &str = "syd87l2rxw8cbsxmxl853h0r6pdwhwjr";

    #[test]
    fn a_path_is_taken_apart_and_put_together() {
        for dir in ["/nix/store", "/gnu/store", "/home/user/.local/share/nix/root/nix/store", "/s"] {
            let text = format!("{dir}/{HASH}-curl-7.82.0-bin");
            let path: StorePath = text.parse().unwrap();
            assert_eq!((path.dir(), path.name()), (dir, "curl-7.82.0-bin"));
            assert_eq!(path.hash().to_string(), HASH);
            assert_eq!(path.base_name(), format!("{HASH}-curl-7.82.0-bin"));
            assert_eq!(path.to_string(), text);
        }
    }

    #[test]
    fn names_follow_the_rules_of_nix() {
        let longest = "x".repeat(MAX_STORE_NAME_BYTES);
        for name in ["a", ".git", "..gitignore", "x+-._?=Z9", "...", &longest] {
            assert!(split_base_name(&format!("{HASH}-{name}")).is_ok(), "{name}");
        }
        let too_long = format!("{longest}x");
        for name in ["", ".", "..", ".-x", "..-x", "a b", "a/b", "ä", "a\n", "a,b", "a;b", &too_long] {
            assert!(split_base_name(&format!("{HASH}-{name}")).is_err(), "{name:?}");
        }
    }

    #[test]
    fn what_is_not_a_store_path_is_refused() {
        let base = format!("{HASH}-x");
        let wrong_hash = format!("/nix/store/{}-x", HASH.replace('s', "e"));
        for text in [
            "",
            "/",
            &base,
            &format!("nix/store/{base}"),
            &format!("/{base}"),
            &format!("/nix//store/{base}"),
            &format!("/nix/../store/{base}"),
            &format!("/nix/./store/{base}"),
            &format!("/nix/st,ore/{base}"),
            &format!("/nix/st;ore/{base}"),
            &format!("/{}/{base}", "x".repeat(MAX_STORE_DIR_BYTES)),
            &format!("/nix/store/{base}/bin/x"),
            &format!("/nix/store/{HASH}"),
            &format!("/nix/store/{HASH}-"),
            &format!("/nix/store/{}", &base[1..]),
            &wrong_hash,
        ] {
            assert!(text.parse::<StorePath>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn valid_paths_survive(bytes: [u8; 20], name in "[A-Za-z0-9+_?=][A-Za-z0-9+._?=-]{0,210}") {
            let text = format!("/nix/store/{}-{name}", StoreHash::from(bytes));
            let path: StorePath = text.parse().unwrap();
            prop_assert_eq!(*path.hash().as_bytes(), bytes);
            prop_assert_eq!(path.to_string(), text);
        }

        #[test]
        fn arbitrary_text_never_panics(text in "(/nix/store/)?[0-9a-zä-]{0,40}.{0,10}") {
            if let Ok(path) = text.parse::<StorePath>() {
                prop_assert_eq!(path.to_string(), text);
            }
        }
    }
}
