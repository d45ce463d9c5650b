//! Peers that fetch the same blob at the same time: what they have got so far is theirs to give.
//!
//! They vouch for nothing, so they are of use only when a holder's claim has said which tree the blob has. Two nodes
//! find each other because both ask around: one of them asks after the other has begun.

use std::time::Duration;

use futures::StreamExt;
use p2p_cache_discovery::PeerId;
use p2p_cache_protocol::{BlobId, GroupRange};

use super::{Driver, PeerSource, Report};
use crate::fetch::Peers;
use crate::fetch::scheduler::{Event, Holdings, SourceId, SourceKind};
use crate::peers::{PeerError, Watched};

/// Peers that are watched in one transfer.
const MAX_WATCHED: usize = 32;
/// How long a peer that denies what it asked for itself is left alone before it is asked again.
const DENIAL_PAUSES: [Duration; 5] = [
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_secs(1),
    Duration::from_secs(3),
];

/// Who has just asked us may not have heard yet which tree the blob has, and denies it until then.
async fn watch_once_it_knows(
    peers: &dyn Peers,
    peer: PeerId,
    blob: BlobId,
    size_bytes: u64,
) -> Result<Watched, PeerError> {
    for pause in DENIAL_PAUSES {
        match peers.watch(peer, blob, size_bytes).await {
            Err(PeerError::NotHeld { .. }) => tokio::time::sleep(pause).await,
            answer => return answer,
        }
    }
    peers.watch(peer, blob, size_bytes).await
}

impl Driver<'_> {
    /// Somebody has asked us for this blob.
    pub(super) fn on_wanted(&mut self) -> Vec<Event> {
        let peers = self.shared.interests.of(&self.request.digest);
        peers.into_iter().flat_map(|peer| self.on_downloader(peer, None)).collect()
    }

    /// A peer fetches this blob too; `blob` when it has said as which.
    pub(super) fn on_downloader(&mut self, peer: PeerId, blob: Option<BlobId>) -> Vec<Event> {
        let known = self.downloaders.contains_key(&peer) || self.downloaders.len() >= MAX_WATCHED;
        if known || self.sources.values().any(|source| source.peer == peer) {
            return Vec::new();
        }
        self.downloaders.insert(peer, blob);
        self.watch_downloaders()
    }

    /// Once the tree is known, those who fetch by the same one become sources.
    pub(super) fn watch_downloaders(&mut self) -> Vec<Event> {
        let Some(blob) = self.blob else { return Vec::new() };
        let fresh: Vec<_> = self
            .downloaders
            .iter()
            .filter(|(_, told)| told.is_none_or(|told| told == blob))
            .map(|(peer, _)| *peer)
            .filter(|peer| self.sources.values().all(|source| source.peer != *peer))
            .filter(|peer| !self.watched.contains(peer))
            .collect();
        fresh.into_iter().map(|peer| self.watch(peer, blob)).collect()
    }

    fn watch(&mut self, peer: PeerId, blob: BlobId) -> Event {
        self.watched.insert(peer);
        let source = self.add_source(peer);
        let (peers, reports) = (self.shared.peers.clone(), self.reports.clone());
        let size_bytes = self.transfer.size();
        self.tasks.spawn(async move {
            let error = match watch_once_it_knows(peers.as_ref(), peer, blob, size_bytes).await {
                Err(error) => Some(error),
                Ok(mut news) => loop {
                    match news.next().await {
                        None => break None,
                        Some(Err(error)) => break Some(error),
                        Some(Ok(runs)) => {
                            if reports.send(Report::Arrived { source, runs }).await.is_err() {
                                return;
                            }
                        }
                    }
                },
            };
            let _ = reports.send(Report::WatchEnded { source, error }).await;
        });
        let holdings = Holdings::Partial(self.transfer.partial().no_groups());
        Event::SourceAdded { source, kind: SourceKind::Peer { holdings, rtt: None, prefix: None } }
    }

    pub(super) fn on_arrived(&mut self, source: SourceId, runs: &[GroupRange]) -> Vec<Event> {
        if !self.sources.contains_key(&source) {
            return Vec::new();
        }
        let mut groups = self.transfer.partial().no_groups();
        for run in runs {
            groups.insert(*run);
        }
        let holdings = if groups.is_complete() { Holdings::Complete } else { Holdings::Partial(groups) };
        vec![Event::HoldingsChanged { source, holdings }]
    }

    /// A peer that has all of it goes on as a holder; one that broke off has nothing to give.
    pub(super) async fn on_watch_ended(&mut self, source: SourceId, error: Option<PeerError>) -> Vec<Event> {
        let Some(error) = error else { return Vec::new() };
        let Some(PeerSource { peer, .. }) = self.sources.get(&source) else { return Vec::new() };
        let peer = *peer;
        tracing::debug!(%peer, %error, "a peer that fetches the same blob tells no more");
        if let Some(reason) = error.ban_reason() {
            self.shared.peers.ban(peer, reason).await;
        }
        self.downloaders.remove(&peer);
        self.forget(source);
        vec![Event::SourceGone { source }]
    }
}
