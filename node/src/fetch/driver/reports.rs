//! What the tasks of a transfer tell its driver, and what that means to the scheduler.

use std::sync::Arc;

use p2p_cache_discovery::PeerId;
use p2p_cache_protocol::GroupRange;
use tokio::sync::mpsc;

use super::sources::ORIGIN;
use super::{Driver, PeerSource};
use crate::fetch::extent::fault_of;
use crate::fetch::provenance::Contributor;
use crate::fetch::scheduler::{Event, Fault, SourceId};
use crate::fetch::{FetchError, origin_pump};
use crate::origin::OriginId;
use crate::peers::PeerError;
use crate::store::WriteError;

/// Reports that the scheduler is told of at once: many peers that tell what they have got cost one plan.
const MAX_REPORTS_AT_ONCE: usize = 64;

/// What the tasks of a transfer tell its driver.
#[derive(Debug)]
pub(in crate::fetch) enum Report {
    /// Goes to the scheduler as it is.
    Event(Event),
    /// A request to a peer failed.
    PeerFailed { source: SourceId, extent: GroupRange, error: PeerError },
    /// An answer of a peer did not fit the hash tree, or could not be stored.
    WriteFailed { source: SourceId, extent: GroupRange, error: WriteError },
    /// Bytes of this origin have been stored.
    OriginUsed(OriginId),
    /// Bytes that this leader sent have been stored.
    Relayed(PeerId),
    /// A peer that fetches this blob too has these groups.
    Arrived { source: SourceId, runs: Vec<GroupRange> },
    /// It tells no more.
    WatchEnded { source: SourceId, error: Option<PeerError> },
    /// All origins were tried in vain.
    OriginFailed(Arc<str>),
    /// Nothing can be stored any more: the transfer ends.
    Fatal(FetchError),
}

impl Driver<'_> {
    /// A report, and those that came while the last ones were being worked on.
    pub(super) async fn on_reports(
        &mut self,
        first: Report,
        inbox: &mut mpsc::Receiver<Report>,
    ) -> Result<Vec<Event>, FetchError> {
        let mut events = self.on_report(first).await?;
        for _ in 1..MAX_REPORTS_AT_ONCE {
            let Ok(report) = inbox.try_recv() else { break };
            events.extend(self.on_report(report).await?);
        }
        Ok(events)
    }

    async fn on_report(&mut self, report: Report) -> Result<Vec<Event>, FetchError> {
        match report {
            Report::Event(event) => {
                if let Event::ExtentDone { source, extent, .. } = &event {
                    self.requests.remove(&(*source, *extent));
                    if let Some(PeerSource { peer, .. }) = self.sources.get(source) {
                        let bytes = extent.bytes(self.transfer.size());
                        self.transfer.brought(Contributor::Peer(*peer), bytes);
                    }
                }
                Ok(vec![event])
            }
            Report::PeerFailed { source, extent, error } => {
                self.requests.remove(&(source, extent));
                if let (Some(reason), Some(peer)) = (error.ban_reason(), self.sources.get_mut(&source)) {
                    peer.guilt = reason;
                }
                self.last_error = Some(Arc::from(error.to_string()));
                Ok(vec![Event::ExtentFailed { source, extent, fault: fault_of(&error) }])
            }
            Report::WriteFailed { source, extent, error } => {
                self.requests.remove(&(source, extent));
                self.on_write_failed(source, extent, &error)
            }
            Report::Relayed(leader) => {
                if !self.leaders_used.contains(&leader) {
                    self.leaders_used.push(leader);
                }
                Ok(Vec::new())
            }
            Report::Arrived { source, runs } => Ok(self.on_arrived(source, &runs)),
            Report::WatchEnded { source, error } => Ok(self.on_watch_ended(source, error).await),
            Report::OriginUsed(origin) => {
                if !self.origins_used.contains(&origin) {
                    self.origins_used.push(origin);
                }
                Ok(Vec::new())
            }
            Report::OriginFailed(error) => {
                self.last_error = Some(error);
                self.origin_task = None;
                let mut events = self.take_deferred();
                events.push(Event::OriginEnded {
                    source: ORIGIN,
                    from_byte: self.origin_from_byte,
                    ok: false,
                });
                Ok(events)
            }
            Report::Fatal(error) => Err(error),
        }
    }

    /// Corrupt bytes are their sender's fault; the good groups before them were kept. Anything else is our disk.
    fn on_write_failed(
        &mut self,
        source: SourceId,
        extent: GroupRange,
        error: &WriteError,
    ) -> Result<Vec<Event>, FetchError> {
        if !error.is_senders_fault() {
            return Err(origin_pump::fatal(error));
        }
        self.last_error = Some(Arc::from(error.to_string()));
        let present = self.transfer.partial().groups();
        let kept = (extent.start..extent.end)
            .map(|group| GroupRange { start: group, end: group + 1 })
            .filter(|group| present.contains(*group))
            .map(|groups| Event::Present { groups });
        let mut events: Vec<_> = kept.collect();
        events.push(Event::ExtentFailed { source, extent, fault: Fault::Corrupt });
        Ok(events)
    }
}
