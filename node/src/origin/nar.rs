//! Opening a NAR at an origin.

use std::sync::Arc;

use p2p_cache_protocol::{NarInfo, Sha256Digest};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};
use url::Url;

use super::body::Body;
use super::config::{is_http, redacted};
use super::decode::Codec;
use super::error::{Blame, Fault, OriginError, RequestError};
use super::http::Call;
use super::stream::{Expected, NarStream, Provenance, nar_stream};
use super::{Origin, OriginId, Origins};

impl Origins {
    /// Opens the NAR that `narinfo` describes, at the origin that gave it: its URL and compression are
    /// that origin's own business, and nothing signs them. The first byte has arrived when it returns.
    ///
    /// # Errors
    /// As [`OriginError`]; the caller may ask the others by [`Origins::narinfo`] with this one in `skip`.
    pub async fn open_nar(&self, narinfo: &NarInfo, origin: OriginId) -> Result<NarStream, OriginError> {
        self.open_nar_from(narinfo, origin, 0).await
    }

    /// The same from byte `from` of the NAR on, where the origin has it uncompressed and answers `Range`; else from the
    /// front: [`NarStream::starts_at`] tells. FileHash is checked only from the front.
    ///
    /// # Errors
    /// As [`Origins::open_nar`].
    pub async fn open_nar_from(
        &self,
        narinfo: &NarInfo,
        origin: OriginId,
        from: u64,
    ) -> Result<NarStream, OriginError> {
        let codec = Codec::of_compression(&narinfo.compression);
        self.open(self.origin(origin)?, &narinfo.url, codec, Expected::Nar(narinfo), from).await
    }

    /// Opens the file at `path` below the first cache that has it. It comes as it is, and fails at its end when it is not
    /// the file with that hash. `None` when every origin that could be reached lacks it.
    ///
    /// # Errors
    /// As [`OriginError`], of the first that failed otherwise.
    pub async fn open_file(
        &self,
        path: &str,
        file_hash: Sha256Digest,
    ) -> Result<Option<NarStream>, OriginError> {
        let mut failure = None;
        for source in &self.inner.origins {
            match self.open(source, path, Ok(Codec::None), Expected::File(file_hash), 0).await {
                Ok(stream) => return Ok(Some(stream)),
                Err(error) if error.is_miss() => {}
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        failure.map_or(Ok(None), Err)
    }

    /// Opens what stands at `path`, as the `URL` of a narinfo says it.
    async fn open(
        &self,
        source: &Origin,
        path: &str,
        codec: Result<Codec, Fault>,
        expected: Expected<'_>,
        from: u64,
    ) -> Result<NarStream, OriginError> {
        let began = Instant::now();
        let config = &self.inner.http.config;
        let prepared = nar_url(&source.url, path).and_then(|url| codec.map(|codec| (url, codec)));
        let (url, codec) = prepared.map_err(|fault| unsent(&source.url, path, fault))?;
        let place = self.place().await?;
        let pass = source.admit()?;
        let from = if codec == Codec::None { from } else { 0 };
        let call = Call {
            url: &url,
            began,
            deadline: began + config.answer_timeout,
            pass: &pass,
            // One NAR that takes long to appear says little about the others.
            silence: Blame::Strike,
        };
        let ((body, encoding), attempt) =
            self.inner.http.with_retries(&call, || self.first_bytes(&url, expected, from)).await?;
        let from = Provenance {
            origin: source.id,
            url: redacted(&url),
            began,
            attempt,
            attempts: config.attempts,
            circuit: Arc::clone(&source.circuit),
            _place: place,
        };
        Ok(nar_stream(body, encoding, codec, expected, from))
    }

    /// One attempt: the head, and the first bytes of the body.
    async fn first_bytes(
        &self,
        url: &Url,
        expected: Expected<'_>,
        from: u64,
    ) -> Result<(Body, Codec), Fault> {
        let http = &self.inner.http;
        let began = Instant::now();
        let rest = match expected.nar_size() {
            Some(nar_size) => Body::open_rest(http, url, from, nar_size).await?,
            None => None,
        };
        let mut body = match rest {
            Some(rest) => rest,
            None => {
                let response = http.get(&http.nars, url, None).await?;
                Body::new(http, &http.nars, url, response).allow_resume()
            }
        };
        let encoding = Codec::of_content_encoding(body.content_encoding().as_deref())?;
        if let (0, Codec::None, Some(expected_bytes), Some(actual_bytes)) =
            (body.starts_at(), encoding, expected.file_size(), body.announced_bytes())
            && expected_bytes != actual_bytes
        {
            return Err(Fault::FileSize { expected_bytes, actual_bytes, at_least: false });
        }
        let left = http.config.first_byte_timeout.saturating_sub(began.elapsed());
        body.wait_for_first_chunk(left).await?;
        Ok((body, encoding))
    }

    /// Waits for a place among the open NARs.
    async fn place(&self) -> Result<OwnedSemaphorePermit, OriginError> {
        let config = &self.inner.http.config;
        let busy = || OriginError::Busy { open: config.max_open_nars, waited: config.first_byte_timeout };
        timeout(config.first_byte_timeout, Arc::clone(&self.inner.places).acquire_owned())
            .await
            .map_err(|_| busy())?
            // The semaphore is never closed.
            .map_err(|_| busy())
    }
}

impl Origin {
    pub(super) fn admit(&self) -> Result<super::health::Pass, OriginError> {
        self.circuit.admit().map_err(|(retry_in, last_error)| OriginError::Down {
            url: redacted(&self.url),
            retry_in,
            last_error,
        })
    }
}

/// The URL field of a narinfo: relative to the cache, or a whole HTTP URL.
fn nar_url(base: &Url, field: &str) -> Result<Url, Fault> {
    let url = base.join(field).map_err(|error| Fault::BadUrl(error.to_string()))?;
    if is_http(&url) { Ok(url) } else { Err(Fault::BadUrl(format!("{} is not HTTP", redacted(&url)))) }
}

/// A request that could not even be sent.
fn unsent(base: &Url, field: &str, fault: Fault) -> OriginError {
    let shown = base.join(field).as_ref().map(redacted).unwrap_or_else(|_| redacted(base));
    OriginError::Request(Box::new(RequestError {
        method: "GET",
        url: shown,
        elapsed: std::time::Duration::ZERO,
        attempt: 0,
        attempts: 0,
        fault,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nar_urls_are_relative_to_the_cache_or_whole() {
        let base = Url::parse("https://user:pw@c.example/store/").unwrap();
        let resolve = |field| nar_url(&base, field).map(|url| url.to_string());
        assert_eq!(
            resolve("nar/a.nar.xz?hash=b").unwrap(),
            "https://user:pw@c.example/store/nar/a.nar.xz?hash=b"
        );
        assert_eq!(resolve("http://cdn.example/a.nar").unwrap(), "http://cdn.example/a.nar");
        assert!(matches!(resolve("file:///etc/shadow"), Err(Fault::BadUrl(_))));
        assert!(matches!(resolve("s3://bucket/a"), Err(Fault::BadUrl(_))));
        assert!(matches!(resolve("http://"), Err(Fault::BadUrl(_))));
    }
}
