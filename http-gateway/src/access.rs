//! By which names clients may ask, and what uploads must show.

use std::sync::{Arc, PoisonError, RwLock};

use p2p_cache_protocol::Sha256Digest;
use thiserror::Error;

/// Shortest and longest write token, in bytes.
const WRITE_TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=1024;

/// What a client must know that uploads. Only a hash of it is kept, and it is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct WriteToken(Sha256Digest);

/// The text cannot be a write token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error(
    "is not a write token: 16 to 1024 printable ASCII characters without spaces are needed, such as the output of `openssl rand -hex 32`"
)]
pub struct BadWriteToken;

impl WriteToken {
    /// White space around the token does not count: files end in a line break.
    ///
    /// # Errors
    /// When it is too short, too long, or nothing that fits into a header.
    pub fn new(text: &str) -> Result<Self, BadWriteToken> {
        let text = text.trim();
        let fits =
            WRITE_TOKEN_BYTES.contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(Sha256Digest::of(text.as_bytes()))) } else { Err(BadWriteToken) }
    }

    /// Whether it is this one. The time that it takes depends on the length of `given` alone.
    pub(crate) fn is(&self, given: &[u8]) -> bool {
        let given = Sha256Digest::of(given);
        let difference = self.0.0.iter().zip(given.0).fold(0, |difference, (a, b)| difference | (a ^ b));
        std::hint::black_box(difference) == 0
    }
}

impl std::fmt::Debug for WriteToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WriteToken(..)")
    }
}

/// What holds at one time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Names, in lower case, by which clients on this machine may ask for it, beside `localhost` and addresses.
    pub allowed_hosts: Vec<String>,
    /// What uploads must show. Without it they are taken from this machine alone, with it from everywhere.
    pub write_token: Option<WriteToken>,
}

/// What holds now. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct AccessControl(Arc<RwLock<Arc<Access>>>);

impl AccessControl {
    /// Begins with this.
    #[must_use]
    pub fn new(access: Access) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(access))))
    }

    /// What holds now.
    #[must_use]
    pub fn get(&self) -> Arc<Access> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Holds from the next request on.
    pub fn set(&self, access: Access) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(access);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_tokens_are_long_enough_and_never_shown() {
        for bad in ["", "short", "0123456789abcde\n", "0123456789abcde f", &"x".repeat(1025)] {
            assert!(WriteToken::new(bad).is_err(), "{bad}");
        }
        let token = WriteToken::new("0123456789abcdef\n").unwrap();
        assert!(token.is(b"0123456789abcdef") && !token.is(b"0123456789abcdeg"));
        assert!(!format!("{token:?}").contains("0123"));
    }
}
