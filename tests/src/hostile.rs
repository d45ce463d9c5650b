//! Peers that break the rules, each in its own way, on a swarm of their own inside the test's process.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use p2p_cache::discovery::{Identity, IncomingStreams, Network, NetworkConfig, PeerId, PeerStream};
use p2p_cache::fetch::leader::ranking;
use p2p_cache_protocol::wire::{
    FRAME_HEADER_BYTES, Hello, Request, Response, WireMessage, decode_frame, encode_frame, frame_len,
};
use p2p_cache_protocol::{
    BlobId, Claim, Digest, GroupRange, NarInfo, SecretKey, Sha256Digest, SignedClaim, create_outboard,
    encode_range, outboard_bytes,
};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

/// Pause between the bytes of [`Manner::Trickle`].
const TRICKLE_PAUSE: Duration = Duration::from_secs(1);
/// Before each look-up of [`Manner::Late`]; far below what a look-up may take.
const LATE_BY: Duration = Duration::from_millis(300);

/// A store path with a NAR of random bytes, signed by a key of its own, in a cache directory for an
/// [`Origin`](crate::Origin). It needs no Nix, and whatever is signed can be chosen.
pub struct Package {
    directory: TempDir,
    /// The key of the cache.
    pub key: SecretKey,
    /// As the cache serves it, signed.
    pub narinfo: NarInfo,
    /// The uncompressed NAR.
    pub nar: Vec<u8>,
}

impl Package {
    /// A package with a NAR of this many bytes; `seed` decides about all of it.
    pub fn new(nar_bytes: usize, seed: u64) -> Self {
        let nar = random_bytes(nar_bytes, seed);
        let hash = Sha256Digest::of(&nar).to_nix32();
        let text = format!(
            "StorePath: /nix/store/{path}-thing\nURL: nar/{hash}.nar\nCompression: none\nFileHash: sha256:{hash}\n\
             FileSize: {nar_bytes}\nNarHash: sha256:{hash}\nNarSize: {nar_bytes}\nReferences: \n",
            path = &hash[..32],
        );
        let key = SecretKey::from_seed("hostile-test-1", &[7; 32]).expect("a key");
        let mut narinfo = NarInfo::parse(&text).expect("a narinfo");
        narinfo.sign(&key);
        let directory = tempfile::tempdir().expect("a temporary directory");
        let package = Self { directory, key, narinfo, nar };
        std::fs::create_dir(package.cache().join("nar")).expect("the directory of NARs");
        std::fs::write(package.cache().join(&package.narinfo.url), &package.nar).expect("the NAR");
        let file = package.narinfo_path();
        std::fs::write(package.cache().join(&file[1..]), package.narinfo.to_string()).expect("the narinfo");
        package
    }

    /// The directory that a web server would serve.
    pub fn cache(&self) -> &Path {
        self.directory.path()
    }

    /// The key that verifies the narinfo, as text.
    pub fn public_key(&self) -> String {
        self.key.public_key().to_string()
    }

    /// The path of the narinfo on a gateway.
    pub fn narinfo_path(&self) -> String {
        format!("/{}.narinfo", self.narinfo.store_path.hash())
    }

    /// The path of the NAR on a gateway.
    pub fn nar_path(&self) -> String {
        format!("/nar/{}-{}.nar", self.narinfo.store_path.hash(), self.narinfo.nar_hash.to_nix32())
    }

    /// What an honest peer says of the NAR.
    pub fn claim(&self) -> Claim {
        let blob = Tree::of(self.nar.clone()).id;
        Claim { sha256: self.narinfo.nar_hash, blob, size: self.nar.len() as u64 }
    }
}

/// Bytes that follow from a seed.
pub fn random_bytes(length: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// Bytes with their hash tree, so that every range of them is consistent.
pub struct Tree {
    bytes: Vec<u8>,
    outboard: Vec<u8>,
    /// Its root.
    pub id: BlobId,
}

impl Tree {
    /// Hashes the bytes.
    pub fn of(bytes: Vec<u8>) -> Self {
        let size = bytes.len() as u64;
        let mut outboard = vec![0; usize::try_from(outboard_bytes(size)).expect("a small blob")];
        let id = create_outboard(&bytes[..], size, &mut outboard).expect("hashing memory");
        Self { bytes, outboard, id }
    }

    fn encoded(&self, range: GroupRange) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        encode_range(self.id, self.bytes.len() as u64, &self.bytes[..], &self.outboard[..], range, &mut out)?;
        Ok(out)
    }
}

/// How a [`LyingPeer`] answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manner {
    /// In the form that the protocol wants; the content may still be a lie.
    Proper,
    /// Proper, except for a hello that is these bytes.
    Hello(Vec<u8>),
    /// Every request is answered with these bytes.
    Garbage(Vec<u8>),
    /// Requests for ranges are answered with these bytes, others properly.
    GarbageForRanges(Vec<u8>),
    /// A bit is wrong in the last byte of every range.
    CorruptRanges,
    /// A bit is wrong somewhere in some of the ranges.
    CorruptAtRandom {
        /// One range of this many, on average.
        one_in: u32,
        /// Decides in which, and where.
        seed: u64,
    },
    /// Every look-up is answered properly, but later than by anybody else.
    Late,
    /// Half of a range, then silence on an open stream.
    SilentAfterHalf,
    /// A range's head, then a byte each second; as a leader the same.
    Trickle,
    /// A range is announced, and sent, with this many bytes too many.
    TooLong(u32),
    /// As a leader it relays the bytes of its tree to the end.
    Leads,
    /// Ranges below this group are served, others denied; every look-up after the first is denied too.
    OnceAndBelow(u64),
}

/// What a hostile peer says, and how.
pub struct Lies {
    /// Answers every request for a narinfo; nothing is found without it.
    pub narinfo: Option<String>,
    /// Answers every look-up of its digest, signed with the peer's own key.
    pub claim: Option<Claim>,
    /// What ranges are served of.
    pub tree: Tree,
    /// How.
    pub manner: Manner,
}

impl Lies {
    /// The truth about a package, in this manner. No narinfo is offered.
    pub fn none(package: &Package, manner: Manner) -> Self {
        Self::about(&package.nar, manner)
    }

    /// The truth about a NAR, in this manner. No narinfo is offered.
    pub fn about(nar: &[u8], manner: Manner) -> Self {
        let tree = Tree::of(nar.to_vec());
        let claim = Claim { sha256: Sha256Digest::of(nar), blob: tree.id, size: nar.len() as u64 };
        Self { narinfo: None, claim: Some(claim), tree, manner }
    }

    /// A claim that `bytes` are what `package` is, and ranges that are consistent with it.
    pub fn false_claim(package: &Package, bytes: Vec<u8>, manner: Manner) -> Self {
        let (sha256, size) = (package.narinfo.nar_hash, bytes.len() as u64);
        let tree = Tree::of(bytes);
        Self { narinfo: None, claim: Some(Claim { sha256, blob: tree.id, size }), tree, manner }
    }

    /// Nothing is held, but as a leader it relays `bytes`.
    pub fn relayed(bytes: Vec<u8>, manner: Manner) -> Self {
        Self { narinfo: None, claim: None, tree: Tree::of(bytes), manner }
    }

    /// A narinfo, and nothing else.
    pub fn narinfo(text: impl Into<String>) -> Self {
        Self { narinfo: Some(text.into()), claim: None, tree: Tree::of(Vec::new()), manner: Manner::Proper }
    }
}

/// A hostile node: its swarm is a real one, what it says on the streams is up to its [`Lies`]. Gone when dropped.
pub struct LyingPeer {
    /// Its address, with the peer id.
    pub address: String,
    network: Network,
    runtime: Option<Runtime>,
    shared: Arc<Shared>,
}

struct Shared {
    lies: Lies,
    identity: Identity,
    narinfos: AtomicUsize,
    lookups: AtomicUsize,
    ranges: AtomicUsize,
}

impl LyingPeer {
    /// Waits for somebody to connect.
    pub fn start(lies: Lies) -> Self {
        Self::with_peers(lies, &[])
    }

    /// One that leads the site of `node` and itself for a package.
    pub fn leading(package: &Package, node: &str, lies: impl Fn() -> Lies) -> Self {
        let id = |address: &str| address.rsplit_once("/p2p/").and_then(|(_, id)| id.parse::<PeerId>().ok());
        let node = id(node).expect("a peer id");
        loop {
            let liar = Self::start(lies());
            let liar_id = id(&liar.address).expect("a peer id");
            if ranking(package.narinfo.store_path.hash(), [node, liar_id])[0] == liar_id {
                return liar;
            }
        }
    }

    /// Connects to this address by itself, and stays connected.
    pub fn dialling(lies: Lies, address: &str) -> Self {
        Self::with_peers(lies, &[address])
    }

    fn with_peers(lies: Lies, peers: &[&str]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let identity = Identity::generate();
        let config = NetworkConfig {
            listen: vec!["/ip4/127.0.0.1/tcp/0".parse().expect("an address")],
            peers: peers.iter().map(|peer| peer.parse().expect("an address")).collect(),
            mdns: false,
            dht: false,
            ..NetworkConfig::default()
        };
        let started = runtime.block_on(Network::start(config, &identity));
        let (network, incoming) = started.expect("the swarm starts");
        let address = format!("{}/p2p/{}", network.listen_addrs()[0], identity.peer_id());
        let shared = Arc::new(Shared {
            lies,
            identity,
            narinfos: AtomicUsize::new(0),
            lookups: AtomicUsize::new(0),
            ranges: AtomicUsize::new(0),
        });
        runtime.spawn(accept(incoming, Arc::clone(&shared)));
        Self { address, network, runtime: Some(runtime), shared }
    }

    /// Requests for narinfos so far.
    pub fn narinfos_asked(&self) -> usize {
        self.shared.narinfos.load(Ordering::SeqCst)
    }

    /// Look-ups so far.
    pub fn lookups_asked(&self) -> usize {
        self.shared.lookups.load(Ordering::SeqCst)
    }

    /// Requests for ranges so far.
    pub fn ranges_asked(&self) -> usize {
        self.shared.ranges.load(Ordering::SeqCst)
    }

    /// Opens a stream to the node at `address`, writes these bytes on it and reads until the node closes it, for
    /// `patience` at most. True when the node has closed it.
    pub fn intrude(&self, address: &str, bytes: &[u8], patience: Duration) -> bool {
        let (_, peer) = address.rsplit_once("/p2p/").expect("a peer id");
        let peer: PeerId = peer.parse().expect("a peer id");
        let runtime = self.runtime.as_ref().expect("it runs until it is dropped");
        runtime.block_on(async {
            let mut stream = self.network.open_stream(peer).await.expect("the node accepts a stream");
            // It may close before all is written.
            let _ = stream.write_all(bytes).await;
            let _ = stream.flush().await;
            let mut sink = Vec::new();
            tokio::time::timeout(patience, stream.read_to_end(&mut sink)).await.is_ok()
        })
    }
}

impl Drop for LyingPeer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(mut incoming: IncomingStreams, shared: Arc<Shared>) {
    while let Some((_, stream)) = incoming.next().await {
        let shared = Arc::clone(&shared);
        // A stream that breaks is the other side's good right.
        tokio::spawn(async move { shared.serve(stream).await });
    }
}

impl Shared {
    async fn serve(&self, mut stream: PeerStream) -> io::Result<()> {
        if let Manner::Hello(bytes) = &self.lies.manner {
            return write_and_linger(&mut stream, bytes).await;
        }
        write_frame(&mut stream, &Hello::new("liar/1")).await?;
        read_frame::<Hello>(&mut stream).await?;
        loop {
            let request = read_frame(&mut stream).await?;
            self.answer(&mut stream, request).await?;
        }
    }

    async fn answer(&self, stream: &mut PeerStream, request: Request) -> io::Result<()> {
        let (counter, response) = match &request {
            Request::NarInfo { .. } | Request::Resolve { .. } => (&self.narinfos, self.narinfo()),
            Request::Lookup { digest } => (&self.lookups, self.lookup(*digest)),
            Request::Range { .. } => (&self.ranges, Response::NotFound),
            Request::Follow { .. } => return self.follow(stream).await,
            Request::Watch { .. } => return write_frame(stream, &Response::NotFound).await,
        };
        counter.fetch_add(1, Ordering::SeqCst);
        match (&self.lies.manner, request) {
            (Manner::Garbage(bytes), _) | (Manner::GarbageForRanges(bytes), Request::Range { .. }) => {
                write_and_linger(stream, bytes).await
            }
            (_, Request::Range { range, .. }) => self.range(stream, range).await,
            (Manner::Late, Request::Lookup { .. }) => {
                tokio::time::sleep(LATE_BY).await;
                write_frame(stream, &response).await
            }
            _ => write_frame(stream, &response).await,
        }
    }

    /// As the leader of a site.
    async fn follow(&self, stream: &mut PeerStream) -> io::Result<()> {
        let bytes = &self.lies.tree.bytes;
        let head = Response::Arriving { size: bytes.len() as u64 };
        match self.lies.manner {
            Manner::Leads => {
                write_frame(stream, &head).await?;
                write(stream, &in_pieces(bytes)).await
            }
            Manner::SilentAfterHalf => {
                write_frame(stream, &head).await?;
                write_and_linger(stream, &in_pieces(&bytes[..bytes.len() / 2])).await
            }
            Manner::Trickle => {
                write_frame(stream, &head).await?;
                for byte in bytes.chunks(1) {
                    write(stream, &in_pieces(byte)).await?;
                    tokio::time::sleep(TRICKLE_PAUSE).await;
                }
                Ok(())
            }
            _ => write_frame(stream, &Response::NotFound).await,
        }
    }

    fn narinfo(&self) -> Response {
        self.lies.narinfo.clone().map_or(Response::NotFound, |text| Response::NarInfo { text })
    }

    fn lookup(&self, digest: Digest) -> Response {
        let denied =
            matches!(self.lies.manner, Manner::OnceAndBelow(_)) && self.lookups.load(Ordering::SeqCst) > 0;
        let asked = |claim: &Claim| digest == Digest::Sha256(claim.sha256);
        match self.lies.claim.filter(|claim| asked(claim) && !denied) {
            Some(claim) => Response::Have { claim: SignedClaim::sign(claim, &self.identity.signing_key()) },
            None => Response::NotFound,
        }
    }

    async fn range(&self, stream: &mut PeerStream, range: GroupRange) -> io::Result<()> {
        let Ok(mut body) = self.lies.tree.encoded(range) else {
            return write_frame(stream, &Response::NotFound).await;
        };
        let half = body.len() / 2;
        match self.lies.manner {
            Manner::OnceAndBelow(groups) if range.end > groups => {
                return write_frame(stream, &Response::NotFound).await;
            }
            Manner::CorruptRanges => *body.last_mut().expect("ranges are not empty") ^= 1,
            Manner::CorruptAtRandom { one_in, seed } => {
                let asked = self.ranges.load(Ordering::SeqCst) as u64;
                let mut random = StdRng::seed_from_u64(seed.wrapping_add(asked));
                if random.random_ratio(1, one_in) {
                    let at = random.random_range(0..body.len());
                    body[at] ^= 1 << random.random_range(0..8);
                }
            }
            Manner::TooLong(bytes) => body.extend(vec![0; bytes as usize]),
            _ => {}
        }
        write_frame(stream, &Response::Data { encoded_bytes: body.len() as u32 }).await?;
        match self.lies.manner {
            Manner::SilentAfterHalf => write_and_linger(stream, &body[..half]).await,
            Manner::Trickle => trickle(stream, &body).await,
            _ => write(stream, &body).await,
        }
    }
}

/// As the bytes of a blob are streamed while it arrives.
fn in_pieces(bytes: &[u8]) -> Vec<u8> {
    let pieces = bytes.chunks(100_000);
    pieces.flat_map(|piece| [&(piece.len() as u32).to_le_bytes(), piece].concat()).collect()
}

async fn trickle(stream: &mut PeerStream, bytes: &[u8]) -> io::Result<()> {
    for byte in bytes {
        write(stream, &[*byte]).await?;
        tokio::time::sleep(TRICKLE_PAUSE).await;
    }
    Ok(())
}

async fn write(stream: &mut PeerStream, bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.flush().await
}

/// Writes, and then says nothing more until the other side has closed the stream.
async fn write_and_linger(stream: &mut PeerStream, bytes: &[u8]) -> io::Result<()> {
    write(stream, bytes).await?;
    let mut sink = [0; 4096];
    while stream.read(&mut sink).await? > 0 {}
    Err(io::ErrorKind::UnexpectedEof.into())
}

pub(crate) async fn write_frame(stream: &mut PeerStream, message: &impl WireMessage) -> io::Result<()> {
    write(stream, &encode_frame(message).map_err(io::Error::other)?).await
}

pub(crate) async fn read_frame<T: WireMessage>(stream: &mut PeerStream) -> io::Result<T> {
    let mut header = [0; FRAME_HEADER_BYTES];
    stream.read_exact(&mut header).await?;
    let mut payload = vec![0; frame_len(header).map_err(io::Error::other)?];
    stream.read_exact(&mut payload).await?;
    decode_frame(&payload).map_err(io::Error::other)
}
