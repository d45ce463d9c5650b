//! Opening a state directory: lock, index (or a new one when it cannot be read), reconciliation.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::config::StoreConfig;
use super::error::StoreError;
use super::evict;
use super::index::Index;
use super::inner::StoreInner;
use super::layout::{self, DirLock, Layout};
use super::reconcile::{self, Reconciled, When};
use crate::damage;

/// Blocking.
pub(super) fn open(config: StoreConfig) -> Result<Arc<StoreInner>, StoreError> {
    let layout = Layout::new(&config.state_dir);
    layout.create()?;
    let mut lock = Some(DirLock::acquire(&layout)?);
    let store = match attempt(&config, &layout, &mut lock) {
        Ok(store) => store,
        Err(error) if is_damage(&error) => {
            tracing::warn!(%error, "the index is unreadable: moved aside and rebuilt from the files");
            set_aside(&layout)?;
            if lock.is_none() {
                lock = Some(DirLock::acquire(&layout)?);
            }
            attempt(&config, &layout, &mut lock)?
        }
        Err(error) => return Err(error),
    };
    evict::evict_over_limit(&store, None)?;
    Ok(Arc::new(store))
}

/// Opens the index and goes through all of it, so that damage shows now and not in the middle of a request.
fn attempt(
    config: &StoreConfig,
    layout: &Layout,
    lock: &mut Option<DirLock>,
) -> Result<StoreInner, StoreError> {
    let index = unpanic(|| Index::open(&layout.index(), config.index_cache_bytes))?;
    let lock = match lock.take() {
        Some(lock) => lock,
        None => DirLock::acquire(layout)?,
    };
    let store = StoreInner::new(config.clone(), layout.clone(), index, lock);
    let done = unpanic(|| {
        let done = reconcile::reconcile(&store, When::Start)?;
        store.index.flush_blocking()?;
        Ok(done)
    })?;
    if done != Reconciled::default() {
        tracing::info!(
            adopted = done.adopted,
            dropped = done.dropped,
            orphans = done.orphans,
            repaired = done.repaired,
            partials = done.partials,
            "brought index and files into agreement"
        );
    }
    Ok(store)
}

/// True when a new index would help.
fn is_damage(error: &StoreError) -> bool {
    matches!(error, StoreError::Index { source, .. } if damage::is_damage(source))
}

fn unpanic<T>(work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    damage::unpanic(work, |source| StoreError::Index { action: "read the index", source })
}

/// Keeps one unreadable index for whoever wants to look at it.
fn set_aside(layout: &Layout) -> Result<(), StoreError> {
    let (index, aside) = (layout.index(), layout.damaged_index());
    remove_any(&aside)?;
    match fs::rename(&index, &aside) {
        Ok(()) => layout::sync_dir(layout.root()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(StoreError::io("cannot move aside", &index, e)),
    }
}

fn remove_any(path: &Path) -> Result<(), StoreError> {
    let failed = |e| StoreError::io("cannot remove", path, e);
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path).map_err(failed),
        Ok(_) => fs::remove_file(path).map_err(failed),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed(e)),
    }
}
