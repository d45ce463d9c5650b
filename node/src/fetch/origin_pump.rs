//! The stream of an origin into a partial blob: through the leader of our site when there is one, else from one
//! origin to the next.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use p2p_cache_discovery::PeerId;
use p2p_cache_protocol::{GROUP_BYTES, GroupRange, NarInfo};
use tokio::sync::{mpsc, watch};

use super::driver::Report;
use super::provenance::Contributor;
use super::scheduler::{Event, SourceId};
use super::transfer::Transfer;
use super::{FetchError, Shared};
use crate::origin::{NarStream, OriginError, OriginId};
use crate::store::WriteError;

/// Streams of one origin that may break after they began, before the next origin is tried.
const MAX_BREAKS_PER_ORIGIN: u32 = 2;

/// Fills a partial blob in order, from the first missing byte where the origin has the NAR uncompressed and takes
/// `Range`, else from the front. Aborting its task stops it at a chunk boundary.
pub(super) struct OriginPump {
    pub(super) shared: Arc<Shared>,
    pub(super) narinfo: Arc<NarInfo>,
    /// The origin that answered with `narinfo`.
    pub(super) preferred: Option<OriginId>,
    pub(super) transfer: Arc<Transfer>,
    /// Who may be followed, best first; nobody when we ask the origins ourselves.
    pub(super) relays: Vec<PeerId>,
    /// Whether all connected peers have said if they hold it.
    pub(super) all_asked: watch::Receiver<bool>,
    /// Where the stream is wanted to start. One that cannot starts at the front, and fills gaps there on its way.
    pub(super) from_byte: u64,
    pub(super) source: SourceId,
    pub(super) reports: mpsc::Sender<Report>,
}

/// How one stream of one origin ended early.
enum Broken {
    /// The origin is at fault; `began` when bytes had flowed.
    Origin { error: OriginError, began: bool },
    /// The disk is at fault: no other origin can help.
    Disk(FetchError),
}

/// The error of a transfer whose bytes cannot be stored.
pub(super) fn fatal(error: &WriteError) -> FetchError {
    let text = Arc::from(error.to_string());
    match error {
        WriteError::NoSpace(_) => FetchError::NoSpace(text),
        WriteError::Corrupt { .. }
        | WriteError::WrongLength { .. }
        | WriteError::OtherBlob { .. }
        | WriteError::OutOfRange { .. }
        | WriteError::Aborted(_)
        | WriteError::Io { .. } => FetchError::Store(text),
    }
}

impl OriginPump {
    /// Tries the origins in turn until one has given the whole, and reports how it ended.
    pub(super) async fn run(self) {
        let report = match self.pump().await {
            Ok(()) => {
                Report::Event(Event::OriginEnded { source: self.source, from_byte: self.from_byte, ok: true })
            }
            Err(report) => report,
        };
        let _ = self.reports.send(report).await;
    }

    async fn pump(&self) -> Result<(), Report> {
        if self.follow_site().await.map_err(Report::Fatal)? {
            return Ok(());
        }
        let mut skip = Vec::new();
        let mut last: Arc<str> = Arc::from("every origin sent wrong content for this NAR lately");
        let mut known = self.preferred.map(|origin| (Arc::clone(&self.narinfo), origin));
        loop {
            let (narinfo, origin) = match known.take() {
                Some(known) => known,
                None => {
                    match self.shared.origins.narinfo(self.narinfo.store_path.hash(), None, &skip).await {
                        Ok(found) => (Arc::new(found.narinfo), found.origin),
                        Err(OriginError::NotFound { .. }) if !skip.is_empty() => {
                            return Err(Report::OriginFailed(last));
                        }
                        Err(error) => return Err(Report::OriginFailed(Arc::from(error.to_string()))),
                    }
                }
            };
            skip.push(origin);
            if narinfo.nar_hash != self.narinfo.nar_hash
                || self.shared.suspicions.is_bad_nar(narinfo.nar_hash, origin)
            {
                continue;
            }
            match self.try_origin(&narinfo, origin).await {
                Ok(()) => return Ok(()),
                Err(Broken::Disk(error)) => return Err(Report::Fatal(error)),
                Err(Broken::Origin { error, .. }) => {
                    tracing::warn!(%error, "an origin failed to deliver a NAR");
                    last = Arc::from(error.to_string());
                }
            }
        }
    }

    /// One origin, begun anew when its stream breaks after it began: what is stored is not written again.
    async fn try_origin(&self, narinfo: &NarInfo, origin: OriginId) -> Result<(), Broken> {
        let mut breaks = 0;
        loop {
            match self.stream(narinfo, origin).await {
                Err(Broken::Origin { error, began: true })
                    if breaks < MAX_BREAKS_PER_ORIGIN && error.is_connection_fault() =>
                {
                    tracing::debug!(%error, "the stream of an origin broke; trying again");
                    breaks += 1;
                }
                ended => return ended,
            }
        }
    }

    async fn stream(&self, narinfo: &NarInfo, origin: OriginId) -> Result<(), Broken> {
        let from = self.transfer.partial().present_until(self.from_byte);
        if from >= self.transfer.size() {
            return Ok(());
        }
        let asked = Instant::now();
        let opened = self.shared.origins.open_nar_from(narinfo, origin, from).await;
        let mut nar = opened.map_err(|error| Broken::Origin { error, began: false })?;
        self.report(Report::OriginUsed(origin)).await;
        let mut offset = nar.starts_at();
        let (began_at, first_byte) = (offset, asked.elapsed());
        while let Some(chunk) = next_chunk(&mut nar).await? {
            let end = offset + chunk.len() as u64;
            self.write(offset, chunk).await.map_err(Broken::Disk)?;
            self.report(Report::Event(self.arrived(offset, end))).await;
            offset = end;
        }
        self.shared.origin_speed.record(offset - began_at, first_byte, asked.elapsed() - first_byte);
        Ok(())
    }

    /// Before the wanted start the scheduler knows no stream.
    pub(super) fn arrived(&self, start: u64, end: u64) -> Event {
        if end > self.from_byte {
            return Event::OriginAt { source: self.source, from_byte: self.from_byte, offset_bytes: end };
        }
        let size = self.transfer.size();
        // The group that the last chunk ended in is whole now, if it ends in this one.
        let first = start / GROUP_BYTES * GROUP_BYTES;
        Event::Present { groups: GroupRange::whole_in_bytes(first..end, size) }
    }

    pub(super) async fn write(&self, offset: u64, chunk: Bytes) -> Result<(), FetchError> {
        let partial = self.transfer.partial().clone();
        let bytes = offset..offset + chunk.len() as u64;
        match tokio::task::spawn_blocking(move || partial.write_sequential(offset, &chunk)).await {
            Ok(written) => {
                written.map_err(|error| fatal(&error))?;
                let leader = self.transfer.following().map(Contributor::Peer);
                self.transfer.brought(leader.unwrap_or(Contributor::Origin), bytes);
                Ok(())
            }
            Err(error) => Err(FetchError::Store(Arc::from(error.to_string()))),
        }
    }

    pub(super) async fn report(&self, report: Report) {
        let _ = self.reports.send(report).await;
    }
}

async fn next_chunk(nar: &mut NarStream) -> Result<Option<Bytes>, Broken> {
    nar.next().await.transpose().map_err(|error| Broken::Origin { error, began: true })
}
