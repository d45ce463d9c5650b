use futures::StreamExt;
use p2p_cache_protocol::Sha256Digest;
use tokio::time::sleep;

use super::*;
use crate::store::{BlobStore, StoreConfig};

const MIB: u64 = 1024 * 1024;

/// A transfer of 2 MiB, of which nothing is here, in virtual time.
async fn transfer(directory: &std::path::Path) -> Arc<Transfer> {
    let store = BlobStore::open(StoreConfig::new(directory)).await.unwrap();
    let digest = Digest::Sha256(Sha256Digest::of(b"never looked at"));
    let partial = store.create_partial(digest, 2 * MIB).await.unwrap();
    tokio::time::pause();
    Transfer::new(digest, None, partial)
}

#[tokio::test]
async fn a_reader_waits_as_long_as_bytes_arrive_elsewhere() {
    let directory = tempfile::tempdir().unwrap();
    let transfer = transfer(directory.path()).await;
    let mut body = Arc::clone(&transfer).read(MIB..MIB + 1000);
    let arriving = async {
        for part in 0..5 {
            sleep(READER_PATIENCE - Duration::from_secs(1)).await;
            transfer.partial().write_sequential(part * MIB / 4, &[7; MIB as usize / 4]).unwrap();
        }
    };
    let (chunk, ()) = tokio::join!(body.next(), arriving);
    assert_eq!(chunk.unwrap().unwrap(), [7; 1000][..]);
}

#[tokio::test]
async fn a_reader_gives_up_when_nothing_arrives_any_more() {
    let directory = tempfile::tempdir().unwrap();
    let transfer = transfer(directory.path()).await;
    let mut body = Arc::clone(&transfer).read(MIB..MIB + 1000);
    let arriving = async {
        sleep(Duration::from_secs(10)).await;
        transfer.partial().write_sequential(0, &[7; MIB as usize / 4]).unwrap();
    };
    let started = tokio::time::Instant::now();
    let (chunk, ()) = tokio::join!(body.next(), arriving);
    assert_eq!(chunk.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
    assert_eq!(started.elapsed().as_secs(), 10 + READER_PATIENCE.as_secs());
}
