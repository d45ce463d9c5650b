use std::time::Duration;

use p2p_cache_protocol::{BlobId, Digest, GROUP_BYTES, Sha256Digest};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::PartialBlob;
use crate::store::tests::support::{Sample, config, open, range, read_all, until_empty};
use crate::store::{BlobStore, StoreConfig, StoreError, WriteError};

const GROUP: usize = GROUP_BYTES as usize;

#[derive(Debug, Clone)]
enum Op {
    Groups { start: u64, len: u64, flip: Option<usize> },
    Sequential { offset: usize, len: usize, chunk: usize },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0..24u64, 0..24u64, proptest::option::weighted(0.3, any::<usize>()))
            .prop_map(|(start, len, flip)| Op::Groups { start, len, flip }),
        (0..24 * GROUP, 0..6 * GROUP, 1..3 * GROUP).prop_map(|(offset, len, chunk)| Op::Sequential {
            offset,
            len,
            chunk
        }),
    ]
}

/// Applies one operation and checks what it alone must have made present.
fn apply(partial: &PartialBlob, sample: &Sample, op: &Op) -> Result<(), TestCaseError> {
    let size = sample.size();
    match *op {
        Op::Groups { start, len, flip } => {
            let end = sample.all().end;
            let wanted = range(start.min(end), (start + len).min(end));
            let mut encoded = sample.encode(wanted);
            let flipped = flip.filter(|_| !encoded.is_empty()).map(|at| at % encoded.len());
            if let Some(at) = flipped {
                encoded[at] ^= 0x40;
            }
            let result = partial.write_groups(sample.id, wanted, &encoded);
            match flipped {
                Some(_) => prop_assert!(matches!(result, Err(WriteError::Corrupt { .. })), "{:?}", result),
                None => {
                    prop_assert!(result.is_ok());
                    prop_assert!(partial.has(wanted.bytes(size)));
                }
            }
        }
        Op::Sequential { offset, len, chunk } => {
            let start = offset.min(sample.bytes.len());
            let end = (start + len).min(sample.bytes.len());
            let mut at = start;
            for bytes in sample.bytes[start..end].chunks(chunk) {
                prop_assert!(partial.write_sequential(at as u64, bytes).is_ok());
                at += bytes.len();
            }
            let whole = p2p_cache_protocol::GroupRange::whole_in_bytes(start as u64..end as u64, size);
            if start < end {
                prop_assert!(partial.has(whole.bytes(size)), "{:?} of {:?}", whole, start..end);
            }
        }
    }
    Ok(())
}

/// Present bytes are right, and the ways to ask for them agree.
fn check(partial: &PartialBlob, sample: &Sample) -> Result<(), TestCaseError> {
    let groups = partial.groups();
    prop_assert_eq!(partial.prefix_bytes(), range(0, groups.prefix()).bytes(sample.size()).end);
    prop_assert_eq!(*partial.progress().borrow(), partial.prefix_bytes());
    prop_assert_eq!(partial.present_until(0), partial.prefix_bytes());
    let mut missing = groups.len();
    for gap in partial.missing() {
        missing += gap.len();
        let bytes = gap.bytes(sample.size());
        prop_assert!(!partial.has(bytes.start..bytes.start + 1));
        let read = partial.read_at(bytes.start, &mut [0; 8]);
        prop_assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
    prop_assert_eq!(missing, sample.all().end);
    for run in groups.present() {
        let bytes = run.bytes(sample.size());
        let mut at = bytes.start;
        let mut buffer = vec![0; 3 * GROUP + 5];
        while at < bytes.end {
            let read = partial.read_at(at, &mut buffer).unwrap();
            prop_assert!(read > 0 && at + read as u64 <= bytes.end);
            prop_assert_eq!(&buffer[..read], &sample.bytes[at as usize..][..read]);
            at += read as u64;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn any_order_of_writes_keeps_bytes_and_bookkeeping_right() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let ops = (0..20 * GROUP, proptest::collection::vec(op(), 0..14));
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config { cases: 96, ..Config::default() }, rng);
    let runtime = tokio::runtime::Handle::current();
    let result = tokio::task::spawn_blocking(move || {
        runner.run(&ops, |(size, ops)| {
            let sample = Sample::new(size as u64, size);
            let partial =
                PartialBlob::create(&store.inner, Digest::Sha256(sample.sha256), sample.size()).unwrap();
            let mut before = partial.groups();
            for op in &ops {
                apply(&partial, &sample, op)?;
                check(&partial, &sample)?;
                let after = partial.groups();
                prop_assert!(before.present().all(|run| after.contains(run)), "a group vanished");
                before = after;
            }
            for gap in partial.missing() {
                partial.write_groups(sample.id, gap, &sample.encode(gap)).unwrap();
            }
            prop_assert!(partial.is_complete());
            check(&partial, &sample)?;
            let meta = runtime.block_on(partial.commit(sample.sha256, false)).unwrap();
            prop_assert_eq!(meta.id, sample.id);
            Ok(())
        })
    });
    result.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_corrupt_group_is_refused_and_those_before_it_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let sample = Sample::new(1, 8 * GROUP);
    let partial = store.create_partial(Digest::Blake3(sample.id), sample.size()).await.unwrap();
    let mut encoded = sample.encode(range(0, 8));
    let last = encoded.len() - 1;
    encoded[last] ^= 1;
    let result = partial.write_groups(sample.id, range(0, 8), &encoded);
    assert!(matches!(&result, Err(error @ WriteError::Corrupt { group: 7, .. }) if error.is_senders_fault()));
    assert_eq!(partial.prefix_bytes(), 7 * GROUP_BYTES);
    assert_eq!(partial.missing(), [range(7, 8)]);

    for length in [0, encoded.len() / 2, last] {
        let result = partial.write_groups(sample.id, range(0, 8), &encoded[..length]);
        assert!(matches!(result, Err(WriteError::WrongLength { .. })), "{result:?}");
    }
    let other = partial.write_groups(BlobId([1; 32]), range(0, 1), &[]);
    assert!(matches!(other, Err(WriteError::OtherBlob { known, .. }) if known == sample.id));
    let outside = partial.write_groups(sample.id, range(7, 9), &[]);
    assert!(matches!(outside, Err(WriteError::OutOfRange { .. })));
    let outside = partial.write_sequential(sample.size() - 1, b"ab");
    assert!(matches!(outside, Err(WriteError::OutOfRange { .. })));
}

#[tokio::test]
async fn a_hash_that_waits_for_bytes_holds_no_worker() {
    let dir = tempfile::tempdir().unwrap();
    let store = BlobStore::open(StoreConfig { long_permits: 1, short_permits: 1, ..config(dir.path()) })
        .await
        .unwrap();
    let sample = Sample::new(1, 3 * 1024 * 1024 + 5);
    let partial = store.create_partial(Digest::Sha256(sample.sha256), sample.size()).await.unwrap();
    let follower = tokio::spawn({
        let partial = partial.clone();
        async move { partial.verify_whole().await }
    });
    let half = sample.bytes.len() / 2;
    partial.write_sequential(0, &sample.bytes[..half]).unwrap();
    // With one permit a blocked follower would stall these for ever.
    let other = Sample::new(2, 100_000);
    tokio::time::timeout(Duration::from_secs(20), other.put(&store)).await.unwrap();
    assert!(!follower.is_finished());
    partial.write_sequential(half as u64, &sample.bytes[half..]).unwrap();
    assert_eq!(follower.await.unwrap().unwrap(), sample.sha256);
    assert_eq!(partial.hashed_bytes(), sample.size());
}

#[tokio::test]
async fn dropping_a_follower_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let sample = Sample::new(1, 2 * 1024 * 1024 + 77);
    let partial = store.create_partial(Digest::Sha256(sample.sha256), sample.size()).await.unwrap();
    for (n, chunk) in sample.bytes.chunks(300_000).enumerate() {
        partial.write_sequential(n as u64 * 300_000, chunk).unwrap();
        let _ = tokio::time::timeout(Duration::from_millis(n as u64 % 3), partial.verify_whole()).await;
    }
    let (one, two) = tokio::join!(partial.verify_whole(), partial.verify_whole());
    assert_eq!((one.unwrap(), two.unwrap()), (sample.sha256, sample.sha256));
}

#[tokio::test]
async fn abort_wakes_readers_and_followers_and_removes_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let partial = store.create_partial(Digest::Sha256(Sha256Digest([1; 32])), 100_000).await.unwrap();
    partial.write_sequential(0, &[5; 20_000]).unwrap();
    assert_eq!(partial.readable(100).await.unwrap(), GROUP_BYTES - 100);
    let waiting = [
        tokio::spawn({
            let partial = partial.clone();
            async move { partial.readable(50_000).await.map(|_| ()) }
        }),
        tokio::spawn({
            let partial = partial.clone();
            async move { partial.verify_whole().await.map(|_| ()) }
        }),
    ];
    tokio::task::yield_now().await;
    partial.abort("all sources failed");
    partial.abort("a later reason");
    for task in waiting {
        let error = task.await.unwrap().unwrap_err();
        assert!(matches!(error, StoreError::Aborted { reason } if &*reason == "all sources failed"));
    }
    assert!(partial.read_at(0, &mut [0; 10]).is_err());
    assert!(matches!(partial.write_sequential(0, b"x"), Err(WriteError::Aborted(_))));
    assert!(matches!(partial.commit(Sha256Digest([1; 32]), false).await, Err(StoreError::Aborted { .. })));
    until_empty(&dir.path().join("partial")).await;
    assert_eq!(store.usage().partials, 0);
}

#[tokio::test]
async fn verified_groups_of_an_unfinished_blob_can_be_passed_on() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let sample = Sample::new(1, 10 * GROUP);
    let partial = store.create_partial(Digest::Sha256(sample.sha256), sample.size()).await.unwrap();
    partial.write_sequential(0, &sample.bytes[..4 * GROUP]).unwrap();
    partial.write_groups(sample.id, range(2, 8), &sample.encode(range(2, 8))).unwrap();
    let mut out = vec![0; sample.encode(range(2, 8)).len()];
    assert!(
        partial.encode_verified(range(2, 8), &mut out).unwrap(),
        "equal bytes of the origin count as verified"
    );
    assert_eq!(out, sample.encode(range(2, 8)));
    for unverified in [range(1, 3), range(7, 9), range(9, 11)] {
        assert!(!partial.encode_verified(unverified, &mut out).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_follow_while_peers_and_origin_write() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let sample = std::sync::Arc::new(Sample::new(1, 4 * 1024 * 1024 + 3));
    let partial = store.create_partial(Digest::Sha256(sample.sha256), sample.size()).await.unwrap();
    let readers: Vec<_> = (0..8)
        .map(|n| {
            let (partial, sample) = (partial.clone(), sample.clone());
            tokio::spawn(async move {
                let mut at = n * 400_000;
                while at < sample.size() {
                    let there = partial.readable(at).await.unwrap();
                    let mut buffer = vec![0; usize::try_from(there).unwrap().min(70_000)];
                    let read = partial.read_at(at, &mut buffer).unwrap();
                    assert_eq!(buffer[..read], sample.bytes[at as usize..][..read]);
                    at += read as u64;
                }
            })
        })
        .collect();
    let writers = [
        tokio::task::spawn_blocking({
            let (partial, sample) = (partial.clone(), sample.clone());
            move || {
                for (n, chunk) in sample.bytes.chunks(33_333).enumerate() {
                    partial.write_sequential(n as u64 * 33_333, chunk).unwrap();
                }
            }
        }),
        tokio::task::spawn_blocking({
            let (partial, sample) = (partial.clone(), sample.clone());
            move || {
                for start in (0..sample.all().end).step_by(16).collect::<Vec<_>>().into_iter().rev() {
                    let wanted = range(start, (start + 16).min(sample.all().end));
                    partial.write_groups(sample.id, wanted, &sample.encode(wanted)).unwrap();
                }
            }
        }),
    ];
    let meta = partial.verify_whole().await.unwrap();
    assert_eq!(meta, sample.sha256);
    for task in writers {
        task.await.unwrap();
    }
    for task in readers {
        task.await.unwrap();
    }
    assert_eq!(partial.commit(sample.sha256, false).await.unwrap().id, sample.id);
    assert_eq!(read_all(&partial), sample.bytes);
}
