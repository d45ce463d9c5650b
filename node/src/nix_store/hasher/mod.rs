//! Hashing in the background: each path that may be offered once, and those that somebody waits for at once.
//!
//! Two threads. One goes through all paths, newest first, at the lowest priority (nice 19, from which the kernel derives
//! the lowest I/O priority too), below a rate, and not on battery. The other one takes what was asked for.

mod pace;
mod pass;
pub(super) mod power;
mod queue;

use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use p2p_cache_protocol::{Digest, StoreHash};

use self::pace::Pace;
use self::pass::Outcome;
pub(super) use self::queue::{Asked, Queue};
use super::database::StoredPath;
use super::index::State;
use super::shared::{Shared, Trouble};

/// How often the battery is looked at.
const POWER_INTERVAL: Duration = Duration::from_secs(10);
/// A disk that is full, or an index that cannot be written, is left alone for this long.
const TROUBLE_PAUSE: Duration = Duration::from_secs(60);
/// What Nix verified itself so lately is taken over without being read again.
const VERIFIED_LATELY: Duration = Duration::from_secs(60 * 60);

/// How a path is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    Asked,
    Background,
}

/// The two threads.
pub(super) struct Hasher {
    threads: Vec<JoinHandle<()>>,
}

impl Hasher {
    /// Starts them.
    ///
    /// # Errors
    /// When the system has no thread for us.
    pub(super) fn start(shared: &Arc<Shared>) -> io::Result<Self> {
        let spawn = |name: &str, line| {
            let shared = Arc::clone(shared);
            std::thread::Builder::new().name(name.to_owned()).spawn(move || run(&shared, line))
        };
        let threads = vec![spawn("live-asked", Line::Asked)?, spawn("live-hash", Line::Background)?];
        Ok(Self { threads })
    }

    /// Waits for their end, after the queue was stopped.
    pub(super) fn join(self) {
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a thread that hashed store paths panicked");
            }
        }
    }
}

fn run(shared: &Shared, line: Line) {
    if line == Line::Background
        && let Err(error) = crate::system::yield_to_others()
    {
        tracing::debug!(%error, "store paths are hashed at the usual priority");
    }
    let mut pace = Pace::new(shared.hash_rate(), Instant::now());
    loop {
        let done = match line {
            Line::Asked => settle_asked(shared, &mut pace),
            Line::Background => settle_next(shared, &mut pace),
        };
        if shared.queue.is_stopped() {
            return;
        }
        if let Err(trouble) = done {
            tracing::warn!(error = %trouble, "store paths are not hashed for {} s", TROUBLE_PAUSE.as_secs());
            if shared.queue.pause(TROUBLE_PAUSE) {
                return;
            }
        }
    }
}

fn settle_asked(shared: &Shared, pace: &mut Pace) -> Result<(), Trouble> {
    match shared.queue.next_asked() {
        None => Ok(()),
        Some(Asked::Path(hash)) => settle(shared, hash, Line::Asked, pace),
        Some(Asked::Nar(nar)) => {
            let paths = shared.index.find(Digest::Sha256(nar))?;
            paths.into_iter().try_for_each(|(hash, _)| settle(shared, hash, Line::Asked, pace))
        }
    }
}

fn settle_next(shared: &Shared, pace: &mut Pace) -> Result<(), Trouble> {
    let Some(hash) = shared.queue.next(&shared.index)? else { return Ok(()) };
    while power::on_battery(&shared.options.power_supplies) {
        if shared.queue.pause(POWER_INTERVAL) {
            return Ok(());
        }
    }
    settle(shared, hash, Line::Background, pace)
}

/// Brings a path to its end: offered, or bad; and drops the copy of it that the blob store has.
fn settle(shared: &Shared, hash: StoreHash, line: Line, pace: &mut Pace) -> Result<(), Trouble> {
    let Some(record) = shared.index.get(hash)? else { return Ok(()) };
    let Some(path) = shared.valid_path(hash, record.id)? else { return Ok(()) };
    if (path.nar_hash, path.nar_size) != (record.nar_hash, record.nar_size) {
        // Repaired, or signed anew, as something else.
        shared.withdraw(hash, record.id)?;
        shared.note(&path)?;
        return Ok(());
    }
    match record.state {
        State::Pending if adopt(shared, &path)? => {}
        State::Pending if shared.may_offer(&path) || shared.copy_of(&path)?.is_some() => {
            hash_path(shared, &path, line, pace)?;
        }
        // The owner has changed his mind.
        State::Pending => return shared.withdraw(hash, record.id),
        State::Offered(_) | State::Private | State::Bad { .. } => {}
    }
    shared.drop_copy(&path)
}

/// Takes over the tree of the copy that the blob store has, when Nix has just written the path from that copy and
/// verified it.
fn adopt(shared: &Shared, path: &StoredPath) -> Result<bool, Trouble> {
    let Some(copies) = &shared.options.copies else { return Ok(false) };
    let registered = UNIX_EPOCH + Duration::from_secs(path.registered_s);
    let lately = SystemTime::now().duration_since(registered).is_ok_and(|age| age < VERIFIED_LATELY);
    let Some(claim) = copies.held(path.nar_hash)?.filter(|claim| lately && claim.size == path.nar_size)
    else {
        return Ok(false);
    };
    if shared.readers.open(&path.store_path, path.id, path.nar_size).is_err() {
        return Ok(false);
    }
    let outboard = shared.outboards.new_name();
    if !copies.export_outboard(claim.blob, outboard.path())? {
        return Ok(false);
    }
    shared.outboards.keep(&outboard, claim.blob, claim.size)?;
    shared.offer(path, claim.blob)?;
    Ok(true)
}

fn hash_path(shared: &Shared, path: &StoredPath, line: Line, pace: &mut Pace) -> Result<(), Trouble> {
    let real_path = shared.readers.real_path(&path.store_path);
    let changed_ns = changed_ns(&real_path);
    let each = |bytes: usize| {
        shared.hashed_bytes.inc_by(bytes as u64);
        pace.set_rate(shared.hash_rate());
        let wait = if line == Line::Background { pace.after(bytes, Instant::now()) } else { Duration::ZERO };
        if wait.is_zero() { !shared.queue.is_stopped() } else { !shared.queue.pause(wait) }
    };
    let outcome = pass::hash(&real_path, path.nar_size, path.nar_hash, &shared.outboards, each)?;
    let (reason, remedy) = match outcome {
        Outcome::Stopped => return Ok(()),
        Outcome::Right { blob, outboard } => {
            shared.outboards.keep(&outboard, blob, path.nar_size)?;
            return shared.offer(path, blob);
        }
        Outcome::Gone => ("a part of it is not there".to_owned(), None),
        Outcome::Wrong { reason, remedy } => (reason, remedy),
    };
    let hash = path.store_path.hash();
    // Collected while it was read, which is no fault.
    if shared.valid_path(hash, path.id)?.is_none() {
        return Ok(());
    }
    if shared.index.settle(hash, path.id, State::Bad { changed_ns })? {
        shared.announce_settled();
        let remedy = remedy.unwrap_or("nothing needs to be done unless it should be offered");
        tracing::warn!(path = %path.store_path, reason, remedy, "a store path is never offered");
    }
    Ok(())
}

/// When the root of the path was changed last, in nanoseconds since the epoch; 0 when that cannot be told. A repair puts
/// another root in its place.
pub(super) fn changed_ns(real_path: &std::path::Path) -> i64 {
    let Ok(metadata) = real_path.symlink_metadata() else { return 0 };
    metadata.ctime().saturating_mul(1_000_000_000).saturating_add(metadata.ctime_nsec())
}
