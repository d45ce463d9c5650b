//! Plays a run: a heap of events, and the nodes they happen to.

mod downlink;
mod fetching;
mod node;
mod queue;
mod reader;
mod result;
mod serving;
mod site;
mod uplink;

use std::time::Duration;

use p2p_cache::fetch::scheduler::{Event, LookupPhase};
use p2p_cache_protocol::{GroupRange, GroupSet};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use self::node::Node;
use self::queue::Queue;
use self::site::Site;
use self::uplink::{Piece, Uplink};
use crate::cast::{Cast, Fate};
use crate::report::{Outcome, Progress, Report};
use crate::scenario::{Params, Scenario};

/// Virtual time after which a run counts as stuck.
const MAX_TIME: Duration = Duration::from_secs(3600);
/// How often a node tells its neighbours what it has got.
const TELL_EVERY: Duration = Duration::from_millis(100);
/// How often the progress of all is noted.
const SAMPLE_EVERY: Duration = Duration::from_millis(50);
/// The origin's index among those who serve.
const ORIGIN: usize = usize::MAX;

/// What is going to happen.
#[derive(Debug)]
enum Happening {
    /// A node begins: it can be asked, and fetches unless it holds the blob.
    Joins(usize),
    /// Two connected nodes learn what the other has.
    Meet(usize, usize),
    /// The scheduler of a node is told something.
    Tell(usize, Event),
    /// Its timer fires, if it is still this one.
    Timer(usize, Duration),
    /// A request has come to a node.
    Asked { server: usize, by: usize, extent: GroupRange },
    /// A request for a stream has come to a node or the origin.
    StreamAsked { server: usize, by: usize, stream: u32, from_byte: u64 },
    /// It is not wanted any more.
    StreamStopped { server: usize, by: usize, stream: u32 },
    /// A node or the origin has put one piece on the wire.
    Sent { server: usize, to: usize, piece: Piece },
    /// A piece has come through the downlink.
    Received { server: usize, by: usize, piece: Piece },
    /// A node tells its neighbours what it has got.
    Tells(usize),
    /// A node whose stream is followed says that it is alive.
    Alive { by: usize, stream: u32 },
    /// What a node has got is heard of.
    Heard { by: usize, of: usize, holds: GroupSet },
    /// The fate of a node strikes.
    Strikes(usize),
    /// The connection to a node is closed at the end of another.
    Disconnected { at: usize, from: usize },
    /// The progress is noted.
    Sample,
}

struct World {
    cast: Cast,
    site: Site,
    queue: Queue,
    random: StdRng,
    nodes: Vec<Node>,
    /// The one link to the origin.
    origin: Uplink,
    origin_sent_bytes: u64,
    streams: u32,
    progress: Vec<Progress>,
}

/// Plays a scenario with a seed.
pub fn run(scenario: &Scenario, seed: u64, params: &Params) -> Report {
    let mut random = StdRng::seed_from_u64(seed);
    let cast = scenario.cast(&mut random, params);
    let mut world = World::new(cast, random, seed);
    world.play();
    world.report(scenario, seed, params)
}

/// The node of a site that asks the origin while all are there.
pub(crate) fn leader_of(cast: &Cast) -> usize {
    let all: Vec<usize> = (0..cast.nodes.len()).collect();
    Site::new(all.len()).leader(&all).unwrap_or(0)
}

impl World {
    fn new(cast: Cast, random: StdRng, seed: u64) -> Self {
        // Every fetch has its own seed, and the first one that of the run.
        let node_seed = |index: usize| seed.wrapping_add((index as u64).wrapping_mul(0x9E37_79B9));
        let nodes = cast.nodes.iter().enumerate();
        let mut world = Self {
            nodes: nodes
                .map(|(index, spec)| Node::new(spec.clone(), cast.size_bytes, node_seed(index)))
                .collect(),
            site: Site::new(cast.nodes.len()),
            queue: Queue::default(),
            random,
            origin: Uplink::new(cast.origin.as_ref().map_or(1.0, |origin| origin.bytes_per_second)),
            origin_sent_bytes: 0,
            streams: 0,
            progress: Vec::new(),
            cast,
        };
        world.connect();
        world.set_the_stage();
        world
    }

    /// Who is connected to whom: everybody, or a random sample.
    fn connect(&mut self) {
        let count = self.nodes.len();
        let mut links = vec![std::collections::BTreeSet::new(); count];
        let mut link = |a: usize, b: usize| {
            if a != b {
                links[a].insert(b);
                links[b].insert(a);
            }
        };
        for node in 0..count {
            if count <= self.cast.neighbours + 1 {
                (0..count).for_each(|other| link(node, other));
                continue;
            }
            for _ in 0..self.cast.neighbours / 2 {
                link(node, self.random.random_range(0..count));
            }
        }
        for (node, links) in self.nodes.iter_mut().zip(links) {
            node.neighbours = links.into_iter().collect();
        }
    }

    fn set_the_stage(&mut self) {
        for (index, spec) in self.cast.nodes.iter().enumerate() {
            self.queue.push(spec.joins_at, Happening::Joins(index));
            match spec.fate {
                Fate::Dies { at } | Fate::FallsSilent { at } | Fate::Slows { at, .. } => {
                    self.queue.push(at, Happening::Strikes(index));
                }
                Fate::Steady | Fate::Lies { .. } => {}
            }
        }
        self.queue.push(Duration::ZERO, Happening::Sample);
    }

    fn play(&mut self) {
        while self.nodes.iter().any(|node| !node.joined && node.alive || node.is_fetching()) {
            match self.queue.pop() {
                Some(happening) if self.queue.now() <= MAX_TIME => self.happen(happening),
                _ => break,
            }
        }
        self.sample();
        let now = self.queue.now();
        for node in self.nodes.iter_mut().filter(|node| node.is_fetching()) {
            (node.outcome, node.ended_at) = (Some(Outcome::Stuck), now);
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Joins(node) => self.join(node),
            Happening::Meet(a, b) => {
                self.introduce(a, b);
                self.introduce(b, a);
            }
            Happening::Tell(node, event) => self.tell(node, event),
            Happening::Timer(node, at) if at == self.nodes[node].timer => self.tell(node, Event::Tick),
            Happening::Timer(..) => {}
            Happening::Asked { server, by, extent } => self.asked(server, by, extent),
            Happening::StreamAsked { server, by, stream, from_byte } => {
                self.stream_asked(server, by, stream, from_byte);
            }
            Happening::StreamStopped { server, by, stream } => self.stream_stopped(server, by, stream),
            Happening::Sent { server, to, piece } => self.sent(server, to, piece),
            Happening::Received { server, by, piece } => self.received(server, by, piece),
            Happening::Tells(node) => self.tell_neighbours(node),
            Happening::Alive { by, stream } => self.life_shown(by, stream),
            Happening::Heard { by, of, holds } => self.heard(by, of, holds),
            Happening::Strikes(node) => self.strike(node),
            Happening::Disconnected { at, from } => self.disconnected(at, from),
            Happening::Sample => {
                self.sample();
                self.queue.push_in(SAMPLE_EVERY, Happening::Sample);
            }
        }
    }

    fn half_trip(&self, a: usize, b: usize) -> Duration {
        let rtt = |node: usize| self.nodes.get(node).map_or(Duration::ZERO, |node| node.spec.rtt);
        (rtt(a) + rtt(b)) / 2
    }

    /// A node begins: it looks who of its neighbours is there, and they hear of it.
    fn join(&mut self, index: usize) {
        let now = self.queue.now();
        let node = &mut self.nodes[index];
        if node.joined || !node.alive {
            return;
        }
        (node.joined, node.joined_at) = (true, now);
        for other in node.neighbours.clone() {
            if self.nodes[other].joined && self.nodes[other].alive {
                self.queue.push(now + self.half_trip(index, other) * 2, Happening::Meet(index, other));
            }
        }
        if self.nodes[index].spec.holds {
            return;
        }
        let start = self.nodes[index].reader.start(now);
        self.tell(index, start);
        self.add_streams(index);
        let tells = TELL_EVERY.mul_f64(self.random.random_range(0.1..1.0));
        self.queue.push(now + tells, Happening::Tells(index));
        let (near, all) = (self.cast.near_lookup_ends, self.cast.lookup_ends);
        self.queue.push(now + near, Happening::Tell(index, Event::Lookup(LookupPhase::Wide)));
        self.queue.push(now + all, Happening::Tell(index, Event::Lookup(LookupPhase::Finished)));
    }

    fn strike(&mut self, index: usize) {
        let now = self.queue.now();
        match self.nodes[index].spec.fate {
            Fate::Dies { .. } => {
                self.die(index);
                for other in 0..self.nodes.len() {
                    if other != index {
                        let at = now + self.half_trip(index, other);
                        self.queue.push(at, Happening::Disconnected { at: other, from: index });
                    }
                }
            }
            Fate::FallsSilent { .. } => self.die(index),
            Fate::Slows { to_bytes_per_second, .. } => {
                self.nodes[index].uplink.bytes_per_second = to_bytes_per_second;
            }
            Fate::Steady | Fate::Lies { .. } => {}
        }
    }

    fn die(&mut self, index: usize) {
        let now = self.queue.now();
        let node = &mut self.nodes[index];
        node.alive = false;
        node.uplink.fall_silent();
        if !node.spec.holds && node.outcome.is_none() {
            (node.outcome, node.ended_at) = (Some(Outcome::Died), now);
        }
        self.origin.forget(index);
    }

    fn sample(&mut self) {
        let all = self.nodes.iter().filter(|node| !node.spec.holds && node.alive);
        let shares: Vec<f64> =
            all.map(|node| node.present.len() as f64 / node.present.count().max(1) as f64).collect();
        let count = shares.len().max(1) as f64;
        self.progress.push(Progress {
            seconds: self.queue.now().as_secs_f64(),
            least: shares.iter().copied().fold(1.0, f64::min),
            mean: shares.iter().sum::<f64>() / count,
            most: shares.iter().copied().fold(0.0, f64::max),
        });
    }
}
