//! `p2p-cache verify` and `p2p-cache gc`: work on the state directory itself, with no node running.

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use super::console::Console;
use super::error::CliError;
use super::progress::{self, size};
use crate::config::Config;
use crate::store::{BlobStore, GcOptions, GcReport, StoreConfig, VerifyReport};

/// Time between two frames of the spinner.
const SPIN_INTERVAL: Duration = Duration::from_millis(100);

#[derive(Debug, Serialize)]
struct VerifyOutcome {
    blobs: u64,
    bytes: u64,
    bad: Vec<BadOutcome>,
}

#[derive(Debug, Serialize)]
struct BadOutcome {
    blake3: String,
    sha256: String,
    size: u64,
    problem: String,
}

#[derive(Debug, Serialize)]
struct GcOutcome {
    removed_blobs: u64,
    freed_bytes: u64,
    removed_partials: u64,
    removed_orphans: u64,
    adopted: u64,
    dropped: u64,
    repaired: u64,
    blobs: u64,
    bytes: u64,
}

/// Hashes every blob; a bad one is removed, reported and makes the command fail.
pub(super) async fn verify(console: &Console, config: &Config, json: bool) -> Result<(), CliError> {
    // No limit: what is to be verified must not be evicted.
    let store = open(&config.state_dir, None).await?;
    let bar = progress::bytes(console, "verifying", Some(store.usage().bytes));
    let report = store
        .verify(|at| {
            bar.set_length(at.total_bytes);
            bar.set_position(at.bytes);
        })
        .await;
    bar.finish_and_clear();
    let report = report?;
    store.close().await?;
    let outcome = VerifyOutcome::from(report);
    if json {
        console.print_json(&outcome)?
    } else {
        console.print(&outcome.describe())?
    }
    match outcome.bad.len() as u64 {
        0 => Ok(()),
        bad => Err(CliError::BadBlobs { bad, checked: outcome.blobs }),
    }
}

/// Removes left-overs, and the least recently used blobs beyond the limit.
pub(super) async fn gc(console: &Console, config: &Config, json: bool) -> Result<(), CliError> {
    // No limit: opening would evict, and the report would not count it.
    let store = open(&config.state_dir, None).await?;
    let spinner = progress::spinner(console, "collecting");
    spinner.enable_steady_tick(SPIN_INTERVAL);
    let report = store.gc(GcOptions { target_bytes: config.max_store_size }).await;
    spinner.finish_and_clear();
    let report = report?;
    let usage = store.usage();
    store.close().await?;
    let outcome = GcOutcome::new(report, usage.blobs, usage.bytes);
    if json { console.print_json(&outcome) } else { console.print(&outcome.describe()) }
}

async fn open(state_dir: &Path, max_bytes: Option<u64>) -> Result<BlobStore, CliError> {
    // Opening makes the directories of a store: not in a place that was named by mistake.
    let blobs = state_dir.join("blobs");
    if tokio::fs::try_exists(&blobs).await.is_ok_and(|exists| !exists) {
        return Err(CliError::NoState { path: state_dir.to_owned() });
    }
    Ok(BlobStore::open(StoreConfig { max_bytes, ..StoreConfig::new(state_dir) }).await?)
}

impl From<VerifyReport> for VerifyOutcome {
    fn from(report: VerifyReport) -> VerifyOutcome {
        let bad = report.bad.into_iter().map(|blob| BadOutcome {
            blake3: blob.id.to_string(),
            sha256: blob.sha256.to_string(),
            size: blob.size,
            problem: blob.problem,
        });
        VerifyOutcome { blobs: report.blobs, bytes: report.bytes, bad: bad.collect() }
    }
}

impl VerifyOutcome {
    fn describe(&self) -> String {
        let mut text: String = self
            .bad
            .iter()
            .map(|bad| {
                format!(
                    "bad blake3:{} sha256:{} {}: {}\n",
                    bad.blake3,
                    bad.sha256,
                    size(bad.size),
                    bad.problem
                )
            })
            .collect();
        text.push_str(&format!(
            "{} blobs, {} verified, {} bad\n",
            self.blobs,
            size(self.bytes),
            self.bad.len()
        ));
        text
    }
}

impl GcOutcome {
    fn new(report: GcReport, blobs: u64, bytes: u64) -> GcOutcome {
        let GcReport {
            removed_blobs,
            freed_bytes,
            removed_partials,
            removed_orphans,
            adopted,
            dropped,
            repaired,
        } = report;
        GcOutcome {
            removed_blobs,
            freed_bytes,
            removed_partials,
            removed_orphans,
            adopted,
            dropped,
            repaired,
            blobs,
            bytes,
        }
    }

    fn describe(&self) -> String {
        format!(
            "removed {} blobs ({}), {} unfinished writes, {} orphaned files\n\
             index: {} added, {} dropped, {} hash trees made anew\n\
             kept {} blobs, {}\n",
            self.removed_blobs,
            size(self.freed_bytes),
            self.removed_partials,
            self.removed_orphans,
            self.adopted,
            self.dropped,
            self.repaired,
            self.blobs,
            size(self.bytes),
        )
    }
}
