//! Bringing the index in line with the database: what is new is noted, what is gone is withdrawn.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::database::Database;
use super::shared::{PathVisitor, Shared, Trouble};

/// Rows read at once: about 1 MiB.
const BATCH: usize = 512;
/// Pauses between two searches for paths that are gone, and between two looks at all paths that are not offered, which
/// may have been signed meanwhile; both only when the database has changed.
const WITHDRAW_INTERVAL: Duration = Duration::from_secs(1);
const EXAMINE_INTERVAL: Duration = Duration::from_secs(20);
/// A search that takes long is made less often, so that they all together take 2 % of the time.
const REST: u32 = 50;

/// How far the index is in line.
pub(super) struct Sync {
    version: Option<i64>,
    last_id: i64,
    withdraw: Search,
    examine: Search,
}

/// A search that is made after a change, and not too often.
struct Search {
    interval: Duration,
    not_before: Instant,
    wanted: bool,
}

impl Search {
    fn new(interval: Duration, now: Instant) -> Self {
        Self { interval, not_before: now, wanted: true }
    }

    fn is_due(&self, now: Instant) -> bool {
        self.wanted && now >= self.not_before
    }

    fn done(&mut self, began: Instant, now: Instant) {
        self.wanted = false;
        self.not_before = now + self.interval.max((now - began) * REST);
    }
}

impl Sync {
    /// For a database that was just opened: nothing is in line.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            version: None,
            last_id: 0,
            withdraw: Search::new(WITHDRAW_INTERVAL, now),
            examine: Search::new(EXAMINE_INTERVAL, now),
        }
    }

    /// Does what is due, and says when more will be. Blocks; the first time for as long as it takes to look at all
    /// paths, a few seconds for 100,000 of them.
    ///
    /// # Errors
    /// What was not done is done the next time.
    pub(super) fn step(&mut self, shared: &Shared, database: &Database) -> Result<Option<Duration>, Trouble> {
        shared.index.count()?;
        let version = database.data_version()?;
        if self.version != Some(version) {
            if self.version.is_some() {
                self.note_new(shared, database)?;
            }
            self.version = Some(version);
            shared.changed();
            (self.withdraw.wanted, self.examine.wanted) = (true, true);
        }
        let began = Instant::now();
        if self.withdraw.is_due(began) {
            withdraw_gone(shared, database)?;
            self.withdraw.done(began, Instant::now());
        }
        let began = Instant::now();
        if shared.is_judged_anew() {
            (self.examine.wanted, self.examine.not_before) = (true, began);
        }
        if self.examine.is_due(began) {
            self.examine(shared, database)?;
            self.examine.done(began, Instant::now());
        }
        let now = Instant::now();
        let next = [&self.withdraw, &self.examine].into_iter().filter(|search| search.wanted);
        Ok(next.map(|search| search.not_before.saturating_duration_since(now)).min())
    }

    /// Notes what was registered since the last look.
    fn note_new(&mut self, shared: &Shared, database: &Database) -> Result<(), Trouble> {
        while let Some((paths, last)) = database.registered_after(self.last_id, BATCH)? {
            for path in &paths {
                shared.note(path)?;
            }
            self.last_id = last;
            if shared.queue.is_stopped() {
                break;
            }
        }
        Ok(())
    }

    /// Looks at all paths that are not known yet.
    fn examine(&mut self, shared: &Shared, database: &Database) -> Result<(), Trouble> {
        let mut after = 0;
        while let Some((paths, last)) = database.registered_after(after, BATCH)? {
            // Those that are remembered only may have been signed.
            let known = shared.index.between(after + 1, last)?.into_iter().filter(|entry| !entry.is_private);
            let known: HashMap<_, _> = known.map(|entry| (entry.id, entry.hash)).collect();
            for path in paths.iter().filter(|path| known.get(&path.id) != Some(&path.store_path.hash())) {
                shared.note(path)?;
            }
            after = last;
            self.last_id = self.last_id.max(last);
            if shared.queue.is_stopped() {
                break;
            }
        }
        Ok(())
    }
}

impl Shared {
    /// Shows every path that is known and valid and may be offered, with its blob once it is hashed.
    pub(super) fn visit(&self, visitor: &mut impl PathVisitor) -> Result<(), Trouble> {
        let Some(database) = self.database() else { return Ok(()) };
        let mut after = 0;
        while let Some((paths, last)) = database.registered_after(after, BATCH)? {
            let known = self.index.between(after + 1, last)?;
            let known: HashSet<_> =
                known.iter().filter(|entry| !entry.is_private).map(|entry| entry.id).collect();
            for path in paths.iter().filter(|path| known.contains(&path.id) && self.may_offer(path)) {
                let record = self.index.get(path.store_path.hash())?.filter(|record| record.id == path.id);
                let blob = record.and_then(|record| record.claim()).map(|claim| claim.blob);
                if visitor.path(path, blob).is_break() {
                    return Ok(());
                }
            }
            after = last;
        }
        Ok(())
    }
}

/// Withdraws what has no row any more, and has another look at bad paths that were put right.
fn withdraw_gone(shared: &Shared, database: &Database) -> Result<(), Trouble> {
    let last_known = shared.index.last_id()?;
    let mut after = 0;
    while after < last_known && !shared.queue.is_stopped() {
        let (valid, last) = match database.valid_after(after, BATCH)? {
            Some((valid, last)) => (valid.into_iter().collect(), last),
            None => (HashMap::new(), i64::MAX),
        };
        for entry in shared.index.between(after + 1, last)? {
            if valid.get(&entry.id) != Some(&entry.hash) {
                shared.withdraw(entry.hash, entry.id)?;
            } else if entry.is_bad {
                shared.reconsider(entry.hash, entry.id)?;
            }
        }
        after = last;
    }
    Ok(())
}
