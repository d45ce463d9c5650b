//! What comes of requests: delivered, failed, stalled; and sources that come and go.

use std::time::Duration;

use super::FetchScheduler;
use super::blob_map::Held;
use super::groups::GroupRange;
use super::peer::Peer;
use super::prefixes::{FAULT_POINTS, LIE_POINTS};
use super::requests::Request;
use super::types::{Action, DropReason, Fault, Holdings, SourceId, SourceKind, Timing};
use super::upstream::Upstream;

impl FetchScheduler {
    pub(super) fn source_added(
        &mut self,
        now: Duration,
        source: SourceId,
        kind: SourceKind,
        actions: &mut Vec<Action>,
    ) {
        if self.banned.contains(&source) {
            actions.push(Action::DropSource { source, reason: DropReason::Banned });
            return;
        }
        let is_peer = self.peers.contains_key(&source);
        let is_origin = self.upstreams.iter().any(|upstream| upstream.source == source);
        match kind {
            SourceKind::Peer { holdings, rtt, .. } if is_peer => {
                if let Some(peer) = self.peers.get_mut(&source) {
                    peer.rtt = rtt.or(peer.rtt);
                }
                self.holdings_changed(now, source, &holdings);
            }
            _ if is_peer || is_origin => {}
            _ if self.is_crowded(&kind) => {
                actions.push(Action::DropSource { source, reason: DropReason::TooMany });
            }
            SourceKind::Peer { holdings, rtt, prefix } => {
                if !self.prefixes.join(now, prefix, &self.config) {
                    actions.push(Action::DropSource { source, reason: DropReason::TooMany });
                    return;
                }
                self.sources_ever += 1;
                if self.peers.is_empty() {
                    self.progress_at = now;
                }
                self.peers.insert(source, Peer::new(None, rtt, prefix));
                let held = self.held_of(&holdings);
                self.set_held(source, held);
            }
            SourceKind::Origin { .. } => {
                self.sources_ever += 1;
                self.upstreams.extend(Upstream::new(source, &kind, &self.config));
            }
        }
    }

    fn is_crowded(&self, kind: &SourceKind) -> bool {
        let full = match kind {
            SourceKind::Peer { .. } => self.peers.len() >= self.config.max_peers,
            SourceKind::Origin { .. } => self.upstreams.len() >= self.config.max_origins,
        };
        full || self.sources_ever >= self.config.max_sources_ever
    }

    pub(super) fn holdings_changed(&mut self, now: Duration, source: SourceId, holdings: &Holdings) {
        if !self.peers.contains_key(&source) {
            return;
        }
        let held = self.held_of(holdings);
        if let Some(peer) = self.peers.get_mut(&source) {
            let groups = |held: Option<&Held>| held.map_or(u64::MAX, Held::count);
            if groups(held.as_ref()) > groups(peer.held.as_ref()) {
                peer.grew_at = Some(now);
            }
        }
        self.set_held(source, held);
    }

    fn held_of(&self, holdings: &Holdings) -> Option<Held> {
        match holdings {
            Holdings::Complete => None,
            Holdings::Partial(set) if set.count() == self.map.groups() && set.is_complete() => None,
            Holdings::Partial(set) => Some(self.map.held(set)),
        }
    }

    fn set_held(&mut self, source: SourceId, held: Option<Held>) {
        let Some(peer) = self.peers.get_mut(&source) else { return };
        self.map.recount_holder(peer.held.as_ref(), held.as_ref());
        peer.held = held;
    }

    /// Forgets a source and opens again what it was asked for.
    pub(super) fn remove_source(&mut self, source: SourceId) {
        self.upstreams.retain(|upstream| upstream.source != source);
        for extent in self.requests.of_source(source) {
            self.take_request(source, &extent);
        }
        self.set_held(source, None);
        if let Some(peer) = self.peers.remove(&source) {
            self.prefixes.leave(peer.prefix);
        }
    }

    /// Takes a request that yielded nothing out of the table. Whatever hedge it was part of is no duplicate.
    fn take_request(&mut self, source: SourceId, extent: &GroupRange) -> Option<Request> {
        let request = self.unbook(source, extent)?;
        let refund = request.charged_bytes + self.requests.refund(extent);
        self.hedged_bytes = self.hedged_bytes.saturating_sub(refund);
        Some(request)
    }

    /// Takes a request out of the table and of its peer's account.
    fn unbook(&mut self, source: SourceId, extent: &GroupRange) -> Option<Request> {
        let request = self.requests.remove(source, extent, |range| self.map.bytes_of(range))?;
        let rivals: Vec<GroupRange> = self.requests.overlapping(extent).map(|other| other.extent).collect();
        self.map.mark_unasked(extent, rivals.into_iter());
        if let Some(peer) = self.peers.get_mut(&source) {
            peer.closed(self.map.bytes_of(extent));
        }
        Some(request)
    }

    pub(super) fn extent_done(
        &mut self,
        now: Duration,
        source: SourceId,
        extent: GroupRange,
        timing: Option<Timing>,
        actions: &mut Vec<Action>,
    ) {
        // Marked first, so that it is never open in between.
        let new = self.map.mark_present(&extent);
        if new > 0 {
            self.progress_at = now;
        }
        if let Some(request) = self.unbook(source, &extent) {
            let bytes = self.map.bytes_of(&extent);
            if let Some(peer) = self.peers.get_mut(&source) {
                peer.delivered(now, bytes, now.saturating_sub(request.asked_at), timing);
            }
        }
        let bytes = self.map.bytes_of(&extent);
        for late in self.cancel_present(now, &extent, actions) {
            self.lost(now, late, bytes, actions);
        }
    }

    /// Another peer had to deliver what this one was asked for first. Without this account, a silent peer whose
    /// requests are all hedged in time would never be found out, and use up the duplicate budget.
    fn lost(&mut self, now: Duration, source: SourceId, bytes: u64, actions: &mut Vec<Action>) {
        let Some(peer) = self.peers.get_mut(&source) else { return };
        peer.lost += 1;
        peer.lost_bytes += bytes;
        if peer.lost >= self.config.max_lost {
            self.stalled(now, source, actions);
        }
    }

    pub(super) fn groups_present(&mut self, now: Duration, groups: &GroupRange, actions: &mut Vec<Action>) {
        if self.map.mark_present(groups) > 0 {
            self.progress_at = now;
            self.cancel_present(now, groups, actions);
        }
    }

    /// Cancels the requests for which nothing is left to deliver; returns the peers that were asked first.
    fn cancel_present(
        &mut self,
        now: Duration,
        range: &GroupRange,
        actions: &mut Vec<Action>,
    ) -> Vec<SourceId> {
        let mut late = Vec::new();
        let spent: Vec<(SourceId, GroupRange)> = self
            .requests
            .overlapping(range)
            .filter(|request| self.map.all_present(&request.extent))
            .map(|request| (request.source, request.extent))
            .collect();
        for (source, extent) in spent {
            let request = self.unbook(source, &extent);
            if let (Some(request), Some(peer)) = (request, self.peers.get_mut(&source)) {
                // It was not done by now: that much is known of its speed.
                peer.latency.add(now.saturating_sub(request.asked_at));
                peer.rate.add(now, 0);
                if request.charged_bytes == 0 {
                    late.push(source);
                }
            }
            actions.push(Action::Cancel { source, extent });
        }
        late
    }

    pub(super) fn extent_failed(
        &mut self,
        now: Duration,
        source: SourceId,
        extent: GroupRange,
        fault: Fault,
        actions: &mut Vec<Action>,
    ) {
        let request = self.take_request(source, &extent);
        if !self.peers.contains_key(&source) {
            return;
        }
        match (fault, request) {
            // A lie is a lie, however late it comes.
            (Fault::Corrupt, _) => {
                self.blame_prefix(now, source, LIE_POINTS);
                self.remove_source(source);
                self.banned.insert(source);
                actions.push(Action::BanSource { source });
            }
            (_, None) => {}
            (Fault::Stalled, Some(_)) => self.stalled(now, source, actions),
            (Fault::Closed, Some(request)) => self.blame(now, source, 1, request.asked_at, actions),
            (Fault::NotHeld, Some(_)) => self.not_held(now, source, &extent, actions),
            (Fault::Busy { retry_after }, Some(_)) => self.busy(now, source, retry_after, actions),
        }
    }

    /// Finds the peers that have been silent for too long.
    pub(super) fn expire(&mut self, now: Duration, actions: &mut Vec<Action>) {
        let silent: Vec<SourceId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.stall_deadline(&self.config).is_some_and(|deadline| deadline <= now))
            .map(|(id, _)| *id)
            .collect();
        for source in silent {
            self.refund_lost(source);
            self.stalled(now, source, actions);
        }
    }

    /// A peer that has delivered nothing since it lost its requests delivered nothing twice.
    fn refund_lost(&mut self, source: SourceId) {
        if let Some(peer) = self.peers.get_mut(&source) {
            self.hedged_bytes = self.hedged_bytes.saturating_sub(std::mem::take(&mut peer.lost_bytes));
        }
    }

    /// Nothing came for too long: all that the peer was asked for waits behind the same silence.
    fn stalled(&mut self, now: Duration, source: SourceId, actions: &mut Vec<Action>) {
        let mut asked_at = now;
        for extent in self.requests.of_source(source) {
            if let Some(request) = self.take_request(source, &extent) {
                asked_at = asked_at.min(request.asked_at);
                actions.push(Action::Cancel { source, extent });
            }
        }
        if let Some(peer) = self.peers.get_mut(&source) {
            peer.rate.halve();
            peer.blamed_until = None;
        }
        self.blame(now, source, self.config.stall_faults, asked_at, actions);
    }

    /// Counts `faults` for all requests that were in flight when it happened.
    fn blame(
        &mut self,
        now: Duration,
        source: SourceId,
        faults: u32,
        asked_at: Duration,
        actions: &mut Vec<Action>,
    ) {
        let Some(peer) = self.peers.get_mut(&source) else { return };
        if peer.blamed_until.is_some_and(|until| asked_at <= until) {
            return;
        }
        peer.faults += faults;
        peer.blamed_until = Some(now);
        peer.paused_until = now + self.random.jitter(peer.fault_pause(&self.config));
        let dropped = peer.faults >= self.config.max_faults;
        self.blame_prefix(now, source, FAULT_POINTS);
        if dropped {
            self.drop_peer(source, DropReason::Faults, actions);
        }
    }

    /// What a peer does, its neighbours have to answer for.
    fn blame_prefix(&mut self, now: Duration, source: SourceId, points: u32) {
        if let Some(peer) = self.peers.get(&source) {
            self.prefixes.blame(now, peer.prefix, points, &self.config);
        }
    }

    /// Puts peers that have shown nothing on probation when their prefix has misbehaved.
    pub(super) fn note_probation(&mut self, now: Duration) {
        for peer in self.peers.values_mut().filter(|peer| peer.prefix.is_some()) {
            peer.on_probation =
                !peer.is_measured() && self.prefixes.is_doubtful(now, peer.prefix, &self.config);
        }
    }

    fn not_held(&mut self, now: Duration, source: SourceId, extent: &GroupRange, actions: &mut Vec<Action>) {
        let Some(peer) = self.peers.get_mut(&source) else { return };
        peer.not_held += 1;
        if peer.not_held >= self.config.max_not_held {
            self.blame_prefix(now, source, FAULT_POINTS);
            self.drop_peer(source, DropReason::NotHeld, actions);
            return;
        }
        let rest = self.map.held_without(peer.held.as_ref(), extent);
        self.set_held(source, Some(rest));
    }

    fn busy(&mut self, now: Duration, source: SourceId, retry_after: Duration, actions: &mut Vec<Action>) {
        let Some(peer) = self.peers.get_mut(&source) else { return };
        // Requests sent before the pause began get the same answer: it counts once.
        if !peer.is_paused(now) {
            peer.busy += 1;
        }
        let pause = self.random.jitter(peer.busy_pause(retry_after, &self.config));
        peer.paused_until = peer.paused_until.max(now + pause);
        if peer.busy >= self.config.max_busy {
            self.drop_peer(source, DropReason::Busy, actions);
        }
    }

    pub(super) fn drop_peer(&mut self, source: SourceId, reason: DropReason, actions: &mut Vec<Action>) {
        self.remove_source(source);
        actions.push(Action::DropSource { source, reason });
    }
}
