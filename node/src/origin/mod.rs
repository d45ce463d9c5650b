//! Origins: central HTTP(S) binary caches, asked for narinfos and NARs.
//!
//! They are asked in order of priority, with timeouts on every step, retries with jitter, and a
//! short memory for those that are dead. What they send is decompressed while it streams, in bounded memory, and
//! checked against the narinfo; a wrong byte is an error, never a result.

mod body;
mod config;
mod decode;
mod error;
mod file_check;
mod health;
mod http;
mod nar;
mod narinfo;
mod race;
mod side_file;
mod stream;
#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use p2p_cache_protocol::NarInfo;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Semaphore;
use url::Url;

pub use crate::least_pace::MIN_BYTES_PER_SECOND;
pub use config::{ConfigFaults, MAX_ANSWER_TIMEOUT, MAX_ATTEMPTS, MAX_ORIGINS, OriginConfig};
pub(crate) use decode::{Codec, Decoder};
pub use decode::{MAX_XZ_MEMORY_BYTES, MAX_ZSTD_WINDOW_LOG};
pub use error::{Fault, OriginError, RequestError};
pub use http::MAX_REDIRECTS;
pub use stream::{MAX_CHUNK_BYTES, NarStream};

use config::{as_directory, redacted};
use health::Circuit;
use http::Http;

/// One of the configured origins, by its place in the order of priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OriginId(u32);

impl fmt::Display for OriginId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// A narinfo and who gave it. Its URL, compression, FileHash and FileSize are true for that origin alone.
#[derive(Clone, Debug)]
pub struct FoundNarInfo {
    /// As the origin sent it.
    pub narinfo: NarInfo,
    /// The origin.
    pub origin: OriginId,
}

/// How an origin is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginHealth {
    /// Its URL without credentials.
    pub url: String,
    /// Whether it is asked.
    pub healthy: bool,
    /// What went wrong last, also after it recovered.
    pub last_error: Option<String>,
    /// When an origin that is not healthy is asked again; zero when the next request probes it.
    pub retry_in: Option<Duration>,
}

/// The origins of a node. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Origins {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    http: Http,
    origins: Vec<Origin>,
    places: Arc<Semaphore>,
}

#[derive(Debug)]
struct Origin {
    id: OriginId,
    /// Ends with a slash.
    url: Url,
    circuit: Arc<Circuit>,
}

impl Origins {
    /// Sets up the clients; nothing is sent yet. No URL at all is fine: everything is not found then.
    /// `received_bytes` counts the bodies as they cross the wire, narinfos and (compressed) NARs.
    ///
    /// # Errors
    /// [`OriginError::Config`] with every fault of the settings, [`OriginError::Client`] when
    /// an HTTPS origin is wanted and the system has no CA certificates.
    pub fn new(config: OriginConfig, received_bytes: Counter) -> Result<Self, OriginError> {
        config.validate()?;
        let places = Arc::new(Semaphore::new(config.max_open_nars.min(Semaphore::MAX_PERMITS)));
        let origins = (0u32..).zip(&config.urls).map(|(index, url)| Origin {
            id: OriginId(index),
            url: as_directory(url.clone()),
            circuit: Circuit::new(config.down_memory),
        });
        let origins = origins.collect();
        let http = Http::new(config, received_bytes)?;
        Ok(Self { inner: Arc::new(Inner { http, origins, places }) })
    }

    /// How each origin is doing, in order of priority.
    pub fn health(&self) -> Vec<OriginHealth> {
        let report = |origin: &Origin| {
            let health::Report { healthy, last_error, retry_in } = origin.circuit.report();
            OriginHealth { url: redacted(&origin.url), healthy, last_error, retry_in }
        };
        self.inner.origins.iter().map(report).collect()
    }

    /// Whether there is no origin at all.
    pub fn is_empty(&self) -> bool {
        self.inner.origins.is_empty()
    }

    fn origin(&self, id: OriginId) -> Result<&Origin, OriginError> {
        self.inner.origins.get(id.0 as usize).ok_or(OriginError::UnknownOrigin(id))
    }
}
