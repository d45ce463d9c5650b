//! Owned background tasks: bounded in number, joined at the end, panics reported.

use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::{JoinError, JoinSet};

/// No more tasks may be spawned: the group is full or shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoRoom;

/// A bounded set of tasks that is joined when its owner shuts down, and aborted when it is dropped.
pub(crate) struct TaskGroup {
    name: &'static str,
    max_tasks: usize,
    state: Mutex<State>,
}

struct State {
    tasks: JoinSet<()>,
    open: bool,
}

impl TaskGroup {
    pub(crate) fn new(name: &'static str, max_tasks: usize) -> Self {
        Self { name, max_tasks, state: Mutex::new(State { tasks: JoinSet::new(), open: true }) }
    }

    /// Starts a task, unless `max_tasks` of them are running already. Must be called within a runtime.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Result<(), NoRoom> {
        let mut state = self.lock();
        while let Some(ended) = state.tasks.try_join_next() {
            report(self.name, ended);
        }
        if !state.open || state.tasks.len() >= self.max_tasks {
            return Err(NoRoom);
        }
        state.tasks.spawn(task);
        Ok(())
    }

    /// Refuses new tasks, waits up to `grace` for those that run, then cancels and joins the rest.
    pub(crate) async fn shutdown(&self, grace: Duration) {
        let mut tasks = {
            let mut state = self.lock();
            state.open = false;
            std::mem::take(&mut state.tasks)
        };
        let drained = tokio::time::timeout(grace, async {
            while let Some(ended) = tasks.join_next().await {
                report(self.name, ended);
            }
        })
        .await;
        if drained.is_err() {
            tracing::debug!(
                group = self.name,
                tasks = tasks.len(),
                "cancelling tasks that outlived the grace period"
            );
            tasks.abort_all();
            while let Some(ended) = tasks.join_next().await {
                report(self.name, ended);
            }
        }
    }

    /// How many tasks have not been joined yet.
    #[cfg(test)]
    pub(crate) fn running(&self) -> usize {
        let mut state = self.lock();
        while let Some(ended) = state.tasks.try_join_next() {
            report(self.name, ended);
        }
        state.tasks.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn report(group: &'static str, ended: Result<(), JoinError>) {
    match ended {
        Ok(()) => {}
        Err(error) if error.is_cancelled() => {}
        Err(error) => {
            tracing::error!(group, %error, "a task panicked; its connection is gone, the others go on")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_bound_holds_and_finished_tasks_make_room() {
        let group = TaskGroup::new("test", 1);
        let (release, wait) = tokio::sync::oneshot::channel::<()>();
        group.spawn(async move { drop(wait.await) }).unwrap();
        assert_eq!(group.spawn(async {}), Err(NoRoom));
        release.send(()).unwrap();
        while group.running() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(group.spawn(async {}), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn shutdown_cancels_what_outlives_the_grace_period() {
        let group = TaskGroup::new("test", 4);
        group.spawn(std::future::pending()).unwrap();
        group.spawn(async { panic!("reported, not propagated") }).unwrap();
        group.shutdown(Duration::from_secs(1)).await;
        assert_eq!(group.running(), 0);
        assert_eq!(group.spawn(async {}), Err(NoRoom));
    }
}
