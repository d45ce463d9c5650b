//! Runs one transfer: turns what the scheduler decides into look-ups, requests, writes and bans, and what comes of
//! them into events. Everything it starts is aborted when it ends.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use p2p_cache_discovery::PeerId;
use p2p_cache_protocol::{BlobId, Claim, Compression, Digest, GroupRange, NarInfo};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};

use super::extent::{ExtentRequest, fault_of, fetch_extent};
use super::lookup::{Found, Lookup};
use super::origin_pump::{self, OriginPump};
use super::provenance::Contributor;
use super::scheduler::{
    Action, Event, FailReason, Fault, FetchScheduler, Holdings, LookupPhase, ReaderId, SchedulerConfig,
    SourceId, SourceKind,
};
use super::transfer::{Phase, Transfer};
use super::{FetchError, FetchRequest, Shared};
use crate::origin::OriginId;
use crate::peers::{BanReason, PeerError};
use crate::store::WriteError;

/// Reports waiting for the driver. A task with one more waits; tasks are bounded by the scheduler's in-flight limit.
const MAX_REPORTS: usize = 256;
/// Reports that the scheduler is told of at once: many peers that tell what they have got cost one plan.
const MAX_REPORTS_AT_ONCE: usize = 64;
/// A transfer that nobody reads goes on for this long, in case the client comes back.
const ABANDON_AFTER: Duration = Duration::from_secs(30);
/// How long nothing may come by a claim that another one contradicts.
const CLAIM_PATIENCE: Duration = Duration::from_secs(3);
/// The origins together are one source to the scheduler: the pump goes from one to the next by itself.
const ORIGIN: SourceId = SourceId(0);

/// What the tasks of a transfer tell its driver.
#[derive(Debug)]
pub(super) enum Report {
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

/// A peer that takes part in a transfer.
pub(super) struct PeerSource {
    pub(super) peer: PeerId,
    /// What it is banned for, should the scheduler say so.
    pub(super) guilt: BanReason,
}

pub(super) struct Driver<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) request: FetchRequest,
    pub(super) transfer: Arc<Transfer>,
    pub(super) scheduler: FetchScheduler,
    pub(super) started: Instant,
    wake_at: Option<Duration>,
    pub(super) blob: Option<BlobId>,
    pub(super) sources: HashMap<SourceId, PeerSource>,
    pub(super) next_source: u32,
    requests: HashMap<(SourceId, GroupRange), AbortHandle>,
    origin_task: Option<AbortHandle>,
    /// Where the stream of `origin_task` was wanted to start.
    origin_from_byte: u64,
    pub(super) origins_used: Vec<OriginId>,
    pub(super) leaders_used: Vec<PeerId>,
    /// Peers that fetch this blob too, as far as they have said as what.
    pub(super) downloaders: BTreeMap<PeerId, Option<BlobId>>,
    pub(super) watched: HashSet<PeerId>,
    pub(super) claimants: Vec<PeerId>,
    /// Whether all connected peers have been asked.
    all_asked: watch::Sender<bool>,
    /// Holders whose claim led to no whole before: taken on when nobody else can help.
    deferred: Vec<(PeerId, Claim, Option<Duration>)>,
    pub(super) contradicted: bool,
    readers: BTreeMap<ReaderId, u64>,
    unread_since: Option<Instant>,
    pub(super) tasks: JoinSet<()>,
    pub(super) reports: mpsc::Sender<Report>,
    pub(super) last_error: Option<Arc<str>>,
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

    async fn on_found(&mut self, found: Found) -> Vec<Event> {
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

    /// Whether the stream can start anywhere: a leader's comes from the front, and so does what is compressed.
    fn origin_has_ranges(&self) -> bool {
        let Some(narinfo) = &self.request.narinfo else { return false };
        let ours = || self.shared.peers.relays(narinfo.store_path.hash()).is_empty();
        self.request.origin.is_some() && narinfo.compression == Compression::None && ours()
    }

    fn may_ask_origin(&self) -> bool {
        self.request.narinfo.is_some()
            && !self.shared.origins.is_empty()
            && !self.transfer.is_proved_by_tree()
    }

    fn take_deferred(&mut self) -> Vec<Event> {
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
        let source = SourceId(self.next_source);
        self.next_source += 1;
        self.sources.insert(source, PeerSource { peer, guilt: BanReason::CorruptData });
        let kind = SourceKind::Peer { holdings: Holdings::Complete, rtt, prefix: None };
        let mut events = vec![Event::SourceAdded { source, kind }];
        if self.transfer.is_better_fetched_from(peer) {
            self.stop_origin();
            events.push(Event::OriginLeft { source: ORIGIN });
        }
        events.extend(self.watch_downloaders());
        events
    }

    /// A report, and those that came while the last ones were being worked on.
    async fn on_reports(
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

    fn request_extent(&mut self, source: SourceId, extent: GroupRange) {
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

    fn cancel(&mut self, source: SourceId, extent: GroupRange) {
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

    async fn ban(&mut self, source: SourceId) {
        let culprit = self.sources.get(&source).map(|source| (source.peer, source.guilt));
        self.forget(source);
        if let Some((peer, reason)) = culprit {
            self.shared.peers.ban(peer, reason).await;
        }
    }

    fn start_origin(&mut self, from_byte: u64) {
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

    fn stop_origin(&mut self) {
        if let Some(handle) = self.origin_task.take() {
            handle.abort();
            self.transfer.set_following(None);
            self.transfer.set_waiting_for_holders(false);
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
