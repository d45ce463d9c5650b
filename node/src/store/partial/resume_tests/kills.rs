//! A kill at any instant.

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use p2p_cache_protocol::{Digest, GROUP_BYTES, GroupSet};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use super::{GROUP, GROUPS, begin, finish, give, leave, sample};
use crate::store::StoreError;
use crate::store::inner::lock;
use crate::store::tests::support::{files_in, open, range, read_all, stored_bytes};

/// What `kill -9` leaves: the files as they are now.
fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Groups(u64, u64),
    Sequential(usize, usize),
    /// The time to note progress has come.
    Note,
    Leave,
    /// Byte of the data file.
    Damage(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..GROUPS, 1..8u64).prop_map(|(start, len)| Step::Groups(start, (start + len).min(GROUPS))),
        2 => (0..GROUPS as usize * GROUP, 1..5 * GROUP).prop_map(|(at, len)| Step::Sequential(at, len)),
        3 => Just(Step::Note),
        1 => Just(Step::Leave),
        1 => (0..GROUPS * GROUP_BYTES - GROUP_BYTES).prop_map(Step::Damage),
    ]
}

/// Whatever is present after a kill has the right bytes, unless the disk changed an origin's; and what was noted is
/// present.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_instant_leaves_no_wrong_byte_that_counts() {
    let root = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Handle::current();
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config { cases: 24, ..Config::default() }, rng);
    let cases = std::sync::atomic::AtomicU32::new(0);
    let result = tokio::task::spawn_blocking(move || {
        runner.run(&proptest::collection::vec(step(), 1..12), |steps| {
            let case = cases.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let (live, dead) =
                (root.path().join(format!("{case}")), root.path().join(format!("{case}-killed")));
            runtime.block_on(kill_after(&live, &dead, &steps))
        })
    });
    result.await.unwrap().unwrap();
}

async fn kill_after(live: &Path, dead: &Path, steps: &[Step]) -> Result<(), TestCaseError> {
    let sample = sample(5);
    let store = open(live).await;
    let mut partial = begin(&store, &sample).await;
    let mut noted = GroupSet::new(GROUPS);
    let mut damaged = GroupSet::new(GROUPS);
    for step in steps {
        match *step {
            Step::Groups(start, end) => give(&partial, &sample, start, end),
            Step::Sequential(at, len) => {
                let end = (at + len).min(sample.bytes.len());
                partial.write_sequential(at as u64, &sample.bytes[at.min(end)..end]).unwrap();
            }
            Step::Note => {
                lock(&partial.inner.saver).make_due();
                partial.note_progress();
                noted = partial.groups();
            }
            Step::Leave => {
                leave(&store, partial).await;
                partial = begin(&store, &sample).await;
                noted = partial.groups();
            }
            Step::Damage(at) if at < sample.size() => {
                partial.inner.data.write_all_at(&[sample.bytes[at as usize] ^ 1], at).unwrap();
                damaged.insert(range(at / GROUP_BYTES, at / GROUP_BYTES + 1));
            }
            Step::Damage(_) => {}
        }
    }
    copy_dir(live, dead);
    let store = open(dead).await;
    let resumed = begin(&store, &sample).await;
    let found = resumed.groups();
    let mut buffer = vec![0; GROUP];
    for group in 0..GROUPS {
        let one = range(group, group + 1);
        if !found.contains(one) {
            prop_assert!(
                !noted.contains(one) || damaged.contains(one),
                "group {} was noted and is lost",
                group
            );
            continue;
        }
        let bytes = one.bytes(sample.size());
        let length = (bytes.end - bytes.start) as usize;
        let mut at = 0;
        while at < length {
            at += resumed.read_at(bytes.start + at as u64, &mut buffer[at..length]).unwrap();
        }
        let right = buffer[..length] == sample.bytes[bytes.start as usize..bytes.end as usize];
        prop_assert!(
            right || (damaged.contains(one) && !resumed.is_verified(one)),
            "group {} is wrong",
            group
        );
    }
    for gap in resumed.missing() {
        give(&resumed, &sample, gap.start, gap.end);
    }
    match resumed.commit(sample.sha256, false).await {
        Ok(_) => prop_assert_eq!(read_all(&resumed), sample.bytes),
        Err(error) => {
            let excused = !damaged.is_empty() && matches!(error, StoreError::Mismatch { .. });
            prop_assert!(excused, "{}", error);
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_kill_in_mid_commit_of_a_blob_that_was_noted_loses_nothing() {
    let root = tempfile::tempdir().unwrap();
    let live = root.path().join("live");
    let store = open(&live).await;
    let sample = sample(6);
    let steps = Arc::new(std::sync::Mutex::new(Vec::new()));
    let (noted, base, from) = (steps.clone(), root.path().to_path_buf(), live.clone());
    *lock(&store.inner.on_step) = Some(crate::store::inner::StepHook(Box::new(move |step| {
        copy_dir(&from, &base.join(format!("{step:?}")));
        lock(&noted).push(format!("{step:?}"));
    })));
    let partial = begin(&store, &sample).await;
    give(&partial, &sample, 0, GROUPS);
    lock(&partial.inner.saver).make_due();
    partial.note_progress();
    partial.commit(sample.sha256, false).await.unwrap();
    let steps = lock(&steps).clone();
    assert!(!steps.is_empty());
    for step in steps {
        let dir = root.path().join(&step);
        let store = open(&dir).await;
        if store.find(Digest::Sha256(sample.sha256)).await.unwrap().is_none() {
            let partial = begin(&store, &sample).await;
            assert!(partial.is_complete() || step == "OutboardInPlace", "{step}");
            finish(&partial, &sample).await;
        }
        assert_eq!(stored_bytes(&store, sample.id).await.unwrap(), sample.bytes, "{step}");
        assert_eq!(files_in(&dir.join("partial")), Vec::<String>::new(), "{step}");
        assert_eq!(store.verify(|_| ()).await.unwrap().bad, Vec::new());
    }
}
