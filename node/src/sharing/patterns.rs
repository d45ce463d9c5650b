//! Names that the owner keeps to the machine.

use std::fmt;
use std::str::FromStr;

use glob::Pattern;
use p2p_cache_protocol::store_path::split_base_name;

/// A glob over the name of a store path, that is what follows the hash: `*`, `?` and `[...]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamePattern(Pattern);

/// A text that is no pattern, or one that could never match a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NamePatternError {
    /// It would match the empty name only.
    #[error("is empty")]
    Empty,
    /// It is written for a path.
    #[error("has a slash, and names of store paths have none")]
    Path,
    /// It has a character that is in no name.
    #[error("has {0:?}, which is in no name of a store path")]
    Character(char),
    /// It begins with the hash of a store path.
    #[error("begins with the hash of a store path; patterns are compared with what follows it")]
    Hash,
    /// The syntax is wrong.
    #[error("is not a pattern ({reason} at character {position})")]
    Syntax {
        /// Counted from 1.
        position: usize,
        /// What is wrong there.
        reason: &'static str,
    },
}

impl NamePattern {
    /// Whether it matches all of `name`.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        self.0.matches(name)
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.0.as_str())
    }
}

impl FromStr for NamePattern {
    type Err = NamePatternError;

    /// A pattern that can never match is refused: its owner believes something to be excluded that is not.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(NamePatternError::Empty);
        }
        if text.contains('/') {
            return Err(NamePatternError::Path);
        }
        let possible = |c: char| c.is_ascii_alphanumeric() || "+-._=*?[!]".contains(c);
        if let Some(other) = text.chars().find(|c| !possible(*c)) {
            return Err(NamePatternError::Character(other));
        }
        let begins_with_hash =
            text.split_once('-').is_some_and(|(hash, _)| split_base_name(&format!("{hash}-x")).is_ok());
        if begins_with_hash {
            return Err(NamePatternError::Hash);
        }
        Pattern::new(text)
            .map(Self)
            .map_err(|error| NamePatternError::Syntax { position: error.pos + 1, reason: error.msg })
    }
}
