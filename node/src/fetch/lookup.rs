//! Finding out who holds a blob: connected peers first, then the peers that a directory names.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use p2p_cache_discovery::PeerId;
use p2p_cache_protocol::{BlobId, Claim, Digest};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

use super::suspicions::Suspicions;
use super::{FetchError, Offer, Peers};
use crate::peers::PeerError;

/// Answers waiting for the driver.
const MAX_FOUND: usize = 64;
/// Peers asked for one blob in all.
const MAX_PEERS_ASKED: usize = 64;
/// A look-up for the length of a blob gives up after this long.
const SIZE_PATIENCE: Duration = Duration::from_secs(10);

/// What a look-up finds, in the order in which it finds it.
#[derive(Debug)]
pub(super) enum Found {
    /// A peer says that it holds the blob.
    Holder { peer: PeerId, claim: Claim, rtt: Option<Duration> },
    /// A peer is fetching it too, as this blob.
    Downloader { peer: PeerId, blob: BlobId },
    /// A peer answered with something that no honest node says.
    Liar { peer: PeerId, error: PeerError },
    /// All connected peers have answered or were given up.
    NearDone,
    /// Nobody is left to ask.
    Finished,
}

/// A look-up that runs; it ends when this is dropped.
pub(super) struct Lookup {
    /// What it finds.
    pub(super) found: mpsc::Receiver<Found>,
    /// Ends with it, or with its panic.
    pub(super) task: AbortOnDropHandle<()>,
}

/// Begins to ask everybody who may hold `digest`.
pub(super) fn begin(peers: Arc<dyn Peers>, digest: Digest) -> Lookup {
    let (sender, found) = mpsc::channel(MAX_FOUND);
    Lookup { found, task: AbortOnDropHandle::new(tokio::spawn(run(peers, digest, sender))) }
}

/// Asks everybody who may hold `digest` and sends what they say; ends early when the receiver is gone.
async fn run(peers: Arc<dyn Peers>, digest: Digest, found: mpsc::Sender<Found>) {
    let near = peers.connected();
    let wide = async {
        let providers = peers.providers(digest).await;
        let known: HashSet<_> = near.iter().map(|(peer, _)| *peer).collect();
        let room = MAX_PEERS_ASKED.saturating_sub(near.len());
        let fresh = providers.into_iter().filter(|peer| !known.contains(peer)).take(room);
        ask_all(peers.as_ref(), digest, fresh.map(|peer| (peer, None)).collect(), &found).await
    };
    let first = async {
        let asked = near.iter().copied().take(MAX_PEERS_ASKED).collect();
        ask_all(peers.as_ref(), digest, asked, &found).await;
        let _ = found.send(Found::NearDone).await;
    };
    tokio::join!(first, wide);
    let _ = found.send(Found::Finished).await;
}

async fn ask_all(
    peers: &dyn Peers,
    digest: Digest,
    asked: Vec<(PeerId, Option<Duration>)>,
    found: &mpsc::Sender<Found>,
) {
    let mut answers: FuturesUnordered<_> = asked
        .into_iter()
        .map(|(peer, rtt)| async move { (peer, rtt, peers.lookup(peer, digest).await) })
        .collect();
    while let Some((peer, rtt, answer)) = answers.next().await {
        let event = match answer {
            Ok(Some(Offer::Whole(claim))) => Found::Holder { peer, claim, rtt },
            Ok(Some(Offer::Partial(blob))) => Found::Downloader { peer, blob },
            Ok(None) => continue,
            Err(error) if error.ban_reason().is_some() => Found::Liar { peer, error },
            Err(error) => {
                tracing::debug!(%peer, %digest, %error, "look-up failed");
                continue;
            }
        };
        if found.send(event).await.is_err() {
            return;
        }
    }
}

/// The length that the first holder claims whose claim has not led nowhere before. The content decides later whether it
/// was true.
pub(super) async fn size_of(
    peers: &dyn Peers,
    digest: Digest,
    suspicions: &Suspicions,
) -> Result<u64, FetchError> {
    let (sender, mut receiver) = mpsc::channel(1);
    let near = peers.connected().into_iter().take(MAX_PEERS_ASKED).collect();
    let asking = async {
        ask_all(peers, digest, near, &sender).await;
        let wide = peers
            .providers(digest)
            .await
            .into_iter()
            .take(MAX_PEERS_ASKED)
            .map(|peer| (peer, None))
            .collect();
        ask_all(peers, digest, wide, &sender).await;
        drop(sender);
    };
    let first = async {
        let mut doubtful = None;
        while let Some(found) = receiver.recv().await {
            match found {
                Found::Holder { claim, .. } if suspicions.is_doubtful(digest, (claim.blob, claim.size)) => {
                    doubtful = doubtful.or(Some(claim.size));
                }
                Found::Holder { claim, .. } => return Some(claim.size),
                Found::Liar { peer, error } => {
                    if let Some(reason) = error.ban_reason() {
                        peers.ban(peer, reason).await;
                    }
                }
                Found::Downloader { .. } | Found::NearDone | Found::Finished => {}
            }
        }
        doubtful
    };
    // Whichever ends first: an answer, or everybody asked (then `first` sees the closed channel).
    let size = tokio::time::timeout(SIZE_PATIENCE, async {
        tokio::pin!(first);
        tokio::select! {
            biased;
            size = &mut first => size,
            () = asking => first.await,
        }
    })
    .await;
    size.ok().flatten().ok_or(FetchError::NotFound)
}
