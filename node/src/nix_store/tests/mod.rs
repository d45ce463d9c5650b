//! The live store as its callers see it, over stores that a real Nix writes.

mod copies;
mod following;
mod offering;
mod scale;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use p2p_cache_protocol::{BlobId, Claim, Digest, Sha256Digest};

use super::testing::{RealStore, trusted_keys};
use super::{NixStore, NixStoreOptions, StoredPath, Verdict};
use crate::peers::Holdings;

/// What takes longer is a failure.
const LIMIT: Duration = Duration::from_secs(10);

/// Claims that came and went.
#[derive(Clone, Default)]
struct News {
    offered: Arc<Mutex<Vec<Claim>>>,
    withdrawn: Arc<Mutex<Vec<Claim>>>,
}

/// What a test's node offers: what the test key has signed, but for secrets.
fn judge(path: &StoredPath) -> Verdict {
    if path.store_path.name().contains("secret") {
        return Verdict::Remember;
    }
    let signed = path.gateway_narinfo().verified_by(&trusted_keys()).is_some();
    if signed { Verdict::Offer } else { Verdict::Ignore }
}

fn options(news: &News) -> NixStoreOptions {
    let (offered, withdrawn) = (Arc::clone(&news.offered), Arc::clone(&news.withdrawn));
    NixStoreOptions {
        on_offered: Box::new(move |_, claim| offered.lock().unwrap().push(*claim)),
        on_withdrawn: Box::new(move |claim| withdrawn.lock().unwrap().push(*claim)),
        power_supplies: "/nonexistent".into(),
        ..NixStoreOptions::new(Arc::new(judge))
    }
}

async fn open(store: &RealStore) -> (NixStore, News) {
    let news = News::default();
    let nix = NixStore::open(&store.root(), &store.state_dir(), options(&news)).await;
    (nix, news)
}

fn claim_of(nar: &[u8]) -> Claim {
    Claim { sha256: Sha256Digest::of(nar), blob: BlobId::of(nar), size: nar.len() as u64 }
}

async fn found(nix: &NixStore, nar: &[u8]) -> bool {
    let found = Holdings::find(nix, Digest::Sha256(Sha256Digest::of(nar))).await.unwrap();
    found.is_some_and(|held| held.claim == claim_of(nar) && !held.published)
}

async fn wait_until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !done().await {
        assert!(started.elapsed() < LIMIT, "waited {LIMIT:?} for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until this many paths are offered and none is to be hashed.
async fn wait_for_offers(nix: &NixStore, count: u64) {
    wait_until("paths to be offered", async || {
        let counts = nix.usage().counts;
        (counts.offered, counts.pending) == (count, 0)
    })
    .await;
}

/// A tree with a bit of everything, larger than an extent.
fn tree(path: &Path) {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    fs::create_dir_all(path.join("bin")).unwrap();
    fs::create_dir(path.join("empty")).unwrap();
    fs::write(path.join("bin/tool"), vec![7; 1_500_000]).unwrap();
    fs::set_permissions(path.join("bin/tool"), PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(path.join("text"), "text\n").unwrap();
    fs::write(path.join("nothing"), "").unwrap();
    symlink("bin/tool", path.join("link")).unwrap();
}
