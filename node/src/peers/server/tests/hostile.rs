//! Peers that babble, dribble, hang or lie: the server ends their streams within its limits, and goes on.

use std::time::Duration;

use p2p_cache_discovery::Scope;
use p2p_cache_protocol::limits::MAX_FRAME_BYTES;
use p2p_cache_protocol::tree::GroupRange;
use p2p_cache_protocol::wire::{Hello, Request, Response, encode_frame};
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use crate::peers::bans::BanReason;
use crate::peers::limits::{FRAME_TIMEOUT, HELLO_TIMEOUT, SERVER_IDLE_TIMEOUT};
use crate::peers::server::UploadLimits;
use crate::peers::testing::{Blob, RawClient, Served, peer};

const MOMENT: Duration = Duration::from_millis(20);

async fn assert_others_are_served(served: &Served) {
    let blob = served.published(70_000);
    let mut honest = served.greeted(peer(100), Scope::Lan).await;
    let answer = honest.ask(&Request::Lookup { digest: blob.digest() }).await;
    assert!(matches!(answer, Response::Have { .. }));
}

async fn raw(served: &Served) -> RawClient {
    RawClient { stream: served.dial(peer(66), Scope::Public).await }
}

async fn greeted(served: &Served) -> RawClient {
    served.greeted(peer(66), Scope::Public).await
}

fn violations(served: &Served) -> u64 {
    served.bans.count(BanReason::ProtocolViolation)
}

#[tokio::test(start_paused = true)]
async fn what_is_no_hello_is_banned() {
    let mut oversize_agent = encode_frame(&Hello::new("x".repeat(64))).unwrap();
    oversize_agent[0] = 0xFF;
    oversize_agent[1] = 0xFF;
    for bytes in [vec![0x16; 500], b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), vec![0; 8], oversize_agent]
    {
        let served = Served::start(UploadLimits::default());
        let mut client = raw(&served).await;
        client.stream.write_all(&bytes).await.unwrap();
        assert!(client.is_closed_within(MOMENT).await);
        assert_eq!(violations(&served), 1);
        assert!(served.bans.is_banned(peer(66)));
        let mut again = raw(&served).await;
        assert!(again.is_closed_within(MOMENT).await, "a banned peer is not served");
        assert_others_are_served(&served).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_request_is_banned() {
    let blob = Blob::new(500_000);
    let hello = encode_frame(&Hello::new("hello again")).unwrap();
    let mut trailing = encode_frame(&Request::Lookup { digest: blob.digest() }).unwrap();
    trailing[0] += 1;
    trailing.push(0);
    // Ranges that the protocol does not allow are made by altering one that it does: the last two bytes.
    let mut beyond = encode_frame(&blob.range_request(0, 9)).unwrap();
    *beyond.last_mut().unwrap() = 200;
    let mut empty = encode_frame(&blob.range_request(3, 9)).unwrap();
    *empty.last_mut().unwrap() = 3;
    let oversize = (MAX_FRAME_BYTES as u32 + 1).to_le_bytes().to_vec();
    let large = 1000_u32.to_le_bytes().to_vec();
    let largest = u32::MAX.to_le_bytes().to_vec();
    for bytes in [hello, trailing, beyond, empty, oversize, large, largest, vec![0; 4], vec![0xA5; 4096]] {
        let served = Served::start(UploadLimits::default());
        let mut client = greeted(&served).await;
        drop(client.stream.write_all(&bytes).await);
        assert!(client.is_closed_within(MOMENT).await, "{bytes:?}");
        assert_eq!(violations(&served), 1, "{bytes:?}");
        assert_others_are_served(&served).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_of_another_version_is_turned_away_without_a_ban() {
    let served = Served::start(UploadLimits::default());
    let mut client = raw(&served).await;
    let hello = Hello { min_version: 2, max_version: 3, agent: "newer".to_owned() };
    client.stream.write_all(&encode_frame(&hello).unwrap()).await.unwrap();
    assert!(client.is_closed_within(MOMENT).await);
    assert_eq!(violations(&served), 0);
}

#[tokio::test(start_paused = true)]
async fn half_open_streams_and_endless_hellos_end_after_the_hello_timeout() {
    let served = Served::start(UploadLimits::default());
    let mut silent = raw(&served).await;
    let mut dribbling = raw(&served).await;
    let dribble = async {
        let hello = encode_frame(&Hello::new("x".repeat(64))).unwrap();
        for byte in hello {
            sleep(Duration::from_secs(1)).await;
            if dribbling.stream.write_all(&[byte]).await.is_err() {
                return true;
            }
        }
        false
    };
    let patience = HELLO_TIMEOUT + MOMENT;
    let (silent_closed, dribble_closed) = tokio::join!(silent.is_closed_within(patience), dribble);
    assert!(silent_closed && dribble_closed);
    assert_eq!(served.server.sessions.running(), 0);
    assert_eq!(violations(&served), 0, "a bad line looks the same");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_dribbles_ends_after_the_frame_timeout() {
    let served = Served::start(UploadLimits::default());
    let mut client = greeted(&served).await;
    let frame = encode_frame(&Blob::new(1_000).range_request(0, 1)).unwrap();
    client.stream.write_all(&frame[..frame.len() - 1]).await.unwrap();
    assert!(!client.is_closed_within(FRAME_TIMEOUT - MOMENT).await);
    assert!(client.is_closed_within(2 * MOMENT).await);
}

#[tokio::test(start_paused = true)]
async fn an_idle_stream_is_closed_in_the_end() {
    let served = Served::start(UploadLimits::default());
    let mut client = greeted(&served).await;
    assert!(!client.is_closed_within(SERVER_IDLE_TIMEOUT - MOMENT).await);
    assert!(client.is_closed_within(2 * MOMENT).await);
}

#[tokio::test(start_paused = true)]
async fn a_lie_about_the_size_gets_nothing() {
    let served = Served::start(UploadLimits::default());
    let blob = served.published(500_000);
    let mut client = greeted(&served).await;
    for size in [1, 499_999, 500_001, 1 << 40] {
        let request = Request::Range { blob: blob.id(), size, range: GroupRange::new(0, 1) };
        assert_eq!(client.ask(&request).await, Response::NotFound);
    }
    assert_eq!(violations(&served), 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_leaves_in_the_middle_of_a_body_frees_everything() {
    let served = Served::start(UploadLimits::default());
    let blob = served.published(1024 * 1024);
    for _ in 0..100 {
        let mut client = greeted(&served).await;
        client.send(&blob.range_request(0, 64)).await;
        client.response().await;
        drop(client);
        sleep(MOMENT).await;
    }
    assert_eq!(served.server.sessions.running(), 0);
    assert_others_are_served(&served).await;
}

#[tokio::test(start_paused = true)]
async fn bans_count_once_and_expire() {
    let served = Served::start(UploadLimits::default());
    for reason in [BanReason::CorruptData, BanReason::CorruptData, BanReason::FalseClaim] {
        served.bans.ban(peer(7), reason).await;
    }
    assert_eq!((served.bans.count(BanReason::CorruptData), served.bans.count(BanReason::FalseClaim)), (1, 0));
    sleep(crate::peers::limits::BAN_DURATION).await;
    assert!(!served.bans.is_banned(peer(7)));
    served.bans.ban(peer(7), BanReason::FalseClaim).await;
    assert_eq!(served.bans.count(BanReason::FalseClaim), 1);
    let mut registry = prometheus_client::registry::Registry::default();
    served.bans.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    assert!(text.contains("p2p_cache_bans_total{reason=\"corrupt_data\"} 1"), "{text}");
    assert!(text.contains("p2p_cache_bans_total{reason=\"protocol_violation\"} 0"), "{text}");
}

#[derive(Debug, Clone)]
enum Move {
    Bytes(Vec<u8>),
    Framed(Vec<u8>),
    Valid(u8, u8),
    Wait(u16),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let bytes = proptest::collection::vec(any::<u8>(), 0..300);
    let one = prop_oneof![
        bytes.clone().prop_map(Move::Bytes),
        bytes.prop_map(Move::Framed),
        (any::<u8>(), any::<u8>()).prop_map(|(start, end)| Move::Valid(start, end)),
        (0..4000_u16).prop_map(Move::Wait),
    ];
    proptest::collection::vec(one, 0..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever a peer sends and however it waits, its stream ends within the limits, others are served, and no
    /// session is left behind.
    #[test]
    fn arbitrary_bytes_never_hang_or_panic_the_server(greets in any::<bool>(), moves in moves()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let served = Served::start(UploadLimits::default());
            let blob = served.published(300_000);
            let mut client = if greets { greeted(&served).await } else { raw(&served).await };
            for each in moves {
                let bytes = match each {
                    Move::Bytes(bytes) => bytes,
                    Move::Framed(bytes) => [&(bytes.len() as u32).to_le_bytes(), &bytes[..]].concat(),
                    Move::Valid(start, end) => {
                        let request = blob.range_request(u64::from(start % 19), u64::from(end % 20));
                        encode_frame(&request).unwrap_or_default()
                    }
                    Move::Wait(millis) => {
                        sleep(Duration::from_millis(u64::from(millis))).await;
                        continue;
                    }
                };
                drop(client.stream.write_all(&bytes).await);
            }
            assert_others_are_served(&served).await;
            // The reader of the stream reads on, so that even the answers to valid requests end.
            assert!(client.is_closed_within(SERVER_IDLE_TIMEOUT + HELLO_TIMEOUT).await);
            drop(client);
            sleep(SERVER_IDLE_TIMEOUT + HELLO_TIMEOUT).await;
            assert_eq!(served.server.sessions.running(), 0);
        });
    }
}
