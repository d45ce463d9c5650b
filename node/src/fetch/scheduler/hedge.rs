//! Asking a second peer for an extent that is late, within the duplicate budget.

use std::time::Duration;

use super::FetchScheduler;
use super::blob_map::Held;
use super::fill::BLOCK_BYTES;
use super::groups::{GROUP_BYTES, GroupRange};
use super::readers::Reader;
use super::requests::Request;
use super::types::{Action, SourceId};

/// A request counts as late when it took this many times what was planned, if its peer's p95 allows less.
const PLANNED_LATE: f64 = 1.5;
/// What is expected to come too late is asked of a peer that would finish it this many times sooner.
const GAIN: u32 = 2;
/// What no reader stands at yet may use one half of the budget; the other is for readers that wait and for the end.
const AHEAD_SHARE: u64 = 2;

/// Which extents are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HedgeScope {
    /// Those in a reader's window; before new work is given out.
    Windows,
    /// All, when nothing is left to be asked for.
    EndGame,
}

struct Late {
    extent: GroupRange,
    source: SourceId,
    /// When it is wanted: at once in the end game, in a window when the reader will have come to it.
    wanted_in: Duration,
    /// Urgent first: distance to the reader in the window, then the ones that will take longest.
    order: (u64, std::cmp::Reverse<Duration>),
}

impl FetchScheduler {
    /// Bytes that hedging may fetch twice in this fetch.
    pub(super) fn duplicate_budget(&self) -> u64 {
        let share = (self.map.size_bytes() as f64 * self.config.duplicate_share) as u64;
        share.max(self.config.min_duplicate_bytes)
    }

    /// Hedges what is late. Returns when the next extent will be, if nothing comes before.
    pub(super) fn hedge(
        &mut self,
        now: Duration,
        scope: HedgeScope,
        actions: &mut Vec<Action>,
    ) -> Option<Duration> {
        if scope == HedgeScope::EndGame && self.map.has_open() {
            return None;
        }
        if self.peers.len() < 2 || self.peers_with_room(now).is_empty() {
            return None;
        }
        let guessed = self.guessed_rate();
        let mut next = None::<Duration>;
        for late in self.hedgeable(now, scope) {
            let bytes = self.map.bytes_of(&late.extent);
            let ahead = scope == HedgeScope::Windows && late.order.0 > 0;
            let limit = self.duplicate_budget() / if ahead { AHEAD_SHARE } else { 1 };
            if self.hedged_bytes + bytes > limit || self.total_room() < bytes {
                continue;
            }
            let Some((helper, expected)) = self.helper(now, &late, bytes, guessed) else { continue };
            let Some(due) = self.due(now, &late, expected) else { continue };
            if due > now {
                next = Some(next.map_or(due, |next| next.min(due)));
                continue;
            }
            self.hedged_bytes += bytes;
            self.hedges += 1;
            self.send(now, helper, late.extent, guessed, bytes, actions);
        }
        next
    }

    /// Requests in the scope that have no rival yet, the most urgent first.
    fn hedgeable(&self, now: Duration, scope: HedgeScope) -> Vec<Late> {
        let mut found: Vec<Late> = self
            .requests
            .iter()
            .filter(|request| self.requests.overlapping(&request.extent).count() == 1)
            .filter_map(|request| {
                let (distance, wanted_in) = match scope {
                    HedgeScope::Windows => self.place_in_window(now, request)?,
                    HedgeScope::EndGame => (0, Duration::ZERO),
                };
                let order = (distance, std::cmp::Reverse(request.remaining(now)));
                Some(Late { extent: request.extent, source: request.source, wanted_in, order })
            })
            .collect();
        found.sort_by_key(|late| (late.order, late.extent.start));
        found
    }

    /// How far in front of a reader a request lies, and when the reader will want it.
    fn place_in_window(&self, now: Duration, request: &Request) -> Option<(u64, Duration)> {
        let bytes = request.extent.start * GROUP_BYTES..request.extent.end * GROUP_BYTES;
        if self.stream().is_some_and(|stream| stream.serves(now, bytes.start)) {
            return None;
        }
        let of_reader = |reader: &Reader| {
            let window = reader.window(&self.config);
            let inside = bytes.start < window.end && window.start < bytes.end;
            inside.then(|| (bytes.start.saturating_sub(window.start), reader.wants_in(bytes.start)))
        };
        self.readers.iter().filter_map(of_reader).min()
    }

    /// The other peer that would have the extent first.
    fn helper(&self, now: Duration, late: &Late, bytes: u64, guessed: f64) -> Option<(SourceId, Duration)> {
        self.peers
            .iter()
            .filter(|(id, peer)| {
                **id != late.source
                    && self.room(now, **id) >= bytes.min(BLOCK_BYTES)
                    && Held::covers(peer.held.as_ref(), &late.extent)
            })
            .map(|(id, peer)| (*id, peer.expected(bytes, guessed)))
            .min_by_key(|(id, expected)| (*expected, *id))
    }

    /// When a request becomes late enough for a second one: at once if it is expected to come later than it is wanted
    /// and much later than the helper would bring it, else when it takes longer than usual.
    fn due(&self, now: Duration, late: &Late, expected: Duration) -> Option<Duration> {
        let request =
            self.requests.overlapping(&late.extent).find(|request| request.source == late.source)?;
        let gain = expected * GAIN + self.config.min_hedge_delay;
        if request.remaining(now) > gain.max(late.wanted_in) {
            return Some(now);
        }
        let p95 = self.peers.get(&late.source)?.latency.p95().unwrap_or_default();
        let usual = p95.max(request.planned.mul_f64(PLANNED_LATE)).max(self.config.min_hedge_delay);
        Some(request.asked_at + usual.max(expected))
    }
}
