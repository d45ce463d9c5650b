//! Blobs as another node gets them, and news of what it has got: from honest, slow and lying leaders.

use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use p2p_cache_protocol::limits::MAX_ARRIVING_CHUNK_BYTES;
use p2p_cache_protocol::tree::GroupRange;
use p2p_cache_protocol::wire::Response;
use p2p_cache_protocol::{BlobId, GROUP_BYTES, Sha256Digest, StoreHash};
use proptest::prelude::*;
use tokio::time::{Instant, sleep, timeout};

use super::hostile::{assert_violation, client_answered, client_of};
use crate::peers::client::{Arriving, PeerClient, Watched};
use crate::peers::error::PeerError;
use crate::peers::limits::{ARRIVAL_HEARTBEAT, ARRIVAL_PATIENCE, ARRIVAL_TIMEOUT, LEADER_TIMEOUT};
use crate::peers::testing::{Scripted, peer};

const SIZE: u64 = 1000;
const OFFSET: u64 = 100;
const GROUPS: u64 = 8;
/// A length that says: I wait myself.
const HEARTBEAT: [u8; 4] = [0; 4];

async fn follow(client: &PeerClient) -> Result<Arriving, PeerError> {
    client.follow(peer(1), StoreHash::from([1; 20]), Sha256Digest([2; 32]), OFFSET).await
}

async fn watch(client: &PeerClient) -> Result<Watched, PeerError> {
    client.watch(peer(1), BlobId([3; 32]), GROUPS * GROUP_BYTES).await
}

/// A client of a leader that says how large the blob is and goes on as the test says.
fn client_led<F: Future<Output = ()> + Send + 'static>(
    script: impl Fn(Scripted) -> F + Clone + Send + Sync + 'static,
) -> PeerClient {
    client_of(move |mut stream| {
        let script = script.clone();
        async move {
            stream.answer(&Response::Arriving { size: SIZE }).await;
            script(stream).await;
        }
    })
}

/// The same, with these bytes and silence behind them.
fn client_sent(bytes: Vec<u8>) -> PeerClient {
    client_led(move |mut stream| {
        let bytes = bytes.clone();
        async move {
            stream.raw(&bytes).await;
            stream.linger().await;
        }
    })
}

fn chunk(length: u32, byte: u8) -> Vec<u8> {
    [&length.to_le_bytes()[..], &vec![byte; length as usize]].concat()
}

async fn all(client: &PeerClient) -> Result<Vec<u8>, PeerError> {
    let chunks: Vec<_> = follow(client).await?.bytes.try_collect().await?;
    Ok(chunks.concat())
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_blob_arrives_to_its_last_byte_and_no_further() {
    let sent = [chunk(400, 1), HEARTBEAT.to_vec(), HEARTBEAT.to_vec(), chunk(500, 2), chunk(7, 3)].concat();
    let client = client_sent(sent);
    assert_eq!(follow(&client).await.unwrap().size, SIZE);
    assert_eq!(all(&client).await.unwrap(), [[1; 400].to_vec(), [2; 500].to_vec()].concat());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_falls_silent_is_left_in_time() {
    for sent in [Vec::new(), chunk(400, 1), chunk(400, 1)[..200].to_vec()] {
        let client = client_sent(sent);
        let start = Instant::now();
        let error = all(&client).await.unwrap_err();
        assert!(matches!(error, PeerError::Timeout { .. }), "{error}");
        assert!(start.elapsed() <= ARRIVAL_TIMEOUT + Duration::from_millis(10), "{:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_only_ever_waits_itself_is_left_later() {
    let client = client_led(|mut stream| async move {
        loop {
            sleep(ARRIVAL_HEARTBEAT).await;
            stream.raw(&HEARTBEAT).await;
        }
    });
    let start = Instant::now();
    let error = all(&client).await.unwrap_err();
    assert!(matches!(error, PeerError::Timeout { after: ARRIVAL_PATIENCE, .. }), "{error}");
    let late = ARRIVAL_PATIENCE + ARRIVAL_HEARTBEAT;
    assert!((ARRIVAL_PATIENCE..=late).contains(&start.elapsed()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_closes_early_is_no_end() {
    let client = client_led(|mut stream| async move { stream.raw(&chunk(400, 1)).await });
    let mut arriving = follow(&client).await.unwrap();
    assert_eq!(arriving.bytes.next().await.unwrap().unwrap().len(), 400);
    let error = arriving.bytes.next().await.unwrap().unwrap_err();
    assert!(matches!(error, PeerError::Closed { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn chunks_that_cannot_be_are_violations() {
    let beyond = (SIZE - OFFSET) as u32 + 1;
    for length in [beyond, MAX_ARRIVING_CHUNK_BYTES as u32 + 1, u32::MAX] {
        assert_violation(all(&client_sent(length.to_le_bytes().to_vec())).await);
    }
    assert_violation(all(&client_answered(Response::Arriving { size: OFFSET - 1 })).await);
    assert_violation(all(&client_answered(Response::Groups { runs: Vec::new() })).await);
}

#[tokio::test(start_paused = true)]
async fn refusals_are_answers_and_a_late_one_is_none() {
    let refused = all(&client_answered(Response::NotFound)).await.unwrap_err();
    assert!(matches!(refused, PeerError::NotHeld { .. }), "{refused}");
    let busy = all(&client_answered(Response::Busy { retry_after_ms: 70 })).await.unwrap_err();
    assert!(matches!(busy, PeerError::Busy { retry_after, .. } if retry_after.as_millis() == 70), "{busy}");
    let late = client_of(|mut stream| async move {
        sleep(LEADER_TIMEOUT + Duration::from_millis(1)).await;
        stream.answer(&Response::NotFound).await;
    });
    let late = all(&late).await.unwrap_err();
    assert!(matches!(late, PeerError::Timeout { .. }), "{late}");
}

#[tokio::test(start_paused = true)]
async fn news_come_until_all_of_a_blob_is_there() {
    let runs = |runs: &[(u64, u64)]| -> Vec<_> {
        runs.iter().map(|(start, end)| GroupRange::new(*start, *end)).collect()
    };
    let news = [runs(&[]), runs(&[(0, 2), (5, 6)]), runs(&[(0, GROUPS)])];
    let told = news.clone();
    let client = client_of(move |mut stream| {
        let told = told.clone();
        async move {
            for runs in told {
                stream.answer(&Response::Groups { runs }).await;
            }
            stream.linger().await;
        }
    });
    let seen: Vec<_> = watch(&client).await.unwrap().try_collect().await.unwrap();
    assert_eq!(seen, news);
    let beyond = Response::Groups { runs: runs(&[(0, GROUPS + 1)]) };
    assert_violation(watch(&client_answered(beyond)).await.map(|_| ()));
    let refused = watch(&client_answered(Response::NotFound)).await.map(|_| ()).unwrap_err();
    assert!(matches!(refused, PeerError::NotHeld { .. }), "{refused}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever a leader sends, a follower gets no byte too many, and comes to an end.
    #[test]
    fn arbitrary_bytes_of_a_leader_end_in_time(bytes in proptest::collection::vec(0_u8..9, 0..2000), closes: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async move {
            let client = client_led(move |mut stream| {
                let bytes = bytes.clone();
                async move {
                    stream.raw(&bytes).await;
                    if !closes {
                        stream.linger().await;
                    }
                }
            });
            let mut left = (SIZE - OFFSET) as usize;
            let mut arriving = follow(&client).await.unwrap().bytes;
            let reading = async {
                while let Some(Ok(chunk)) = arriving.next().await {
                    left = left.checked_sub(chunk.len()).expect("no byte too many");
                }
            };
            timeout(ARRIVAL_TIMEOUT * 3, reading).await.expect("it ends");
        });
    }
}
