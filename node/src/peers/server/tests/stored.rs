//! The server over the blob store on disk, asked by the real client.

use bytes::Bytes;
use futures::stream;
use p2p_cache_protocol::tree::GroupRange;

use super::super::Holdings;
use crate::peers::client::PeerClient;
use crate::peers::error::PeerError;
use crate::peers::server::UploadLimits;
use crate::peers::testing::{Blob, Served, cache_key, narinfo_of, peer};
use crate::store::{BlobStore, StoreConfig};

#[tokio::test]
async fn blobs_of_the_store_are_served_when_they_may_be() {
    let directory = tempfile::tempdir().unwrap();
    let store = BlobStore::open(StoreConfig::new(directory.path())).await.unwrap();
    let served = Served::start_over(UploadLimits::default(), std::sync::Arc::new(store.clone()));
    let client = PeerClient::new(served.dialer(2));
    let blob = Blob::new(1_234_567);
    let body = stream::iter(blob.bytes.chunks(50_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))));
    let meta = store.put(blob.digest(), body, false).await.unwrap();
    assert_eq!(Holdings::find(&store, blob.digest()).await.unwrap().unwrap().claim, blob.claim);

    assert_eq!(client.lookup(peer(1), blob.digest()).await, Ok(None), "not shared");
    let range = GroupRange::new(3, 40);
    let refused = client.range(peer(1), blob.id(), blob.claim.size, range).await;
    assert_eq!(refused, Err(PeerError::NotHeld { peer: peer(1) }));

    let narinfo = narinfo_of(&blob, &[&cache_key("trusted-1")]);
    store.put_narinfo(&narinfo).await.unwrap();
    let claim = client.lookup(peer(1), blob.digest()).await.unwrap().expect("covered by a signature");
    assert_eq!(claim.whole().map(|claim| claim.claim), Some(blob.claim));
    assert!(client.narinfo(peer(1), narinfo.store_path.hash()).await.unwrap().is_some());
    let answer = client.range(peer(1), blob.id(), blob.claim.size, range).await.unwrap();
    assert_eq!(answer.encoded, blob.encoded(range));

    store.remove(meta.id).await.unwrap();
    assert_eq!(client.lookup(peer(1), blob.digest()).await, Ok(None), "gone");
}
