//! Sources that misbehave, and what a client sees of it.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt, stream};
use p2p_cache_http_gateway::memory::MemorySource;
use p2p_cache_http_gateway::{Artifact, ArtifactSource, BodyStream, GatewayConfig, PutOutcome, SourceError};
use p2p_cache_protocol::{Digest, NarInfo, Sha256Digest, StoreHash};

use crate::support::{Server, nar_path, on_a_free_port, stocked};

/// What is wrong with a [`Faulty`] source.
#[derive(Clone)]
pub(crate) enum Fault {
    /// Narinfos and artifacts are refused with this error; sizes are still known.
    Refuses(SourceError),
    /// Nothing is ever answered.
    Hangs,
    /// Every narinfo is this one.
    WrongNarInfo(Box<NarInfo>),
    /// An artifact is given, but `ready` fails.
    FailsAtOnce,
    /// An artifact is given, but is never ready.
    NeverReady,
    /// The body fails after so many bytes.
    BreaksAfter(u64),
    /// The body ends after so many bytes as if that were all.
    EndsAfter(u64),
    /// The body is silent after so many bytes.
    StallsAfter(u64),
    /// The body goes on after its end.
    NeverEnds,
    /// The handler panics.
    Panics,
}

/// A [`MemorySource`] with a fault.
pub(crate) struct Faulty {
    inner: MemorySource,
    fault: Fault,
}

impl Faulty {
    pub(crate) fn new(inner: MemorySource, fault: Fault) -> Self {
        Self { inner, fault }
    }

    async fn before(&self) -> Result<(), SourceError> {
        match &self.fault {
            Fault::Refuses(error) => Err(error.clone()),
            Fault::Hangs => std::future::pending().await,
            Fault::Panics => panic!("a fault on purpose"),
            _ => Ok(()),
        }
    }

    fn spoil(&self, artifact: Arc<dyn Artifact>) -> Arc<dyn Artifact> {
        Arc::new(FaultyArtifact { inner: artifact, fault: self.fault.clone() })
    }
}

#[async_trait]
impl ArtifactSource for Faulty {
    async fn narinfo(&self, hash: StoreHash) -> Result<NarInfo, SourceError> {
        self.before().await?;
        if let Fault::WrongNarInfo(narinfo) = &self.fault {
            return Ok(NarInfo::clone(narinfo));
        }
        self.inner.narinfo(hash).await
    }

    async fn nar(&self, hash: StoreHash, nar_hash: Sha256Digest) -> Result<Arc<dyn Artifact>, SourceError> {
        self.before().await?;
        Ok(self.spoil(self.inner.nar(hash, nar_hash).await?))
    }

    async fn nar_size(&self, hash: StoreHash, nar_hash: Sha256Digest) -> Result<u64, SourceError> {
        self.inner.nar_size(hash, nar_hash).await
    }

    async fn blob(&self, digest: Digest) -> Result<Arc<dyn Artifact>, SourceError> {
        self.before().await?;
        Ok(self.spoil(self.inner.blob(digest).await?))
    }

    async fn blob_size(&self, digest: Digest) -> Result<u64, SourceError> {
        self.inner.blob_size(digest).await
    }

    async fn put_blob(
        &self,
        digest: Digest,
        publish: bool,
        body: BodyStream,
    ) -> Result<PutOutcome, SourceError> {
        self.before().await?;
        self.inner.put_blob(digest, publish, body).await
    }
}

struct FaultyArtifact {
    inner: Arc<dyn Artifact>,
    fault: Fault,
}

#[async_trait]
impl Artifact for FaultyArtifact {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn digest(&self) -> Digest {
        self.inner.digest()
    }

    fn read(self: Arc<Self>, range: Range<u64>) -> BodyStream {
        let whole = || Arc::clone(&self.inner).read(range.clone());
        let part = |length| Arc::clone(&self.inner).read(range.start..range.start + length);
        match self.fault {
            Fault::BreaksAfter(length) => {
                let error = io::Error::other("every source is gone");
                Box::pin(part(length).chain(stream::iter([Err(error)])))
            }
            Fault::EndsAfter(length) => part(length),
            Fault::StallsAfter(length) => Box::pin(part(length).chain(stream::pending())),
            Fault::NeverEnds => {
                let chunk = Bytes::from(vec![0; 100_000]);
                Box::pin(stream::repeat_with(move || Ok(chunk.clone())))
            }
            _ => whole(),
        }
    }

    async fn ready(&self) -> Result<(), SourceError> {
        match self.fault {
            Fault::FailsAtOnce => Err(SourceError::Upstream("refused by everybody".into())),
            Fault::NeverReady => std::future::pending().await,
            _ => self.inner.ready().await,
        }
    }
}

async fn faulty(fault: Fault) -> (Server, Vec<(NarInfo, Bytes)>) {
    let (source, paths) = stocked();
    let config = GatewayConfig {
        answer_timeout: Duration::from_millis(150),
        source_stall_timeout: Duration::from_millis(150),
        ..on_a_free_port()
    };
    (Server::start_with(config, Faulty::new(source, fault)).await, paths)
}

#[tokio::test]
async fn a_source_that_hangs_is_a_quick_404() {
    let (server, paths) = faulty(Fault::Hangs).await;
    let started = Instant::now();
    let narinfo = &paths[0].0;
    for path in [
        format!("/{}.narinfo", narinfo.store_path.hash()),
        nar_path(narinfo),
        format!("/blobs/sha256/{}", narinfo.nar_hash),
    ] {
        assert_eq!(server.get(&path).await.status, 404, "{path}");
    }
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_fetch_that_fails_at_once_or_never_begins_is_404_and_not_a_broken_200() {
    for fault in [Fault::FailsAtOnce, Fault::NeverReady] {
        let (server, paths) = faulty(fault).await;
        let answer = server.get(&nar_path(&paths[2].0)).await;
        assert_eq!((answer.status, answer.text()), (404, "not found\n"));
    }
}

#[tokio::test]
async fn no_failure_of_a_source_reaches_a_reader_as_a_code_to_retry() {
    let text = || "secret detail".to_owned();
    for error in [
        SourceError::NotFound,
        SourceError::Upstream(text()),
        SourceError::Mismatch(text()),
        SourceError::TooLarge,
        SourceError::NoSpace,
        SourceError::Internal(text()),
    ] {
        let (server, paths) = faulty(Fault::Refuses(error)).await;
        let narinfo = &paths[0].0;
        for path in [format!("/{}.narinfo", narinfo.store_path.hash()), nar_path(narinfo)] {
            let answer = server.get(&path).await;
            assert_eq!((answer.status, answer.text()), (404, "not found\n"));
        }
    }
}

#[tokio::test]
async fn a_body_that_fails_midway_cuts_the_connection_short_of_its_length() {
    const SENT: u64 = 700_000;
    for fault in [Fault::BreaksAfter(SENT), Fault::EndsAfter(SENT), Fault::StallsAfter(SENT)] {
        let (server, paths) = faulty(fault).await;
        let (narinfo, nar) = &paths[2];
        let mut client = server.connect().await;
        let answer = client.ask(&crate::support::get(&nar_path(narinfo))).await;
        assert_eq!((answer.status, answer.complete), (200, false));
        assert!(nar.starts_with(&answer.body), "what did arrive is right");
        client.closed().await;
        assert_eq!(server.metric("p2p_cache_broken_bodies_total{cause=\"source\"}").await, 1);
    }
}

#[tokio::test]
async fn a_body_that_fails_within_a_range_is_cut_too() {
    let (server, paths) = faulty(Fault::BreaksAfter(10)).await;
    let headers = "Range: bytes=100-199\r\n";
    let answer = server.ask(&crate::support::request("GET", &nar_path(&paths[2].0), headers)).await;
    assert_eq!((answer.status, answer.complete), (206, false));
}

#[tokio::test]
async fn a_source_that_yields_too_much_is_not_trusted_to_the_end() {
    let (server, paths) = faulty(Fault::NeverEnds).await;
    let answer = server.get(&nar_path(&paths[2].0)).await;
    assert_eq!((answer.status, answer.complete), (200, false));
}

#[tokio::test]
async fn a_panic_costs_its_connection_and_nothing_else() {
    let (server, paths) = faulty(Fault::Panics).await;
    let mut client = server.connect().await;
    client.send(crate::support::get(&nar_path(&paths[0].0))).await.unwrap();
    client.closed().await;
    assert_eq!(server.get("/healthz").await.status, 200);
    assert_eq!(server.gateway.shutdown().await.aborted, 0);
}
