//! Who may send how much to peers: rates for all of them, for those of the LAN and for the public ones, and an equal
//! share for each peer that is being served.
//!
//! Only the bytes of bodies are counted. What clients of this machine read, and what is fetched for them, never comes
//! here. While one of them waits for a blob, public peers have half of their rate: the acknowledgements and requests of
//! the fetch go out on the same line. Peers of the LAN keep theirs, because what one node of a site passes on is what
//! the others need not fetch over that line.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use p2p_cache_discovery::{PeerId, Scope};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::fair_queue::{FairQueue, Ticket};
use super::limits::{MAX_STREAMS, PACING_PORTION};
use super::pace::BytePacer;

/// What public peers have of their rate while somebody on this machine waits: one part in so many.
const YIELDING_DIVISOR: u64 = 2;

/// Whether somebody on this machine waits for a blob that is being fetched.
pub type OwnTraffic = Arc<dyn Fn() -> bool + Send + Sync>;

/// Bytes of bodies per second; `None` for no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UploadRates {
    /// To all peers together.
    pub total: Option<u64>,
    /// To peers of the LAN, within the total.
    pub lan: Option<u64>,
    /// To public peers, within the total.
    pub public: Option<u64>,
}

impl UploadRates {
    /// What peers of a scope can have together at the most.
    pub(super) fn of(&self, scope: Scope) -> Option<u64> {
        let own = match scope {
            Scope::Lan => self.lan,
            Scope::Public => self.public,
        };
        [self.total, own].into_iter().flatten().min()
    }
}

/// Hands the upload rate out in chunks.
pub(super) struct Uplink {
    /// Replaced as a whole when the owner sets other rates.
    pacers: RwLock<Arc<Pacers>>,
    own: OwnTraffic,
    began: Instant,
    state: Mutex<State>,
}

struct Pacers {
    total: BytePacer,
    lan: BytePacer,
    public: BytePacer,
    /// Taken from by public peers while they have to yield.
    yielding: BytePacer,
    rates: UploadRates,
}

struct State {
    queue: FairQueue<PeerId, Scope>,
    granted: HashMap<Ticket, oneshot::Sender<()>>,
}

/// A place in the queue; given up when dropped.
struct Place<'u> {
    uplink: &'u Uplink,
    peer: PeerId,
    ticket: Ticket,
    granted: oneshot::Receiver<()>,
}

impl Pacers {
    fn new(rates: UploadRates) -> Self {
        let [total, lan, public] = [rates.total, rates.lan, rates.public].map(BytePacer::new);
        let of_public = rates.of(Scope::Public);
        let chunk = BytePacer::new(of_public).chunk_bytes();
        let yielding = BytePacer::with_chunk(of_public.map(|rate| rate / YIELDING_DIVISOR), chunk);
        Self { total, lan, public, yielding, rates }
    }

    fn chunk_bytes(&self, scope: Scope) -> usize {
        let of_scope = match scope {
            Scope::Lan => self.lan.chunk_bytes(),
            Scope::Public => self.public.chunk_bytes(),
        };
        of_scope.min(self.total.chunk_bytes())
    }

    /// Takes from all rates that a scope is under, or from none and says how long that one takes that has too little.
    fn take(&self, scope: Scope, yields: bool, bytes: u64) -> Result<(), Duration> {
        let mut taken: Vec<&BytePacer> = Vec::with_capacity(3);
        for pacer in self.over(scope, yields) {
            match pacer.try_take(bytes) {
                Ok(()) => taken.push(pacer),
                Err(wait) => {
                    taken.into_iter().for_each(|pacer| pacer.give_back(bytes));
                    return Err(wait);
                }
            }
        }
        Ok(())
    }

    fn over(&self, scope: Scope, yields: bool) -> impl Iterator<Item = &BytePacer> {
        let of_scope = match scope {
            Scope::Lan => &self.lan,
            Scope::Public => &self.public,
        };
        yields.then_some(&self.yielding).into_iter().chain([of_scope, &self.total])
    }
}

impl Uplink {
    pub(super) fn new(rates: UploadRates, own: OwnTraffic) -> Self {
        let queue = FairQueue::new(MAX_STREAMS);
        Self {
            pacers: RwLock::new(Arc::new(Pacers::new(rates))),
            own,
            began: Instant::now(),
            state: Mutex::new(State { queue, granted: HashMap::new() }),
        }
    }

    /// Other rates from now on, for bodies that are under way too. A chunk that waits already may be larger than the new
    /// ones; it goes out as it is.
    pub(super) fn set_rates(&self, rates: UploadRates) {
        let mut pacers = self.pacers.write().unwrap_or_else(PoisonError::into_inner);
        if pacers.rates != rates {
            *pacers = Arc::new(Pacers::new(rates));
        }
    }

    fn pacers(&self) -> Arc<Pacers> {
        Arc::clone(&self.pacers.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The most that may be asked for at once by a peer of this scope.
    pub(super) fn chunk_bytes(&self, scope: Scope) -> usize {
        self.pacers().chunk_bytes(scope)
    }

    /// Waits until `bytes` (at most [`Uplink::chunk_bytes`]) may be sent to `peer`. Peers take turns; dropping the future
    /// gives the turn up.
    pub(super) async fn acquire(&self, peer: PeerId, scope: Scope, bytes: usize) {
        if self.pacers().rates.of(scope).is_none() {
            return;
        }
        let mut place = loop {
            match self.join(peer, scope, bytes as u64) {
                Some(place) => break place,
                // Out of reach: a stream waits for one chunk at a time.
                None => sleep(PACING_PORTION).await,
            }
        };
        loop {
            let wait = self.dispatch();
            tokio::select! {
                biased;
                _ = &mut place.granted => return,
                () = sleep(wait) => {}
            }
        }
    }

    fn join(&self, peer: PeerId, scope: Scope, bytes: u64) -> Option<Place<'_>> {
        let quantum = self.chunk_bytes(scope) as u64;
        let mut state = self.lock();
        let ticket = state.queue.push(self.began.elapsed(), peer, scope, bytes, quantum).ok()?;
        let (sender, granted) = oneshot::channel();
        state.granted.insert(ticket, sender);
        Some(Place { uplink: self, peer, ticket, granted })
    }

    /// Lets all those send who may, and says when it may be worth another look. Everybody who waits calls it in time, so
    /// that nobody needs to wait for a task of its own.
    fn dispatch(&self) -> Duration {
        let pacers = self.pacers();
        let yields = |scope| scope == Scope::Public && (self.own)();
        let mut state = self.lock();
        let mut wait = PACING_PORTION;
        let State { queue, granted } = &mut *state;
        while let Some(turn) =
            queue.pop(self.began.elapsed(), |scope, bytes| match pacers.take(scope, yields(scope), bytes) {
                Ok(()) => true,
                Err(needed) => {
                    wait = wait.min(needed);
                    false
                }
            })
        {
            let sent = granted.remove(&turn.ticket).is_some_and(|granted| granted.send(()).is_ok());
            if !sent {
                pacers.over(turn.class, yields(turn.class)).for_each(|pacer| pacer.give_back(turn.bytes));
            }
        }
        wait
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut state = self.uplink.lock();
        if state.granted.remove(&self.ticket).is_some() {
            state.queue.cancel(self.peer, self.ticket);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use super::*;
    use crate::peers::testing::peer;

    const SECONDS: u64 = 10;

    fn idle() -> OwnTraffic {
        Arc::new(|| false)
    }

    /// Bytes that each of the peers got in [`SECONDS`], each with a number of streams that always have more to send.
    async fn sent(uplink: &Arc<Uplink>, peers: &[(u8, Scope, usize)]) -> Vec<u64> {
        let counters: Vec<_> = peers.iter().map(|_| Arc::new(AtomicU64::new(0))).collect();
        let mut streams = tokio::task::JoinSet::new();
        for ((seed, scope, count), counter) in peers.iter().zip(&counters) {
            for _ in 0..*count {
                let (uplink, counter, peer, scope) = (uplink.clone(), counter.clone(), peer(*seed), *scope);
                streams.spawn(async move {
                    loop {
                        let chunk = uplink.chunk_bytes(scope);
                        uplink.acquire(peer, scope, chunk).await;
                        counter.fetch_add(chunk as u64, Ordering::Relaxed);
                        if uplink.pacers().rates.of(scope).is_none() {
                            // What no limit slows down is slowed down by its line.
                            sleep(Duration::from_millis(1)).await;
                        }
                    }
                });
            }
        }
        sleep(Duration::from_secs(SECONDS)).await;
        streams.shutdown().await;
        counters.iter().map(|counter| counter.load(Ordering::Relaxed)).collect()
    }

    fn assert_rate(bytes: u64, per_second: u64) {
        let ratio = bytes as f64 / (per_second * SECONDS) as f64;
        assert!((0.95..=1.05).contains(&ratio), "{bytes} bytes in {SECONDS} s at {per_second} B/s: {ratio}");
    }

    #[tokio::test(start_paused = true)]
    async fn every_rate_is_kept_within_5_percent_over_10_seconds() {
        for rate in [50_000, 1_000_000, 12_500_000, 125_000_000] {
            let total =
                Arc::new(Uplink::new(UploadRates { total: Some(rate), ..Default::default() }, idle()));
            let got = sent(&total, &[(2, Scope::Lan, 3), (3, Scope::Public, 1)]).await;
            assert_rate(got.iter().sum(), rate);
            let rates = UploadRates { lan: Some(rate), public: Some(rate / 2), total: None };
            let scopes = Arc::new(Uplink::new(rates, idle()));
            let got = sent(&scopes, &[(2, Scope::Lan, 2), (3, Scope::Public, 2)]).await;
            assert_rate(got[0], rate);
            assert_rate(got[1], rate / 2);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_with_many_streams_gets_no_more_than_one_with_one() {
        for rate in [200_000, 1_000_000, 20_000_000] {
            let uplink =
                Arc::new(Uplink::new(UploadRates { total: Some(rate), ..Default::default() }, idle()));
            let got = sent(&uplink, &[(2, Scope::Lan, 1), (3, Scope::Lan, 8), (4, Scope::Public, 4)]).await;
            for bytes in &got {
                assert_rate(*bytes, rate / 3);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_lan_is_unlimited_while_public_peers_are_capped() {
        let rates = UploadRates { public: Some(1_000_000), ..Default::default() };
        let uplink = Arc::new(Uplink::new(rates, idle()));
        let got = sent(&uplink, &[(2, Scope::Lan, 1), (3, Scope::Public, 4)]).await;
        assert_rate(got[1], 1_000_000);
        assert!(got[0] > 400_000_000, "{got:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_capped_scope_leaves_of_the_total_the_other_gets() {
        let rates = UploadRates { total: Some(5_000_000), public: Some(1_000_000), lan: None };
        let uplink = Arc::new(Uplink::new(rates, idle()));
        let got = sent(&uplink, &[(2, Scope::Lan, 1), (3, Scope::Public, 8)]).await;
        assert_rate(got[1], 1_000_000);
        assert_rate(got[0], 4_000_000);
    }

    #[tokio::test(start_paused = true)]
    async fn public_peers_have_half_of_their_rate_while_somebody_here_waits() {
        let waits = Arc::new(AtomicBool::new(true));
        let own: OwnTraffic = {
            let waits = waits.clone();
            Arc::new(move || waits.load(Ordering::Relaxed))
        };
        let rates = UploadRates { public: Some(2_000_000), lan: Some(2_000_000), total: None };
        let uplink = Arc::new(Uplink::new(rates, own));
        let peers = [(2, Scope::Lan, 1), (3, Scope::Public, 2)];
        let got = sent(&uplink, &peers).await;
        assert_rate(got[0], 2_000_000);
        assert_rate(got[1], 1_000_000);
        waits.store(false, Ordering::Relaxed);
        assert_rate(sent(&uplink, &peers).await[1], 2_000_000);
    }

    #[tokio::test(start_paused = true)]
    async fn another_rate_holds_at_once_for_those_who_send_already() {
        let rates = |total| UploadRates { total, ..Default::default() };
        for (before, after) in
            [(Some(100_000), Some(4_000_000)), (Some(8_000_000), Some(200_000)), (None, Some(1_000_000))]
        {
            let uplink = Arc::new(Uplink::new(rates(before), idle()));
            let change = {
                let uplink = uplink.clone();
                async move {
                    sleep(Duration::from_millis(500)).await;
                    uplink.set_rates(rates(after));
                }
            };
            let peers = [(2, Scope::Lan, 2), (3, Scope::Public, 1)];
            let (got, ()) = tokio::join!(sent(&uplink, &peers), change);
            let first = before.unwrap_or(0) / 2;
            let expected = first + after.unwrap_or(0) * (SECONDS * 1000 - 500) / 1000;
            let all = got.iter().sum::<u64>();
            if before.is_some() {
                // What the faster rate lets through at once, and what waited when the rate changed.
                assert!(all.abs_diff(expected) < 600_000, "{before:?} then {after:?}: {all} of {expected}");
            }
            assert_rate(sent(&uplink, &peers).await.iter().sum(), after.unwrap_or(0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_give_up_leave_no_trace_and_hold_nobody_up() {
        let uplink = Uplink::new(UploadRates { total: Some(100_000), ..Default::default() }, idle());
        let chunk = uplink.chunk_bytes(Scope::Lan);
        for seed in 2..50 {
            let wanted = uplink.acquire(peer(seed), Scope::Lan, chunk);
            let _ = tokio::time::timeout(Duration::from_micros(10), wanted).await;
        }
        {
            let state = uplink.lock();
            assert_eq!((state.queue.waiting(), state.granted.len()), (0, 0));
        }
        let before = Instant::now();
        uplink.acquire(peer(2), Scope::Lan, chunk).await;
        assert!(before.elapsed() < Duration::from_millis(100), "{:?}", before.elapsed());
    }
}
