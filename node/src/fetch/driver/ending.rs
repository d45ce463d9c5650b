//! How a transfer ends: right and kept, wrong and by whose fault, or without all of its bytes.

use std::sync::Arc;

use p2p_cache_protocol::{Digest, Sha256Digest};

use super::Driver;
use crate::fetch::FetchError;
use crate::fetch::scheduler::FailReason;
use crate::fetch::transfer::Phase;
use crate::peers::BanReason;
use crate::store::StoreError;

impl Driver<'_> {
    /// With several claims and no whole, the one that was followed is the last to be followed again: another attempt
    /// may do better.
    pub(super) fn lost(&self, reason: FailReason) -> FetchError {
        if self.contradicted {
            self.doubt_claim();
            let detail =
                Arc::from("their claims contradict each other, and the one that was followed led nowhere");
            return FetchError::Mismatch { culprit: "peers", detail };
        }
        match (reason, &self.last_error) {
            (FailReason::NoSource, None) => FetchError::NotFound,
            (_, last) => FetchError::SourcesLost { reason, last: last.clone() },
        }
    }

    /// All bytes are there: release the tail if they are the right ones, then commit.
    pub(super) async fn finish(self, hash: Sha256Digest) -> Result<(), FetchError> {
        if let Digest::Sha256(expected) = self.request.digest
            && expected != hash
        {
            return Err(self.mismatch(expected, hash).await);
        }
        self.transfer.set_phase(Phase::Verified);
        self.shared.metrics.fetched(self.started.elapsed());
        if let Err(error) = self.keep(hash).await {
            // The readers have had, or still get, right bytes; only the next request pays for it.
            tracing::error!(digest = %self.request.digest, %error, "a verified blob could not be kept");
        }
        Ok(())
    }

    async fn keep(&self, hash: Sha256Digest) -> Result<(), StoreError> {
        if let Some(narinfo) = &self.request.narinfo {
            self.shared.store.put_narinfo(narinfo).await?;
        }
        let meta = self.transfer.partial().commit(hash, false).await?;
        if self.blob.is_some_and(|claimed| claimed != meta.id) {
            self.ban_claimants().await;
        }
        for liar in self.shared.suspicions.disproved(self.request.digest, (meta.id, meta.size)) {
            self.shared.peers.ban(liar, BanReason::FalseClaim).await;
        }
        (self.shared.on_commit)(&meta, self.request.narinfo.as_deref());
        Ok(())
    }

    pub(super) fn doubt_claim(&self) {
        if let Some(blob) = self.blob {
            let claimed = (blob, self.transfer.size());
            self.shared.suspicions.doubt(self.request.digest, claimed, &self.claimants);
        }
    }

    /// Says whose fault a wrong whole is, where that can be known: all bytes came from one kind of source.
    async fn mismatch(&self, expected: Sha256Digest, actual: Sha256Digest) -> FetchError {
        let detail = Arc::from(format!("expected {expected}, got {actual}"));
        if self.transfer.partial().has_kept_unproven() {
            // Nobody knows any more who sent what an earlier fetch left. It is removed, and the next attempt tells.
            return FetchError::Mismatch { culprit: "an unfinished fetch, or a source of this one", detail };
        }
        let culprit = match (self.origins_used.as_slice(), self.claimants.is_empty()) {
            (_, _) if !self.leaders_used.is_empty() => self.blame_leaders().await,
            ([], _) => {
                self.ban_claimants().await;
                self.shared.suspicions.clear_bad_nar(expected);
                "peers"
            }
            (origins, true) => {
                for origin in origins {
                    self.shared.suspicions.remember_bad_nar(expected, *origin);
                }
                "an origin"
            }
            (_, false) => {
                // Peers' groups fit the claimed tree, so either the claim or the origin is false. The next attempt
                // leaves out the claim: strangers must not be able to keep out the origin that the owner chose.
                self.doubt_claim();
                "an origin or peers"
            }
        };
        FetchError::Mismatch { culprit, detail }
    }

    /// A leader holds the tail back until it has verified the whole, so the only source of all bytes has lied. Of
    /// several sources it cannot be known which one did: the next attempt does without leaders.
    async fn blame_leaders(&self) -> &'static str {
        if let ([leader], [], []) =
            (self.leaders_used.as_slice(), self.origins_used.as_slice(), self.claimants.as_slice())
        {
            self.shared.peers.ban(*leader, BanReason::CorruptData).await;
        }
        self.shared.suspicions.distrust_leaders(self.request.digest);
        self.doubt_claim();
        "the leader of the site, an origin or peers"
    }

    async fn ban_claimants(&self) {
        for peer in &self.claimants {
            self.shared.peers.ban(*peer, BanReason::FalseClaim).await;
        }
    }
}
