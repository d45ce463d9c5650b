//! What a kill at each instant of a commit leaves behind.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use p2p_cache_protocol::{Digest, GROUP_BYTES};

use super::support::{Sample, files_in, open, stored_bytes};
use crate::store::commit::CommitStep;
use crate::store::inner::{StepHook, lock};

fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn a_kill_between_any_two_steps_of_a_commit_leaves_the_whole_blob_or_nothing() {
    let root = tempfile::tempdir().unwrap();
    let live = root.path().join("live");
    let store = open(&live).await;
    let (old, new) = (Sample::new(1, 70_000), Sample::new(2, 5 * GROUP_BYTES as usize + 3));
    old.put(&store).await;
    store.pin(old.id).await.unwrap();

    let steps = Arc::new(Mutex::new(Vec::new()));
    let (noted, base, from) = (steps.clone(), root.path().to_path_buf(), live.clone());
    *lock(&store.inner.on_step) = Some(StepHook(Box::new(move |step| {
        copy_dir(&from, &base.join(format!("{step:?}")));
        lock(&noted).push(step);
    })));
    let partial = store.create_partial(Digest::Sha256(new.sha256), new.size()).await.unwrap();
    partial.write_sequential(0, &new.bytes).unwrap();
    partial.commit(new.sha256, true).await.unwrap();
    let steps = lock(&steps).clone();
    assert_eq!(steps.len(), 7);

    for step in steps {
        let dir = root.path().join(format!("{step:?}"));
        let survives = match step {
            CommitStep::Written | CommitStep::Synced | CommitStep::OutboardInPlace => false,
            CommitStep::DataInPlace
            | CommitStep::Marked
            | CommitStep::DirectorySynced
            | CommitStep::Indexed => true,
        };
        let store = open(&dir).await;
        assert_eq!(store.find(Digest::Sha256(new.sha256)).await.unwrap().is_some(), survives, "{step:?}");
        assert_eq!(store.usage().blobs, 1 + u64::from(survives), "{step:?}");
        assert!(store.find(Digest::Blake3(old.id)).await.unwrap().unwrap().pinned, "{step:?}");
        assert_eq!(files_in(&dir.join("partial")), Vec::<String>::new(), "{step:?}");
        let report = store.verify(|_| ()).await.unwrap();
        assert_eq!((report.bad.len(), report.blobs), (0, 1 + u64::from(survives)), "{step:?}");
        // A second start finds nothing more to mend, and the blob can be had again.
        assert_eq!(store.gc(Default::default()).await.unwrap(), Default::default(), "{step:?}");
        new.put(&store).await;
        assert_eq!(stored_bytes(&store, new.id).await.unwrap(), new.bytes);
        assert_eq!(stored_bytes(&store, old.id).await.unwrap(), old.bytes);
    }
}

#[tokio::test]
async fn a_blob_counts_only_when_its_index_entry_is_on_disk() {
    // After commit returned, a copy of the directory (what a kill would leave) has the entry in sled already.
    let root = tempfile::tempdir().unwrap();
    let live = root.path().join("live");
    let store = open(&live).await;
    let samples: Vec<_> = (0..20).map(|n| Sample::new(n, 1000 + n as usize)).collect();
    let mut found = HashMap::new();
    for sample in &samples {
        sample.put(&store).await;
        let copy = root.path().join(sample.id.to_string());
        copy_dir(&live.join("index"), &copy);
        let index = tokio::task::spawn_blocking(move || {
            crate::store::index::Index::open(&copy, 1 << 20).unwrap().blobs().count()
        });
        found.insert(sample.id, index.await.unwrap());
    }
    let counts: Vec<_> = samples.iter().map(|sample| found[&sample.id]).collect();
    assert_eq!(counts, (1..=20).collect::<Vec<_>>());
}
