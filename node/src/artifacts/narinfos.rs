//! Finding a narinfo: what is held, then peers and origins at once.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::StreamExt;
use futures::future::{BoxFuture, WeakShared};
use futures::stream::FuturesUnordered;
use lru::LruCache;
use p2p_cache_discovery::{PeerId, Scope};
use p2p_cache_http_gateway::SourceError;
use p2p_cache_protocol::{Digest, NarInfo, StoreHash, TrustedKeys};

use crate::fetch::{Leader, Peers};
use crate::key_ring::KeyRing;
use crate::missing::Missing;
use crate::nix_store::NixStore;
use crate::origin::{OriginError, OriginId, Origins};
use crate::peers::PeerError;
use crate::sharing::{SharingPolicy, Subject};
use crate::store::BlobStore;

/// Store paths remembered that no origin has, about 100 bytes each.
const MAX_MISSING: NonZeroUsize = NonZeroUsize::new(32 * 1024).unwrap();
/// Narinfos remembered in memory without their NAR being held, about 1 KiB each.
const MAX_RECENT: NonZeroUsize = NonZeroUsize::new(16 * 1024).unwrap();
/// How long such a narinfo, and the origin that had it, is believed without asking again.
const RECENT_FOR: Duration = Duration::from_secs(600);
/// Peers asked for one narinfo.
const MAX_PEERS_ASKED: usize = 32;
/// After the origin said that it has none, peers that have not answered yet get this much longer.
const PEERS_GRACE: Duration = Duration::from_millis(500);
/// How long the origins are asked before a narinfo is given that is held and that no trusted key vouches for.
const HELD_PATIENCE: Duration = Duration::from_millis(1500);
/// Look-ups under way, above which ended ones are swept out of the table.
const SWEEP_ABOVE: usize = 256;

/// A narinfo and where it is from.
#[derive(Debug, Clone)]
pub(super) struct FoundNarInfo {
    pub(super) narinfo: Arc<NarInfo>,
    /// The origin that answered with it; `None` when it came from the store or a peer.
    pub(super) origin: Option<OriginId>,
}

/// Who is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Whom {
    /// Peers, and the origins or whoever leads our site.
    All,
    /// The same, for a client on another machine: what is private counts as unknown.
    AllForOthers,
    /// The origins alone: we lead.
    Origins,
}

/// A narinfo that was found lately.
struct Recent {
    found: FoundNarInfo,
    since: Instant,
    /// What the live Nix store was like when it said so, if it was the one that did.
    generation: Option<u64>,
}

type Lookup = BoxFuture<'static, Result<FoundNarInfo, SourceError>>;

/// Looks narinfos up; equal requests share one look-up. Cheap to clone.
#[derive(Clone)]
pub struct NarInfos {
    shared: Arc<Shared>,
}

struct Shared {
    store: BlobStore,
    nix: NixStore,
    origins: Origins,
    peers: Arc<dyn Peers>,
    keys: KeyRing,
    policy: Arc<SharingPolicy>,
    recent: Mutex<LruCache<StoreHash, Recent>>,
    missing: Missing<StoreHash>,
    lookups: Mutex<HashMap<(StoreHash, Whom), WeakShared<Lookup>>>,
}

impl NarInfos {
    /// `keys` decide which narinfos of peers count, `policy` which ones are found for peers.
    pub fn new(
        store: BlobStore,
        nix: NixStore,
        origins: Origins,
        peers: Arc<dyn Peers>,
        keys: TrustedKeys,
        policy: Arc<SharingPolicy>,
        missing_for: Duration,
    ) -> Self {
        let recent = Mutex::new(LruCache::new(MAX_RECENT));
        let missing = Missing::new(missing_for, MAX_MISSING);
        let lookups = Mutex::default();
        let keys = KeyRing::new(keys);
        let shared = Shared { store, nix, origins, peers, keys, policy, recent, missing, lookups };
        Self { shared: Arc::new(shared) }
    }

    /// What was known of a path, or known not to be, is out of date: it was uploaded.
    pub(crate) fn forget(&self, hash: StoreHash) {
        self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner).pop(&hash);
        self.shared.missing.forget(hash);
    }

    /// Other keys decide from now on; what was found under the old ones is forgotten.
    pub fn set_keys(&self, keys: TrustedKeys) {
        self.shared.keys.set(keys);
        self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The narinfo of a store path. `NotFound` only when the origins said so and no peer has it.
    pub(super) async fn find(&self, hash: StoreHash) -> Result<FoundNarInfo, SourceError> {
        if let Some(found) = self.shared.recent(hash) {
            return Ok(found);
        }
        let generation = self.shared.nix.generation();
        let held =
            self.shared.held(hash, |narinfo| narinfo.verified_by(&self.shared.keys.get()).is_some()).await;
        let held = match held {
            Held::Good(narinfo) => return Ok(FoundNarInfo { narinfo, origin: None }),
            Held::Other(narinfo) => narinfo,
        };
        let looked_up = match held {
            Some(_) => self.look_up_or_go_on(hash).await,
            None => self.look_up_once(hash, Whom::All).await,
        };
        match looked_up {
            Ok(found) => Ok(found),
            // Held but vouched for by no trusted key: good enough when nobody knows better, as an origin, or the Nix of
            // this machine, once said it.
            Err(error) => {
                let not_found = error == SourceError::NotFound;
                let narinfo = held.ok_or(error)?;
                if not_found && !self.shared.has_nar(&narinfo).await {
                    return Err(SourceError::NotFound);
                }
                if not_found {
                    self.shared.remember_live(hash, &narinfo, generation);
                }
                Ok(FoundNarInfo { narinfo, origin: None })
            }
        }
    }

    /// A look-up that is not waited for long, since there is an answer without it. It goes on, so that what it finds, and
    /// that an origin is dead, is known the next time.
    async fn look_up_or_go_on(&self, hash: StoreHash) -> Result<FoundNarInfo, SourceError> {
        let lookup = tokio::spawn(self.look_up_once(hash, Whom::All));
        match tokio::time::timeout(HELD_PATIENCE, lookup).await {
            Ok(Ok(result)) => result,
            Ok(Err(error)) => Err(SourceError::Internal(error.to_string())),
            Err(_) => {
                Err(SourceError::Upstream(format!("no answer within {} ms", HELD_PATIENCE.as_millis())))
            }
        }
    }

    /// The narinfo of a public store path for a peer that believes that we lead. What we hold and may not share counts
    /// as not held, in time as well: the origins are asked either way.
    pub(super) async fn find_for_site(&self, hash: StoreHash) -> Result<FoundNarInfo, SourceError> {
        self.find_public(hash, Whom::Origins).await
    }

    /// The same for a client on another machine; peers are asked too. What is found may be private after all.
    pub(super) async fn find_for_others(&self, hash: StoreHash) -> Result<FoundNarInfo, SourceError> {
        self.find_public(hash, Whom::AllForOthers).await
    }

    async fn find_public(&self, hash: StoreHash, whom: Whom) -> Result<FoundNarInfo, SourceError> {
        if self.shared.policy.may_know(hash) {
            if let Some(found) = self.shared.recent(hash).filter(|found| self.is_public(&found.narinfo)) {
                return Ok(found);
            }
            if let Held::Good(narinfo) = self.shared.held(hash, |narinfo| self.is_public(narinfo)).await {
                return Ok(FoundNarInfo { narinfo, origin: None });
            }
        }
        self.look_up_once(hash, whom).await
    }

    /// Whether the peers of our site may have it.
    pub(super) fn is_public(&self, narinfo: &NarInfo) -> bool {
        self.shared.policy.may_share(&Subject::path(narinfo), Scope::Lan)
    }

    /// Boxed, since looking up where we lead is a look-up within a look-up.
    fn look_up_once(&self, hash: StoreHash, whom: Whom) -> Lookup {
        let lookup = {
            let mut lookups = self.shared.lookups.lock().unwrap_or_else(PoisonError::into_inner);
            if lookups.len() > SWEEP_ABOVE {
                lookups.retain(|_, lookup| lookup.upgrade().is_some());
            }
            match lookups.get(&(hash, whom)).and_then(WeakShared::upgrade) {
                Some(running) => running,
                None => {
                    let narinfos = self.clone();
                    let lookup: Lookup = async move { narinfos.look_up(hash, whom).await }.boxed();
                    let lookup = lookup.shared();
                    if let Some(weak) = lookup.downgrade() {
                        lookups.insert((hash, whom), weak);
                    }
                    lookup
                }
            }
        };
        let shared = Arc::clone(&self.shared);
        async move {
            let result = lookup.await;
            shared.lookups.lock().unwrap_or_else(PoisonError::into_inner).remove(&(hash, whom));
            result
        }
        .boxed()
    }

    async fn look_up(&self, hash: StoreHash, whom: Whom) -> Result<FoundNarInfo, SourceError> {
        // Another look-up may have ended since the caller looked.
        let usable = |found: &FoundNarInfo| whom == Whom::All || self.is_public(&found.narinfo);
        if let Some(found) = self.shared.recent(hash).filter(usable) {
            return Ok(found);
        }
        let found = match whom {
            Whom::All | Whom::AllForOthers => self.race(hash, whom).await?,
            Whom::Origins => self.shared.ask_origins(hash).await?,
        };
        self.shared.policy.note(&Subject::path(&found.narinfo), [hash.into()]);
        self.shared.remember(hash, found.clone(), None);
        Ok(found)
    }

    /// Through the leader of our site, or, where that is us or nobody can lead, from the origins.
    async fn ask_upstream(
        &self,
        hash: StoreHash,
        leader: Option<Leader>,
    ) -> Result<FoundNarInfo, SourceError> {
        match leader {
            // Peers may be asking for it at the same time.
            Some(Leader::Us) => self.look_up_once(hash, Whom::Origins).await,
            Some(Leader::Peer(leader)) => match self.shared.ask_leader(leader, hash).await {
                Ok(found) => Ok(found),
                Err(declined) => {
                    let found = self.shared.ask_origins(hash).await?;
                    if declined && found.narinfo.verified_by(&self.shared.keys.get()).is_some() {
                        self.shared.peers.declined(leader);
                    }
                    Ok(found)
                }
            },
            None => self.shared.ask_origins(hash).await,
        }
    }

    /// Asks peers and origins at the same time; the first valid answer wins. When the origins said that there is
    /// none, peers are only given a moment longer; when they could not be reached, every peer is heard.
    ///
    /// That the origins had none a moment ago is remembered for clients of this machine alone: the time that it saves would
    /// tell others what was asked for here.
    async fn race(&self, hash: StoreHash, whom: Whom) -> Result<FoundNarInfo, SourceError> {
        let missing = whom == Whom::All && self.shared.missing.is_known(hash);
        // The leader is one peer among others then.
        let led = !missing && !self.shared.keys.get().is_empty();
        let leader = if led { self.shared.peers.leader(hash) } else { None };
        let peers = self.shared.ask_peers(hash, leader);
        let origins = async {
            if missing { Err(SourceError::NotFound) } else { self.ask_upstream(hash, leader).await }
        };
        tokio::pin!(peers, origins);
        let mut refused = None;
        let mut peers_done = false;
        let grace = tokio::time::sleep(Duration::MAX);
        tokio::pin!(grace);
        loop {
            tokio::select! {
                narinfo = &mut peers, if !peers_done => match narinfo {
                    Some(narinfo) => return Ok(FoundNarInfo { narinfo, origin: None }),
                    None => peers_done = true,
                },
                answer = &mut origins, if refused.is_none() => match answer {
                    Ok(found) => return Ok(found),
                    Err(error) => {
                        if error == SourceError::NotFound && !self.shared.origins.is_empty() {
                            if whom == Whom::All && !missing {
                                self.shared.missing.note(hash);
                            }
                            grace.set(tokio::time::sleep(PEERS_GRACE));
                        }
                        refused = Some(error);
                    }
                },
                () = &mut grace => peers_done = true,
            }
            if peers_done && let Some(error) = refused {
                return Err(error);
            }
        }
    }
}

/// What is held of a narinfo.
enum Held {
    /// One that will do.
    Good(Arc<NarInfo>),
    /// One that will do only when there is no other.
    Other(Option<Arc<NarInfo>>),
}

impl Shared {
    /// What the store has, or else what the live Nix store says; of the former only if it will do.
    async fn held(&self, hash: StoreHash, will_do: impl Fn(&NarInfo) -> bool) -> Held {
        let stored = self.store.narinfo(hash).await.map(Arc::new);
        if let Some(narinfo) = stored.as_ref().filter(|narinfo| will_do(narinfo)) {
            return Held::Good(Arc::clone(narinfo));
        }
        let generation = self.nix.generation();
        let live = self.nix.narinfo(hash).await.unwrap_or_else(|error| {
            tracing::debug!(%hash, %error, "the live Nix store cannot be asked");
            None
        });
        match live.map(Arc::new) {
            Some(narinfo) if will_do(&narinfo) => {
                self.remember_live(hash, &narinfo, generation);
                Held::Good(narinfo)
            }
            live => Held::Other(live.or(stored)),
        }
    }

    /// Whether the NAR is on this machine. It may have made room for others while its narinfo stayed.
    async fn has_nar(&self, narinfo: &NarInfo) -> bool {
        let digest = Digest::Sha256(narinfo.nar_hash);
        if self.store.find(digest).await.is_ok_and(|meta| meta.is_some()) {
            return true;
        }
        self.nix.narinfo(narinfo.store_path.hash()).await.is_ok_and(|live| live.is_some())
    }

    fn recent(&self, hash: StoreHash) -> Option<FoundNarInfo> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let known = recent.get(&hash)?;
        let unchanged = known.generation.is_none_or(|generation| generation == self.nix.generation());
        if unchanged && known.since.elapsed() < RECENT_FOR {
            return Some(known.found.clone());
        }
        recent.pop(&hash);
        None
    }

    fn remember(&self, hash: StoreHash, found: FoundNarInfo, generation: Option<u64>) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.put(hash, Recent { found, since: Instant::now(), generation });
    }

    /// Until its database changes, what the live Nix store said need not be read again.
    fn remember_live(&self, hash: StoreHash, narinfo: &Arc<NarInfo>, generation: u64) {
        let found = FoundNarInfo { narinfo: Arc::clone(narinfo), origin: None };
        self.remember(hash, found, Some(generation));
    }

    async fn ask_origins(&self, hash: StoreHash) -> Result<FoundNarInfo, SourceError> {
        match self.origins.narinfo(hash, None, &[]).await {
            Ok(found) => Ok(FoundNarInfo { narinfo: Arc::new(found.narinfo), origin: Some(found.origin) }),
            Err(OriginError::NotFound { .. }) => Err(SourceError::NotFound),
            Err(error) => Err(SourceError::Upstream(error.to_string())),
        }
    }

    /// What the leader of our site holds or got from its origins. It is passed over for a while when it fails us; that
    /// it knows of none is no proof that there is none. The error says whether it declined.
    async fn ask_leader(&self, leader: PeerId, hash: StoreHash) -> Result<FoundNarInfo, bool> {
        match self.peers.resolve(leader, hash).await {
            Ok(Some(text)) => match self.accept(hash, &text) {
                Ok(narinfo) => return Ok(FoundNarInfo { narinfo: Arc::new(narinfo), origin: None }),
                Err(reason) => tracing::warn!(%leader, %hash, reason, "narinfo of a leader refused"),
            },
            Ok(None) => return Err(true),
            Err(PeerError::Busy { .. }) => {}
            Err(error) => {
                tracing::debug!(%leader, %hash, %error, "a leader is passed over");
                if let Some(reason) = error.ban_reason() {
                    self.peers.ban(leader, reason).await;
                }
                self.peers.pass_over(leader);
            }
        }
        Err(false)
    }

    /// The first narinfo of a peer that a trusted key verifies. The leader is asked for more than that already.
    async fn ask_peers(&self, hash: StoreHash, leader: Option<Leader>) -> Option<Arc<NarInfo>> {
        if self.keys.get().is_empty() {
            return None;
        }
        let others =
            self.peers.connected().into_iter().filter(|(peer, _)| leader != Some(Leader::Peer(*peer)));
        let asked = others.take(MAX_PEERS_ASKED);
        let mut answers: FuturesUnordered<_> =
            asked.map(|(peer, _)| async move { (peer, self.peers.narinfo(peer, hash).await) }).collect();
        while let Some((peer, answer)) = answers.next().await {
            match answer {
                Ok(Some(text)) => match self.accept(hash, &text) {
                    Ok(narinfo) => return Some(Arc::new(narinfo)),
                    Err(reason) => tracing::warn!(%peer, %hash, reason, "narinfo of a peer refused"),
                },
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%peer, %hash, %error, "narinfo not had from peer");
                    if let Some(reason) = error.ban_reason() {
                        self.peers.ban(peer, reason).await;
                    }
                }
            }
        }
        None
    }

    fn accept(&self, hash: StoreHash, text: &str) -> Result<NarInfo, String> {
        let narinfo = NarInfo::parse(text).map_err(|error| error.to_string())?;
        if narinfo.store_path.hash() != hash {
            return Err(format!("it is for {}", narinfo.store_path));
        }
        match narinfo.verified_by(&self.keys.get()) {
            Some(_) => Ok(narinfo),
            None => Err("no trusted key verifies it".to_owned()),
        }
    }
}
