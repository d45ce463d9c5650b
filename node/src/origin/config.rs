//! Settings of the origins and their validation.

use std::fmt;
use std::time::Duration;

use reqwest::header::HeaderValue;
use url::Url;

/// The most origins that one node may have.
pub const MAX_ORIGINS: usize = 64;
/// The most attempts at one request that may be configured.
pub const MAX_ATTEMPTS: u32 = 10;
/// Longest duration that any setting may have.
const MAX_DURATION: Duration = Duration::from_secs(24 * 3600);
/// No answer may be configured to take longer: the client of the node gives up at about 15 s.
pub const MAX_ANSWER_TIMEOUT: Duration = Duration::from_secs(12);

/// How the node talks to its origins. Every duration must be longer than zero and at most a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OriginConfig {
    /// Base URLs of HTTP(S) binary caches, the most wanted first; at most [`MAX_ORIGINS`].
    /// User name and password may stand in the URL.
    pub urls: Vec<Url>,
    /// Longest time to connect, TLS included.
    pub connect_timeout: Duration,
    /// Longest time from the start of one attempt, connecting included, to its first byte.
    pub first_byte_timeout: Duration,
    /// Longest silence inside a body. Less than [`MIN_BYTES_PER_SECOND`](super::MIN_BYTES_PER_SECOND)
    /// over this time counts as silence too.
    pub progress_timeout: Duration,
    /// Longest time until a narinfo, or the first byte of a NAR, over all attempts and origins;
    /// at most [`MAX_ANSWER_TIMEOUT`].
    pub answer_timeout: Duration,
    /// How long an origin may think about a narinfo before the next one is asked as well.
    pub hedge_delay: Duration,
    /// Attempts at one request at one origin, the first included; 1 to [`MAX_ATTEMPTS`].
    pub attempts: u32,
    /// Pause before the second attempt; it doubles from there and half of it is random.
    pub backoff: Duration,
    /// How long a dead origin is not asked again.
    pub down_memory: Duration,
    /// NARs that may be open at once. Each costs a socket, up to 1 MiB of buffers, a thread of the
    /// blocking pool while it is decompressed, and the window of its codec: 8 MiB for what Nix
    /// writes, at most 128 MiB for what a hostile origin could ask.
    pub max_open_nars: usize,
    /// Whether `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` of the environment apply, as they do to Nix.
    pub use_system_proxy: bool,
    /// Value of the `User-Agent` header.
    pub user_agent: String,
}

impl Default for OriginConfig {
    fn default() -> Self {
        Self {
            urls: Vec::new(),
            connect_timeout: Duration::from_secs(3),
            first_byte_timeout: Duration::from_secs(8),
            progress_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(11),
            hedge_delay: Duration::from_millis(500),
            attempts: 3,
            backoff: Duration::from_millis(100),
            down_memory: Duration::from_secs(10),
            max_open_nars: 64,
            use_system_proxy: true,
            user_agent: concat!("p2p-cache/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// Everything that is wrong with an [`OriginConfig`], each fault with its remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigFaults(pub Vec<String>);

impl fmt::Display for ConfigFaults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "origins are not usable: {}", self.0.join("; "))
    }
}

impl OriginConfig {
    /// Reports every fault at once.
    pub fn validate(&self) -> Result<(), ConfigFaults> {
        let mut faults: Vec<String> = self.urls.iter().filter_map(url_fault).collect();
        if self.urls.len() > MAX_ORIGINS {
            faults.push(format!("{} origins are given; leave at most {MAX_ORIGINS}", self.urls.len()));
        }
        for (name, value) in [
            ("connect_timeout", self.connect_timeout),
            ("first_byte_timeout", self.first_byte_timeout),
            ("progress_timeout", self.progress_timeout),
            ("answer_timeout", self.answer_timeout),
            ("hedge_delay", self.hedge_delay),
            ("backoff", self.backoff),
            ("down_memory", self.down_memory),
        ] {
            if value.is_zero() {
                faults.push(format!("{name} is 0; give it a duration"));
            }
            if value > MAX_DURATION {
                faults.push(format!("{name} is {value:?}; make it at most {MAX_DURATION:?}"));
            }
        }
        if self.answer_timeout > MAX_ANSWER_TIMEOUT {
            faults.push(format!(
                "answer_timeout is {:?}; clients give up first, make it at most {MAX_ANSWER_TIMEOUT:?}",
                self.answer_timeout
            ));
        }
        if !(1..=MAX_ATTEMPTS).contains(&self.attempts) {
            faults.push(format!("attempts is {}; make it 1 to {MAX_ATTEMPTS}", self.attempts));
        }
        if self.max_open_nars == 0 {
            faults.push("max_open_nars is 0; make it at least 1".to_owned());
        }
        if HeaderValue::from_str(&self.user_agent).is_err() {
            faults.push("user_agent holds characters that no HTTP header may hold".to_owned());
        }
        if faults.is_empty() { Ok(()) } else { Err(ConfigFaults(faults)) }
    }
}

fn url_fault(url: &Url) -> Option<String> {
    let shown = redacted(url);
    if !is_http(url) {
        return Some(format!(
            "{shown} is not an HTTP cache; give an http:// or https:// URL (other kinds of store are not supported)"
        ));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Some(format!("{shown} names no host"));
    }
    // Nix reads `?priority=` and the like itself; here they would end up in every request.
    if url.query().is_some() || url.fragment().is_some() {
        return Some(format!("{shown} has a query or a fragment; remove everything from ? or # on"));
    }
    None
}

/// Whether the scheme is one that a request may go to.
pub(super) fn is_http(url: &Url) -> bool {
    matches!(url.scheme(), "http" | "https")
}

/// The base with a final slash, so that joining appends.
pub(super) fn as_directory(mut url: Url) -> Url {
    if !url.path().ends_with('/') {
        let path = format!("{}/", url.path());
        url.set_path(&path);
    }
    url
}

/// The URL as it may be logged: without user, password, query and fragment, which all may hold secrets.
pub(super) fn redacted(url: &Url) -> String {
    let mut shown = url.clone();
    // Both fail only for URLs that cannot have these parts.
    let _ = shown.set_username("");
    let _ = shown.set_password(None);
    let had_query = shown.query().is_some();
    shown.set_query(None);
    shown.set_fragment(None);
    if had_query { format!("{shown}?...") } else { shown.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_urls(urls: &[&str]) -> OriginConfig {
        OriginConfig {
            urls: urls.iter().map(|u| Url::parse(u).unwrap()).collect(),
            ..OriginConfig::default()
        }
    }

    #[test]
    fn defaults_and_ordinary_caches_are_accepted() {
        assert_eq!(OriginConfig::default().validate(), Ok(()));
        assert_eq!(
            with_urls(&["https://cache.nixos.org", "http://u:p@10.0.0.1:8080/nix/"]).validate(),
            Ok(())
        );
    }

    #[test]
    fn every_fault_is_reported_at_once_and_no_password_shows() {
        let mut config =
            with_urls(&["file:///var/cache", "s3://bucket", "https://u:secret@c.example/?priority=1"]);
        config.attempts = 0;
        config.hedge_delay = Duration::ZERO;
        config.answer_timeout = Duration::from_secs(60);
        config.user_agent = "a\nb".to_owned();
        config.down_memory = Duration::MAX;
        let faults = config.validate().unwrap_err();
        assert_eq!(faults.0.len(), 8, "{faults}");
        let text = faults.to_string();
        assert!(text.contains("file:///var/cache is not an HTTP cache"), "{text}");
        assert!(!text.contains("secret"), "{text}");
    }

    #[test]
    fn redaction_hides_credentials_and_signed_queries() {
        let url = Url::parse("https://u:p@h.example/nar/x?X-Signature=abc#f").unwrap();
        assert_eq!(redacted(&url), "https://h.example/nar/x?...");
    }
}
