//! What the node does on behalf of others, and how much of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, stream};
use p2p_cache_discovery::{PeerId, Scope};
use p2p_cache_protocol::Digest;
use p2p_cache_protocol::narinfo::NarInfo;
use p2p_cache_protocol::store_path::StoreHash;
use p2p_cache_protocol::wire::{Request, Response};
use tokio::time::{sleep, timeout};

use crate::peers::limits::{MAX_LED, MAX_LED_PER_PEER};
use crate::peers::server::{ArrivingBlob, Led, Site};
use crate::peers::testing::{Blob, RawClient, Served, cache_key, narinfo_of, peer};

/// A site with one NAR, of which not a byte comes.
struct Stuck {
    narinfo: NarInfo,
    streams: Arc<AtomicUsize>,
}

impl Stuck {
    fn new() -> Arc<Self> {
        let narinfo = narinfo_of(&Blob::new(1_000_000), &[&cache_key("trusted-1")]);
        Arc::new(Self { narinfo, streams: Arc::default() })
    }

    fn follow(&self) -> Request {
        let NarInfo { store_path, nar_hash, .. } = &self.narinfo;
        Request::Follow { hash: store_path.hash(), nar: *nar_hash, offset: 0 }
    }

    /// Streams that are open.
    fn open(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }
}

/// Counts one stream as long as it lives.
struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[async_trait]
impl Site for Stuck {
    async fn narinfo(&self, hash: StoreHash) -> Option<NarInfo> {
        (hash == self.narinfo.store_path.hash()).then(|| self.narinfo.clone())
    }

    async fn nar(&self, narinfo: NarInfo, _offset: u64, _asker: PeerId) -> Option<Led> {
        self.streams.fetch_add(1, Ordering::Relaxed);
        let open = Open(Arc::clone(&self.streams));
        let bytes = stream::once(async move {
            let _open = open;
            std::future::pending().await
        });
        Some(Led { size: narinfo.nar_size, bytes: bytes.boxed() })
    }

    fn arriving(&self, _digest: Digest) -> Option<Arc<dyn ArrivingBlob>> {
        None
    }

    fn wanted(&self, _digest: Digest, _peer: PeerId) {}
}

/// Substreams of one peer, each of which asks to follow the NAR; true for those that may.
async fn follow(served: &Served, site: &Stuck, seed: u8, times: usize) -> Vec<(RawClient, bool)> {
    let mut asked = Vec::new();
    for _ in 0..times {
        let mut client = served.greeted(peer(seed), Scope::Lan).await;
        let may = match client.ask(&site.follow()).await {
            Response::Arriving { size } => size == site.narinfo.nar_size,
            Response::Busy { .. } => false,
            other => panic!("{other:?}"),
        };
        asked.push((client, may));
    }
    asked
}

async fn until_open(site: &Stuck, streams: usize) {
    let reached = async {
        while site.open() != streams {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(30), reached).await.unwrap_or_else(|_| panic!("{} are open", site.open()));
}

#[tokio::test(start_paused = true)]
async fn one_peer_follows_so_many_blobs_at_once_and_others_do_not_suffer() {
    let site = Stuck::new();
    let served = Served::start_at(site.clone());
    let greedy = follow(&served, &site, 2, MAX_LED_PER_PEER + 3).await;
    let led = greedy.iter().take_while(|(_, may)| *may).count();
    assert_eq!((led, site.open()), (MAX_LED_PER_PEER, MAX_LED_PER_PEER));
    assert!(greedy[led..].iter().all(|(_, may)| !may), "the others are told to come again");
    assert!(follow(&served, &site, 3, 1).await[0].1, "another peer is served");

    // Its places are free as soon as it has gone.
    drop(greedy);
    until_open(&site, 0).await;
    assert!(follow(&served, &site, 2, 1).await[0].1);
}

#[tokio::test(start_paused = true)]
async fn many_peers_together_make_the_node_lead_for_so_many_and_no_more() {
    let site = Stuck::new();
    let served = Served::start_at(site.clone());
    let peers = MAX_LED / MAX_LED_PER_PEER;
    let mut all = Vec::new();
    for seed in 0..peers {
        all.push(follow(&served, &site, 2 + seed as u8, MAX_LED_PER_PEER).await);
    }
    assert!(all.iter().flatten().all(|(_, may)| *may));
    assert_eq!(site.open(), MAX_LED);
    assert!(!follow(&served, &site, 100, 1).await[0].1, "one more is told to come again");
    all.pop();
    until_open(&site, MAX_LED - MAX_LED_PER_PEER).await;
    assert!(follow(&served, &site, 100, 1).await[0].1);
}

#[tokio::test(start_paused = true)]
async fn peers_of_the_wide_area_are_led_nowhere() {
    let site = Stuck::new();
    let served = Served::start_at(site.clone());
    let mut client = served.greeted(peer(2), Scope::Public).await;
    assert_eq!(client.ask(&site.follow()).await, Response::NotFound);
    let hash = site.narinfo.store_path.hash();
    assert_eq!(client.ask(&Request::Resolve { hash }).await, Response::NotFound);
    assert_eq!(site.open(), 0);
}
