//! What callers may rely on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::join_all;
use p2p_cache_protocol::digest::{Digest, Sha256Digest};
use p2p_cache_protocol::tree::GroupRange;
use p2p_cache_protocol::wire::{Request, Response};
use tokio::time::{Instant, sleep};

use crate::peers::client::PeerClient;
use crate::peers::error::PeerError;
use crate::peers::limits::{CLIENT_IDLE_TIMEOUT, LOOKUP_TIMEOUT, MAX_CLIENT_PEERS};
use crate::peers::server::UploadLimits;
use crate::peers::testing::{Blob, ScriptedPeer, Served, cache_key, narinfo_of, peer, signed};

const MIB: usize = 1024 * 1024;

#[tokio::test(start_paused = true)]
async fn lookups_and_narinfos_share_one_pipelined_stream() {
    let served = Served::start(UploadLimits::default());
    let blob = served.published(100_000);
    let narinfo = narinfo_of(&blob, &[&cache_key("trusted-1")]);
    let hash = narinfo.store_path.hash();
    served.holdings.add_narinfo(narinfo);
    let dialer = served.dialer(2);
    let client = PeerClient::new(dialer.clone());
    let calls = (0..200_u8).map(|index| {
        let (client, blob) = (&client, &blob);
        async move {
            match index % 3 {
                0 => {
                    let claim = client.lookup(peer(1), blob.digest()).await.unwrap().unwrap();
                    assert_eq!(claim.whole().map(|claim| claim.claim), Some(blob.claim));
                }
                1 => {
                    let missing = Digest::Sha256(Sha256Digest::of(&[index]));
                    assert_eq!(client.lookup(peer(1), missing).await, Ok(None));
                }
                _ => {
                    let text = client.narinfo(peer(1), hash).await.unwrap().unwrap();
                    assert!(text.contains("/nix/store/"));
                }
            }
        }
    });
    join_all(calls).await;
    assert_eq!(dialer.opened.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn ranges_come_right_over_at_most_two_streams() {
    let served = Served::start(UploadLimits::default());
    let blob = served.published(5 * MIB + 12_345);
    let dialer = served.dialer(2);
    let client = PeerClient::new(dialer.clone());
    let groups = GroupRange::all(blob.claim.size).end;
    let calls = (0..groups).step_by(20).map(|start| {
        let range = GroupRange::new(start, groups.min(start + 20));
        let (client, blob) = (&client, &blob);
        async move {
            let answer = client.range(peer(1), blob.id(), blob.claim.size, range).await.unwrap();
            assert_eq!(answer.encoded, blob.encoded(range));
            assert!(answer.timing.sent_at <= answer.timing.first_byte_at);
            assert!(answer.timing.first_byte_at <= answer.timing.finished_at);
            answer.encoded.len() as u64
        }
    });
    let total: u64 = join_all(calls).await.into_iter().sum();
    assert_eq!(dialer.opened.load(Ordering::Relaxed), 2);
    assert!(served.served_bytes.get() >= total);
    assert!(client.first_byte(peer(1)).is_some());
}

#[tokio::test]
async fn not_held_is_an_answer_and_a_senseless_range_is_not_sent() {
    let served = Served::start(UploadLimits::default());
    let dialer = served.dialer(2);
    let client = PeerClient::new(dialer.clone());
    let blob = Blob::new(MIB);
    let answer = client.range(peer(1), blob.id(), blob.claim.size, GroupRange::new(0, 4)).await;
    assert_eq!(answer, Err(PeerError::NotHeld { peer: peer(1) }));
    for (start, end) in [(0, 0), (3, 2), (0, 65), (64, 65)] {
        let answer = client.range(peer(1), blob.id(), blob.claim.size, GroupRange::new(start, end)).await;
        assert!(matches!(answer, Err(PeerError::BadRequest { .. })), "{start}..{end}");
    }
    assert_eq!(dialer.opened.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_leaves_the_stream_in_step() {
    let blob = Arc::new(Blob::new(MIB));
    let script_blob = Arc::clone(&blob);
    let dialer = ScriptedPeer::new(move |_, mut stream| {
        let blob = Arc::clone(&script_blob);
        async move {
            stream.hello().await;
            while let Some(Request::Range { range, .. }) = stream.request().await {
                sleep(Duration::from_secs(1)).await;
                let encoded = blob.encoded(range);
                stream.answer(&Response::Data { encoded_bytes: encoded.len() as u32 }).await;
                let (first, second) = encoded.split_at(encoded.len() / 2);
                stream.raw(first).await;
                sleep(Duration::from_secs(1)).await;
                stream.raw(second).await;
            }
        }
    });
    let client = PeerClient::new(dialer.clone());
    let range = |start| client.range(peer(1), blob.id(), blob.claim.size, GroupRange::new(start, start + 2));
    // Two streams, several requests on each; some callers leave before, some within their answer.
    let patience = [500, 10_000, 1_500, 10_000, 2_500, 10_000, 100, 20_000];
    let calls = patience.into_iter().enumerate().map(|(index, millis)| {
        let call = range(index as u64 * 2);
        let blob = &blob;
        async move {
            let answer = tokio::time::timeout(Duration::from_millis(millis), call).await;
            if millis >= 10_000 {
                let expected = blob.encoded(GroupRange::new(index as u64 * 2, index as u64 * 2 + 2));
                assert_eq!(answer.unwrap().unwrap().encoded, expected);
            }
        }
    });
    join_all(calls).await;
    assert_eq!(dialer.opened(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_backlog_that_nobody_wants_is_not_drained() {
    let blob = Arc::new(Blob::new(4 * MIB));
    let script_blob = Arc::clone(&blob);
    let dialer = ScriptedPeer::new(move |_, mut stream| {
        let blob = Arc::clone(&script_blob);
        async move {
            stream.hello().await;
            while let Some(Request::Range { range, .. }) = stream.request().await {
                sleep(Duration::from_secs(4)).await;
                let encoded = blob.encoded(range);
                stream.answer(&Response::Data { encoded_bytes: encoded.len() as u32 }).await;
                stream.raw(&encoded).await;
            }
        }
    });
    let client = PeerClient::new(dialer.clone());
    let ask = |start| client.range(peer(1), blob.id(), blob.claim.size, GroupRange::new(start, start + 64));
    let abandoned = join_all((0..12).map(|index| ask(index % 4 * 64)));
    assert!(tokio::time::timeout(Duration::from_secs(1), abandoned).await.is_err());
    let start = Instant::now();
    assert_eq!(ask(0).await.unwrap().encoded, blob.encoded(GroupRange::new(0, 64)));
    assert!(
        start.elapsed() < Duration::from_secs(12),
        "six answers of 4 s were in front: {:?}",
        start.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_broken_stream_fails_all_who_wait_and_the_next_call_opens_another() {
    let blob = Arc::new(Blob::new(MIB));
    let script_blob = Arc::clone(&blob);
    let dialer = ScriptedPeer::new(move |count, mut stream| {
        let blob = Arc::clone(&script_blob);
        async move {
            stream.hello().await;
            while stream.request().await.is_some() {
                if count == 0 {
                    sleep(Duration::from_millis(10)).await;
                    return;
                }
                stream.answer(&Response::Have { claim: signed(&blob, 1) }).await;
            }
        }
    });
    let client = PeerClient::new(dialer.clone());
    let answers = join_all((0..5).map(|_| client.lookup(peer(1), blob.digest()))).await;
    for answer in answers {
        let error = answer.unwrap_err();
        assert!(matches!(error, PeerError::Closed { .. }), "{error}");
        assert_eq!(error.ban_reason(), None);
    }
    assert!(client.lookup(peer(1), blob.digest()).await.unwrap().is_some());
    assert_eq!(dialer.opened(), 2);
}

#[tokio::test(start_paused = true)]
async fn idle_streams_are_closed_and_replaced_unnoticed() {
    let served = Served::start(UploadLimits::default());
    let blob = served.published(1000);
    let dialer = served.dialer(2);
    let client = PeerClient::new(dialer.clone());
    for round in 1..4 {
        assert!(client.lookup(peer(1), blob.digest()).await.unwrap().is_some());
        assert_eq!(dialer.opened.load(Ordering::Relaxed), round);
        sleep(CLIENT_IDLE_TIMEOUT + Duration::from_secs(1)).await;
        assert_eq!(client.inner.tasks.running(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_the_peer_closed_while_idle_is_replaced_unnoticed() {
    let blob = Arc::new(Blob::new(1000));
    let claim = signed(&blob, 1);
    let dialer = ScriptedPeer::new(move |_, mut stream| async move {
        stream.hello().await;
        stream.request().await;
        stream.answer(&Response::Have { claim }).await;
    });
    let client = PeerClient::new(dialer.clone());
    for round in 1..4 {
        assert!(client.lookup(peer(1), blob.digest()).await.unwrap().is_some());
        assert_eq!(dialer.opened(), round);
        sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn busy_is_passed_on_with_its_delay() {
    let dialer = ScriptedPeer::new(|_, mut stream| async move {
        stream.hello().await;
        while stream.request().await.is_some() {
            stream.answer(&Response::Busy { retry_after_ms: 70 }).await;
        }
    });
    let client = PeerClient::new(dialer);
    let blob = Blob::new(MIB);
    let answer = client.range(peer(1), blob.id(), blob.claim.size, GroupRange::new(0, 1)).await;
    assert_eq!(answer, Err(PeerError::Busy { peer: peer(1), retry_after: Duration::from_millis(70) }));
}

#[tokio::test(start_paused = true)]
async fn the_number_of_remembered_peers_is_bounded() {
    let dialer = ScriptedPeer::new(|_, mut stream| async move {
        stream.hello().await;
        while stream.request().await.is_some() {
            stream.answer(&Response::NotFound).await;
        }
    });
    let client = PeerClient::new(dialer);
    let digest = Blob::new(1).digest();
    for seed in 0..MAX_CLIENT_PEERS + 40 {
        let mut secret = [7; 32];
        secret[..8].copy_from_slice(&(seed as u64).to_le_bytes());
        let peer = p2p_cache_discovery::Identity::from_seed(secret).peer_id();
        assert_eq!(client.lookup(peer, digest).await, Ok(None));
    }
    sleep(Duration::from_millis(1)).await;
    assert_eq!(client.peers().len(), MAX_CLIENT_PEERS);
    assert_eq!(client.inner.tasks.running(), MAX_CLIENT_PEERS, "the streams of forgotten peers are closed");
}

#[tokio::test(start_paused = true)]
async fn shutdown_ends_every_stream_and_refuses_new_calls() {
    let dialer = ScriptedPeer::new(|_, mut stream| async move {
        stream.hello().await;
        stream.linger().await;
    });
    let client = PeerClient::new(dialer);
    let waiting = tokio::spawn({
        let client = client.clone();
        async move { client.lookup(peer(1), Blob::new(1).digest()).await }
    });
    sleep(Duration::from_millis(10)).await;
    client.shutdown(Duration::from_millis(100)).await;
    assert!(waiting.await.unwrap().is_err());
    let refused = client.lookup(peer(1), Blob::new(1).digest()).await;
    assert_eq!(refused, Err(PeerError::NoRoom { peer: peer(1) }));
}

#[tokio::test(start_paused = true)]
async fn first_byte_latency_is_measured_on_a_quiet_stream() {
    let dialer = ScriptedPeer::new(|_, mut stream| async move {
        stream.hello().await;
        let mut delay = 40;
        while stream.request().await.is_some() {
            sleep(Duration::from_millis(delay)).await;
            stream.answer(&Response::NotFound).await;
            delay = 20;
        }
    });
    let client = PeerClient::new(dialer);
    assert_eq!(client.first_byte(peer(1)), None);
    let digest = Blob::new(1).digest();
    client.lookup(peer(1), digest).await.unwrap();
    client.lookup(peer(1), digest).await.unwrap();
    let latency = client.first_byte(peer(1)).unwrap();
    assert!((20..25).contains(&latency.as_millis()), "{latency:?}");
    assert!(latency < LOOKUP_TIMEOUT);
}
