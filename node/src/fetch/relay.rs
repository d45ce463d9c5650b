//! Following the leader of our site: it alone asks the origin, we take what it gets while it gets it, from the leader
//! itself or from a node between it and us ([`relay_tree`](super::relay_tree)).
//!
//! Nobody can verify these bytes before the whole is there. They are treated like an origin's, and readers wait for
//! the whole where they can ([`Transfer::read`](super::Transfer::read)). So one that holds the whole already is never
//! followed: it is asked for ranges, which are verified as they come, and which other downloaders may have, too.

use std::time::{Duration, Instant};

use futures::StreamExt;
use p2p_cache_discovery::PeerId;
use p2p_cache_protocol::Digest;

use super::FetchError;
use super::driver::Report;
use super::origin_pump::OriginPump;
use crate::least_pace::LeastPace;
use crate::metrics::Source;
use crate::peers::PeerError;
use crate::peers::limits::ARRIVAL_PATIENCE;

/// How long the answers of all connected peers are waited for before a leader is followed: the slowest may be the one that
/// holds the whole.
const HOLDERS_PATIENCE: Duration = Duration::from_millis(500);
/// A leader that gives less than this part of what the origins gave us lately, over [`ARRIVAL_PATIENCE`], is slower than its
/// origin can be, even when many hosts share the uplink: our own streams, by which it is measured, share it with them.
const LEAST_PART_OF_ORIGIN: f64 = 1.0 / 32.0;
/// Bytes per second of origins that have given us nothing yet.
const ASSUMED_ORIGIN_RATE: f64 = 1e6;

impl OriginPump {
    /// True when a node of our site relayed the whole; false when the origins are ours to ask: we lead, or those from
    /// whom we should have taken it failed.
    pub(super) async fn follow_site(&self) -> Result<bool, FetchError> {
        if self.transfer.waits_for_holders() {
            let mut asked = self.all_asked.clone();
            let _ = tokio::time::timeout(HOLDERS_PATIENCE, asked.wait_for(|all| *all)).await;
        }
        for peer in self.relays.iter().copied() {
            self.transfer.set_following(Some(peer));
            self.transfer.set_waiting_for_holders(false);
            let followed = self.follow(peer).await;
            self.transfer.set_following(None);
            match followed? {
                Ok(()) => return Ok(true),
                Err(error) => self.give_up_on(peer, &error).await,
            }
        }
        Ok(false)
    }

    /// Stores what the leader sends. The outer error is our disk's.
    async fn follow(&self, leader: PeerId) -> Result<Result<(), PeerError>, FetchError> {
        let partial = self.transfer.partial();
        let mut offset = partial.prefix_bytes();
        let (hash, nar) = (self.narinfo.store_path.hash(), self.narinfo.nar_hash);
        let mut arriving = match self.shared.peers.follow(leader, hash, nar, offset).await {
            Ok(arriving) if arriving.size == partial.size() => arriving,
            Ok(arriving) => {
                let reason = format!("it relays {} bytes where {} are signed", arriving.size, partial.size());
                return Ok(Err(PeerError::Protocol { peer: leader, reason }));
            }
            Err(error) => return Ok(Err(error)),
        };
        tracing::debug!(digest = %Digest::Sha256(nar), %leader, "following the leader of the site");
        self.transfer.set_relayed();
        self.report(Report::Relayed(leader)).await;
        let of_origin = self.shared.origin_speed.bytes_per_second().unwrap_or(ASSUMED_ORIGIN_RATE);
        let mut pace = LeastPace::new(ARRIVAL_PATIENCE).or_at_least(of_origin * LEAST_PART_OF_ORIGIN);
        loop {
            let asked = Instant::now();
            let chunk = match arriving.bytes.next().await {
                Some(Ok(chunk)) => chunk,
                Some(Err(error)) => return Ok(Err(error)),
                None => return Ok(Ok(())),
            };
            let (waited, chunk_bytes) = (asked.elapsed(), chunk.len() as u64);
            let end = offset + chunk_bytes;
            self.shared.metrics.received(Source::peer).inc_by(chunk_bytes);
            self.write(offset, chunk).await?;
            self.report(Report::Event(self.arrived(offset, end))).await;
            offset = end;
            if let Err(slow) = pace.note(waited, chunk_bytes)
                && offset < partial.size()
            {
                let what = "more than a trickle";
                return Ok(Err(PeerError::Timeout { peer: leader, what, after: slow.waited }));
            }
        }
    }

    async fn give_up_on(&self, leader: PeerId, error: &PeerError) {
        tracing::debug!(%leader, %error, "a leader is passed over");
        if let Some(reason) = error.ban_reason() {
            self.shared.peers.ban(leader, reason).await;
        }
        // One that is busy, or does not have this very thing, may lead for the next.
        if !matches!(error, PeerError::Busy { .. } | PeerError::NotHeld { .. }) {
            self.shared.peers.pass_over(leader);
        }
    }
}
