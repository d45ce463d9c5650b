//! The live Nix store as the owner's policy lets it be offered.

use std::sync::Arc;

use p2p_cache_discovery::Scope;

use super::announcer::Announcements;
use crate::config::Config;
use crate::nix_store::{Judge, NixStore, NixStoreOptions, Verdict};
use crate::peers::Held;
use crate::sharing::{SharingPolicy, Subject};
use crate::store::BlobStore;

/// Opens the store that the configuration names, if it names one.
pub(super) async fn open(
    config: &Config,
    store: &BlobStore,
    policy: &Arc<SharingPolicy>,
    announcements: &Announcements,
) -> NixStore {
    let Some(root) = &config.nix_store else { return NixStore::none() };
    let (noting, offering) = (Arc::clone(policy), Arc::clone(policy));
    let (announcing, withdrawing) = (announcements.clone(), announcements.clone());
    let options = NixStoreOptions {
        copies: Some(Arc::new(store.clone())),
        on_noted: Box::new(move |path| {
            // Asked for from now on, it is hashed at once.
            let narinfo = path.gateway_narinfo();
            noting.note(&Subject::path(&narinfo), [path.store_path.hash().into(), path.nar_hash.into()]);
        }),
        on_offered: Box::new(move |path, claim| {
            let narinfo = path.gateway_narinfo();
            offering.note(&Subject::path(&narinfo), [claim.sha256.into(), claim.blob.into()]);
            announcing.held(Held { claim: *claim, published: false });
        }),
        on_withdrawn: Box::new(move |claim| withdrawing.gone(*claim)),
        hash_rate_bytes_per_second: config.hash_rate,
        ..NixStoreOptions::new(judge(policy))
    };
    NixStore::open(root, &config.state_dir, options).await
}

/// The widest scope is that of the local network: what may not be shared there may not be shared at all.
fn judge(policy: &Arc<SharingPolicy>) -> Judge {
    let policy = Arc::clone(policy);
    Arc::new(move |path| {
        let narinfo = path.gateway_narinfo();
        if policy.may_share(&Subject::path(&narinfo), Scope::Lan) {
            Verdict::Offer
        } else if policy.excludes(&narinfo) {
            Verdict::Remember
        } else {
            Verdict::Ignore
        }
    })
}
