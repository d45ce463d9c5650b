use std::fs;
use std::os::unix::fs::FileExt;

use p2p_cache_protocol::Digest;

use super::support::{Sample, open};

#[tokio::test]
async fn damage_in_data_or_outboard_is_found_removed_and_reported() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let samples: Vec<_> = (0..6).map(|n| Sample::new(n, 200_000)).collect();
    for sample in &samples {
        sample.put(&store).await;
    }
    let path = |n: usize, suffix: &str| {
        let sample = &samples[n];
        let name = format!("{}-{}{suffix}", sample.id, sample.sha256);
        dir.path().join(format!("blobs/{:02x}", sample.id.0[0])).join(name)
    };
    let flip = |path| {
        let file = fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let mut byte = [0];
        file.read_exact_at(&mut byte, 131).unwrap();
        file.write_all_at(&[byte[0] ^ 1], 131).unwrap();
    };
    flip(path(1, ""));
    flip(path(2, ".obao"));
    fs::OpenOptions::new().write(true).open(path(3, "")).unwrap().set_len(7).unwrap();
    fs::remove_file(path(4, ".obao")).unwrap();

    let mut seen = Vec::new();
    let report = store.verify(|progress| seen.push(progress)).await.unwrap();
    let mut bad: Vec<_> = report.bad.iter().map(|bad| bad.id).collect();
    let mut expected: Vec<_> = (1..5).map(|n: usize| samples[n].id).collect();
    bad.sort();
    expected.sort();
    assert_eq!(bad, expected, "{report:?}");
    assert_eq!((report.blobs, store.usage().blobs), (6, 2));
    let last = seen.last().unwrap();
    assert_eq!((last.blobs, last.total_blobs, last.bytes), (6, 6, report.bytes));
    assert!(seen.is_sorted_by_key(|progress| progress.bytes));
    for (n, sample) in samples.iter().enumerate().take(5).skip(1) {
        assert!(!path(n, "").exists() && !path(n, ".obao").exists());
        assert_eq!(store.find(Digest::Sha256(sample.sha256)).await.unwrap(), None);
    }
    assert_eq!(store.verify(|_| ()).await.unwrap().bad, Vec::new());
}

#[tokio::test]
async fn committing_again_heals_a_damaged_blob() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let sample = Sample::new(1, 100_000);
    sample.put(&store).await;
    let path = dir.path().join(format!("blobs/{:02x}/{}-{}", sample.id.0[0], sample.id, sample.sha256));
    fs::write(&path, vec![0; 100_000]).unwrap();
    sample.put(&store).await;
    assert_eq!(store.verify(|_| ()).await.unwrap().bad, Vec::new());
    assert_eq!(store.usage().blobs, 1);
}

#[tokio::test]
async fn blobs_of_every_odd_size_pass() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    for size in [0, 1, 1024, 16_383, 16_384, 16_385, 32_768, 262_145] {
        Sample::new(1, size).put(&store).await;
    }
    let report = store.verify(|_| ()).await.unwrap();
    assert_eq!((report.blobs, report.bad.len()), (8, 0));
}
