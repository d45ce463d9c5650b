//! The memory of an origin that is dead or slow, so that the next request does not wait for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::error::Blame;

/// Failures in a row, of an origin that does answer, until it counts as dead.
const STRIKES_UNTIL_DEAD: u32 = 3;
/// Characters of an error that are remembered.
const MAX_ERROR_CHARS: usize = 512;

/// One origin's circuit: closed (asked), open (not asked for a while), half open (one request probes it).
#[derive(Debug)]
pub(super) struct Circuit {
    state: Mutex<State>,
    memory: Duration,
}

#[derive(Debug, Default)]
struct State {
    down_until: Option<Instant>,
    probing: bool,
    strikes: u32,
    slow_until: Option<Instant>,
    last_error: Option<String>,
}

/// What the circuit knows, for reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) healthy: bool,
    pub(super) last_error: Option<String>,
    pub(super) retry_in: Option<Duration>,
}

impl Circuit {
    pub(super) fn new(memory: Duration) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), memory })
    }

    // The state is plain data, whole between any two statements: a panic elsewhere does not spoil it.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// May a request go to this origin now? If not: when, and what it failed with.
    pub(super) fn admit(self: &Arc<Self>) -> Result<Pass, (Duration, String)> {
        let mut state = self.state();
        let Some(until) = state.down_until else {
            return Ok(Pass { circuit: Arc::clone(self), probe: false });
        };
        let retry_in = until.saturating_duration_since(Instant::now());
        if state.probing || !retry_in.is_zero() {
            return Err((retry_in, state.last_error.clone().unwrap_or_default()));
        }
        state.probing = true;
        Ok(Pass { circuit: Arc::clone(self), probe: true })
    }

    /// Whether it let another origin overtake it lately: it gets no head start then.
    pub(super) fn is_slow(&self) -> bool {
        self.state().slow_until.is_some_and(|until| Instant::now() < until)
    }

    pub(super) fn report(&self) -> Report {
        let state = self.state();
        Report {
            healthy: state.down_until.is_none(),
            last_error: state.last_error.clone(),
            retry_in: state.down_until.map(|until| until.saturating_duration_since(Instant::now())),
        }
    }

    /// A body of an origin that does answer was bad.
    pub(super) fn body_failed(&self, blame: Blame, error: &str) {
        let mut state = self.state();
        state.last_error = Some(shortened(error));
        if blame != Blame::Answer {
            state.strikes = state.strikes.saturating_add(1);
        }
    }

    /// Another origin answered while this one was still thinking.
    pub(super) fn overtaken(&self) {
        self.state().slow_until = Some(Instant::now() + self.memory);
    }
}

fn shortened(error: &str) -> String {
    error.chars().take(MAX_ERROR_CHARS).collect()
}

/// Leave to send one request. A probe that is dropped without a verdict leaves the place to the next.
#[derive(Debug)]
pub(super) struct Pass {
    circuit: Arc<Circuit>,
    probe: bool,
}

impl Pass {
    /// A probe is one attempt, not several: the origin was dead a moment ago.
    pub(super) fn is_probe(&self) -> bool {
        self.probe
    }

    /// Whether another request has found the origin dead in the meantime.
    pub(super) fn is_revoked(&self) -> bool {
        !self.probe && self.circuit.state().down_until.is_some()
    }

    /// The origin answered; `fast`: before the next one would have been asked.
    pub(super) fn answered(&self, fast: bool) {
        let mut state = self.circuit.state();
        state.down_until = None;
        state.strikes = 0;
        if fast {
            state.slow_until = None;
        }
    }

    /// A request failed for good.
    pub(super) fn failed(&self, blame: Blame, error: &str) {
        let mut state = self.circuit.state();
        state.last_error = Some(shortened(error));
        state.strikes = match blame {
            Blame::Answer => {
                state.down_until = None;
                0
            }
            Blame::Strike => state.strikes.saturating_add(1),
            Blame::Dead => STRIKES_UNTIL_DEAD,
        };
        if state.strikes >= STRIKES_UNTIL_DEAD || (self.probe && blame != Blame::Answer) {
            state.down_until = Some(Instant::now() + self.circuit.memory);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.probe {
            self.circuit.state().probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Duration = Duration::from_secs(10);

    #[tokio::test(start_paused = true)]
    async fn dead_origin_is_skipped_until_one_request_probes_it() {
        let circuit = Circuit::new(MEMORY);
        circuit.admit().unwrap().failed(Blame::Dead, "refused");
        let (retry_in, last_error) = circuit.admit().unwrap_err();
        assert_eq!((retry_in, last_error.as_str()), (MEMORY, "refused"));
        assert!(!circuit.report().healthy);

        tokio::time::advance(MEMORY).await;
        let probe = circuit.admit().unwrap();
        assert!(probe.is_probe());
        assert!(circuit.admit().is_err(), "only one request probes");
        probe.answered(true);
        drop(probe);
        assert!(!circuit.admit().unwrap().is_probe());
        assert!(circuit.report().healthy);
    }

    #[tokio::test(start_paused = true)]
    async fn failed_probe_closes_the_door_again_and_an_abandoned_one_does_not() {
        let circuit = Circuit::new(MEMORY);
        circuit.admit().unwrap().failed(Blame::Dead, "refused");
        tokio::time::advance(MEMORY).await;
        drop(circuit.admit().unwrap());
        let probe = circuit.admit().unwrap();
        assert!(probe.is_probe(), "the abandoned probe left its place");
        probe.failed(Blame::Strike, "status 500");
        drop(probe);
        assert_eq!(circuit.admit().unwrap_err().0, MEMORY);
    }

    #[tokio::test(start_paused = true)]
    async fn server_errors_count_as_dead_only_when_they_go_on() {
        let circuit = Circuit::new(MEMORY);
        for _ in 0..STRIKES_UNTIL_DEAD - 1 {
            circuit.admit().unwrap().failed(Blame::Strike, "status 500");
        }
        circuit.admit().unwrap().answered(true);
        for _ in 0..STRIKES_UNTIL_DEAD - 1 {
            circuit.admit().unwrap().failed(Blame::Strike, "status 500");
        }
        let late = circuit.admit().unwrap();
        circuit.admit().unwrap().failed(Blame::Strike, "status 500");
        assert!(circuit.admit().is_err());
        assert!(late.is_revoked());
    }

    #[tokio::test(start_paused = true)]
    async fn overtaken_origin_is_slow_for_a_while_but_still_asked() {
        let circuit = Circuit::new(MEMORY);
        circuit.overtaken();
        assert!(circuit.is_slow());
        circuit.admit().unwrap().answered(false);
        assert!(circuit.is_slow(), "a late answer does not make it fast");
        tokio::time::advance(MEMORY).await;
        assert!(!circuit.is_slow());
    }
}
