//! In-memory twins for tests: a network of duplex pipes, a store of vectors, peers that follow a script.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use p2p_cache_discovery::{Identity, NetworkPrefix, PeerId, Scope};
use p2p_cache_protocol::claim::{Claim, SignedClaim};
use p2p_cache_protocol::digest::{BlobId, Digest, Sha256Digest};
use p2p_cache_protocol::narinfo::NarInfo;
use p2p_cache_protocol::signature::SecretKey;
use p2p_cache_protocol::store_path::StoreHash;
use p2p_cache_protocol::tree::{
    GroupRange, create_outboard, encode_range, encode_range_into, outboard_bytes,
};
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

use super::bans::{Bans, Gatekeeper};
use super::frames::{exchange_hello, read_frame, write_frame};
use super::server::{
    Alone, ClaimSigner, Held, HeldBlob, Holdings, Site, UploadLimits, UploadParts, UploadServer, claim_signer,
};
use super::transport::{BoxStream, Dialer, Incoming, Visitor};
use crate::sharing::{Share, SharingPolicy, SharingRules};
use p2p_cache_protocol::limits::MAX_FRAME_BYTES;
use p2p_cache_protocol::wire::{Request, Response};

/// A visitor from a host of its own.
pub(super) fn visitor(peer: PeerId, scope: Scope) -> Visitor {
    let [.., a, b, c] = peer.to_bytes()[..] else { unreachable!("peer ids are long") };
    let address = format!("/ip4/10.{a}.{b}.{c}/tcp/1").parse().unwrap();
    Visitor { peer, scope, network: NetworkPrefix::of(&address, scope) }
}

/// What a pipe holds before its writer has to wait.
pub(super) const PIPE_BYTES: usize = 64 * 1024;

pub(super) fn identity(seed: u8) -> Identity {
    Identity::from_seed([seed; 32])
}

pub(super) fn peer(seed: u8) -> PeerId {
    identity(seed).peer_id()
}

/// A blob with everything that goes with it.
pub(super) struct Blob {
    pub(super) bytes: Vec<u8>,
    outboard: Vec<u8>,
    pub(super) claim: Claim,
}

impl Blob {
    pub(super) fn new(size: usize) -> Self {
        let bytes: Vec<u8> = (0..size).map(|index| (index.wrapping_mul(31) >> 3) as u8).collect();
        let mut outboard = vec![0; usize::try_from(outboard_bytes(size as u64)).unwrap()];
        let blob = create_outboard(&bytes[..], size as u64, &mut outboard).unwrap();
        let claim = Claim { sha256: Sha256Digest::of(&bytes), blob, size: size as u64 };
        Self { bytes, outboard, claim }
    }

    pub(super) fn encoded(&self, range: GroupRange) -> Vec<u8> {
        let mut out = Vec::new();
        encode_range(self.claim.blob, self.claim.size, &self.bytes[..], &self.outboard[..], range, &mut out)
            .unwrap();
        out
    }

    pub(super) fn id(&self) -> BlobId {
        self.claim.blob
    }

    pub(super) fn digest(&self) -> Digest {
        Digest::Sha256(self.claim.sha256)
    }

    pub(super) fn range_request(&self, start: u64, end: u64) -> Request {
        Request::Range { blob: self.id(), size: self.claim.size, range: GroupRange::new(start, end) }
    }
}

struct OpenBlob(Arc<Blob>, bool);

impl HeldBlob for OpenBlob {
    fn held(&self) -> Held {
        Held { claim: self.0.claim, published: self.1 }
    }

    fn encode(&self, range: GroupRange, out: &mut [u8]) -> io::Result<()> {
        let Blob { bytes, outboard, claim } = &*self.0;
        encode_range_into(claim.blob, claim.size, &bytes[..], &outboard[..], range, out)
    }
}

/// A store in memory that counts how often it is asked.
#[derive(Default)]
pub(super) struct MemoryHoldings {
    blobs: Mutex<HashMap<BlobId, (Arc<Blob>, bool)>>,
    narinfos: Mutex<Vec<NarInfo>>,
    pub(super) broken: std::sync::atomic::AtomicBool,
    pub(super) questions: AtomicUsize,
}

impl MemoryHoldings {
    pub(super) fn add(&self, blob: &Arc<Blob>, published: bool) {
        self.blobs.lock().unwrap().insert(blob.id(), (Arc::clone(blob), published));
    }

    pub(super) fn add_narinfo(&self, narinfo: NarInfo) {
        self.narinfos.lock().unwrap().push(narinfo);
    }

    fn asked(&self) -> io::Result<()> {
        self.questions.fetch_add(1, Ordering::Relaxed);
        if self.broken.load(Ordering::Relaxed) { Err(io::Error::other("the disk is gone")) } else { Ok(()) }
    }
}

#[async_trait]
impl Holdings for MemoryHoldings {
    async fn find(&self, digest: Digest) -> io::Result<Option<Held>> {
        self.asked()?;
        let blobs = self.blobs.lock().unwrap();
        let named = |claim: &Claim| match digest {
            Digest::Sha256(sha256) => claim.sha256 == sha256,
            Digest::Blake3(blob) => claim.blob == blob,
        };
        let found = blobs.values().find(|(blob, _)| named(&blob.claim));
        Ok(found.map(|(blob, published)| Held { claim: blob.claim, published: *published }))
    }

    async fn open(&self, blob: BlobId) -> io::Result<Option<Arc<dyn HeldBlob>>> {
        self.asked()?;
        let blobs = self.blobs.lock().unwrap();
        Ok(blobs.get(&blob).map(|(blob, published)| -> Arc<dyn HeldBlob> {
            Arc::new(OpenBlob(Arc::clone(blob), *published))
        }))
    }

    async fn narinfo(&self, hash: StoreHash) -> io::Result<Option<NarInfo>> {
        self.asked()?;
        Ok(self.narinfos.lock().unwrap().iter().find(|narinfo| narinfo.store_path.hash() == hash).cloned())
    }

    async fn narinfos_of(&self, nar_hash: Sha256Digest) -> io::Result<Vec<NarInfo>> {
        self.asked()?;
        Ok(self
            .narinfos
            .lock()
            .unwrap()
            .iter()
            .filter(|narinfo| narinfo.nar_hash == nar_hash)
            .cloned()
            .collect())
    }
}

pub(super) fn cache_key(name: &str) -> SecretKey {
    SecretKey::from_seed(name, &[name.len() as u8; 32]).unwrap()
}

/// The narinfo of a blob, signed by `keys`.
pub(super) fn narinfo_of(blob: &Blob, keys: &[&SecretKey]) -> NarInfo {
    let text = format!(
        "StorePath: /nix/store/{}-thing\nURL: https://token@private.example/nar/x.nar.xz?secret=1\nCompression: xz\n\
         NarHash: sha256:{}\nNarSize: {}\nReferences: \nX-Internal: yes\n",
        &blob.claim.sha256.to_nix32()[..32],
        blob.claim.sha256.to_nix32(),
        blob.claim.size,
    );
    let mut narinfo = NarInfo::parse(&text).unwrap();
    for key in keys {
        narinfo.sign(key);
    }
    narinfo
}

/// Records who was banned.
#[derive(Default)]
pub(super) struct BanList(pub(super) Mutex<Vec<PeerId>>);

#[async_trait]
impl Gatekeeper for BanList {
    async fn ban(&self, peer: PeerId, _duration: Duration) {
        self.0.lock().unwrap().push(peer);
    }
}

struct ChannelIncoming(mpsc::Receiver<(Visitor, BoxStream)>);

#[async_trait]
impl Incoming for ChannelIncoming {
    async fn next(&mut self) -> Option<(Visitor, BoxStream)> {
        self.0.recv().await
    }
}

/// An upload server with identity 1 whose surroundings are in memory. Other nodes connect with [`Served::dial`].
pub(super) struct Served {
    pub(super) holdings: Arc<MemoryHoldings>,
    pub(super) bans: Bans,
    pub(super) served_bytes: Counter,
    pub(super) server: UploadServer,
    streams: mpsc::Sender<(Visitor, BoxStream)>,
}

impl Served {
    /// Shares with everybody what is published or signed by the cache key "trusted-1", and not called secret.
    pub(super) fn start(limits: UploadLimits) -> Self {
        Self::start_with(limits, Share::Public)
    }

    pub(super) fn start_with(limits: UploadLimits, share: Share) -> Self {
        let memory = Arc::new(MemoryHoldings::default());
        Self::assemble(limits, share, memory.clone(), memory, Arc::new(Alone))
    }

    /// Works for others by means of this site.
    pub(super) fn start_at(site: Arc<dyn Site>) -> Self {
        let memory = Arc::new(MemoryHoldings::default());
        Self::assemble(UploadLimits::default(), Share::Public, memory.clone(), memory, site)
    }

    /// Serves another store; the one in memory stays unused.
    pub(super) fn start_over(limits: UploadLimits, holdings: Arc<dyn Holdings>) -> Self {
        Self::assemble(limits, Share::Public, Arc::default(), holdings, Arc::new(Alone))
    }

    fn assemble(
        limits: UploadLimits,
        share: Share,
        memory: Arc<MemoryHoldings>,
        holdings: Arc<dyn Holdings>,
        site: Arc<dyn Site>,
    ) -> Self {
        let public_keys = vec![cache_key("trusted-1").public_key()];
        let never = vec!["*secret*".parse().unwrap()];
        let rules = SharingRules { share, public_keys, never, publish: Vec::new() };
        let bans = Bans::new(Arc::new(BanList::default()));
        let served_bytes = Counter::default();
        let (streams, incoming) = mpsc::channel(4096);
        let parts = UploadParts {
            holdings,
            site,
            policy: Arc::new(SharingPolicy::new(rules)),
            limits,
            own_traffic: Arc::new(|| false),
            signer: signer(1),
            bans: bans.clone(),
            served_bytes: served_bytes.clone(),
        };
        let server = UploadServer::start(ChannelIncoming(incoming), parts);
        Self { holdings: memory, bans, served_bytes, server, streams }
    }

    /// A raw stream to the server, as `peer` met at `scope`.
    pub(super) async fn dial(&self, peer: PeerId, scope: Scope) -> DuplexStream {
        self.dial_as(visitor(peer, scope)).await
    }

    async fn dial_as(&self, visitor: Visitor) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        self.streams.send((visitor, Box::new(theirs))).await.unwrap();
        ours
    }

    /// A stream past its hello.
    pub(super) async fn greeted(&self, peer: PeerId, scope: Scope) -> RawClient {
        self.greeted_as(visitor(peer, scope)).await
    }

    /// A stream past its hello, of a visitor from where the test likes.
    pub(super) async fn greeted_as(&self, visitor: Visitor) -> RawClient {
        let mut stream = self.dial_as(visitor).await;
        let (mut read, mut write) = tokio::io::split(&mut stream);
        exchange_hello(&mut read, &mut write).await.unwrap();
        RawClient { stream }
    }

    /// Publishes a blob of this size.
    pub(super) fn published(&self, size: usize) -> Arc<Blob> {
        let blob = Arc::new(Blob::new(size));
        self.holdings.add(&blob, true);
        blob
    }

    /// A dialer for a client with identity `seed`.
    pub(super) fn dialer(&self, seed: u8) -> Arc<Pipes> {
        Arc::new(Pipes { peer: peer(seed), streams: self.streams.clone(), opened: AtomicUsize::new(0) })
    }
}

pub(super) fn signer(seed: u8) -> ClaimSigner {
    claim_signer(&identity(seed))
}

/// Speaks to the server frame by frame.
pub(super) struct RawClient {
    pub(super) stream: DuplexStream,
}

impl RawClient {
    pub(super) async fn send(&mut self, request: &Request) {
        write_frame(&mut self.stream, request).await.unwrap();
    }

    pub(super) async fn response(&mut self) -> Response {
        read_frame(&mut self.stream, MAX_FRAME_BYTES).await.unwrap()
    }

    pub(super) async fn ask(&mut self, request: &Request) -> Response {
        self.send(request).await;
        self.response().await
    }

    pub(super) async fn body(&mut self, length: u32) -> Vec<u8> {
        let mut body = vec![0; length as usize];
        self.stream.read_exact(&mut body).await.unwrap();
        body
    }

    /// Whether the server has closed the stream, now or within `patience`.
    pub(super) async fn is_closed_within(&mut self, patience: Duration) -> bool {
        let mut sink = Vec::new();
        tokio::time::timeout(patience, self.stream.read_to_end(&mut sink)).await.is_ok()
    }
}

/// Connects a client to a [`Served`].
pub(super) struct Pipes {
    peer: PeerId,
    streams: mpsc::Sender<(Visitor, BoxStream)>,
    pub(super) opened: AtomicUsize,
}

#[async_trait]
impl Dialer for Pipes {
    async fn open(&self, _peer: PeerId) -> io::Result<BoxStream> {
        self.opened.fetch_add(1, Ordering::Relaxed);
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let visitor = visitor(self.peer, Scope::Lan);
        self.streams.send((visitor, Box::new(theirs))).await.map_err(|_| io::ErrorKind::ConnectionRefused)?;
        Ok(Box::new(ours))
    }
}

type Script = dyn Fn(usize, Scripted) -> BoxFuture<'static, ()> + Send + Sync;

/// A peer that does on its n-th stream what the test says.
pub(super) struct ScriptedPeer {
    script: Box<Script>,
    pub(super) opened: AtomicUsize,
}

impl ScriptedPeer {
    pub(super) fn new<F: Future<Output = ()> + Send + 'static>(
        script: impl Fn(usize, Scripted) -> F + Send + Sync + 'static,
    ) -> Arc<Self> {
        let script =
            Box::new(move |count, stream| -> BoxFuture<'static, ()> { Box::pin(script(count, stream)) });
        Arc::new(Self { script, opened: AtomicUsize::new(0) })
    }

    pub(super) fn opened(&self) -> usize {
        self.opened.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Dialer for ScriptedPeer {
    async fn open(&self, _peer: PeerId) -> io::Result<BoxStream> {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let count = self.opened.fetch_add(1, Ordering::Relaxed);
        tokio::spawn((self.script)(count, Scripted { stream: theirs }));
        Ok(Box::new(ours))
    }
}

/// The scripted peer's end of a stream. Failures are ignored: the client may have gone.
pub(super) struct Scripted {
    pub(super) stream: DuplexStream,
}

impl Scripted {
    pub(super) async fn hello(&mut self) -> bool {
        let (mut read, mut write) = tokio::io::split(&mut self.stream);
        exchange_hello(&mut read, &mut write).await.is_ok()
    }

    pub(super) async fn request(&mut self) -> Option<Request> {
        read_frame(&mut self.stream, MAX_FRAME_BYTES).await.ok()
    }

    pub(super) async fn answer(&mut self, response: &Response) {
        drop(write_frame(&mut self.stream, response).await);
    }

    pub(super) async fn raw(&mut self, bytes: &[u8]) {
        drop(self.stream.write_all(bytes).await);
    }

    /// Keeps the stream open until the other side closes it.
    pub(super) async fn linger(&mut self) {
        let mut sink = Vec::new();
        drop(self.stream.read_to_end(&mut sink).await);
    }
}

/// A claim for `blob`, signed by the identity `seed`.
pub(super) fn signed(blob: &Blob, seed: u8) -> SignedClaim {
    signer(seed)(blob.claim)
}
