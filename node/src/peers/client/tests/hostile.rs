//! Peers that lie, stall, babble or leave: the client names the fault, in time, and nobody else is affected.

use std::sync::Arc;
use std::time::Duration;

use p2p_cache_protocol::claim::SignedClaim;
use p2p_cache_protocol::limits::MAX_FRAME_BYTES;
use p2p_cache_protocol::tree::GroupRange;
use p2p_cache_protocol::wire::{Hello, Response, encode_frame};
use proptest::prelude::*;
use tokio::time::{Instant, sleep, timeout};

use crate::peers::bans::BanReason;
use crate::peers::client::{PeerClient, RangeAnswer};
use crate::peers::error::PeerError;
use crate::peers::limits::{HELLO_TIMEOUT, LOOKUP_TIMEOUT, PROGRESS_TIMEOUT};
use crate::peers::server::UploadLimits;
use crate::peers::testing::{Blob, Scripted, ScriptedPeer, Served, peer, signed};

const EXTENT: GroupRange = GroupRange::new(0, 16);

fn blob() -> Blob {
    Blob::new(400_000)
}

async fn first_extent(client: &PeerClient) -> Result<RangeAnswer, PeerError> {
    let blob = blob();
    client.range(peer(1), blob.id(), blob.claim.size, EXTENT).await
}

/// A client whose peer says hello, waits for a request and then does what the test says.
pub(super) fn client_of<F: Future<Output = ()> + Send + 'static>(
    script: impl Fn(Scripted) -> F + Send + Sync + 'static,
) -> PeerClient {
    let script = Arc::new(script);
    PeerClient::new(ScriptedPeer::new(move |_, mut stream| {
        let script = Arc::clone(&script);
        async move {
            if stream.hello().await && stream.request().await.is_some() {
                script(stream).await;
            }
        }
    }))
}

pub(super) fn client_answered(response: Response) -> PeerClient {
    client_of(move |mut stream| {
        let response = response.clone();
        async move {
            stream.answer(&response).await;
            stream.linger().await;
        }
    })
}

#[track_caller]
pub(super) fn assert_violation<T: std::fmt::Debug>(answer: Result<T, PeerError>) {
    let error = answer.unwrap_err();
    assert_eq!(error.ban_reason(), Some(BanReason::ProtocolViolation), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_body_of_another_length_is_a_violation() {
    let right = blob().encoded(EXTENT).len() as u32;
    for wrong in [0, 1, right - 1, right + 1, 1_000_000] {
        assert_violation(first_extent(&client_answered(Response::Data { encoded_bytes: wrong })).await);
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_of_another_kind_is_a_violation() {
    let blob = blob();
    let have = || Response::Have { claim: signed(&Blob::new(1), 1) };
    let narinfo = || Response::NarInfo { text: "StorePath: x\n".to_owned() };
    for response in [have(), narinfo()] {
        assert_violation(first_extent(&client_answered(response)).await);
    }
    for response in [narinfo(), Response::Data { encoded_bytes: 10 }, Response::Busy { retry_after_ms: 1 }] {
        assert_violation(client_answered(response).lookup(peer(1), blob.digest()).await);
    }
    let hash = "0123456789abcdfghijklmnpqrsvwxyz".parse().unwrap();
    for response in [have(), Response::Data { encoded_bytes: 10 }, Response::Busy { retry_after_ms: 1 }] {
        assert_violation(client_answered(response).narinfo(peer(1), hash).await);
    }
}

#[tokio::test(start_paused = true)]
async fn false_claims_are_named() {
    let asked = blob();
    let other = Blob::new(400_001);
    let mut altered: SignedClaim = signed(&asked, 1);
    altered.claim.size += 1;
    for claim in [signed(&asked, 9), signed(&other, 1), altered] {
        let answer = client_answered(Response::Have { claim }).lookup(peer(1), asked.digest()).await;
        let error = answer.unwrap_err();
        assert_eq!(error.ban_reason(), Some(BanReason::FalseClaim), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_leaves_midway_is_not_banned() {
    let client = client_of(|mut stream| async move {
        let encoded = blob().encoded(EXTENT);
        stream.answer(&Response::Data { encoded_bytes: encoded.len() as u32 }).await;
        stream.raw(&encoded[..100_000]).await;
    });
    let error = first_extent(&client).await.unwrap_err();
    assert!(matches!(error, PeerError::Closed { .. }), "{error}");
    assert_eq!(error.ban_reason(), None);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stops_or_trickles_is_a_stall() {
    for trickle in [false, true] {
        let client = client_of(move |mut stream| async move {
            let encoded = blob().encoded(EXTENT);
            stream.answer(&Response::Data { encoded_bytes: encoded.len() as u32 }).await;
            stream.raw(&encoded[..20_000]).await;
            for byte in &encoded[20_000..] {
                sleep(Duration::from_millis(900)).await;
                if trickle {
                    stream.raw(&[*byte]).await;
                }
            }
        });
        let start = Instant::now();
        let error = first_extent(&client).await.unwrap_err();
        assert!(matches!(error, PeerError::Stalled { received_bytes: 20_000.., .. }), "{error}");
        assert_eq!(error.ban_reason(), None);
        assert!(start.elapsed() <= PROGRESS_TIMEOUT + Duration::from_millis(10), "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_but_steady_body_is_no_stall() {
    let client = client_of(|mut stream| async move {
        let encoded = blob().encoded(EXTENT);
        stream.answer(&Response::Data { encoded_bytes: encoded.len() as u32 }).await;
        for part in encoded.chunks(8 * 1024) {
            sleep(Duration::from_secs(1)).await;
            stream.raw(part).await;
        }
    });
    assert_eq!(first_extent(&client).await.unwrap().encoded, blob().encoded(EXTENT));
}

#[tokio::test(start_paused = true)]
async fn silence_ends_in_time_wherever_it_begins() {
    let silent = || PeerClient::new(ScriptedPeer::new(|_, mut stream| async move { stream.linger().await }));
    let mute = || client_of(|mut stream| async move { stream.linger().await });
    for (client, lookup, range) in
        [(silent(), LOOKUP_TIMEOUT, HELLO_TIMEOUT), (mute(), LOOKUP_TIMEOUT, PROGRESS_TIMEOUT)]
    {
        let start = Instant::now();
        let error = client.lookup(peer(1), blob().digest()).await.unwrap_err();
        assert!(matches!(error, PeerError::Timeout { .. }), "{error}");
        assert!(start.elapsed() <= lookup + Duration::from_millis(10), "{:?}", start.elapsed());
        let start = Instant::now();
        let error = first_extent(&client).await.unwrap_err();
        assert!(matches!(error, PeerError::Timeout { .. }), "{error}");
        assert!(start.elapsed() <= range + Duration::from_millis(10), "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn no_common_version_is_no_fault() {
    let client = PeerClient::new(ScriptedPeer::new(|_, mut stream| async move {
        let hello = Hello { min_version: 7, max_version: 9, agent: "from the future".to_owned() };
        stream.raw(&encode_frame(&hello).unwrap()).await;
        stream.linger().await;
    }));
    let error = client.lookup(peer(1), blob().digest()).await.unwrap_err();
    assert!(matches!(error, PeerError::Incompatible { .. }), "{error}");
    assert_eq!(error.ban_reason(), None);
}

#[tokio::test(start_paused = true)]
async fn oversize_frames_are_refused_before_they_are_read() {
    let oversize = || {
        PeerClient::new(ScriptedPeer::new(|_, mut stream| async move {
            // As a hello: larger than any hello, though not larger than a frame.
            stream.raw(&300_u32.to_le_bytes()).await;
            stream.linger().await;
        }))
    };
    assert_violation(oversize().lookup(peer(1), blob().digest()).await);
    for length in [0, MAX_FRAME_BYTES as u32 + 1, u32::MAX] {
        let client = client_of(move |mut stream| async move {
            stream.raw(&length.to_le_bytes()).await;
            stream.linger().await;
        });
        assert_violation(first_extent(&client).await);
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_nobody_asked_for_end_the_stream() {
    let client = client_of(|mut stream| async move {
        stream.answer(&Response::NotFound).await;
        stream.answer(&Response::NotFound).await;
        stream.linger().await;
    });
    assert_eq!(client.lookup(peer(1), blob().digest()).await, Ok(None));
    sleep(Duration::from_millis(1)).await;
    assert_eq!(client.inner.tasks.running(), 0);
}

#[tokio::test]
async fn a_hostile_peer_does_not_touch_the_others() {
    struct Both(Arc<ScriptedPeer>, Arc<crate::peers::testing::Pipes>);
    #[async_trait::async_trait]
    impl crate::peers::Dialer for Both {
        async fn open(&self, to: p2p_cache_discovery::PeerId) -> std::io::Result<crate::peers::BoxStream> {
            if to == peer(1) { self.1.open(to).await } else { self.0.open(to).await }
        }
    }
    let served = Served::start(UploadLimits::default());
    let honest = served.published(400_000);
    let hostile = ScriptedPeer::new(|_, mut stream| async move {
        stream.hello().await;
        loop {
            stream.raw(&[0xA5; 4096]).await;
            tokio::task::yield_now().await;
        }
    });
    let client = PeerClient::new(Arc::new(Both(hostile, served.dialer(2))));
    for _ in 0..5 {
        let good = client.range(peer(1), honest.id(), honest.claim.size, EXTENT);
        let bad = client.range(peer(3), honest.id(), honest.claim.size, EXTENT);
        let (good, bad) = tokio::join!(good, bad);
        assert_eq!(good.unwrap().encoded, honest.encoded(EXTENT));
        assert_violation(bad);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever a peer sends, before or after its hello, the calls end in time and nothing is left behind.
    #[test]
    fn arbitrary_bytes_never_hang_or_panic_the_client(
        greets in any::<bool>(),
        framed in any::<bool>(),
        bytes in proptest::collection::vec(any::<u8>(), 0..600),
        stays in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let client = PeerClient::new(ScriptedPeer::new(move |_, mut stream| {
                let mut sent = Vec::new();
                if framed {
                    sent.extend((bytes.len() as u32).to_le_bytes());
                }
                sent.extend(&bytes);
                async move {
                    if greets {
                        stream.hello().await;
                        stream.request().await;
                    }
                    stream.raw(&sent).await;
                    if stays {
                        stream.linger().await;
                    }
                }
            }));
            let limit = HELLO_TIMEOUT + PROGRESS_TIMEOUT + Duration::from_secs(1);
            let calls = async { tokio::join!(client.lookup(peer(1), blob().digest()), first_extent(&client)) };
            let (_, range) = timeout(limit, calls).await.expect("the calls end within the limits");
            assert!(range.is_err());
            sleep(Duration::from_secs(70)).await;
            assert_eq!(client.inner.tasks.running(), 0);
        });
    }
}
