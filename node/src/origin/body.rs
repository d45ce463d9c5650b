//! The body of an answer: counted, never silent for long, and taken up again where it broke.

use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use reqwest::header::{ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue};
use reqwest::{Client, Response, StatusCode};
use tokio::io::AsyncBufRead;
use tokio::time::{Instant, timeout};
use tokio_util::io::StreamReader;
use url::Url;

use super::error::Fault;
use super::http::{Http, Resume, reason};
use crate::least_pace::LeastPace;

/// After a break the body must go on within the progress timeout and this.
const RESUME_GRACE: Duration = Duration::from_secs(4);

/// A body that has come this far since it broke last has all its attempts again.
const PROGRESS_BYTES: u64 = 1024 * 1024;

/// Compressed bytes, as a reader.
pub(super) type BodyReader = Pin<Box<dyn AsyncBufRead + Send>>;

/// The body of one answer.
pub(super) struct Body {
    http: Http,
    client: Client,
    url: Url,
    response: Response,
    /// Where in the file it starts.
    start: u64,
    /// Where in the file it has come to.
    at: u64,
    /// Read ahead by [`Body::wait_for_first_chunk`].
    first: Option<Bytes>,
    /// How to take it up again; `None` when that is not possible.
    resumable: Option<Resumable>,
    /// Over a whole progress timeout.
    pace: LeastPace,
    last_byte: Instant,
}

struct Resumable {
    total: u64,
    etag: Option<HeaderValue>,
    attempts: u32,
    left: u32,
    /// Where it was taken up last.
    mark: u64,
}

impl Body {
    pub(super) fn new(http: &Http, client: &Client, url: &Url, response: Response) -> Self {
        Self {
            http: http.clone(),
            client: client.clone(),
            url: url.clone(),
            response,
            start: 0,
            at: 0,
            first: None,
            resumable: None,
            pace: LeastPace::new(http.config.progress_timeout),
            last_byte: Instant::now(),
        }
    }

    /// Opens the rest of a NAR of `total` bytes from `from` on. When the origin sends all of it instead, that is what
    /// the body is; `None` when it has to be asked for all of it.
    pub(super) async fn open_rest(
        http: &Http,
        url: &Url,
        from: u64,
        total: u64,
    ) -> Result<Option<Self>, Fault> {
        if from == 0 {
            return Ok(None);
        }
        match http.get(&http.nars, url, Some(Resume { from, etag: None })).await {
            Ok(response) if continues(&response, from, total) => {
                let mut body = Self::new(http, &http.nars, url, response);
                (body.start, body.at) = (from, from);
                body.resumable = Some(Resumable::new(body.response.headers(), total, http.config.attempts));
                Ok(Some(body))
            }
            Ok(response) if response.status() == StatusCode::OK => {
                Ok(Some(Self::new(http, &http.nars, url, response).allow_resume()))
            }
            // Another part than the one that was asked for, or none.
            Ok(_) => Ok(None),
            Err(Fault::Status { status, .. }) if status == StatusCode::RANGE_NOT_SATISFIABLE.as_u16() => {
                Ok(None)
            }
            Err(fault) => Err(fault),
        }
    }

    /// Where in the file it starts.
    pub(super) fn starts_at(&self) -> u64 {
        self.start
    }

    /// Takes the body up again where it breaks, if the origin can.
    pub(super) fn allow_resume(mut self) -> Self {
        self.resumable = Resumable::of(&self.response, self.http.config.attempts);
        self
    }

    /// The `Content-Encoding`, if any was applied.
    pub(super) fn content_encoding(&self) -> Option<String> {
        encoding(self.response.headers())
    }

    /// The length that the answer announces.
    pub(super) fn announced_bytes(&self) -> Option<u64> {
        self.response.content_length()
    }

    /// Waits for the first bytes, so that an origin that sends a head and no body is found out early.
    pub(super) async fn wait_for_first_chunk(&mut self, limit: Duration) -> Result<(), Fault> {
        let chunk = match timeout(limit, self.response.chunk()).await {
            Err(_) => return Err(Fault::NoAnswer(limit)),
            Ok(Err(error)) => return Err(Fault::Broken { at: self.at, reason: reason(&error) }),
            Ok(Ok(chunk)) => chunk.unwrap_or_default(),
        };
        self.arrived(&chunk);
        self.first = Some(chunk);
        Ok(())
    }

    /// The next bytes; `None` at the end.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>, Fault> {
        if let Some(first) = self.first.take().filter(|first| !first.is_empty()) {
            return Ok(Some(first));
        }
        // The clock runs only while somebody waits: a reader that pauses is no fault of the origin.
        self.last_byte = Instant::now();
        loop {
            match self.read().await {
                Ok(chunk) => return Ok(chunk),
                Err(fault) => self.resume(fault).await?,
            }
        }
    }

    async fn read(&mut self) -> Result<Option<Bytes>, Fault> {
        let limit = self.http.config.progress_timeout;
        let began = Instant::now();
        let chunk = match timeout(limit, self.response.chunk()).await {
            Err(_) => return Err(Fault::Stalled { at: self.at, waited: limit }),
            Ok(Err(error)) => return Err(Fault::Broken { at: self.at, reason: reason(&error) }),
            Ok(Ok(None)) => return Ok(None),
            Ok(Ok(Some(chunk))) => chunk,
        };
        self.arrived(&chunk);
        let paced = self.pace.note(began.elapsed(), chunk.len() as u64);
        paced.map_err(|slow| Fault::TooSlow { bytes: slow.bytes, waited: slow.waited })?;
        Ok(Some(chunk))
    }

    fn arrived(&mut self, chunk: &Bytes) {
        self.at += chunk.len() as u64;
        self.last_byte = Instant::now();
        self.http.received.inc_by(chunk.len() as u64);
    }

    /// Asks for the rest. Fails with `fault`, what broke the body, when that does not work.
    async fn resume(&mut self, fault: Fault) -> Result<(), Fault> {
        let (Fault::Broken { .. } | Fault::Stalled { .. }) = fault else { return Err(fault) };
        if let Some(resumable) = &mut self.resumable
            && self.at >= resumable.mark + PROGRESS_BYTES
        {
            resumable.left = resumable.attempts.saturating_sub(1);
            resumable.mark = self.at;
        }
        let give_up_at = self.last_byte + self.http.config.progress_timeout + RESUME_GRACE;
        loop {
            let Some(resumable) = self.resumable.as_mut().filter(|r| r.left > 0) else { return Err(fault) };
            resumable.left -= 1;
            let resume = Resume { from: self.at, etag: resumable.etag.as_ref() };
            let answer =
                tokio::time::timeout_at(give_up_at, self.http.get(&self.client, &self.url, Some(resume)));
            match answer.await {
                Err(_) => return Err(fault),
                Ok(Ok(response)) if continues(&response, self.at, resumable.total) => {
                    tracing::debug!(url = %super::config::redacted(&self.url), at = self.at, %fault, "body resumed");
                    self.response = response;
                    return Ok(());
                }
                Ok(Err(next)) if next.is_retryable() => tokio::time::sleep(self.http.config.backoff).await,
                // Another file, or no ranges after all: what has arrived cannot be continued.
                Ok(_) => return Err(fault),
            }
        }
    }

    /// The body as a reader; faults come out as the source of the I/O error.
    pub(super) fn into_reader(self) -> BodyReader {
        let chunks = stream::unfold(Some(self), |body| async move {
            let mut body = body?;
            match body.chunk().await {
                Ok(Some(chunk)) => Some((Ok(chunk), Some(body))),
                Ok(None) => None,
                Err(fault) => Some((Err(std::io::Error::from(fault)), None)),
            }
        });
        // Fused: a decoder may ask again after the end.
        Box::pin(StreamReader::new(Box::pin(chunks.fuse())))
    }
}

impl Resumable {
    fn of(response: &Response, attempts: u32) -> Option<Self> {
        let headers = response.headers();
        let ranges =
            headers.get(ACCEPT_RANGES).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"bytes"));
        let plain = response.status() == StatusCode::OK && encoding(headers).is_none();
        if !ranges || !plain {
            return None;
        }
        Some(Self::new(headers, response.content_length()?, attempts))
    }

    fn new(headers: &HeaderMap, total: u64, attempts: u32) -> Self {
        // A weak tag does not promise equal bytes and must not be sent in If-Range.
        let etag = headers.get(ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/")).cloned();
        Self { total, etag, attempts, left: attempts.saturating_sub(1), mark: 0 }
    }
}

fn encoding(headers: &HeaderMap) -> Option<String> {
    let value =
        String::from_utf8_lossy(headers.get(CONTENT_ENCODING)?.as_bytes()).trim().to_ascii_lowercase();
    (!value.is_empty() && value != "identity").then_some(value)
}

/// Whether the answer is the rest of the same file: `bytes FROM-*/TOTAL`.
fn continues(response: &Response, from: u64, total: u64) -> bool {
    let wanted = format!("bytes {from}-{}/{total}", total.saturating_sub(1));
    response.status() == StatusCode::PARTIAL_CONTENT
        && encoding(response.headers()).is_none()
        && response.headers().get(CONTENT_RANGE).is_some_and(|value| value.as_bytes() == wanted.as_bytes())
}
