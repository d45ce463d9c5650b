//! Whom to stay connected with, and when to dial again. Pure: time and chance are arguments.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use libp2p::{Multiaddr, PeerId};

use crate::scope::split_peer;

/// Pause before the first dial after a loss.
pub(crate) const MIN_BACKOFF: Duration = Duration::from_secs(1);
/// Longest pause between two dials of one target.
pub(crate) const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// A connection that lasted this long counts as good: the pauses begin again from the shortest.
const GOOD_CONNECTION: Duration = Duration::from_secs(30);
/// A dial without any outcome counts as failed after this.
const STUCK_DIAL: Duration = Duration::from_secs(30);
/// Peers of the local network that are kept connected; those met later are served but not redialled.
pub(crate) const MAX_LAN_TARGETS: usize = 256;

/// Whom to dial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Whoever (or the named peer if it) answers at an address of the configuration.
    Static { address: Multiaddr, peer: Option<PeerId> },
    /// A peer of the local network, at the addresses of the book.
    Lan(PeerId),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting(Instant),
    Dialing(Instant),
    Connected {
        since: Instant,
        /// When the next dial was due, if it was somebody else's dial that connected.
        due: Option<Instant>,
    },
    /// Never again: it is we ourselves.
    Never,
}

#[derive(Debug)]
struct Entry {
    target: Target,
    /// The peer that is or was last behind the target.
    peer: Option<PeerId>,
    state: State,
    failures: u32,
}

/// Names an entry.
pub(crate) type TargetId = u64;

/// A target to dial now.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) id: TargetId,
    pub(crate) target: Target,
    /// Dials of it that failed since it was last well connected.
    pub(crate) failures: u32,
}

/// The targets and their timers.
#[derive(Debug, Default)]
pub(crate) struct Redial {
    entries: BTreeMap<TargetId, Entry>,
    next_id: TargetId,
}

impl Redial {
    /// Adds an address of the configuration; it is due at once.
    pub(crate) fn add_static(&mut self, address: Multiaddr, now: Instant) {
        let (_, peer) = split_peer(address.clone());
        self.insert(Target::Static { address, peer }, peer, State::Waiting(now));
    }

    /// Keeps these addresses of the configuration and no others; a new one is due at once.
    pub(crate) fn set_static(&mut self, addresses: &[Multiaddr], now: Instant) {
        self.entries.retain(|_, entry| match &entry.target {
            Target::Static { address, .. } => addresses.contains(address),
            Target::Lan(_) => true,
        });
        for address in addresses {
            let known =
                |entry: &Entry| matches!(&entry.target, Target::Static { address: a, .. } if a == address);
            if !self.entries.values().any(known) {
                self.add_static(address.clone(), now);
            }
        }
    }

    /// Adds a peer of the local network, due at `at` or connected since `connected`. False when it is a target
    /// already or the bound is reached.
    pub(crate) fn add_lan(&mut self, peer: PeerId, at: Instant, connected: bool) -> bool {
        let lan = |entry: &Entry| matches!(entry.target, Target::Lan(_));
        if self.entries.values().any(|entry| entry.target == Target::Lan(peer))
            || self.entries.values().filter(|entry| lan(entry)).count() >= MAX_LAN_TARGETS
        {
            return false;
        }
        let state = if connected { State::Connected { since: at, due: None } } else { State::Waiting(at) };
        self.insert(Target::Lan(peer), Some(peer), state);
        true
    }

    /// Forgets a peer of the local network.
    pub(crate) fn remove_lan(&mut self, peer: PeerId) {
        self.entries.retain(|_, entry| entry.target != Target::Lan(peer));
    }

    /// Forgets the peers of the local network that are not connected.
    pub(crate) fn remove_absent_lan(&mut self) {
        self.entries.retain(|_, entry| {
            !matches!(entry.target, Target::Lan(_)) || matches!(entry.state, State::Connected { .. })
        });
    }

    /// The targets to dial now; each counts as being dialled until an outcome is told.
    pub(crate) fn due(&mut self, now: Instant, jitter: &mut impl FnMut() -> f64) -> Vec<Due> {
        let mut due = Vec::new();
        for (id, entry) in &mut self.entries {
            match entry.state {
                State::Waiting(at) if at <= now => {
                    entry.state = State::Dialing(now);
                    due.push(Due { id: *id, target: entry.target.clone(), failures: entry.failures });
                }
                State::Dialing(since) if since + STUCK_DIAL <= now => back_off(entry, now, jitter()),
                _ => {}
            }
        }
        due
    }

    /// A dial of a target ended in a connection with this peer.
    pub(crate) fn on_answer(&mut self, id: TargetId, peer: PeerId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.peer = Some(peer);
            entry.state = State::Connected { since: now, due: None };
        }
    }

    /// A dial of a target failed.
    pub(crate) fn on_failure(&mut self, id: TargetId, now: Instant, jitter: f64) {
        if let Some(entry) = self.entries.get_mut(&id)
            && matches!(entry.state, State::Dialing(_))
        {
            back_off(entry, now, jitter);
        }
    }

    /// All addresses of a peer failed.
    pub(crate) fn on_unreachable(&mut self, peer: PeerId, now: Instant, jitter: f64) {
        for entry in self.entries.values_mut() {
            if entry.target == Target::Lan(peer) && matches!(entry.state, State::Dialing(_)) {
                back_off(entry, now, jitter);
            }
        }
    }

    /// The target is we ourselves.
    pub(crate) fn on_self(&mut self, id: TargetId) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.state = State::Never;
        }
    }

    /// A peer is connected, whoever dialled.
    pub(crate) fn on_connected(&mut self, peer: PeerId, now: Instant) {
        for entry in self.entries.values_mut().filter(|entry| entry.peer == Some(peer)) {
            match entry.state {
                State::Waiting(at) => entry.state = State::Connected { since: now, due: Some(at) },
                State::Dialing(_) => entry.state = State::Connected { since: now, due: None },
                State::Connected { .. } | State::Never => {}
            }
        }
    }

    /// The last connection with a peer is gone.
    pub(crate) fn on_disconnected(&mut self, peer: PeerId, now: Instant, jitter: f64) {
        for entry in self.entries.values_mut().filter(|entry| entry.peer == Some(peer)) {
            let State::Connected { since, due } = entry.state else { continue };
            let good = since + GOOD_CONNECTION <= now;
            match due {
                // The directory dials as often as its queries want: that must not lengthen our pauses.
                Some(at) if !good => entry.state = State::Waiting(at.max(now)),
                _ => {
                    if good {
                        entry.failures = 0;
                    }
                    back_off(entry, now, jitter);
                }
            }
        }
    }

    /// When something becomes due next.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.entries
            .values()
            .filter_map(|entry| match entry.state {
                State::Waiting(at) => Some(at),
                State::Dialing(since) => Some(since + STUCK_DIAL),
                State::Connected { .. } | State::Never => None,
            })
            .min()
    }

    fn insert(&mut self, target: Target, peer: Option<PeerId>, state: State) {
        self.entries.insert(self.next_id, Entry { target, peer, state, failures: 0 });
        self.next_id += 1;
    }
}

/// Waits 1 s, 2 s, 4 s ... 60 s, each shortened by up to half so that many nodes do not come back at once.
/// `jitter` is in 0..1.
fn back_off(entry: &mut Entry, now: Instant, jitter: f64) {
    let pause = MIN_BACKOFF.saturating_mul(1 << entry.failures.min(6)).min(MAX_BACKOFF);
    entry.failures = entry.failures.saturating_add(1);
    entry.state = State::Waiting(now + pause.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn one_static() -> (Redial, Instant, TargetId) {
        let (mut redial, now) = (Redial::default(), Instant::now());
        redial.add_static("/ip4/127.0.0.1/tcp/1".parse().unwrap(), now);
        let id = redial.due(now, &mut || 0.0)[0].id;
        (redial, now, id)
    }

    #[test]
    fn a_peer_that_does_not_answer_is_dialled_ever_more_rarely() {
        let (mut redial, mut now, id) = one_static();
        let mut pauses = Vec::new();
        for _ in 0..9 {
            redial.on_failure(id, now, 0.0);
            let next = redial.deadline().unwrap();
            assert!(redial.due(next - Duration::from_millis(1), &mut || 0.0).is_empty());
            pauses.push((next - now).as_secs());
            now = next;
            assert_eq!(redial.due(now, &mut || 0.0).len(), 1);
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn jitter_shortens_a_pause_by_half_at_most() {
        let (mut redial, now, id) = one_static();
        redial.on_failure(id, now, 1.0);
        assert_eq!(redial.deadline().unwrap() - now, MIN_BACKOFF / 2);
    }

    #[test]
    fn a_good_connection_resets_the_pauses_and_a_flapping_one_does_not() {
        let (mut redial, mut now, id) = one_static();
        let peer = PeerId::random();
        for expected in [1, 2, 4] {
            redial.on_answer(id, peer, now);
            redial.on_disconnected(peer, now + secs(1), 0.0);
            assert_eq!(redial.deadline().unwrap() - now, secs(1 + expected));
            now = redial.deadline().unwrap();
            redial.due(now, &mut || 0.0);
        }
        redial.on_answer(id, peer, now);
        redial.on_disconnected(peer, now + secs(100), 0.0);
        assert_eq!(redial.deadline().unwrap() - now, secs(101));
    }

    #[test]
    fn nobody_is_dialled_while_connected() {
        let (mut redial, now, id) = one_static();
        redial.on_answer(id, PeerId::random(), now);
        assert_eq!(redial.deadline(), None);
        assert!(redial.due(now + secs(10_000), &mut || 0.0).is_empty());
    }

    #[test]
    fn a_connection_from_the_other_side_counts_too() {
        let (mut redial, now) = (Redial::default(), Instant::now());
        let peer = PeerId::random();
        assert!(redial.add_lan(peer, now + secs(1), false));
        assert!(!redial.add_lan(peer, now, false));
        redial.on_connected(peer, now);
        assert!(redial.due(now + secs(2), &mut || 0.0).is_empty());
        redial.on_disconnected(peer, now + secs(2), 0.0);
        assert_eq!(redial.deadline(), Some(now + secs(2)));
        redial.remove_lan(peer);
        assert_eq!(redial.deadline(), None);
    }

    #[test]
    fn flapping_connections_of_somebody_elses_dials_leave_the_pause_as_it_is() {
        let (mut redial, now, id) = one_static();
        let peer = PeerId::random();
        redial.on_answer(id, peer, now);
        redial.on_disconnected(peer, now, 0.0);
        for step in 1..10 {
            let at = now + Duration::from_millis(step * 10);
            redial.on_connected(peer, at);
            assert_eq!(redial.deadline(), None);
            redial.on_disconnected(peer, at, 0.0);
            assert_eq!(redial.deadline(), Some(now + MIN_BACKOFF));
        }
        // One that held begins the pauses anew.
        redial.on_connected(peer, now);
        redial.on_disconnected(peer, now + GOOD_CONNECTION, 0.0);
        assert_eq!(redial.deadline(), Some(now + GOOD_CONNECTION + MIN_BACKOFF));
    }

    #[test]
    fn ourselves_we_dial_once() {
        let (mut redial, now, id) = one_static();
        redial.on_self(id);
        assert!(redial.due(now + secs(10_000), &mut || 0.0).is_empty());
    }

    #[test]
    fn a_dial_without_outcome_is_tried_again() {
        let (mut redial, now, _) = one_static();
        redial.due(now + STUCK_DIAL, &mut || 0.0);
        assert_eq!(redial.due(now + STUCK_DIAL + MAX_BACKOFF, &mut || 0.0).len(), 1);
    }

    #[test]
    fn the_number_of_local_peers_is_bounded() {
        let (mut redial, now) = (Redial::default(), Instant::now());
        let added = (0..2 * MAX_LAN_TARGETS).filter(|_| redial.add_lan(PeerId::random(), now, false));
        assert_eq!(added.count(), MAX_LAN_TARGETS);
    }

    #[test]
    fn other_static_peers_replace_those_that_are_not_among_them() {
        let now = Instant::now();
        let address = |port: u16| -> Multiaddr { format!("/ip4/192.0.2.1/tcp/{port}").parse().unwrap() };
        let mut redial = Redial::default();
        redial.set_static(&[address(1), address(2)], now);
        let first: Vec<_> = redial.due(now, &mut || 0.0).into_iter().map(|due| due.id).collect();
        redial.on_answer(first[0], PeerId::random(), now);
        redial.add_lan(PeerId::random(), now, true);

        redial.set_static(&[address(1), address(3), address(3)], now);
        let due = redial.due(now, &mut || 0.0);
        assert_eq!(due.len(), 1, "the one that is connected is left alone: {due:?}");
        assert_eq!(due[0].target, Target::Static { address: address(3), peer: None });
        // The outcome of a dial of one that is not wanted any more changes nothing.
        redial.on_failure(first[1], now, 0.0);
        assert_eq!(redial.entries.len(), 3);
    }
}
