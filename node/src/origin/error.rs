//! What can go wrong between the node and an origin.

use std::fmt;
use std::io;
use std::time::Duration;

use p2p_cache_protocol::{Sha256Digest, StoreHash};

use super::config::ConfigFaults;

/// Why an origin gave no narinfo or no (whole) NAR.
#[derive(Debug, thiserror::Error)]
pub enum OriginError {
    /// The settings cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigFaults),
    /// The HTTP client could not be set up.
    #[error(
        "cannot set up the HTTP client: {0}; install the system's CA certificates (or point SSL_CERT_FILE at them)"
    )]
    Client(String),
    /// Every origin that could be reached said that it does not have it (404, 410 or 403).
    #[error("no origin has {hash}.narinfo ({answered} answered)")]
    NotFound {
        /// The hash that was asked for.
        hash: StoreHash,
        /// How many origins said so.
        answered: usize,
    },
    /// No origin gave a usable answer, and not all of them said that they do not have it.
    #[error("no origin gave a usable {hash}.narinfo: {}", join(causes))]
    Unavailable {
        /// The hash that was asked for.
        hash: StoreHash,
        /// One error for each origin that was asked or skipped.
        causes: Vec<OriginError>,
    },
    /// One request failed.
    #[error(transparent)]
    Request(Box<RequestError>),
    /// The origin failed a moment ago and is not asked now.
    #[error("{url} is not asked for another {retry_in:.1?}: {last_error}")]
    Down {
        /// Redacted URL of the origin.
        url: String,
        /// When it is asked again.
        retry_in: Duration,
        /// What it failed with.
        last_error: String,
    },
    /// The narinfo cannot be understood or is for another path.
    #[error("{url} is not a valid narinfo: {reason}; the cache is broken, tell its operator")]
    Invalid {
        /// Redacted URL of the narinfo.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// No trusted key signed the narinfo.
    #[error(
        "{url} ({path}) is signed by no trusted key; add the cache's public key to trusted-public-keys if you trust it"
    )]
    Untrusted {
        /// Redacted URL of the narinfo.
        url: String,
        /// The store path that it describes.
        path: String,
    },
    /// The id is not one that these origins gave out.
    #[error("there is no origin {0}")]
    UnknownOrigin(super::OriginId),
    /// Too many NARs are open.
    #[error("{open} NARs are open and none ended within {waited:.1?}; readers that pause keep them open")]
    Busy {
        /// The bound.
        open: usize,
        /// How long a place was waited for.
        waited: Duration,
    },
    /// The thread that decompresses ended without a result.
    #[error("decompression of {url} was cut off: {reason}")]
    Worker {
        /// Redacted URL of the NAR.
        url: String,
        /// Panic or shutdown.
        reason: String,
    },
}

fn join(causes: &[OriginError]) -> String {
    causes.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl OriginError {
    /// The origin answered, and said that it does not have what was asked for.
    pub fn is_miss(&self) -> bool {
        match self {
            Self::NotFound { .. } => true,
            Self::Request(request) => matches!(request.fault, Fault::Missing(_)),
            _ => false,
        }
    }

    /// The origin could not be asked, or gave no answer at all.
    pub fn is_unreachable(&self) -> bool {
        match self {
            Self::Down { .. } => true,
            Self::Unavailable { causes, .. } => causes.iter().all(Self::is_unreachable),
            Self::Request(request) => matches!(
                request.fault,
                Fault::Connect(_) | Fault::ConnectTimeout(_) | Fault::NoAnswer(_) | Fault::OutOfTime
            ),
            _ => false,
        }
    }

    /// The connection broke: what arrived may be right, and the same request again may bring the rest.
    /// Not so after a silence, which has cost its time already.
    pub fn is_connection_fault(&self) -> bool {
        matches!(self.fault(), Some(Fault::Connect(_) | Fault::Broken { .. }))
    }

    /// What exactly went wrong in a request.
    pub fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Request(request) => Some(&request.fault),
            _ => None,
        }
    }
}

/// A request that failed, and where, when and how.
#[derive(Debug, thiserror::Error)]
pub struct RequestError {
    /// HTTP method.
    pub method: &'static str,
    /// URL without credentials and query.
    pub url: String,
    /// Since the request began, all attempts included.
    pub elapsed: Duration,
    /// The attempt that failed last, from 1.
    pub attempt: u32,
    /// The attempts that were allowed.
    pub attempts: u32,
    /// What went wrong.
    pub fault: Fault,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, url, elapsed, attempt, attempts, fault } = self;
        write!(f, "{method} {url} failed after {elapsed:.1?} (attempt {attempt} of {attempts}): {fault}")?;
        match fault.remedy() {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

/// What went wrong in one request or inside its body.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// No connection, or it broke before the answer.
    #[error("no connection: {0}")]
    Connect(String),
    /// Connecting took too long.
    #[error("no connection within {0:.1?}")]
    ConnectTimeout(Duration),
    /// No first byte in time.
    #[error("no first byte within {0:.1?}")]
    NoAnswer(Duration),
    /// The time for all attempts is over.
    #[error("no complete answer in time")]
    OutOfTime,
    /// 404, 410 or 403.
    #[error("the cache does not have it (status {0})")]
    Missing(u16),
    /// Another status than success.
    #[error("status {status}")]
    Status {
        /// The status code.
        status: u16,
        /// What the origin asked for by `Retry-After`.
        retry_after: Option<Duration>,
    },
    /// Redirected too often or to somewhere that is not HTTP.
    #[error("bad redirect: {0}")]
    Redirect(String),
    /// The URL cannot be requested.
    #[error("unusable URL: {0}")]
    BadUrl(String),
    /// Silence inside the body.
    #[error("no byte for {waited:.1?} at byte {at} of the body")]
    Stalled {
        /// Bytes of the body that had arrived.
        at: u64,
        /// Length of the silence.
        waited: Duration,
    },
    /// The body drips.
    #[error("only {bytes} bytes within {waited:.1?}")]
    TooSlow {
        /// Bytes that came in that time.
        bytes: u64,
        /// Time spent waiting for them.
        waited: Duration,
    },
    /// The connection broke inside the body.
    #[error("the body broke at byte {at}: {reason}")]
    Broken {
        /// Bytes of the body that had arrived.
        at: u64,
        /// What the connection said.
        reason: String,
    },
    /// A narinfo is larger than allowed.
    #[error("the answer is larger than {limit_bytes} bytes")]
    TooLarge {
        /// The bound.
        limit_bytes: u64,
    },
    /// The NAR goes on past its size.
    #[error("the NAR is longer than its NarSize of {nar_size_bytes} bytes")]
    LongerThanNarSize {
        /// The size in the narinfo.
        nar_size_bytes: u64,
    },
    /// The NAR ends too early.
    #[error("the NAR ended at byte {at} of {nar_size_bytes}")]
    Short {
        /// Decompressed bytes that had arrived.
        at: u64,
        /// The size in the narinfo.
        nar_size_bytes: u64,
    },
    /// The file is not as long as the narinfo says.
    #[error("the file has {} {actual_bytes} bytes, its FileSize is {expected_bytes}", if *.at_least { "at least" } else { "only" })]
    FileSize {
        /// The size in the narinfo.
        expected_bytes: u64,
        /// The bytes that came or were announced.
        actual_bytes: u64,
        /// Whether more were to come.
        at_least: bool,
    },
    /// The file is not the one that the narinfo describes.
    #[error("the file hashes to {actual}, its FileHash is {expected}")]
    FileHash {
        /// The hash in the narinfo.
        expected: Sha256Digest,
        /// The hash of what came.
        actual: Sha256Digest,
    },
    /// The codec refused the bytes.
    #[error("cannot decompress {codec}: {reason}")]
    Decode {
        /// Name of the codec.
        codec: &'static str,
        /// What it said.
        reason: String,
    },
    /// A compression or content encoding that is not supported.
    #[error("{what} {name:?} is not supported")]
    Unsupported {
        /// "compression" or "Content-Encoding".
        what: &'static str,
        /// Its name as given.
        name: String,
    },
}

/// What a fault says about the origin as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blame {
    /// The origin works; only this answer is bad.
    Answer,
    /// One failure of several that make it dead.
    Strike,
    /// Nobody is there.
    Dead,
}

impl Fault {
    /// Whether another attempt at once may do better.
    pub(super) fn is_retryable(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Broken { .. } => true,
            Self::Status { status, .. } => {
                matches!(status, 408 | 429 | 500..=599) && !matches!(status, 501 | 505 | 511)
            }
            // A second wait as long as the first would make the caller late.
            Self::ConnectTimeout(_) | Self::NoAnswer(_) | Self::OutOfTime => false,
            Self::Stalled { .. } | Self::TooSlow { .. } => false,
            Self::Missing(_)
            | Self::Redirect(_)
            | Self::BadUrl(_)
            | Self::TooLarge { .. }
            | Self::LongerThanNarSize { .. }
            | Self::Short { .. }
            | Self::FileSize { .. }
            | Self::FileHash { .. }
            | Self::Decode { .. }
            | Self::Unsupported { .. } => false,
        }
    }

    pub(super) fn blame(&self) -> Blame {
        match self {
            Self::Connect(_) | Self::ConnectTimeout(_) | Self::NoAnswer(_) | Self::OutOfTime => Blame::Dead,
            Self::Status { status, .. } if *status >= 500 || matches!(status, 408 | 429) => Blame::Strike,
            Self::Stalled { .. } | Self::TooSlow { .. } | Self::Broken { .. } => Blame::Strike,
            Self::Status { .. }
            | Self::Missing(_)
            | Self::Redirect(_)
            | Self::BadUrl(_)
            | Self::TooLarge { .. }
            | Self::LongerThanNarSize { .. }
            | Self::Short { .. }
            | Self::FileSize { .. }
            | Self::FileHash { .. }
            | Self::Decode { .. }
            | Self::Unsupported { .. } => Blame::Answer,
        }
    }

    fn remedy(&self) -> Option<&'static str> {
        match self {
            Self::Connect(_) => Some("check that the cache runs and that its name and port are right"),
            Self::ConnectTimeout(_) => Some("raise origin-connect-timeout if the cache is far away"),
            Self::NoAnswer(_) => Some("raise origin-first-byte-timeout if the cache is slow"),
            Self::OutOfTime => Some("the cache is too slow; with a second origin it would be overtaken"),
            Self::Status { status: 401 | 407, .. } => {
                Some("put user name and password into the origin's URL")
            }
            Self::Status { status: 429, .. } => Some("the cache asks for fewer requests"),
            Self::Stalled { .. } | Self::TooSlow { .. } => {
                Some("raise origin-progress-timeout if the line is slow")
            }
            Self::FileSize { .. }
            | Self::FileHash { .. }
            | Self::Short { .. }
            | Self::LongerThanNarSize { .. } => {
                Some("the cache or something on the way to it is broken; nothing of it is kept")
            }
            _ => None,
        }
    }
}

/// Faults travel through the readers and decoders of the standard I/O traits.
impl From<Fault> for io::Error {
    fn from(fault: Fault) -> Self {
        io::Error::other(fault)
    }
}
