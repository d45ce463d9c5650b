//! Plays one fetch: a heap of events, and the actors they happen to.

mod downlink;
mod peers;
mod queue;
mod reader;

use std::collections::BTreeSet;
use std::time::Duration;

use p2p_cache::fetch::scheduler::{
    Action, Event, FetchScheduler, Holdings, LookupPhase, SchedulerConfig, SourceId, SourceKind,
};
use p2p_cache_protocol::{GroupRange, GroupSet, group_count};
use rand::SeedableRng;
use rand::rngs::StdRng;

use self::downlink::Downlink;
use self::peers::PeerActor;
use self::queue::Queue;
use self::reader::ReaderActor;
use crate::report::{Outcome, Report, SourceReport};
use crate::scenario::{Cast, Fate, Scenario};

/// Bytes that are sent in one piece: the grain at which peers share the downlink.
const PIECE_BYTES: u64 = 64 * 1024;
/// Virtual time after which a run counts as stuck.
const MAX_TIME: Duration = Duration::from_secs(3600);
/// The origin's id; peers have their index.
const ORIGIN: SourceId = SourceId(u32::MAX);

/// What is going to happen.
#[derive(Debug)]
enum Happening {
    /// The scheduler is told something.
    Tell(Event),
    /// Its timer fires, if it is still this one.
    Timer(Duration),
    /// A request has come to a peer.
    Asked(usize, GroupRange),
    /// A peer has put one piece on the wire.
    PieceSent(usize),
    /// A piece has come through the downlink.
    PieceReceived(usize, Piece),
    /// The fate of a peer strikes.
    Strikes(usize),
    /// A peer's connection is closed at our end.
    Disconnected(usize),
    /// The origin has put bytes on the wire, up to this offset of its n-th stream.
    StreamSent(u32, u64),
    /// They have come through the downlink.
    StreamReceived(u32, u64, u64),
}

/// A part of the answer to a request.
#[derive(Debug, Clone, Copy)]
struct Piece {
    extent: GroupRange,
    bytes: u64,
    last: bool,
    corrupt: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Tally {
    received_bytes: u64,
    useful_bytes: u64,
    end: Option<&'static str>,
}

struct World {
    cast: Cast,
    scheduler: FetchScheduler,
    queue: Queue,
    random: StdRng,
    downlink: Downlink,
    peers: Vec<PeerActor>,
    reader: ReaderActor,
    present: GroupSet,
    /// Requests that the scheduler waits for.
    waiting: BTreeSet<(usize, GroupRange)>,
    tallies: Vec<Tally>,
    origin: Tally,
    /// Number of the origin's stream that runs, if one does; stopped ones are ignored by it.
    stream: Option<u32>,
    streams: u32,
    timer: Duration,
    outcome: Option<Outcome>,
}

/// Plays a scenario with a seed.
pub fn run(scenario: &Scenario, seed: u64) -> Report {
    let mut random = StdRng::seed_from_u64(seed);
    let cast = scenario.cast(&mut random);
    let mut world = World::new(cast, random, seed);
    world.play();
    world.report(scenario, seed)
}

impl World {
    fn new(cast: Cast, random: StdRng, seed: u64) -> Self {
        let mut world = Self {
            scheduler: FetchScheduler::new(SchedulerConfig::default(), cast.size_bytes, seed),
            queue: Queue::default(),
            random,
            downlink: Downlink::new(cast.downlink_bytes_per_second),
            peers: cast.peers.iter().cloned().map(PeerActor::new).collect(),
            reader: ReaderActor::default(),
            present: GroupSet::new(group_count(cast.size_bytes)),
            waiting: BTreeSet::new(),
            tallies: vec![Tally::default(); cast.peers.len()],
            origin: Tally::default(),
            stream: None,
            streams: 0,
            timer: Duration::MAX,
            outcome: None,
            cast,
        };
        world.set_the_stage();
        world
    }

    fn set_the_stage(&mut self) {
        let tell = |queue: &mut Queue, at, event| queue.push(at, Happening::Tell(event));
        let queue = &mut self.queue;
        tell(queue, Duration::ZERO, self.reader.start());
        if let Some(origin) = &self.cast.origin {
            let kind = SourceKind::Origin {
                ranged: false,
                // What was seen of it lately: the truth, give or take.
                expected_bytes_per_second: Some(origin.bytes_per_second * 0.8),
                expected_first_byte: Some(origin.first_byte.mul_f64(1.2)),
                relay: false,
            };
            tell(queue, Duration::ZERO, Event::SourceAdded { source: ORIGIN, kind });
        }
        for (index, peer) in self.cast.peers.iter().enumerate() {
            let kind = SourceKind::Peer { holdings: Holdings::Complete, rtt: Some(peer.rtt), prefix: None };
            tell(queue, peer.joins_at, Event::SourceAdded { source: SourceId(index as u32), kind });
            match peer.fate {
                Fate::Dies { at } | Fate::FallsSilent { at } | Fate::Slows { at, .. } => {
                    queue.push(at, Happening::Strikes(index));
                }
                Fate::Steady | Fate::Lies { .. } => {}
            }
        }
        tell(queue, self.cast.near_lookup_ends, Event::Lookup(LookupPhase::Wide));
        tell(queue, self.cast.lookup_ends, Event::Lookup(LookupPhase::Finished));
    }

    fn play(&mut self) {
        while self.outcome.is_none() {
            match self.queue.pop() {
                Some(happening) if self.queue.now() <= MAX_TIME => self.happen(happening),
                _ => self.outcome = Some(Outcome::Stuck),
            }
        }
    }

    fn happen(&mut self, happening: Happening) {
        let now = self.queue.now();
        match happening {
            Happening::Tell(event) => self.tell(event),
            Happening::Timer(at) if at == self.timer => self.tell(Event::Tick),
            Happening::Timer(_) => {}
            Happening::Asked(peer, extent) => {
                let bytes = self.bytes_of(&extent);
                self.peers[peer].asked(extent, bytes, &mut self.random);
                self.send_next(peer);
            }
            Happening::PieceSent(peer) => {
                let half_trip = self.peers[peer].spec.rtt / 2;
                if let Some(piece) = self.peers[peer].sent() {
                    let at = self.downlink.through(now + half_trip, piece.bytes);
                    self.queue.push(at, Happening::PieceReceived(peer, piece));
                }
                self.send_next(peer);
            }
            Happening::PieceReceived(peer, piece) => self.receive(peer, piece),
            Happening::Strikes(peer) => {
                if self.peers[peer].strike() {
                    let at = now + self.peers[peer].spec.rtt / 2;
                    self.queue.push(at, Happening::Disconnected(peer));
                }
            }
            Happening::Disconnected(peer) => self.disconnected(peer),
            Happening::StreamSent(stream, offset) => self.stream_sent(stream, offset),
            Happening::StreamReceived(stream, from, to) => self.stream_received(stream, from, to),
        }
    }

    fn bytes_of(&self, extent: &GroupRange) -> u64 {
        let bytes = extent.bytes(self.cast.size_bytes);
        bytes.end - bytes.start
    }

    fn tell(&mut self, event: Event) {
        for action in self.scheduler.on_event(self.queue.now(), event) {
            self.act(action);
        }
    }

    fn act(&mut self, action: Action) {
        let now = self.queue.now();
        match action {
            Action::Request { source, extent } => {
                let peer = source.0 as usize;
                self.waiting.insert((peer, extent));
                let at = now + self.peers[peer].spec.rtt / 2;
                self.queue.push(at, Happening::Asked(peer, extent));
            }
            Action::Cancel { source, extent } => drop(self.waiting.remove(&(source.0 as usize, extent))),
            Action::StartOrigin { from_byte, .. } => self.start_stream(from_byte),
            Action::StopOrigin { .. } => self.stream = None,
            Action::DropSource { source, .. } => self.leave(source, "dropped"),
            Action::BanSource { source } => self.leave(source, "banned"),
            Action::WakeAt(at) => {
                self.timer = at;
                self.queue.push(at, Happening::Timer(at));
            }
            Action::Complete => self.outcome = Some(Outcome::Complete),
            Action::Failed(_) => self.outcome = Some(Outcome::Failed),
        }
    }

    fn leave(&mut self, source: SourceId, end: &'static str) {
        if source == ORIGIN {
            self.origin.end = Some(end);
            self.stream = None;
            return;
        }
        let peer = source.0 as usize;
        self.waiting.retain(|(of, _)| *of != peer);
        self.peers[peer].hang_up();
        self.tallies[peer].end = Some(end);
    }

    fn send_next(&mut self, peer: usize) {
        if let Some(time) = self.peers[peer].start_sending(&mut self.random) {
            let at = self.queue.now() + time;
            self.queue.push(at, Happening::PieceSent(peer));
        }
    }

    fn receive(&mut self, peer: usize, piece: Piece) {
        self.tallies[peer].received_bytes += piece.bytes;
        if !piece.last || !self.waiting.remove(&(peer, piece.extent)) {
            return;
        }
        let (source, extent) = (SourceId(peer as u32), piece.extent);
        if piece.corrupt {
            let fault = p2p_cache::fetch::scheduler::Fault::Corrupt;
            self.tell(Event::ExtentFailed { source, extent, fault });
            return;
        }
        self.tallies[peer].useful_bytes += self.store(extent);
        self.tell(Event::ExtentDone { source, extent, timing: None });
        self.read();
    }

    /// Stores groups and returns how many bytes of them were missing.
    fn store(&mut self, groups: GroupRange) -> u64 {
        let gaps: Vec<GroupRange> = self.present.missing_within(groups).collect();
        self.present.insert(groups);
        gaps.iter().map(|gap| self.bytes_of(gap)).sum()
    }

    fn read(&mut self) {
        let prefix = GroupRange::new(0, self.present.prefix()).bytes(self.cast.size_bytes).end;
        if let Some(event) = self.reader.advance(self.queue.now(), prefix) {
            self.tell(event);
        }
    }

    fn disconnected(&mut self, peer: usize) {
        self.peers[peer].hang_up();
        self.waiting.retain(|(of, _)| *of != peer);
        self.tallies[peer].end.get_or_insert("gone");
        self.tell(Event::SourceGone { source: SourceId(peer as u32) });
    }

    fn start_stream(&mut self, from_byte: u64) {
        let Some(origin) = &self.cast.origin else { return };
        self.streams += 1;
        self.stream = Some(self.streams);
        let at = self.queue.now() + origin.first_byte;
        self.queue.push(at, Happening::StreamSent(self.streams, from_byte));
    }

    /// Bytes up to `offset` are out; the next piece follows.
    fn stream_sent(&mut self, stream: u32, offset: u64) {
        let Some(origin) = self.cast.origin.as_ref().filter(|_| self.stream == Some(stream)) else { return };
        let next = (offset + PIECE_BYTES).min(self.cast.size_bytes);
        if next == offset {
            return;
        }
        let sent_at =
            self.queue.now() + Duration::from_secs_f64((next - offset) as f64 / origin.bytes_per_second);
        let received_at = self.downlink.through(sent_at, next - offset);
        self.queue.push(received_at, Happening::StreamReceived(stream, offset, next));
        self.queue.push(sent_at, Happening::StreamSent(stream, next));
    }

    fn stream_received(&mut self, stream: u32, from: u64, to: u64) {
        if self.stream != Some(stream) {
            return;
        }
        self.origin.received_bytes += to - from;
        let groups = GroupRange::whole_in_bytes(from..to, self.cast.size_bytes);
        self.origin.useful_bytes += self.store(groups);
        self.tell(Event::OriginAt { source: ORIGIN, from_byte: 0, offset_bytes: to });
        if to == self.cast.size_bytes && self.outcome.is_none() {
            self.stream = None;
            self.tell(Event::OriginEnded { source: ORIGIN, from_byte: 0, ok: true });
        }
        self.read();
    }

    fn report(self, scenario: &Scenario, seed: u64) -> Report {
        let source = |name: String, fate: String, tally: &Tally| SourceReport {
            name,
            fate,
            received_bytes: tally.received_bytes,
            useful_bytes: tally.useful_bytes,
            end: tally.end.unwrap_or("used"),
        };
        let peers = self.cast.peers.iter().zip(&self.tallies).enumerate();
        let mut sources: Vec<SourceReport> = peers
            .map(|(index, (spec, tally))| source(format!("peer {index}"), fate_of(spec.fate), tally))
            .collect();
        if self.cast.origin.is_some() {
            sources.push(source("origin".to_owned(), "steady".to_owned(), &self.origin));
        }
        let stats = self.scheduler.stats();
        let (seconds, ideal) = (self.queue.now().as_secs_f64(), self.cast.ideal().as_secs_f64());
        Report {
            scenario: scenario.name.to_owned(),
            seed,
            size_bytes: self.cast.size_bytes,
            outcome: self.outcome.unwrap_or(Outcome::Stuck),
            seconds,
            ideal_seconds: ideal,
            ratio: seconds / ideal,
            first_byte_seconds: self.reader.first_byte().map(|at| at.as_secs_f64()),
            longest_wait_seconds: self.reader.longest_wait(self.queue.now()).as_secs_f64(),
            wasted_bytes: sources.iter().map(|source| source.received_bytes - source.useful_bytes).sum(),
            hedges: stats.hedges,
            hedged_bytes: stats.hedged_bytes,
            hedge_budget_bytes: stats.hedge_budget_bytes,
            sources,
        }
    }
}

fn fate_of(fate: Fate) -> String {
    match fate {
        Fate::Steady => "steady".to_owned(),
        Fate::Dies { at } => format!("dies at {:.3} s", at.as_secs_f64()),
        Fate::FallsSilent { at } => format!("falls silent at {:.3} s", at.as_secs_f64()),
        Fate::Slows { at, to_bytes_per_second } => {
            format!("slows to {:.2} MB/s at {:.3} s", to_bytes_per_second / 1e6, at.as_secs_f64())
        }
        Fate::Lies { share } => format!("lies in {:.0} % of its answers", share * 100.0),
    }
}
