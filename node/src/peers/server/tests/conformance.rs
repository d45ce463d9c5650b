//! The holdings that the other tests rely on, and those of the blob store, against the suite.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream;

use crate::peers::server::conformance::{Fixture, check};
use crate::peers::testing::{Blob, MemoryHoldings, narinfo_of};
use crate::store::{BlobStore, StoreConfig};

#[tokio::test]
async fn holdings_in_memory_conform() {
    for size in [100, 1_234_567] {
        let blob = Arc::new(Blob::new(size));
        let narinfo = narinfo_of(&blob, &[]);
        let holdings = MemoryHoldings::default();
        holdings.add(&blob, false);
        let hash = narinfo.store_path.hash();
        holdings.add_narinfo(narinfo);
        check(&holdings, &Fixture { nar: blob.bytes.clone(), hash }).await;
    }
}

#[tokio::test]
async fn the_blob_store_conforms() {
    for size in [100, 1_234_567] {
        let directory = tempfile::tempdir().unwrap();
        let store = BlobStore::open(StoreConfig::new(directory.path())).await.unwrap();
        let blob = Blob::new(size);
        let body = stream::iter([Ok(Bytes::copy_from_slice(&blob.bytes))]);
        store.put(blob.digest(), body, false).await.unwrap();
        let narinfo = narinfo_of(&blob, &[]);
        store.put_narinfo(&narinfo).await.unwrap();
        check(&store, &Fixture { nar: blob.bytes.clone(), hash: narinfo.store_path.hash() }).await;
    }
}
