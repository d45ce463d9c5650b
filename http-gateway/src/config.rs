//! Settings of the gateway, and what can go wrong when it starts.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use p2p_cache_protocol::Sha256Digest;
use thiserror::Error;

/// The least that `max_header_bytes` may be.
pub(crate) const MIN_HEADER_BYTES: usize = 1024;

/// Shortest and longest write token, in bytes.
const WRITE_TOKEN_BYTES: std::ops::RangeInclusive<usize> = 16..=1024;

/// What a client must know that uploads. Only a hash of it is kept, and it is never shown.
#[derive(Clone)]
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

/// Settings of the gateway. Every field has a sound default.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Where to listen (127.0.0.1:5380). Port 0 takes a free one; see `Gateway::local_addr`.
    pub address: SocketAddr,
    /// A socket that listens already, as a service manager hands it over; `address` is not used then.
    pub listener: Option<Arc<TcpListener>>,
    /// Connections served at once (1024). One more is closed at once: a client that is refused goes elsewhere, one
    /// that is left waiting hangs. An idle connection costs about 10 KiB, one that streams a body about 600 KiB.
    pub max_connections: usize,
    /// Time to send a complete request head, and also how long an idle connection is kept (30 s).
    pub header_read_timeout: Duration,
    /// Largest request line and headers together (32 KiB); more is answered with 431.
    pub max_header_bytes: usize,
    /// How long a client may take no byte of its answer, or send none of its upload (60 s).
    pub client_stall_timeout: Duration,
    /// How long a source may take until the answer to a read can begin (14 s); then it is 404. Below the 15 s
    /// after which clients give up, so that they hear an answer and go on.
    pub answer_timeout: Duration,
    /// How long a source may yield no byte in the middle of a body (30 s); then the connection is cut.
    pub source_stall_timeout: Duration,
    /// How long `Gateway::shutdown` lets answers finish (5 s) before it cuts them.
    pub shutdown_grace: Duration,
    /// Names, in lower case, by which clients on this machine may ask for it, beside `localhost` and addresses.
    pub allowed_hosts: Vec<String>,
    /// What uploads must show. Without it they are taken from this machine alone, with it from everywhere.
    pub write_token: Option<WriteToken>,
    /// The store directory that `/nix-cache-info` names (`/nix/store`).
    pub store_dir: String,
    /// The priority that `/nix-cache-info` names (30: before cache.nixos.org, which has 40).
    pub priority: u32,
}

impl Default for GatewayConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 5380)),
            listener: None,
            max_connections: 1024,
            header_read_timeout: Duration::from_secs(30),
            max_header_bytes: 32 * 1024,
            client_stall_timeout: Duration::from_secs(60),
            answer_timeout: Duration::from_secs(14),
            source_stall_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(5),
            allowed_hosts: Vec::new(),
            write_token: None,
            store_dir: "/nix/store".to_owned(),
            priority: 30,
        }
    }
}

impl GatewayConfig {
    /// Checks what the types leave open.
    pub(crate) fn validate(&self) -> Result<(), GatewayError> {
        let fault =
            |setting, problem: &str| Err(GatewayError::BadSetting { setting, problem: problem.to_owned() });
        if self.max_connections == 0 || self.max_connections > tokio::sync::Semaphore::MAX_PERMITS {
            return fault("max_connections", "must be at least 1 and small enough to count");
        }
        if self.max_header_bytes < MIN_HEADER_BYTES {
            return fault("max_header_bytes", "must be at least 1024, or ordinary requests do not fit");
        }
        if !self.store_dir.starts_with('/') || self.store_dir.contains(|c: char| c.is_control()) {
            return fault("store_dir", "must be an absolute path without control characters");
        }
        Ok(())
    }
}

/// Why the gateway could not start.
#[derive(Debug, Error)]
pub enum GatewayError {
    /// A setting out of range.
    #[error("bad gateway setting `{setting}`: {problem}")]
    BadSetting {
        /// Name of the field of [`GatewayConfig`].
        setting: &'static str,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// The socket that was handed over is of no use.
    #[error(
        "cannot take connections from the socket that was handed over: {error}; it must be a listening TCP socket"
    )]
    HandedOver {
        /// What the system said.
        error: io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen for HTTP on {address}: {error}; choose another address with --http")]
    Bind {
        /// The address asked for.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_valid() {
        GatewayConfig::default().validate().unwrap();
    }

    #[test]
    fn write_tokens_are_long_enough_and_never_shown() {
        for bad in ["", "short", "0123456789abcde\n", "0123456789abcde f", &"x".repeat(1025)] {
            assert!(WriteToken::new(bad).is_err(), "{bad}");
        }
        let token = WriteToken::new("0123456789abcdef\n").unwrap();
        assert!(token.is(b"0123456789abcdef") && !token.is(b"0123456789abcdeg"));
        assert!(!format!("{token:?}").contains("0123"));
    }

    #[test]
    fn bad_settings_are_named() {
        let bad = [
            GatewayConfig { max_connections: 0, ..GatewayConfig::default() },
            GatewayConfig { max_header_bytes: 10, ..GatewayConfig::default() },
            GatewayConfig { store_dir: "store".into(), ..GatewayConfig::default() },
            GatewayConfig { store_dir: "/nix\n/store".into(), ..GatewayConfig::default() },
        ];
        let names = ["max_connections", "max_header_bytes", "store_dir", "store_dir"];
        for (config, name) in bad.into_iter().zip(names) {
            let message = config.validate().unwrap_err().to_string();
            assert!(message.contains(name), "{message}");
        }
    }
}
