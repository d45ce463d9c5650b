//! Runs one transfer: turns what the scheduler decides into look-ups, requests, writes and bans, and what comes of
//! them into events. Everything it starts is aborted when it ends.

mod downloaders;
mod ending;
mod reports;
mod sources;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_cache_discovery::PeerId;
use p2p_cache_protocol::{BlobId, Claim, Digest, GroupRange};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};

pub(super) use self::reports::Report;
use self::sources::{ORIGIN, PeerSource};
use super::lookup::Lookup;
use super::provenance::Contributor;
use super::scheduler::{
    Action, Event, FailReason, FetchScheduler, LookupPhase, ReaderId, SchedulerConfig, SourceId, SourceKind,
};
use super::transfer::{Phase, Transfer};
use super::{FetchError, FetchRequest, Shared};
use crate::origin::OriginId;

/// Reports waiting for the driver. A task with one more waits; tasks are bounded by the scheduler's in-flight limit.
const MAX_REPORTS: usize = 256;
/// A transfer that nobody reads goes on for this long, in case the client comes back.
const ABANDON_AFTER: Duration = Duration::from_secs(30);
/// How long nothing may come by a claim that another one contradicts.
const CLAIM_PATIENCE: Duration = Duration::from_secs(3);

struct Driver<'a> {
    shared: &'a Arc<Shared>,
    request: FetchRequest,
    transfer: Arc<Transfer>,
    scheduler: FetchScheduler,
    started: Instant,
    wake_at: Option<Duration>,
    blob: Option<BlobId>,
    sources: HashMap<SourceId, PeerSource>,
    next_source: u32,
    requests: HashMap<(SourceId, GroupRange), AbortHandle>,
    origin_task: Option<AbortHandle>,
    /// Where the stream of `origin_task` was wanted to start.
    origin_from_byte: u64,
    origins_used: Vec<OriginId>,
    leaders_used: Vec<PeerId>,
    /// Peers that fetch this blob too, as far as they have said as what.
    downloaders: BTreeMap<PeerId, Option<BlobId>>,
    watched: HashSet<PeerId>,
    claimants: Vec<PeerId>,
    /// Whether all connected peers have been asked.
    all_asked: watch::Sender<bool>,
    /// Holders whose claim led to no whole before: taken on when nobody else can help.
    deferred: Vec<(PeerId, Claim, Option<Duration>)>,
    contradicted: bool,
    readers: BTreeMap<ReaderId, u64>,
    unread_since: Option<Instant>,
    tasks: JoinSet<()>,
    reports: mpsc::Sender<Report>,
    last_error: Option<Arc<str>>,
}

/// Drives `transfer` to its end and leaves it verified (and its blob committed) or failed.
pub(super) async fn drive(
    shared: &Arc<Shared>,
    request: FetchRequest,
    transfer: &Arc<Transfer>,
    lookup: Lookup,
) {
    let digest = request.digest;
    let (reports, inbox) = mpsc::channel(MAX_REPORTS);
    let driver = Driver::new(shared, request, Arc::clone(transfer), reports);
    let outcome = tokio::select! {
        outcome = driver.run(lookup, inbox) => outcome,
        () = shared.stop.cancelled() => Err(FetchError::Stopped),
    };
    match outcome {
        Ok(()) => tracing::debug!(%digest, elapsed = ?transfer.started.elapsed(), "fetched"),
        Err(error) => {
            tracing::info!(%digest, %error, "fetch failed");
            if error.leaves_good_bytes() {
                transfer.partial().suspend(error.to_string());
            } else {
                transfer.partial().abort(error.to_string());
            }
            transfer.set_phase(Phase::Failed(error));
        }
    }
}

impl<'a> Driver<'a> {
    fn new(
        shared: &'a Arc<Shared>,
        request: FetchRequest,
        transfer: Arc<Transfer>,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        let blob = match request.digest {
            Digest::Blake3(blob) => Some(blob),
            // Set when an earlier fetch left groups that were verified.
            Digest::Sha256(_) => transfer.partial().blob_id(),
        };
        let scheduler = FetchScheduler::new(SchedulerConfig::default(), transfer.size(), rand::random());
        Self {
            shared,
            scheduler,
            started: Instant::now(),
            wake_at: None,
            blob,
            sources: HashMap::new(),
            next_source: ORIGIN.0 + 1,
            requests: HashMap::new(),
            origin_task: None,
            origin_from_byte: 0,
            origins_used: Vec::new(),
            leaders_used: Vec::new(),
            downloaders: BTreeMap::new(),
            watched: HashSet::new(),
            claimants: Vec::new(),
            // Whoever follows us has asked the site already.
            all_asked: watch::Sender::new(request.leading),
            deferred: Vec::new(),
            contradicted: false,
            readers: BTreeMap::new(),
            unread_since: Some(Instant::now()),
            tasks: JoinSet::new(),
            reports,
            last_error: None,
            request,
            transfer,
        }
    }

    async fn run(mut self, lookup: Lookup, mut inbox: mpsc::Receiver<Report>) -> Result<(), FetchError> {
        let Lookup { mut found, task } = lookup;
        self.tasks.spawn(async move {
            if let Err(error) = task.await
                && let Ok(panic) = error.try_into_panic()
            {
                std::panic::resume_unwind(panic);
            }
        });
        let transfer = Arc::clone(&self.transfer);
        let whole = transfer.partial().verify_whole();
        tokio::pin!(whole);
        let mut complete = self.begin().await?;
        let mut hashed = None;
        // Every group was checked against the name itself: the index wants to know the SHA-256, but nobody waits for it.
        let proved_by_tree = transfer.is_proved_by_tree();
        while !complete || hashed.is_none() {
            let wake = self.next_wake();
            let events = tokio::select! {
                Some(report) = inbox.recv() => self.on_reports(report, &mut inbox).await?,
                Some(found) = found.recv() => self.on_found(found).await,
                hash = &mut whole, if hashed.is_none() && (complete || !proved_by_tree) => {
                    hashed = Some(hash?);
                    Vec::new()
                }
                () = transfer.readers_changed.notified() => self.on_readers(),
                () = transfer.wanted.notified() => self.on_wanted(),
                () = tokio::time::sleep(wake) => {
                    self.wake_at = None;
                    vec![Event::Tick]
                }
                Some(ended) = self.tasks.join_next() => surface_panic(ended)?,
            };
            if !complete {
                self.check_abandoned()?;
                self.check_progress()?;
            }
            complete |= self.feed(events).await?;
            if complete && proved_by_tree {
                transfer.set_phase(Phase::Verified);
            }
        }
        self.tasks.abort_all();
        let hash = hashed.ok_or(FetchError::Stopped)?;
        self.finish(hash).await
    }

    /// Tells what an earlier fetch left, and introduces the origin, if there is one that may be asked.
    async fn begin(&mut self) -> Result<bool, FetchError> {
        let mut complete = self.transfer.size() == 0;
        self.on_wanted();
        for groups in self.transfer.partial().groups().present() {
            self.transfer.brought(Contributor::Disk, groups.bytes(self.transfer.size()));
            complete |= self.feed([Event::Present { groups }]).await?;
        }
        if self.may_ask_origin() {
            let kind = SourceKind::Origin {
                ranged: self.origin_has_ranges(),
                expected_bytes_per_second: self.shared.origin_speed.bytes_per_second(),
                expected_first_byte: self.shared.origin_speed.first_byte(),
                relay: false,
            };
            complete |= self.feed([Event::SourceAdded { source: ORIGIN, kind }]).await?;
        }
        if self.request.leading {
            complete |= self.feed([Event::Lookup(LookupPhase::Wide)]).await?;
        }
        Ok(complete)
    }

    fn next_wake(&self) -> Duration {
        let scheduled = self.wake_at.map(|at| at.saturating_sub(self.started.elapsed()));
        scheduled.unwrap_or(ABANDON_AFTER).min(ABANDON_AFTER)
    }

    /// Gives the scheduler events and runs its actions. True when all groups are present.
    async fn feed(&mut self, events: impl IntoIterator<Item = Event>) -> Result<bool, FetchError> {
        let actions = self.scheduler.on_events(self.started.elapsed(), events);
        let mut complete = false;
        for action in actions {
            match action {
                Action::Request { source, extent } => self.request_extent(source, extent),
                Action::Cancel { source, extent } => self.cancel(source, extent),
                Action::StartOrigin { from_byte, .. } => self.start_origin(from_byte),
                Action::StopOrigin { .. } => self.stop_origin(),
                Action::DropSource { source, reason } => {
                    tracing::debug!(digest = %self.request.digest, %source, ?reason, "source dropped");
                    self.forget(source);
                }
                Action::BanSource { source } => self.ban(source).await,
                Action::WakeAt(at) => self.wake_at = Some(at),
                Action::Complete => complete = true,
                Action::Failed(reason) => return Err(self.lost(reason)),
            }
        }
        Ok(complete)
    }

    fn on_readers(&mut self) -> Vec<Event> {
        let now = self.transfer.reader_offsets();
        let mut events = Vec::new();
        for reader in self.readers.keys().filter(|reader| !now.contains_key(reader)) {
            events.push(Event::ReaderGone { reader: *reader });
        }
        for (reader, offset) in &now {
            if self.readers.get(reader) != Some(offset) {
                events.push(Event::ReaderAt { reader: *reader, offset_bytes: *offset });
            }
        }
        self.unread_since = if now.is_empty() { self.unread_since.or(Some(Instant::now())) } else { None };
        self.readers = now;
        events
    }

    /// A claim that others contradict is not waited for as long as one that stands alone.
    fn check_progress(&self) -> Result<(), FetchError> {
        let patient = !self.contradicted || self.may_ask_origin() || self.started.elapsed() < CLAIM_PATIENCE;
        if patient || self.transfer.partial().groups().present().next().is_some() {
            return Ok(());
        }
        Err(self.lost(FailReason::SourcesLost))
    }

    fn check_abandoned(&self) -> Result<(), FetchError> {
        match self.unread_since {
            Some(since) if since.elapsed() >= ABANDON_AFTER => {
                // Its readers may have left because it led nowhere.
                if self.contradicted {
                    self.doubt_claim();
                }
                Err(FetchError::Abandoned)
            }
            _ => Ok(()),
        }
    }
}

/// A task that was aborted is no news; one that panicked ends the transfer, since its report is missing.
fn surface_panic(ended: Result<(), JoinError>) -> Result<Vec<Event>, FetchError> {
    match ended {
        Err(error) if error.is_panic() => Err(FetchError::Store(Arc::from(error.to_string()))),
        Ok(()) | Err(_) => Ok(Vec::new()),
    }
}
