//! From whom a transfer takes its bytes: holders as they are found, and the origins.

use std::sync::Arc;
use std::time::Duration;

use p2p_cache_discovery::PeerId;
use p2p_cache_protocol::{Claim, Compression, GroupRange, NarInfo};

use super::Driver;
use crate::fetch::extent::{ExtentRequest, fetch_extent};
use crate::fetch::lookup::Found;
use crate::fetch::origin_pump::OriginPump;
use crate::fetch::scheduler::{Event, Holdings, LookupPhase, SourceId, SourceKind};
use crate::peers::BanReason;

/// The origins together are one source to the scheduler: the pump goes from one to the next by itself.
pub(super) const ORIGIN: SourceId = SourceId(0);

/// A peer that takes part in a transfer.
pub(super) struct PeerSource {
    pub(super) peer: PeerId,
    /// What it is banned for, should the scheduler say so.
    pub(super) guilt: BanReason,
}

impl Driver<'_> {
    pub(super) async fn on_found(&mut self, found: Found) -> Vec<Event> {
        match found {
            Found::Holder { peer, claim, rtt } => self.on_holder(peer, &claim, rtt),
            Found::Downloader { peer, blob } => self.on_downloader(peer, Some(blob)),
            Found::Liar { peer, error } => {
                tracing::warn!(%peer, %error, "peer banned");
                if let Some(reason) = error.ban_reason() {
                    self.shared.peers.ban(peer, reason).await;
                }
                Vec::new()
            }
            Found::NearDone => {
                self.all_asked.send_replace(true);
                vec![Event::Lookup(LookupPhase::Wide)]
            }
            Found::Finished => {
                let mut events = if self.may_ask_origin() { Vec::new() } else { self.take_deferred() };
                events.push(Event::Lookup(LookupPhase::Finished));
                events
            }
        }
    }

    /// The first claim settles which tree is fetched; a peer that claims another cannot help with this one.
    fn on_holder(&mut self, peer: PeerId, claim: &Claim, rtt: Option<Duration>) -> Vec<Event> {
        let digest = self.request.digest;
        if claim.size != self.transfer.size() {
            tracing::warn!(%peer, %digest, claimed = claim.size, size = self.transfer.size(), "claim of another size ignored");
            // Without a narinfo this size is but another claim.
            self.contradicted |= self.request.size_bytes.is_none();
            return Vec::new();
        }
        if self.blob.is_none() && self.shared.suspicions.is_doubtful(digest, (claim.blob, claim.size)) {
            self.deferred.push((peer, *claim, rtt));
            return Vec::new();
        }
        self.take_on(peer, claim, rtt)
    }

    pub(super) fn take_deferred(&mut self) -> Vec<Event> {
        let deferred = std::mem::take(&mut self.deferred);
        deferred.into_iter().flat_map(|(peer, claim, rtt)| self.take_on(peer, &claim, rtt)).collect()
    }

    fn take_on(&mut self, peer: PeerId, claim: &Claim, rtt: Option<Duration>) -> Vec<Event> {
        let digest = self.request.digest;
        let blob = *self.blob.get_or_insert(claim.blob);
        if blob != claim.blob {
            self.contradicted = true;
            tracing::warn!(%peer, %digest, "claims contradict each other; the later one is ignored");
            return Vec::new();
        }
        self.claimants.push(peer);
        let source = self.add_source(peer);
        let kind = SourceKind::Peer { holdings: Holdings::Complete, rtt, prefix: None };
        let mut events = vec![Event::SourceAdded { source, kind }];
        if self.transfer.is_better_fetched_from(peer) {
            self.stop_origin();
            events.push(Event::OriginLeft { source: ORIGIN });
        }
        events.extend(self.watch_downloaders());
        events
    }

    pub(super) fn add_source(&mut self, peer: PeerId) -> SourceId {
        let source = SourceId(self.next_source);
        self.next_source += 1;
        self.sources.insert(source, PeerSource { peer, guilt: BanReason::CorruptData });
        source
    }

    pub(super) fn request_extent(&mut self, source: SourceId, extent: GroupRange) {
        let (Some(PeerSource { peer, .. }), Some(blob)) = (self.sources.get(&source), self.blob) else {
            return;
        };
        let task = fetch_extent(
            Arc::clone(self.shared),
            self.transfer.partial().clone(),
            self.reports.clone(),
            ExtentRequest { source, peer: *peer, blob, extent },
        );
        let handle = self.tasks.spawn(task);
        self.requests.insert((source, extent), handle);
    }

    pub(super) fn cancel(&mut self, source: SourceId, extent: GroupRange) {
        if let Some(handle) = self.requests.remove(&(source, extent)) {
            handle.abort();
        }
    }

    pub(super) fn forget(&mut self, source: SourceId) {
        if source == ORIGIN {
            return self.stop_origin();
        }
        self.sources.remove(&source);
        self.requests.retain(|(of, _), handle| {
            if *of == source {
                handle.abort();
            }
            *of != source
        });
    }

    pub(super) async fn ban(&mut self, source: SourceId) {
        let culprit = self.sources.get(&source).map(|source| (source.peer, source.guilt));
        self.forget(source);
        if let Some((peer, reason)) = culprit {
            self.shared.peers.ban(peer, reason).await;
        }
    }

    /// Whether the stream can start anywhere: a leader's comes from the front, and so does what is compressed.
    pub(super) fn origin_has_ranges(&self) -> bool {
        let Some(narinfo) = &self.request.narinfo else { return false };
        let ours = || self.shared.peers.relays(narinfo.store_path.hash()).is_empty();
        self.request.origin.is_some() && narinfo.compression == Compression::None && ours()
    }

    pub(super) fn may_ask_origin(&self) -> bool {
        self.request.narinfo.is_some()
            && !self.shared.origins.is_empty()
            && !self.transfer.is_proved_by_tree()
    }

    pub(super) fn start_origin(&mut self, from_byte: u64) {
        let Some(narinfo) = self.request.narinfo.clone() else { return };
        self.stop_origin();
        let relays = self.relays(&narinfo);
        // A holder that answers before somebody is followed is to be noticed whenever it does.
        self.transfer.set_waiting_for_holders(!relays.is_empty() && !*self.all_asked.borrow());
        let pump = OriginPump {
            shared: Arc::clone(self.shared),
            narinfo,
            preferred: self.request.origin,
            transfer: Arc::clone(&self.transfer),
            relays,
            all_asked: self.all_asked.subscribe(),
            from_byte,
            source: ORIGIN,
            reports: self.reports.clone(),
        };
        self.origin_from_byte = from_byte;
        self.origin_task = Some(self.tasks.spawn(pump.run()));
    }

    /// From whom the NAR may be taken as it arrives there: not from those that hold the whole.
    fn relays(&self, narinfo: &NarInfo) -> Vec<PeerId> {
        if self.shared.suspicions.distrusts_leaders(self.request.digest) {
            return Vec::new();
        }
        let relays = self.shared.peers.relays(narinfo.store_path.hash());
        relays.into_iter().filter(|relay| !self.claimants.contains(relay)).collect()
    }

    pub(super) fn stop_origin(&mut self) {
        if let Some(handle) = self.origin_task.take() {
            handle.abort();
            self.transfer.set_following(None);
            self.transfer.set_waiting_for_holders(false);
        }
    }
}
