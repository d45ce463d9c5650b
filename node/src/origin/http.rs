//! HTTP requests with timeouts and retries. What is fetched is the business of the callers.

use std::error::Error as _;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use rand::Rng;
use reqwest::header::{ACCEPT_ENCODING, HeaderMap, HeaderValue, IF_RANGE, RANGE, RETRY_AFTER};
use reqwest::{Client, ClientBuilder, Response, StatusCode, redirect};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use url::Url;

use super::config::{OriginConfig, is_http, redacted};
use super::error::{Blame, Fault, OriginError, RequestError};
use super::health::Pass;

/// Redirects that one request follows.
pub const MAX_REDIRECTS: usize = 5;
/// Longest pause between two attempts.
const MAX_BACKOFF: Duration = Duration::from_secs(2);
/// What a cache may ask us to wait; nobody waits longer than the answer timeout anyway.
const MAX_RETRY_AFTER_SECONDS: u64 = 3600;
/// Idle connections are closed before the usual 60-75 s of servers, so that none is reused as it dies.
const IDLE_CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_IDLE_CONNECTIONS_PER_HOST: usize = 32;
/// A connection over which nothing came back for this long is dead: routers forget idle ones in silence.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Narinfos are small; with many on one HTTP/2 connection this bounds what the peer may send unasked.
const NARINFO_WINDOW_BYTES: u32 = 256 * 1024;

/// The clients and the settings of their use. Cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Http {
    /// Many small answers: HTTP/2 where the cache speaks it, one connection for all.
    pub(super) narinfos: Client,
    /// HTTP/1.1, one connection for each NAR. On a shared HTTP/2 connection a reader that pauses
    /// fills the common window and holds up all the others.
    pub(super) nars: Client,
    pub(super) config: Arc<OriginConfig>,
    /// Bytes of bodies as they crossed the wire.
    pub(super) received: Counter,
}

/// One thing that is asked of one origin, over several attempts.
pub(super) struct Call<'a> {
    pub(super) url: &'a Url,
    pub(super) began: Instant,
    pub(super) deadline: Instant,
    pub(super) pass: &'a Pass,
    /// How hard a silence counts: a slow NAR says less about an origin than a slow narinfo.
    pub(super) silence: Blame,
}

/// The part of a body that is asked for, when not all of it.
pub(super) struct Resume<'a> {
    pub(super) from: u64,
    pub(super) etag: Option<&'a HeaderValue>,
}

impl Http {
    pub(super) fn new(config: OriginConfig, received: Counter) -> Result<Self, OriginError> {
        let narinfos = build(&config, |builder| {
            builder
                .http2_initial_stream_window_size(NARINFO_WINDOW_BYTES)
                .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
                .http2_keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        })?;
        let nars = build(&config, |builder| builder.http1_only())?;
        Ok(Self { narinfos, nars, config: Arc::new(config), received })
    }

    /// Sends one GET and returns the answer when its head is there and its status is a success.
    pub(super) async fn get(
        &self,
        client: &Client,
        url: &Url,
        resume: Option<Resume<'_>>,
    ) -> Result<Response, Fault> {
        // Asking for no encoding keeps FileHash and Range about the same bytes; what comes anyway is decoded.
        let mut request = client.get(url.clone()).header(ACCEPT_ENCODING, "identity");
        if let Some(Resume { from, etag }) = &resume {
            request = request.header(RANGE, format!("bytes={from}-"));
            if let Some(etag) = etag {
                request = request.header(IF_RANGE, (*etag).clone());
            }
        }
        let limit = self.config.first_byte_timeout;
        let response = timeout(limit, request.send())
            .await
            .map_err(|_| Fault::NoAnswer(limit))?
            .map_err(|error| self.send_fault(error))?;
        check_status(&response).map(|()| response)
    }

    fn send_fault(&self, error: reqwest::Error) -> Fault {
        let connect_timeout = self.config.connect_timeout;
        if error.is_timeout() && error.is_connect() {
            return Fault::ConnectTimeout(connect_timeout);
        }
        let text = reason(&error);
        if error.is_redirect() {
            Fault::Redirect(text)
        } else if error.is_builder() {
            Fault::BadUrl(text)
        } else {
            Fault::Connect(text)
        }
    }

    /// Runs `attempt` until it succeeds, fails for good, or attempts or time are used up, and tells
    /// the origin's circuit how it went. Returns the number of the attempt that succeeded, too.
    pub(super) async fn with_retries<T, F>(
        &self,
        call: &Call<'_>,
        mut attempt: impl FnMut() -> F,
    ) -> Result<(T, u32), OriginError>
    where
        F: Future<Output = Result<T, Fault>>,
    {
        let attempts = if call.pass.is_probe() { 1 } else { self.config.attempts };
        let mut number = 1;
        loop {
            let fault = match timeout_at(call.deadline, attempt()).await {
                Ok(Ok(value)) => {
                    call.pass.answered(call.began.elapsed() <= self.config.hedge_delay);
                    return Ok((value, number));
                }
                Ok(Err(fault)) => fault,
                Err(_) => Fault::OutOfTime,
            };
            let pause = self.pause_before(number + 1, &fault);
            let give_up = number >= attempts
                || !fault.is_retryable()
                || call.pass.is_revoked()
                || Instant::now() + pause >= call.deadline;
            if give_up {
                return Err(self.failed(call, number, attempts, fault));
            }
            tracing::debug!(url = %redacted(call.url), attempt = number, %fault, ?pause, "trying again");
            sleep(pause).await;
            number += 1;
        }
    }

    /// Tells the circuit, and says where and when it was.
    fn failed(&self, call: &Call<'_>, attempt: u32, attempts: u32, fault: Fault) -> OriginError {
        let blame = match &fault {
            Fault::NoAnswer(_) | Fault::OutOfTime => call.silence,
            other => other.blame(),
        };
        let elapsed = call.began.elapsed();
        let missing = matches!(fault, Fault::Missing(_));
        let error =
            RequestError { method: "GET", url: redacted(call.url), elapsed, attempt, attempts, fault };
        if missing {
            call.pass.answered(elapsed <= self.config.hedge_delay);
        } else {
            call.pass.failed(blame, &error.to_string());
        }
        OriginError::Request(Box::new(error))
    }

    /// Doubles from the configured pause; the upper half is random so that clients of an origin that
    /// comes back do not all knock at the same instant.
    fn pause_before(&self, attempt: u32, fault: &Fault) -> Duration {
        if let Fault::Status { retry_after: Some(wanted), .. } = fault {
            return *wanted;
        }
        let doublings = attempt.saturating_sub(2).min(16);
        let full = self.config.backoff.saturating_mul(1 << doublings).min(MAX_BACKOFF);
        full.mul_f64(rand::rng().random_range(0.5..=1.0))
    }
}

/// What an error says, with the causes that `reqwest` hides, and without the URL that it repeats.
pub(super) fn reason(error: &reqwest::Error) -> String {
    // The outermost text is "error sending request for url (…)", the URL with its secrets: the causes say what happened.
    let mut parts: Vec<String> = Vec::new();
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        if !parts.iter().any(|part| part.contains(&text)) {
            parts.push(text);
        }
        source = cause.source();
    }
    if parts.is_empty() { "the request failed".to_owned() } else { parts.join(": ") }
}

fn check_status(response: &Response) -> Result<(), Fault> {
    let status = response.status();
    match status {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(()),
        StatusCode::NOT_FOUND | StatusCode::GONE | StatusCode::FORBIDDEN => {
            Err(Fault::Missing(status.as_u16()))
        }
        // Followed as far as allowed already; what is left leads out of HTTP or nowhere.
        _ if status.is_redirection() => {
            Err(Fault::Redirect(format!("status {} was not followed", status.as_u16())))
        }
        _ => Err(Fault::Status { status: status.as_u16(), retry_after: retry_after(response.headers()) }),
    }
}

/// `Retry-After` in seconds; a date is not understood and means the usual pause.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(MAX_RETRY_AFTER_SECONDS)))
}

fn build(
    config: &OriginConfig,
    special: impl Fn(ClientBuilder) -> ClientBuilder,
) -> Result<Client, OriginError> {
    let builder = || {
        let builder = special(
            Client::builder()
                .user_agent(config.user_agent.clone())
                .connect_timeout(config.connect_timeout)
                .pool_idle_timeout(IDLE_CONNECTION_TIMEOUT)
                .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS_PER_HOST)
                .tcp_nodelay(true)
                .referer(false)
                .redirect(redirect::Policy::custom(follow)),
        );
        if config.use_system_proxy { builder } else { builder.no_proxy() }
    };
    let needs_tls = config.urls.iter().any(|url| url.scheme() == "https");
    builder()
        .build()
        .or_else(|error| {
            // A machine without CA certificates can still use caches of plain HTTP.
            if needs_tls { Err(error) } else { builder().tls_certs_only([]).build() }
        })
        .map_err(|error| OriginError::Client(reason(&error)))
}

fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    if attempt.previous().len() > MAX_REDIRECTS {
        return attempt.error(format!("more than {MAX_REDIRECTS} redirects"));
    }
    if !is_http(attempt.url()) {
        let text = format!("to {}, which is not HTTP", redacted(attempt.url()));
        return attempt.error(text);
    }
    let was_secure = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
    if was_secure && attempt.url().scheme() == "http" {
        let text = format!("from HTTPS to {}, which is not encrypted", redacted(attempt.url()));
        return attempt.error(text);
    }
    attempt.follow()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http() -> Http {
        Http::new(OriginConfig::default(), Counter::default()).unwrap()
    }

    #[test]
    fn pauses_double_with_jitter_up_to_a_bound_and_retry_after_is_obeyed() {
        let http = http();
        let fault = Fault::Connect(String::new());
        for (attempt, full_ms) in [(2, 100), (3, 200), (4, 400), (10, 2000), (u32::MAX, 2000)] {
            let pause = http.pause_before(attempt, &fault).as_millis();
            assert!((full_ms / 2..=full_ms).contains(&pause), "attempt {attempt}: {pause} ms");
        }
        let asked = Duration::from_secs(7);
        assert_eq!(http.pause_before(2, &Fault::Status { status: 503, retry_after: Some(asked) }), asked);
    }
}
