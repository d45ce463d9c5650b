//! Settings of the gateway, and what can go wrong when it starts.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;

use crate::access::AccessControl;

/// The least that `max_header_bytes` may be.
pub(crate) const MIN_HEADER_BYTES: usize = 1024;

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
    /// Who may ask and who may upload; can be changed through a clone while the gateway runs.
    pub access: AccessControl,
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
            access: AccessControl::default(),
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
