//! Asks several origins for one thing: in order of priority, but not waiting long for a slow one.

use std::future::Future;
use std::time::Duration;

use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::time::{Instant, sleep_until};

/// One that may be asked.
pub(super) struct Runner<F> {
    /// The request; it begins when it is first polled.
    pub(super) run: F,
    /// Whether the next one waits for it. A runner known to be slow gets no head start.
    pub(super) head_start: bool,
}

/// How a race ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Race<T, E> {
    /// Index and answer of the best runner.
    pub(super) winner: Option<(usize, T)>,
    /// Those that failed before the end, in order of priority.
    pub(super) failures: Vec<(usize, E)>,
    /// Those that were still running when a runner that started after them won.
    pub(super) overtaken: Vec<usize>,
}

/// Starts the first runner, and the next one whenever all that run have failed or `hedge_delay` is over.
/// The first success ends the race; of several at the same instant the one of highest priority wins.
pub(super) async fn race<T, E, F>(
    runners: impl IntoIterator<Item = Runner<F>>,
    hedge_delay: Duration,
) -> Race<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let mut waiting = runners.into_iter().enumerate();
    let mut running = FuturesUnordered::new();
    let mut pending = Vec::new();
    let mut failures = Vec::new();
    let mut next_start = Instant::now();
    let mut more = true;
    loop {
        while more && (running.is_empty() || Instant::now() >= next_start) {
            let Some((index, runner)) = waiting.next() else {
                more = false;
                break;
            };
            pending.push(index);
            running.push(runner.run.map(move |result| (index, result)));
            next_start = Instant::now() + if runner.head_start { hedge_delay } else { Duration::ZERO };
        }
        let first = tokio::select! {
            biased;
            done = running.next() => done,
            () = sleep_until(next_start), if more => continue,
        };
        let Some(first) = first else {
            // Nothing runs and nothing is left to start.
            failures.sort_by_key(|(index, _)| *index);
            return Race { winner: None, failures, overtaken: Vec::new() };
        };
        let mut winner: Option<(usize, T)> = None;
        let mut done = Some(first);
        while let Some((index, result)) = done {
            pending.retain(|running| *running != index);
            match result {
                Ok(value) if winner.as_ref().is_none_or(|(best, _)| index < *best) => {
                    winner = Some((index, value))
                }
                Ok(_) => {}
                Err(error) => failures.push((index, error)),
            }
            done = running.next().now_or_never().flatten();
        }
        if let Some((best, value)) = winner {
            pending.retain(|index| *index < best);
            failures.sort_by_key(|(index, _)| *index);
            return Race { winner: Some((best, value)), failures, overtaken: pending };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::future::BoxFuture;

    type Result1 = Result<&'static str, &'static str>;
    const HEDGE: Duration = Duration::from_millis(500);

    fn after(ms: u64, result: Result1) -> Runner<BoxFuture<'static, Result1>> {
        let run = async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            result
        };
        Runner { run: run.boxed(), head_start: true }
    }

    async fn timed(
        runners: Vec<Runner<BoxFuture<'static, Result1>>>,
    ) -> (Race<&'static str, &'static str>, u64) {
        let start = Instant::now();
        let race = race(runners, HEDGE).await;
        (race, start.elapsed().as_millis() as u64)
    }

    #[tokio::test(start_paused = true)]
    async fn quick_first_runner_is_the_only_one_asked() {
        let never = Runner { run: async { panic!("must not start") }.boxed(), head_start: true };
        let (race, ms) = timed(vec![after(100, Ok("a")), never]).await;
        assert_eq!((race.winner, race.overtaken, ms), (Some((0, "a")), vec![], 100));
    }

    #[tokio::test(start_paused = true)]
    async fn failure_starts_the_next_at_once() {
        let (race, ms) = timed(vec![after(50, Err("gone")), after(50, Ok("b"))]).await;
        assert_eq!((race.winner, race.failures, ms), (Some((1, "b")), vec![(0, "gone")], 100));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_first_runner_is_overtaken() {
        let (race, ms) = timed(vec![after(8000, Ok("a")), after(30, Ok("b"))]).await;
        assert_eq!((race.winner, race.overtaken, ms), (Some((1, "b")), vec![0], 530));
    }

    #[tokio::test(start_paused = true)]
    async fn miss_of_the_second_does_not_end_the_wait_for_the_first() {
        let (race, ms) = timed(vec![after(2000, Ok("a")), after(30, Err("miss"))]).await;
        assert_eq!((race.winner, race.failures, ms), (Some((0, "a")), vec![(1, "miss")], 2000));
    }

    #[tokio::test(start_paused = true)]
    async fn higher_priority_wins_when_both_have_answered() {
        let (race, _) = timed(vec![after(530, Ok("a")), after(30, Ok("b"))]).await;
        assert_eq!(race.winner, Some((0, "a")));
        assert!(race.overtaken.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn runner_without_head_start_does_not_delay_the_next() {
        let mut slow = after(8000, Ok("a"));
        slow.head_start = false;
        let (race, ms) = timed(vec![slow, after(30, Ok("b"))]).await;
        assert_eq!((race.winner, ms), (Some((1, "b")), 30));
    }

    #[tokio::test(start_paused = true)]
    async fn all_failures_come_in_order_and_no_runner_is_no_winner() {
        let (race, ms) = timed(vec![after(700, Err("a")), after(10, Err("b")), after(10, Err("c"))]).await;
        assert_eq!((race.winner, race.failures, ms), (None, vec![(0, "a"), (1, "b"), (2, "c")], 710));
        let (race, _) = timed(vec![]).await;
        assert_eq!((race.winner, race.failures.len()), (None, 0));
    }
}
