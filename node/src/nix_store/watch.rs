//! Following the database: opened when it can be, looked at when it changes, left when it cannot be read.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::database::{Database, DatabaseError};
use super::shared::{Shared, Trouble};
use super::sync::Sync;
use crate::system::Changes;

/// How often a database that cannot be used is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// How often the database is asked whether it has changed: 10 µs each. Where the system tells of changes this is only
/// for what it might miss.
const TOLD_INTERVAL: Duration = Duration::from_secs(30);
const UNTOLD_INTERVAL: Duration = Duration::from_secs(2);
/// A change seldom comes alone.
const SETTLE_TIME: Duration = Duration::from_millis(200);

/// Keeps the index in line with the database.
pub(super) struct Follower {
    shared: Arc<Shared>,
    /// `None` while the database cannot be used.
    sync: Option<Sync>,
    /// What was complained about last, which is not repeated.
    complaint: String,
}

impl Follower {
    /// Opens the database, if it can be used.
    pub(super) async fn open(shared: Arc<Shared>) -> Self {
        let mut follower = Self { shared, sync: None, complaint: String::new() };
        follower.open_database().await;
        follower
    }

    /// Follows the database until `stopping`.
    pub(super) async fn run(mut self, stopping: CancellationToken) {
        let mut changes = self.watch();
        while !stopping.is_cancelled() {
            let was_open = self.sync.is_some();
            let wait = self.step().await;
            if was_open != self.sync.is_some() || changes.is_none() {
                // The directory may be another one.
                changes = self.watch();
            }
            let most = match (self.sync.is_some(), changes.is_some()) {
                (false, _) => RETRY_INTERVAL,
                (true, true) => TOLD_INTERVAL,
                (true, false) => UNTOLD_INTERVAL,
            };
            let changed = async {
                match &changes {
                    Some(changes) => changes.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stopping.cancelled() => return,
                () = tokio::time::sleep(wait.unwrap_or(most).min(most)) => {}
                () = self.shared.wake.notified() => {}
                told = changed => match told {
                    Ok(()) => tokio::time::sleep(SETTLE_TIME).await,
                    Err(error) => {
                        tracing::debug!(%error, "the Nix database is asked from time to time");
                        changes = None;
                    }
                },
            }
        }
    }

    fn watch(&self) -> Option<Changes> {
        let path = Database::path_below(&self.shared.root);
        Changes::of(path.parent()?).ok()
    }

    /// Opens the database, or does what is due; says when there will be more to do.
    async fn step(&mut self) -> Option<Duration> {
        if self.sync.is_none() && !self.open_database().await {
            return None;
        }
        let shared = Arc::clone(&self.shared);
        let mut sync = self.sync.take()?;
        let stepping = tokio::task::spawn_blocking(move || {
            let Some(database) = shared.database().filter(|database| !database.is_replaced()) else {
                return (None, Ok(None));
            };
            let done = sync.step(&shared, &database);
            (Some(sync), done)
        });
        let (sync, done) = match stepping.await {
            Ok((sync, done)) => (sync, done),
            Err(error) => {
                tracing::error!(%error, "following the Nix database failed");
                (None, Ok(None))
            }
        };
        match done {
            Ok(next) if sync.is_some() => {
                self.sync = sync;
                next
            }
            // Replaced: opened again at once.
            Ok(_) => {
                self.leave();
                Some(Duration::ZERO)
            }
            Err(trouble) => self.failed(sync, trouble),
        }
    }

    async fn open_database(&mut self) -> bool {
        let root = self.shared.root.clone();
        let opened = tokio::task::spawn_blocking(move || Database::open(&root)).await;
        match opened {
            Ok(Ok(database)) => {
                tracing::info!(root = %self.shared.root.display(), "the live Nix store is a source");
                self.shared.set_database(Some(Arc::new(database)));
                self.sync = Some(Sync::new());
                self.complaint.clear();
                self.shared.set_complaint(None);
                true
            }
            Ok(Err(error)) => {
                self.complain(&error);
                false
            }
            Err(error) => {
                tracing::error!(%error, "opening the Nix database failed");
                false
            }
        }
    }

    fn failed(&mut self, sync: Option<Sync>, trouble: Trouble) -> Option<Duration> {
        match trouble {
            Trouble::Database(error) if !error.is_passing() => {
                self.complain(&error);
                self.leave();
                None
            }
            trouble => {
                tracing::debug!(error = %trouble, "not in line with the Nix database yet");
                self.sync = sync;
                Some(UNTOLD_INTERVAL)
            }
        }
    }

    fn leave(&mut self) {
        self.shared.set_database(None);
        self.sync = None;
    }

    /// Each complaint once, however often the database is tried.
    fn complain(&mut self, error: &DatabaseError) {
        let complaint = error.to_string();
        if complaint != self.complaint {
            tracing::warn!(%error, "the live Nix store is no source for now");
            self.shared.set_complaint(Some(complaint.clone()));
            self.complaint = complaint;
        }
    }
}
