//! How much of the node peers may use.

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use p2p_cache_discovery::Scope;
use p2p_cache_protocol::digest::{Digest, Sha256Digest};
use p2p_cache_protocol::wire::{Request, Response};
use tokio::time::{Instant, sleep, timeout};

use crate::peers::limits::{
    BUSY_RETRY_AFTER, MAX_BODIES_PER_PEER, MAX_STREAMS, MAX_STREAMS_PER_PEER, MISS_FLOOR,
    WRITE_PROGRESS_TIMEOUT,
};
use crate::peers::server::UploadLimits;
use crate::peers::testing::{PIPE_BYTES, RawClient, Served, peer};

const MIB: usize = 1024 * 1024;

fn limits(change: impl FnOnce(&mut UploadLimits)) -> UploadLimits {
    let mut limits = UploadLimits::default();
    change(&mut limits);
    limits
}

fn missing(index: u32) -> Request {
    Request::Lookup { digest: Digest::Sha256(Sha256Digest::of(&index.to_le_bytes())) }
}

#[tokio::test(start_paused = true)]
async fn the_upload_rate_holds_for_all_peers_together_and_spares_short_answers() {
    let served = Served::start(limits(|limits| limits.upload_rate_bytes_per_second = Some(1_000_000)));
    let blob = served.published(MIB);
    let start = Instant::now();
    let downloads = (2..6).map(|seed| {
        let (served, blob) = (&served, &blob);
        async move {
            let mut client = served.greeted(peer(seed), Scope::Lan).await;
            let Response::Data { encoded_bytes } = client.ask(&blob.range_request(0, 64)).await else {
                panic!("there are slots enough");
            };
            client.body(encoded_bytes).await.len()
        }
    });
    let short = async {
        let mut client = served.greeted(peer(9), Scope::Lan).await;
        for index in 0..50 {
            let before = Instant::now();
            client.ask(&missing(index)).await;
            assert!(before.elapsed() < Duration::from_millis(10));
            sleep(Duration::from_millis(20)).await;
        }
    };
    let (sizes, ()) = tokio::join!(join_all(downloads), short);
    let total: usize = sizes.into_iter().sum();
    let expected = total as f64 / 1e6;
    let seconds = start.elapsed().as_secs_f64();
    assert!(
        (expected * 0.9..expected * 1.1).contains(&seconds),
        "{seconds} s for {expected} s worth of bytes"
    );
    assert!(served.served_bytes.get() as usize >= total);
}

/// Bytes that a peer with this many streams takes, one extent after the other on each, within `seconds`.
async fn greedy(served: &Served, seed: u8, scope: Scope, streams: usize, seconds: u64) -> usize {
    let blob = served.published(MIB);
    let taken = std::sync::atomic::AtomicUsize::new(0);
    let downloads = (0..streams).map(|_| {
        let (blob, taken) = (&blob, &taken);
        async move {
            let mut client = served.greeted(peer(seed), scope).await;
            loop {
                match client.ask(&blob.range_request(0, 64)).await {
                    Response::Data { encoded_bytes } => {
                        for _ in 0..encoded_bytes / 1024 {
                            client.body(1024).await;
                            taken.fetch_add(1024, Ordering::Relaxed);
                        }
                        client.body(encoded_bytes % 1024).await;
                    }
                    _ => sleep(BUSY_RETRY_AFTER).await,
                }
                // Memory has no rate of its own.
                sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let _ = timeout(Duration::from_secs(seconds), join_all(downloads)).await;
    taken.into_inner()
}

#[tokio::test(start_paused = true)]
async fn two_peers_have_equal_shares_though_one_opens_four_times_the_streams() {
    let served = Served::start(limits(|limits| limits.upload_rate_bytes_per_second = Some(2_000_000)));
    let (one, four) =
        tokio::join!(greedy(&served, 2, Scope::Lan, 1, 10), greedy(&served, 3, Scope::Lan, 4, 10));
    let ratio = one as f64 / four as f64;
    assert!((0.9..1.1).contains(&ratio), "{one} against {four}");
    let of_rate = (one + four) as f64 / 20e6;
    assert!((0.95..=1.05).contains(&of_rate), "{of_rate} of the rate");
}

#[tokio::test(start_paused = true)]
async fn public_peers_are_capped_while_the_lan_is_not() {
    let served = Served::start(limits(|limits| limits.public_rate_bytes_per_second = Some(1_000_000)));
    let (lan, public) =
        tokio::join!(greedy(&served, 2, Scope::Lan, 1, 10), greedy(&served, 3, Scope::Public, 2, 10));
    assert!((9_500_000..=10_500_000).contains(&public), "{public}");
    assert!(lan > 100_000_000, "{lan}");
    let served = Served::start(limits(|limits| limits.lan_rate_bytes_per_second = Some(1_000_000)));
    assert!((9_500_000..=10_500_000).contains(&greedy(&served, 2, Scope::Lan, 2, 10).await));
}

#[tokio::test(start_paused = true)]
async fn a_low_rate_of_a_scope_is_given_to_few_bodies_too() {
    let served = Served::start(limits(|limits| limits.public_rate_bytes_per_second = Some(40_000)));
    let blob = served.published(MIB);
    let asked = join_all((2..12).map(|seed| {
        let (served, blob) = (&served, &blob);
        let scope = if seed < 8 { Scope::Public } else { Scope::Lan };
        async move {
            let mut client = served.greeted(peer(seed), scope).await;
            let response = client.ask(&blob.range_request(0, 64)).await;
            (client, scope, response)
        }
    }))
    .await;
    let bodies = |of| {
        let served = asked.iter().filter(|(_, scope, _)| *scope == of);
        served.filter(|(_, _, response)| matches!(response, Response::Data { .. })).count()
    };
    assert_eq!((bodies(Scope::Public), bodies(Scope::Lan)), (2, 4));
}

#[tokio::test(start_paused = true)]
async fn a_low_rate_is_given_to_few_bodies_so_that_none_looks_stalled() {
    let served = Served::start(limits(|limits| limits.upload_rate_bytes_per_second = Some(40_000)));
    assert_eq!(limits(|limits| limits.upload_rate_bytes_per_second = Some(1)).usable_slots(), 1);
    let blob = served.published(MIB);
    let asked = join_all((2..8).map(|seed| {
        let (served, blob) = (&served, &blob);
        async move {
            let mut client = served.greeted(peer(seed), Scope::Lan).await;
            let response = client.ask(&blob.range_request(0, 64)).await;
            (client, response)
        }
    }))
    .await;
    let bodies = asked.iter().filter(|(_, response)| matches!(response, Response::Data { .. })).count();
    assert_eq!(bodies, 2);
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_held_while_its_body_is_written_and_the_others_are_told_when_to_come_back() {
    let served = Served::start(limits(|limits| limits.slots = NonZeroUsize::MIN));
    let blob = served.published(MIB);
    let mut holder = served.greeted(peer(2), Scope::Lan).await;
    let Response::Data { encoded_bytes } = holder.ask(&blob.range_request(0, 64)).await else {
        panic!("a free slot")
    };
    let mut other = served.greeted(peer(3), Scope::Lan).await;
    let busy = Response::Busy { retry_after_ms: BUSY_RETRY_AFTER.as_millis() as u32 };
    assert_eq!(other.ask(&blob.range_request(0, 1)).await, busy);
    assert!(matches!(other.ask(&Request::Lookup { digest: blob.digest() }).await, Response::Have { .. }));
    assert_eq!(
        holder.body(encoded_bytes).await,
        blob.encoded(p2p_cache_protocol::tree::GroupRange::new(0, 64))
    );
    assert!(matches!(other.ask(&blob.range_request(0, 1)).await, Response::Data { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_does_not_read_loses_its_stream_and_its_slot() {
    let served = Served::start(limits(|limits| limits.slots = NonZeroUsize::MIN));
    let blob = served.published(MIB);
    let mut sleeper = served.greeted(peer(2), Scope::Lan).await;
    for _ in 0..20 {
        // Pipelined requests do not make the server hold more bodies than it has slots.
        sleeper.send(&blob.range_request(0, 64)).await;
    }
    sleep(WRITE_PROGRESS_TIMEOUT + Duration::from_millis(100)).await;
    assert!(served.served_bytes.get() as usize <= PIPE_BYTES + 16 * 1024, "no more than the pipe took");
    let mut other = served.greeted(peer(3), Scope::Lan).await;
    assert!(matches!(other.ask(&blob.range_request(0, 1)).await, Response::Data { .. }));
    assert!(sleeper.is_closed_within(Duration::from_millis(1)).await);
    assert_eq!(served.bans.count(crate::peers::BanReason::ProtocolViolation), 0, "slow is not hostile");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_sips_does_not_hold_a_slot_for_ever() {
    let served = Served::start(limits(|limits| limits.slots = NonZeroUsize::MIN));
    let blob = served.published(MIB);
    let mut sipper = served.greeted(peer(2), Scope::Lan).await;
    sipper.send(&blob.range_request(0, 64)).await;
    let sipping = async {
        loop {
            sleep(Duration::from_secs(1)).await;
            if tokio::io::AsyncReadExt::read_exact(&mut sipper.stream, &mut [0; 8 * 1024]).await.is_err() {
                return;
            }
        }
    };
    let mut other = served.greeted(peer(3), Scope::Lan).await;
    let waiting = async {
        while !matches!(other.ask(&blob.range_request(0, 1)).await, Response::Data { .. }) {
            sleep(Duration::from_secs(1)).await;
        }
    };
    let start = Instant::now();
    tokio::select! {
        () = async { tokio::join!(sipping, std::future::pending::<()>()); } => {}
        () = waiting => {}
    }
    assert!(start.elapsed() < Duration::from_secs(75), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn failed_lookups_mute_a_peer_but_not_its_transfers_nor_other_peers() {
    let served = Served::start(limits(|limits| {
        limits.failed_lookups_per_minute_per_peer = NonZeroU32::new(60).unwrap()
    }));
    let blob = served.published(200_000);
    let other_blob = served.published(300_000);
    let mut prober = served.greeted(peer(2), Scope::Lan).await;
    let known = Request::Lookup { digest: blob.digest() };
    assert!(matches!(prober.ask(&known).await, Response::Have { .. }));
    for index in 0..80 {
        assert_eq!(prober.ask(&missing(index)).await, Response::NotFound);
    }
    let questions = served.holdings.questions.load(Ordering::Relaxed);
    assert_eq!(prober.ask(&known).await, Response::NotFound, "muted");
    let unknown_range = other_blob.range_request(0, 1);
    assert_eq!(prober.ask(&unknown_range).await, Response::NotFound, "a blob that it was never told of");
    assert_eq!(served.holdings.questions.load(Ordering::Relaxed), questions, "answered without looking");
    let Response::Data { encoded_bytes } = prober.ask(&blob.range_request(0, 4)).await else {
        panic!("what it was told of before it may read on");
    };
    prober.body(encoded_bytes).await;
    // On a second stream it is the same peer; another peer is not concerned.
    let mut again = served.greeted(peer(2), Scope::Lan).await;
    assert_eq!(again.ask(&known).await, Response::NotFound);
    let mut other = served.greeted(peer(3), Scope::Lan).await;
    assert!(matches!(other.ask(&known).await, Response::Have { .. }));
    sleep(Duration::from_secs(60)).await;
    assert!(matches!(prober.ask(&known).await, Response::Have { .. }), "forgiven");
}

#[tokio::test(flavor = "multi_thread")]
async fn pipelined_misses_cost_one_delay_and_a_hit_behind_them_does_not_wait_for_each() {
    let served = Served::start(UploadLimits::default());
    let blob = served.published(1000);
    let mut client = served.greeted(peer(2), Scope::Lan).await;
    let mut shortest = Duration::MAX;
    // The machine does other things, too.
    for _ in 0..20 {
        let start = Instant::now();
        for index in 0..15 {
            client.send(&missing(index)).await;
        }
        client.send(&Request::Lookup { digest: blob.digest() }).await;
        for _ in 0..15 {
            assert_eq!(client.response().await, Response::NotFound);
        }
        assert!(matches!(client.response().await, Response::Have { .. }));
        shortest = shortest.min(start.elapsed());
    }
    // Time for the machine's own work, but far less than a delay each.
    assert!(shortest <= 8 * MISS_FLOOR, "{shortest:?}");
}

#[tokio::test(start_paused = true)]
async fn one_peer_never_takes_all_slots() {
    let served = Served::start(UploadLimits::default());
    let blob = served.published(MIB);
    let mut hoarders = Vec::new();
    for _ in 0..MAX_STREAMS_PER_PEER {
        let mut hoarder = served.greeted(peer(2), Scope::Lan).await;
        for _ in 0..4 {
            hoarder.send(&blob.range_request(0, 64)).await;
        }
        hoarders.push(hoarder);
    }
    sleep(Duration::from_millis(300)).await;
    assert_eq!(served.server.free_slots(), UploadLimits::default().slots.get() - MAX_BODIES_PER_PEER);
    let mut other = served.greeted(peer(3), Scope::Lan).await;
    assert!(matches!(other.ask(&blob.range_request(0, 1)).await, Response::Data { .. }));
}

#[tokio::test(start_paused = true)]
async fn requests_over_the_rate_wait_and_other_peers_do_not() {
    let served =
        Served::start(limits(|limits| limits.requests_per_second_per_peer = NonZeroU32::new(10).unwrap()));
    let blob = served.published(1000);
    let known = Request::Lookup { digest: blob.digest() };
    let mut greedy = served.greeted(peer(2), Scope::Lan).await;
    let start = Instant::now();
    for _ in 0..30 {
        assert!(matches!(greedy.ask(&known).await, Response::Have { .. }));
    }
    assert!((1.8..2.3).contains(&start.elapsed().as_secs_f64()), "{:?}", start.elapsed());
    let mut other = served.greeted(peer(3), Scope::Lan).await;
    let before = Instant::now();
    assert!(matches!(other.ask(&known).await, Response::Have { .. }));
    assert!(before.elapsed() < Duration::from_millis(5));
}

#[tokio::test(start_paused = true)]
async fn streams_are_bounded_by_peer_and_given_back() {
    let served = Served::start(UploadLimits::default());
    let blob = served.published(1000);
    let known = Request::Lookup { digest: blob.digest() };
    let mut streams = Vec::new();
    for _ in 0..MAX_STREAMS_PER_PEER {
        streams.push(served.greeted(peer(2), Scope::Lan).await);
    }
    let mut surplus = RawClient { stream: served.dial(peer(2), Scope::Lan).await };
    assert!(surplus.is_closed_within(Duration::from_millis(10)).await);
    let mut other = served.greeted(peer(3), Scope::Lan).await;
    assert!(matches!(other.ask(&known).await, Response::Have { .. }));
    streams.pop();
    sleep(Duration::from_millis(1)).await;
    let mut next = served.greeted(peer(2), Scope::Lan).await;
    assert!(matches!(next.ask(&known).await, Response::Have { .. }));
}

#[tokio::test(start_paused = true)]
async fn streams_are_bounded_in_total() {
    let served = Served::start(UploadLimits::default());
    let mut streams = Vec::new();
    for index in 0..MAX_STREAMS + 50 {
        let mut secret = [3; 32];
        secret[..8].copy_from_slice(&((index / MAX_STREAMS_PER_PEER) as u64).to_le_bytes());
        let peer = p2p_cache_discovery::Identity::from_seed(secret).peer_id();
        streams.push(served.dial(peer, Scope::Public).await);
        tokio::task::yield_now().await;
    }
    sleep(Duration::from_millis(1)).await;
    assert_eq!(served.server.sessions.running(), MAX_STREAMS);
}

#[tokio::test(start_paused = true)]
async fn shutdown_finishes_the_answer_under_way_and_closes_idle_streams_at_once() {
    let served = Served::start(limits(|limits| limits.upload_rate_bytes_per_second = Some(1_000_000)));
    let blob = served.published(MIB);
    let mut idle = served.greeted(peer(3), Scope::Lan).await;
    let mut busy = served.greeted(peer(2), Scope::Lan).await;
    let Response::Data { encoded_bytes } = busy.ask(&blob.range_request(0, 64)).await else {
        panic!("a free slot")
    };
    let start = Instant::now();
    let Served { server, .. } = served;
    let stop = server.shutdown(Duration::from_secs(5));
    let ((), body, idle_closed) =
        tokio::join!(stop, busy.body(encoded_bytes), idle.is_closed_within(Duration::from_millis(10)));
    assert_eq!(body.len(), encoded_bytes as usize);
    assert!(idle_closed);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn shutdown_cuts_what_outlives_the_grace_period() {
    let served = Served::start(limits(|limits| limits.upload_rate_bytes_per_second = Some(20_000)));
    let blob = served.published(MIB);
    let mut busy = served.greeted(peer(2), Scope::Lan).await;
    busy.send(&blob.range_request(0, 64)).await;
    sleep(Duration::from_millis(10)).await;
    let Served { server, .. } = served;
    let (stopped, closed) = tokio::join!(
        timeout(Duration::from_millis(1100), server.shutdown(Duration::from_secs(1))),
        busy.is_closed_within(Duration::from_secs(2))
    );
    assert!(stopped.is_ok());
    assert!(closed);
}
