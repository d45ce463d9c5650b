//! The table of requests in flight.

use std::collections::BTreeMap;
use std::time::Duration;

use super::groups::{GroupRange, MAX_EXTENT_GROUPS};
use super::types::SourceId;

/// One request in flight.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) source: SourceId,
    pub(super) extent: GroupRange,
    pub(super) asked_at: Duration,
    /// How long it was expected to take when it was asked.
    pub(super) planned: Duration,
    /// Bytes of the duplicate budget that this request took; 0 unless it is a hedge whose rival has not failed.
    pub(super) charged_bytes: u64,
}

impl Request {
    /// How much longer it should take. One that is late is expected to be late for as long again.
    pub(super) fn remaining(&self, now: Duration) -> Duration {
        now.abs_diff(self.asked_at + self.planned)
    }

    fn overlaps(&self, range: &GroupRange) -> bool {
        self.extent.start < range.end && range.start < self.extent.end
    }
}

/// Requests by their first group. Extents never cross a cell of 64 groups, so what overlaps one stands close to it.
/// A peer never has two requests that overlap.
#[derive(Debug, Default)]
pub(super) struct Requests {
    table: BTreeMap<(u64, SourceId), Request>,
    bytes: u64,
}

impl Requests {
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// Bytes in flight at all peers.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Request> {
        self.table.values()
    }

    pub(super) fn insert(&mut self, request: Request, bytes: u64) {
        if self.table.insert((request.extent.start, request.source), request).is_none() {
            self.bytes += bytes;
        }
    }

    /// Takes out exactly this request.
    pub(super) fn remove(
        &mut self,
        source: SourceId,
        extent: &GroupRange,
        bytes_of: impl Fn(&GroupRange) -> u64,
    ) -> Option<Request> {
        let key = (extent.start, source);
        if self.table.get(&key)?.extent != *extent {
            return None;
        }
        self.bytes = self.bytes.saturating_sub(bytes_of(extent));
        self.table.remove(&key)
    }

    /// All requests that share a group with a range.
    pub(super) fn overlapping<'a>(&'a self, range: &'a GroupRange) -> impl Iterator<Item = &'a Request> {
        let from = range.start / MAX_EXTENT_GROUPS * MAX_EXTENT_GROUPS;
        self.table
            .range((from, SourceId(0))..(range.end.max(from), SourceId(0)))
            .map(|(_, request)| request)
            .filter(|request| request.overlaps(range))
    }

    /// Gives the charge of every hedge in a range back: its rival failed, so that it is no duplicate.
    pub(super) fn refund(&mut self, range: &GroupRange) -> u64 {
        let from = range.start / MAX_EXTENT_GROUPS * MAX_EXTENT_GROUPS;
        let mut total = 0;
        for (_, request) in self.table.range_mut((from, SourceId(0))..(range.end.max(from), SourceId(0))) {
            if request.overlaps(range) {
                total += std::mem::take(&mut request.charged_bytes);
            }
        }
        total
    }

    /// The extents asked of a source.
    pub(super) fn of_source(&self, source: SourceId) -> Vec<GroupRange> {
        self.table.values().filter(|request| request.source == source).map(|request| request.extent).collect()
    }
}
