//! Asking origins for a narinfo.

use p2p_cache_protocol::{MAX_NARINFO_BYTES, NarInfo, StoreHash, TrustedKeys};
use tokio::time::Instant;
use url::Url;

use super::config::redacted;
use super::error::{Blame, OriginError};
use super::http::Call;
use super::race::{Runner, race};
use super::{FoundNarInfo, Origin, OriginId, Origins};

impl Origins {
    /// Asks for the narinfo of `hash`, within the answer timeout over all origins, but not those in
    /// `skip` (that gave a narinfo but no good NAR). The origins are asked in order of priority; one
    /// that thinks for longer than the hedge delay is overtaken by the next. With `keys`, a narinfo
    /// that none of them verifies is skipped; content-addressed paths too need a signature.
    ///
    /// # Errors
    /// [`OriginError::NotFound`] when every origin that could be reached said so, or none is left to be
    /// asked; [`OriginError::Unavailable`] when one failed otherwise, or none could be reached.
    pub async fn narinfo(
        &self,
        hash: StoreHash,
        keys: Option<&TrustedKeys>,
        skip: &[OriginId],
    ) -> Result<FoundNarInfo, OriginError> {
        let config = &self.inner.http.config;
        let began = Instant::now();
        let deadline = began + config.answer_timeout;
        let asked: Vec<&Origin> =
            self.inner.origins.iter().filter(|origin| !skip.contains(&origin.id)).collect();
        // Not a lazy `map`: its closure would be too specific about lifetimes for a future that is sent elsewhere.
        let mut runners = Vec::with_capacity(asked.len());
        for origin in &asked {
            let run = self.narinfo_from(origin, hash, keys, deadline);
            runners.push(Runner { run, head_start: !origin.circuit.is_slow() });
        }
        let outcome = race(runners, config.hedge_delay).await;
        if began.elapsed() >= config.hedge_delay {
            outcome.overtaken.iter().for_each(|index| asked[*index].circuit.overtaken());
        }
        match outcome.winner {
            Some((index, narinfo)) => Ok(FoundNarInfo { narinfo, origin: asked[index].id }),
            None => Err(summary(hash, outcome.failures.into_iter().map(|(_, error)| error))),
        }
    }

    async fn narinfo_from(
        &self,
        origin: &Origin,
        hash: StoreHash,
        keys: Option<&TrustedKeys>,
        deadline: Instant,
    ) -> Result<NarInfo, OriginError> {
        let pass = origin.admit()?;
        let mut url = origin.url.clone();
        url.set_path(&format!("{}{hash}.narinfo", origin.url.path()));
        let call = Call { url: &url, began: Instant::now(), deadline, pass: &pass, silence: Blame::Dead };
        let (text, _) =
            self.inner.http.with_retries(&call, || self.small_body(&url, MAX_NARINFO_BYTES as u64)).await?;
        let checked = check(&url, &text, hash, keys);
        if let Err(error) = &checked {
            tracing::warn!(%error, "narinfo skipped");
            pass.failed(Blame::Answer, &error.to_string());
        }
        checked
    }
}

fn check(
    url: &Url,
    text: &[u8],
    hash: StoreHash,
    keys: Option<&TrustedKeys>,
) -> Result<NarInfo, OriginError> {
    let invalid = |reason: String| OriginError::Invalid { url: redacted(url), reason };
    let text = std::str::from_utf8(text).map_err(|error| invalid(error.to_string()))?;
    let narinfo = NarInfo::parse(text).map_err(|error| invalid(error.to_string()))?;
    if narinfo.store_path.hash() != hash {
        return Err(invalid(format!("it is for {}", narinfo.store_path)));
    }
    if keys.is_some_and(|keys| narinfo.verified_by(keys).is_none()) {
        return Err(OriginError::Untrusted { url: redacted(url), path: narinfo.store_path.to_string() });
    }
    Ok(narinfo)
}

/// Nobody has it, or nobody could be asked, or something is wrong.
fn summary(hash: StoreHash, failures: impl Iterator<Item = OriginError>) -> OriginError {
    let (misses, causes): (Vec<_>, Vec<_>) = failures.partition(OriginError::is_miss);
    let reachable_failed = causes.iter().any(|cause| !cause.is_unreachable());
    let nobody_answered = misses.is_empty() && !causes.is_empty();
    if reachable_failed || nobody_answered {
        return OriginError::Unavailable { hash, causes };
    }
    for cause in &causes {
        tracing::debug!(%hash, %cause, "origin not reached; the others do not have it");
    }
    OriginError::NotFound { hash, answered: misses.len() }
}
