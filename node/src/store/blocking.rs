//! Blocking work with a bound: two classes, so that long hashing never starves short look-ups.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::error::StoreError;

/// The two permit pools of one store.
#[derive(Debug, Clone)]
pub(super) struct Blocking {
    short: Arc<Semaphore>,
    long: Arc<Semaphore>,
}

impl Blocking {
    pub(super) fn new(short_permits: usize, long_permits: usize) -> Self {
        Blocking {
            short: Arc::new(Semaphore::new(short_permits.max(1))),
            long: Arc::new(Semaphore::new(long_permits.max(1))),
        }
    }

    /// Runs a look-up or a few small file operations.
    pub(super) async fn short<T, F>(&self, action: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, StoreError> + Send + 'static,
    {
        run(&self.short, action, work).await
    }

    /// Runs work that reads or writes whole blobs.
    pub(super) async fn long<T, F>(&self, action: &'static str, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, StoreError> + Send + 'static,
    {
        run(&self.long, action, work).await
    }
}

async fn run<T, F>(permits: &Arc<Semaphore>, action: &'static str, work: F) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, StoreError> + Send + 'static,
{
    let died = |reason: String| StoreError::Worker { action, reason };
    let permit = permits.clone().acquire_owned().await.map_err(|closed| died(closed.to_string()))?;
    // The permit travels with the work: a caller that stops waiting does not free a thread that still runs.
    tokio::task::spawn_blocking(move || {
        let _permit = permit;
        work()
    })
    .await
    .map_err(|join| died(join.to_string()))?
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn no_more_workers_than_permits_run_at_once() {
        let pool = Blocking::new(2, 1);
        let running = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let tasks = (0..16).map(|_| {
            let (pool, running, most) = (pool.clone(), running.clone(), most.clone());
            async move {
                pool.short("test", move || {
                    let now = running.fetch_add(1, Ordering::SeqCst) + 1;
                    most.fetch_max(now, Ordering::SeqCst);
                    std::thread::sleep(Duration::from_millis(2));
                    running.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                })
                .await
            }
        });
        for result in futures::future::join_all(tasks).await {
            result.unwrap();
        }
        assert!(most.load(Ordering::SeqCst) <= 2);
    }

    #[tokio::test]
    async fn a_panicking_worker_is_an_error_and_frees_its_permit() {
        let pool = Blocking::new(1, 1);
        let result: Result<(), _> = pool.long("a test", || panic!("on purpose")).await;
        assert!(matches!(result, Err(StoreError::Worker { action: "a test", .. })));
        pool.long("a test", || Ok(())).await.unwrap();
    }
}
