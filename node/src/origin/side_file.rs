//! Asking origins for the small files beside narinfos: logs, realisations and the like.

use tokio::io::AsyncReadExt;
use tokio::time::Instant;
use url::Url;

use super::body::Body;
use super::decode::{Codec, Decoder, fault_of};
use super::error::{Blame, Fault, OriginError};
use super::http::Call;
use super::race::{Runner, race};
use super::{Origin, Origins};

impl Origins {
    /// Asks for a file of at most `limit_bytes`, by its path below the root of a cache, as narinfos are asked for. `None`
    /// when every origin that could be reached has none.
    ///
    /// # Errors
    /// [`OriginError`] of one that failed otherwise.
    pub async fn side_file(&self, path: &str, limit_bytes: u64) -> Result<Option<Vec<u8>>, OriginError> {
        let config = &self.inner.http.config;
        let deadline = Instant::now() + config.answer_timeout;
        let mut runners = Vec::with_capacity(self.inner.origins.len());
        for origin in &self.inner.origins {
            let run = self.side_file_from(origin, path, limit_bytes, deadline);
            runners.push(Runner { run, head_start: !origin.circuit.is_slow() });
        }
        let outcome = race(runners, config.hedge_delay).await;
        if let Some((_, bytes)) = outcome.winner {
            return Ok(Some(bytes));
        }
        let failures = outcome.failures.into_iter().map(|(_, error)| error);
        failures.filter(|error| !error.is_miss()).map(Err).next().unwrap_or(Ok(None))
    }

    async fn side_file_from(
        &self,
        origin: &Origin,
        path: &str,
        limit_bytes: u64,
        deadline: Instant,
    ) -> Result<Vec<u8>, OriginError> {
        let pass = origin.admit()?;
        let mut url = origin.url.clone();
        url.set_path(&format!("{}{path}", origin.url.path()));
        // That a file takes long says less about an origin than a silent narinfo.
        let call = Call { url: &url, began: Instant::now(), deadline, pass: &pass, silence: Blame::Strike };
        let (bytes, _) = self.inner.http.with_retries(&call, || self.small_body(&url, limit_bytes)).await?;
        Ok(bytes)
    }

    /// One attempt at a body that fits into memory.
    pub(super) async fn small_body(&self, url: &Url, limit_bytes: u64) -> Result<Vec<u8>, Fault> {
        let http = &self.inner.http;
        let response = http.get(&http.narinfos, url, None).await?;
        let body = Body::new(http, &http.narinfos, url, response);
        if body.announced_bytes().is_some_and(|bytes| bytes > limit_bytes) {
            return Err(Fault::TooLarge { limit_bytes });
        }
        let codec = Codec::of_content_encoding(body.content_encoding().as_deref())?;
        // Decoded where we are, a read at a time: the reader stops at the limit, and the rest of the node goes on.
        let mut text = Vec::new();
        Decoder::new(codec, body.into_reader())
            .take(limit_bytes + 1)
            .read_to_end(&mut text)
            .await
            .map_err(|error| fault_of(error, codec))?;
        if text.len() as u64 > limit_bytes { Err(Fault::TooLarge { limit_bytes }) } else { Ok(text) }
    }
}
