//! Deficit round robin: who may send next. Pure; the caller brings the time and says what is affordable.
//!
//! Each peer is a flow, and the flows of a class stand in a ring. The one in front gets a quantum, sends while that lasts,
//! and goes to the back, so that each sends the same bytes a round, whatever number of streams it opens and however large
//! its pieces are. When nothing is affordable the one in front keeps its turn. A flow with nothing to send is passed over.
//! It keeps its place, and the rest of its quantum, for a short time: a peer with one stream has always just sent its
//! piece when the next is handed out. Of two classes the one is served whose flows have had less so far; one that cannot be
//! afforded does not hold up the other.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

/// A flow with nothing to send keeps its place for this long.
pub(super) const LINGER: Duration = Duration::from_millis(50);

/// Names one piece that waits.
pub(super) type Ticket = u64;

/// A piece whose turn has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn<C> {
    pub(super) ticket: Ticket,
    pub(super) class: C,
    pub(super) bytes: u64,
}

/// The queue is at its bound.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// Pieces of flows `K`, each of a class `C` that says whether it is affordable now.
#[derive(Debug)]
pub(super) struct FairQueue<K, C> {
    classes: Vec<Class<K, C>>,
    waiting: usize,
    max_waiting: usize,
    next_ticket: Ticket,
}

#[derive(Debug)]
struct Class<K, C> {
    class: C,
    flows: HashMap<K, Flow>,
    ring: VecDeque<K>,
    waiting: usize,
    /// Bytes that each of its flows has had, on the average.
    served_bytes: u64,
}

#[derive(Debug)]
struct Flow {
    pieces: VecDeque<(Ticket, u64)>,
    quantum_bytes: u64,
    deficit_bytes: u64,
    /// It has had the quantum of this turn.
    begun: bool,
    /// When it had something to send last.
    busy_at: Duration,
}

impl<K: Copy + Eq + Hash, C: Copy + Eq> FairQueue<K, C> {
    /// Holds at most `max_waiting` pieces, and flows of each class.
    pub(super) fn new(max_waiting: usize) -> Self {
        Self { classes: Vec::new(), waiting: 0, max_waiting, next_ticket: 0 }
    }

    /// Adds a piece of a flow, behind the others of the same. No piece is larger than the quantum, and flows with the
    /// same quantum get the same.
    pub(super) fn push(
        &mut self,
        now: Duration,
        key: K,
        class: C,
        bytes: u64,
        quantum_bytes: u64,
    ) -> Result<Ticket, Full> {
        if self.waiting >= self.max_waiting {
            return Err(Full);
        }
        // A class that had nothing to send has saved up nothing.
        let least =
            self.classes.iter().filter(|class| class.waiting > 0).map(|class| class.served_bytes).min();
        let max_flows = self.max_waiting;
        let place = self.classes.iter().position(|known| known.class == class).unwrap_or_else(|| {
            self.classes.push(Class::new(class));
            self.classes.len() - 1
        });
        let Some(known) = self.classes.get_mut(place) else { return Err(Full) };
        if known.waiting == 0 {
            known.served_bytes = known.served_bytes.max(least.unwrap_or(0));
        }
        known.push(now, key, (self.next_ticket, bytes.min(quantum_bytes)), quantum_bytes, max_flows)?;
        self.waiting += 1;
        self.next_ticket += 1;
        Ok(self.next_ticket - 1)
    }

    /// Takes a piece out whose owner does not wait any more. False when it is not there.
    pub(super) fn cancel(&mut self, key: K, ticket: Ticket) -> bool {
        let found = self.classes.iter_mut().any(|class| class.cancel(key, ticket));
        self.waiting -= usize::from(found);
        found
    }

    /// The next piece, if any is affordable. `afford` is asked at most once for each class, about the piece whose turn it
    /// is, and has paid for it when it says true.
    pub(super) fn pop(&mut self, now: Duration, mut afford: impl FnMut(C, u64) -> bool) -> Option<Turn<C>> {
        self.classes.sort_by_key(|class| class.served_bytes);
        for class in self.classes.iter_mut().filter(|class| class.waiting > 0) {
            let Some(bytes) = class.turn(now) else { continue };
            if afford(class.class, bytes) {
                self.waiting -= 1;
                return class.send(now);
            }
        }
        None
    }

    /// Pieces that wait.
    #[cfg(test)]
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }
}

impl<K: Copy + Eq + Hash, C: Copy> Class<K, C> {
    fn new(class: C) -> Self {
        Self { class, flows: HashMap::new(), ring: VecDeque::new(), waiting: 0, served_bytes: 0 }
    }

    fn push(
        &mut self,
        now: Duration,
        key: K,
        piece: (Ticket, u64),
        quantum_bytes: u64,
        max_flows: usize,
    ) -> Result<(), Full> {
        match self.flows.get_mut(&key) {
            Some(flow) => {
                // It is in the middle of its turn, and goes on with it.
                if flow.pieces.is_empty() && flow.deficit_bytes >= piece.1 && self.ring.front() != Some(&key)
                {
                    flow.begun = true;
                    self.ring.retain(|other| *other != key);
                    self.ring.push_front(key);
                }
                // Rates may change, and quanta with them; what waits already keeps the one that it fits into.
                let waiting = if flow.pieces.is_empty() { 0 } else { flow.quantum_bytes };
                flow.quantum_bytes = quantum_bytes.max(waiting);
                flow.pieces.push_back(piece);
                flow.busy_at = now;
            }
            None => {
                self.make_room(now, max_flows)?;
                let pieces = VecDeque::from([piece]);
                let flow = Flow { pieces, quantum_bytes, deficit_bytes: 0, begun: false, busy_at: now };
                self.flows.insert(key, flow);
                self.ring.push_back(key);
            }
        }
        self.waiting += 1;
        Ok(())
    }

    fn cancel(&mut self, key: K, ticket: Ticket) -> bool {
        let Some(flow) = self.flows.get_mut(&key) else { return false };
        let before = flow.pieces.len();
        flow.pieces.retain(|(other, _)| *other != ticket);
        let found = flow.pieces.len() < before;
        self.waiting -= usize::from(found);
        found
    }

    /// Turns the ring to the flow whose turn it is, and says how large its piece is.
    fn turn(&mut self, now: Duration) -> Option<u64> {
        // Once around to pass over those with nothing to send or no deficit left, and once more to one with a quantum.
        for _ in 0..=2 * self.ring.len() {
            let key = *self.ring.front()?;
            let Some(flow) = self.flows.get_mut(&key) else {
                self.ring.pop_front();
                continue;
            };
            match flow.pieces.front() {
                Some((_, bytes)) => {
                    if !flow.begun {
                        flow.begun = true;
                        flow.deficit_bytes = flow.deficit_bytes.saturating_add(flow.quantum_bytes);
                    }
                    if flow.deficit_bytes >= *bytes {
                        return Some(*bytes);
                    }
                }
                None if now >= flow.busy_at + LINGER => {
                    self.flows.remove(&key);
                    self.ring.pop_front();
                    continue;
                }
                None => flow.deficit_bytes = flow.deficit_bytes.min(flow.quantum_bytes),
            }
            flow.begun = false;
            self.ring.rotate_left(1);
        }
        None
    }

    /// Takes out the piece of the flow in front.
    fn send(&mut self, now: Duration) -> Option<Turn<C>> {
        let flow = self.flows.get_mut(self.ring.front()?)?;
        let (ticket, bytes) = flow.pieces.pop_front()?;
        flow.deficit_bytes = flow.deficit_bytes.saturating_sub(bytes);
        flow.busy_at = now;
        self.waiting -= 1;
        self.served_bytes += bytes / self.ring.len().max(1) as u64;
        Some(Turn { ticket, class: self.class, bytes })
    }

    /// Lets go of flows that only linger, when there are as many flows as there may be.
    fn make_room(&mut self, now: Duration, max_flows: usize) -> Result<(), Full> {
        if self.flows.len() < max_flows {
            return Ok(());
        }
        self.flows.retain(|_, flow| !flow.pieces.is_empty() || now < flow.busy_at + LINGER);
        if self.flows.len() >= max_flows {
            self.flows.retain(|_, flow| !flow.pieces.is_empty());
        }
        let flows = &self.flows;
        self.ring.retain(|key| flows.contains_key(key));
        if self.flows.len() < max_flows { Ok(()) } else { Err(Full) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const QUANTUM: u64 = 20_000;
    const TICK: Duration = Duration::from_millis(20);

    /// What each flow got in `ticks` ticks of one quantum each. Flow `n` keeps `streams[n].0` pieces of
    /// `streams[n].1` bytes waiting, each asked for again one tick after it was sent.
    fn shares(streams: &[(usize, u64)], ticks: u32, per_tick: u64) -> Vec<u64> {
        let mut queue = FairQueue::new(1024);
        let mut sent = vec![0; streams.len()];
        let mut again: Vec<usize> = Vec::new();
        for (flow, (count, _)) in streams.iter().enumerate() {
            again.extend(std::iter::repeat_n(flow, *count));
        }
        let mut owners = HashMap::new();
        let mut tokens = 0;
        for tick in 0..ticks {
            let now = TICK * tick;
            for flow in again.drain(..) {
                let ticket = queue.push(now, flow, (), streams[flow].1, QUANTUM).unwrap();
                owners.insert(ticket, flow);
            }
            tokens += per_tick;
            while let Some(turn) = queue.pop(now, |(), bytes| {
                let enough = tokens >= bytes;
                tokens -= if enough { bytes } else { 0 };
                enough
            }) {
                let flow = owners[&turn.ticket];
                sent[flow] += turn.bytes;
                again.push(flow);
            }
            // Work conserving: tokens are left only when nobody could use them.
            assert!(tokens < QUANTUM || queue.waiting() == 0);
        }
        sent
    }

    fn assert_equal(sent: &[u64]) {
        let (least, most) = (sent.iter().min().unwrap(), sent.iter().max().unwrap());
        assert!(most - least <= most / 50 + 2 * QUANTUM, "{sent:?}");
    }

    #[test]
    fn peers_get_the_same_however_many_streams_they_open() {
        assert_equal(&shares(&[(1, QUANTUM), (8, QUANTUM)], 2000, QUANTUM));
        assert_equal(&shares(&[(1, QUANTUM), (4, QUANTUM), (8, QUANTUM), (2, QUANTUM)], 2000, QUANTUM));
        assert_equal(&shares(&[(1, QUANTUM), (8, QUANTUM)], 2000, 2 * QUANTUM));
    }

    #[test]
    fn small_pieces_get_the_same_bytes_as_large_ones() {
        assert_equal(&shares(&[(8, 1_000), (1, QUANTUM)], 2000, QUANTUM / 2));
        assert_equal(&shares(&[(30, 7_000), (3, 19_999), (2, QUANTUM)], 2000, QUANTUM));
    }

    #[test]
    fn peers_of_two_classes_get_the_same_where_both_can_be_afforded() {
        let mut queue = FairQueue::new(64);
        let mut sent = [0_u64; 3];
        let mut owners = HashMap::new();
        // The first is alone in its class.
        let ask = |queue: &mut FairQueue<usize, bool>, owners: &mut HashMap<_, _>, flow: usize| {
            owners.insert(queue.push(Duration::ZERO, flow, flow == 0, QUANTUM, QUANTUM).unwrap(), flow);
        };
        (0..6).for_each(|n| ask(&mut queue, &mut owners, n % 3));
        for _ in 0..3000 {
            let turn = queue.pop(Duration::ZERO, |_, _| true).unwrap();
            let flow = owners[&turn.ticket];
            sent[flow] += turn.bytes;
            ask(&mut queue, &mut owners, flow);
        }
        assert_equal(&sent);
    }

    #[test]
    fn what_one_does_not_want_the_others_get() {
        let sent = shares(&[(1, 500), (4, QUANTUM), (1, QUANTUM)], 1000, 4 * QUANTUM);
        assert_eq!(sent[0], 500_000 / 1000 * 1000, "all that it asked for");
        assert!(sent[2] >= 999 * QUANTUM, "one piece a tick is all that it asks for");
        assert!(sent[1] + sent[2] > 3_900 * QUANTUM, "{sent:?}");
    }

    #[test]
    fn a_class_that_cannot_be_afforded_does_not_hold_up_another() {
        let mut queue = FairQueue::new(16);
        let now = Duration::ZERO;
        for flow in 0..3 {
            queue.push(now, flow, "public", 1000, QUANTUM).unwrap();
        }
        let lan = queue.push(now, 9, "lan", 1000, QUANTUM).unwrap();
        let mut asked = 0;
        let turn = queue.pop(now, |class, _| {
            asked += u32::from(class == "public");
            class == "lan"
        });
        assert_eq!(turn, Some(Turn { ticket: lan, class: "lan", bytes: 1000 }));
        assert!(asked <= 1);
        assert_eq!(queue.pop(now, |_, _| false), None);
        assert_eq!(queue.waiting(), 3);
    }

    #[test]
    fn pieces_and_flows_are_bounded_and_can_be_taken_back() {
        let mut queue = FairQueue::new(4);
        let tickets: Vec<_> =
            (0..4).map(|flow| queue.push(Duration::ZERO, flow, (), 1, QUANTUM).unwrap()).collect();
        assert_eq!(queue.push(Duration::ZERO, 9, (), 1, QUANTUM), Err(Full));
        assert!(queue.cancel(2, tickets[2]) && !queue.cancel(2, tickets[2]));
        // The flow that lingers makes room for one that has something to send.
        queue.push(Duration::ZERO, 9, (), 1, QUANTUM).unwrap();
        while queue.pop(Duration::ZERO, |(), _| true).is_some() {}
        for round in 1..1000 {
            queue.push(TICK * round, round + 100, (), 1, QUANTUM).unwrap();
            queue.pop(TICK * round, |(), _| true).unwrap();
            let class = &queue.classes[0];
            assert!(class.flows.len() <= 4 && class.ring.len() == class.flows.len());
        }
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nobody_waits_for_ever(
            steps in proptest::collection::vec((0..6u8, 1..=QUANTUM, 0..40u64, 0..3u8), 1..200),
        ) {
            let mut queue = FairQueue::new(64);
            let mut now = Duration::ZERO;
            let mut open = HashMap::new();
            for (key, bytes, passed, what) in steps {
                now += Duration::from_millis(passed);
                match what {
                    0 => {
                        if let Some(turn) = queue.pop(now, |(), _| true) {
                            prop_assert!(open.remove(&turn.ticket).is_some());
                        }
                    }
                    _ => {
                        if let Ok(ticket) = queue.push(now, key, (), bytes, QUANTUM) {
                            open.insert(ticket, key);
                        }
                    }
                }
                prop_assert_eq!(queue.waiting(), open.len());
            }
            let left = open.len();
            for _ in 0..left {
                let turn = queue.pop(now, |(), _| true);
                prop_assert!(turn.is_some_and(|turn| open.remove(&turn.ticket).is_some()));
            }
            prop_assert!(queue.pop(now, |(), _| true).is_none());
        }
    }
}
