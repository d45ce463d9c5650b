//! A deadline for something that may wait often and must not wait long.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Measures one wait at a time. A wait begins with the first `poll_expired` after `reset`, so that nothing is paid as
/// long as nothing waits: the timer is made on the first wait and used again on the next.
#[derive(Debug)]
pub(crate) struct Watchdog {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Watchdog {
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, sleep: None, waiting: false }
    }

    /// There was progress: the next wait begins anew.
    pub(crate) fn reset(&mut self) {
        self.waiting = false;
    }

    /// Ready once the current wait has lasted longer than the limit. Call it whenever the watched thing is pending.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = Instant::now() + self.limit;
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(deadline)));
        if !self.waiting {
            self.waiting = true;
            sleep.as_mut().reset(deadline);
        }
        sleep.as_mut().poll(cx)
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test]
    async fn expires_after_the_limit_and_a_reset_begins_a_new_wait() {
        let mut dog = Watchdog::new(Duration::from_millis(20));
        let started = Instant::now();
        poll_fn(|cx| dog.poll_expired(cx)).await;
        assert!(started.elapsed() >= Duration::from_millis(20));

        dog.reset();
        let again = Instant::now();
        poll_fn(|cx| dog.poll_expired(cx)).await;
        assert!(again.elapsed() >= Duration::from_millis(20));
    }
}
