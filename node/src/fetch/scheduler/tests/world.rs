//! A small world in virtual time: peers that answer in order at a rate, or misbehave.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::*;
use super::watcher::Watched;
use p2p_cache_protocol::{GroupRange, GroupSet};

/// How a peer of the world answers.
#[derive(Debug, Clone)]
pub(super) enum Nature {
    /// Everything, truly.
    Honest,
    /// Nothing any more after so many answers.
    Silent(u32),
    /// Corrupt answers after so many good ones.
    Liar(u32),
    /// Every answer after so many is a broken stream.
    Closes(u32),
    /// Says "not held" after so many answers.
    Denies(u32),
    /// So many busy answers first.
    Busy(u32),
    /// Disconnects after so many answers.
    Leaves(u32),
}

#[derive(Debug, Clone)]
pub(super) struct Player {
    pub(super) nature: Nature,
    pub(super) bytes_per_second: f64,
    pub(super) rtt: Duration,
    /// `None`: all of it.
    pub(super) holds: Option<GroupSet>,
    pub(super) joins_at: Duration,
    pub(super) prefix: Option<u64>,
}

impl Player {
    pub(super) fn honest(bytes_per_second: f64) -> Self {
        Self {
            nature: Nature::Honest,
            bytes_per_second,
            rtt: Duration::from_millis(2),
            holds: None,
            joins_at: Duration::ZERO,
            prefix: None,
        }
    }

    pub(super) fn with(nature: Nature, bytes_per_second: f64) -> Self {
        Self { nature, ..Self::honest(bytes_per_second) }
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct OriginPlay {
    pub(super) bytes_per_second: f64,
    pub(super) first_byte: Duration,
    /// Fails when it has sent this much.
    pub(super) fails_at: Option<u64>,
    /// Says nothing any more when it has sent this much.
    pub(super) silent_at: Option<u64>,
    pub(super) ranged: bool,
    pub(super) relay: bool,
}

impl Default for OriginPlay {
    fn default() -> Self {
        Self {
            bytes_per_second: 10e6,
            first_byte: Duration::from_millis(30),
            fails_at: None,
            silent_at: None,
            ranged: false,
            relay: false,
        }
    }
}

/// The first origin; a second one is added by its test.
pub(super) const ORIGIN: SourceId = SourceId(1000);
const STREAM_STEP_BYTES: f64 = 100_000.0;

#[derive(Debug)]
pub(super) struct World {
    pub(super) watched: Watched,
    pub(super) now: Duration,
    players: Vec<Player>,
    answered: Vec<u32>,
    free_at: Vec<Duration>,
    origin: Option<OriginPlay>,
    second_origin: Option<OriginPlay>,
    streaming: SourceId,
    sent_at: u64,
    /// Stream number, so that events of a stopped stream are dropped.
    stream: u32,
    queue: BTreeMap<(Duration, u64), Happening>,
    sequence: u64,
    pub(super) bytes_from: BTreeMap<SourceId, u64>,
    pub(super) log: Vec<(Duration, Action)>,
    pub(super) origin_bytes: u64,
}

#[derive(Debug)]
enum Happening {
    Event(Event),
    Answer(SourceId, GroupRange),
    /// Number of the stream, where it began, how far it is.
    Stream(u32, u64, u64),
}

impl World {
    pub(super) fn new(size: u64, seed: u64, players: Vec<Player>, origin: Option<OriginPlay>) -> Self {
        let count = players.len();
        let mut world = Self {
            watched: Watched::new(SchedulerConfig::default(), size, seed),
            now: Duration::ZERO,
            answered: vec![0; count],
            free_at: vec![Duration::ZERO; count],
            players,
            origin,
            second_origin: None,
            streaming: ORIGIN,
            sent_at: 0,
            stream: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            bytes_from: BTreeMap::new(),
            log: Vec::new(),
            origin_bytes: 0,
        };
        if let Some(origin) = origin {
            let kind = SourceKind::Origin {
                ranged: origin.ranged,
                expected_bytes_per_second: Some(origin.bytes_per_second),
                expected_first_byte: Some(origin.first_byte),
                relay: origin.relay,
            };
            world.at(Duration::ZERO, Event::SourceAdded { source: ORIGIN, kind });
        }
        for index in 0..count {
            let player = &world.players[index];
            let holdings = player.holds.clone().map_or(Holdings::Complete, Holdings::Partial);
            let kind = SourceKind::Peer { holdings, rtt: Some(player.rtt), prefix: player.prefix };
            let (source, joins_at) = (SourceId(index as u32), player.joins_at);
            world.at(joins_at, Event::SourceAdded { source, kind });
        }
        world
    }

    pub(super) fn at(&mut self, time: Duration, event: Event) {
        self.push(time, Happening::Event(event));
    }

    fn push(&mut self, time: Duration, happening: Happening) {
        self.sequence += 1;
        self.queue.insert((time, self.sequence), happening);
    }

    /// Lets one thing happen. False when the fetch is over or nothing is left to happen.
    pub(super) fn step(&mut self) -> bool {
        if self.watched.outcome.is_some() {
            return false;
        }
        let Some(((time, _), happening)) = self.queue.pop_first() else { return false };
        self.now = time;
        match happening {
            Happening::Event(event) => self.tell(event),
            Happening::Answer(source, extent) => self.answer(source, extent),
            Happening::Stream(stream, from, offset) => self.stream_on(stream, from, offset),
        }
        true
    }

    /// Until the fetch is over; how long it took. Fails a test that would run for ever.
    pub(super) fn run(&mut self) -> Duration {
        while self.step() {
            assert!(self.now < Duration::from_secs(900), "no end: {:?}", self.watched.scheduler.stats());
        }
        self.now
    }

    pub(super) fn completed(&self) -> bool {
        self.watched.outcome == Some(Action::Complete)
    }

    fn tell(&mut self, event: Event) {
        for action in self.watched.on_event(self.now, event) {
            self.log.push((self.now, action.clone()));
            match action {
                Action::Request { source, extent } => self.serve(source, extent),
                Action::WakeAt(time) => self.at(time, Event::Tick),
                Action::StartOrigin { source, from_byte } => {
                    self.stream += 1;
                    self.streaming = source;
                    let first = self.now + self.play(source).first_byte;
                    self.push(first, Happening::Stream(self.stream, from_byte, from_byte + 1));
                }
                Action::StopOrigin { .. } => self.stream += 1,
                _ => {}
            }
        }
    }

    fn serve(&mut self, source: SourceId, extent: GroupRange) {
        let index = source.0 as usize;
        let player = &self.players[index];
        let bytes = extent.bytes(self.watched.size);
        let service = Duration::from_secs_f64((bytes.end - bytes.start) as f64 / player.bytes_per_second);
        let done = self.free_at[index].max(self.now) + service;
        self.free_at[index] = done;
        let arrives = done + player.rtt;
        self.push(arrives, Happening::Answer(source, extent));
    }

    fn answer(&mut self, source: SourceId, extent: GroupRange) {
        if !self.watched.in_flight.contains_key(&(source, extent)) {
            return;
        }
        let index = source.0 as usize;
        self.answered[index] += 1;
        let count = self.answered[index];
        let failed = |fault| Event::ExtentFailed { source, extent, fault };
        let event = match self.players[index].nature {
            Nature::Silent(n) if count > n => return,
            Nature::Liar(n) if count > n => failed(Fault::Corrupt),
            Nature::Closes(n) if count > n => failed(Fault::Closed),
            Nature::Denies(n) if count > n => failed(Fault::NotHeld),
            Nature::Busy(n) if count <= n => failed(Fault::Busy { retry_after: Duration::from_millis(30) }),
            Nature::Leaves(n) if count > n => Event::SourceGone { source },
            _ => {
                let bytes = extent.bytes(self.watched.size);
                *self.bytes_from.entry(source).or_default() += bytes.end - bytes.start;
                Event::ExtentDone { source, extent, timing: None }
            }
        };
        self.tell(event);
    }

    fn play(&self, source: SourceId) -> OriginPlay {
        if source == ORIGIN { self.origin.unwrap() } else { self.second_origin.unwrap() }
    }

    /// Adds an origin beside the first.
    pub(super) fn add_origin(&mut self, play: OriginPlay) {
        self.second_origin = Some(play);
        let kind = SourceKind::Origin {
            ranged: play.ranged,
            expected_bytes_per_second: Some(play.bytes_per_second),
            expected_first_byte: Some(play.first_byte),
            relay: play.relay,
        };
        self.at(Duration::ZERO, Event::SourceAdded { source: SourceId(ORIGIN.0 + 1), kind });
    }

    fn stream_on(&mut self, stream: u32, from_byte: u64, offset: u64) {
        if stream != self.stream {
            return;
        }
        let (source, origin) = (self.streaming, self.play(self.streaming));
        if origin.fails_at.is_some_and(|at| offset >= at) {
            self.tell(Event::OriginEnded { source, from_byte, ok: false });
            return;
        }
        if origin.silent_at.is_some_and(|at| offset >= at) {
            return;
        }
        if offset >= self.watched.size {
            self.origin_bytes += self.watched.size - self.sent_at;
            self.sent_at = self.watched.size;
            self.tell(Event::OriginEnded { source, from_byte, ok: true });
            return;
        }
        self.origin_bytes += if offset == from_byte + 1 { 1 } else { offset - self.sent_at };
        self.sent_at = offset;
        self.tell(Event::OriginAt { source, from_byte, offset_bytes: offset });
        if stream == self.stream {
            let next = (offset + STREAM_STEP_BYTES as u64).min(self.watched.size);
            let later = Duration::from_secs_f64((next - offset) as f64 / origin.bytes_per_second);
            self.push(self.now + later, Happening::Stream(stream, from_byte, next));
        }
    }
}
