//! The distributed directory: libp2p's Kademlia with our own store of provider records, our own republishing,
//! and a guard on the addresses it dials.

mod guard;
mod publisher;
mod store;

use std::time::Duration;

use libp2p::{
    PeerId, StreamProtocol,
    kad::{self, BucketInserts, Caching, Mode, StoreInserts},
};

pub(crate) use guard::Guarded;
pub use publisher::MAX_ADVERTISED_KEYS;
pub(crate) use publisher::Publisher;
pub(crate) use store::ProviderStore;

/// Our own network of directory nodes, apart from all others.
pub const KAD_PROTOCOL: StreamProtocol = StreamProtocol::new("/p2p-cache/kad/1");

/// Time after which a look-up is answered with what it has found.
pub(crate) const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Time between two refreshes of the routing table.
const BOOTSTRAP_INTERVAL: Duration = Duration::from_secs(300);

/// Kademlia as we use it.
pub(crate) fn kademlia(local: PeerId, provider_ttl: Duration) -> Guarded {
    let mut config = kad::Config::new(KAD_PROTOCOL);
    config
        .set_query_timeout(LOOKUP_TIMEOUT)
        .set_substreams_timeout(LOOKUP_TIMEOUT)
        // Records are looked at, stripped of addresses that we should not pass on, and bounded before they
        // are kept; values are never kept.
        .set_record_filtering(StoreInserts::FilterBoth)
        .set_caching(Caching::Disabled)
        .set_record_ttl(None)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_record_ttl(Some(provider_ttl))
        // The built-in job does a full look-up a key, all keys at once; `Publisher` paces them.
        .set_provider_publication_interval(None)
        .set_periodic_bootstrap_interval(Some(BOOTSTRAP_INTERVAL))
        // Only addresses that passed our filter enter the routing table.
        .set_kbucket_inserts(BucketInserts::Manual);
    let mut behaviour = kad::Behaviour::with_config(local, ProviderStore::new(local), config);
    behaviour.set_mode(Some(Mode::Server));
    Guarded::new(behaviour)
}
