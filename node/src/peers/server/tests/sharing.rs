//! What leaves the node, to whom, and how the rest looks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use p2p_cache_discovery::Scope;
use p2p_cache_protocol::digest::{Digest, Sha256Digest};
use p2p_cache_protocol::narinfo::NarInfo;
use p2p_cache_protocol::signature::{SecretKey, TrustedKeys};
use p2p_cache_protocol::tree::{GroupRange, RangeSink, decode_range};
use p2p_cache_protocol::wire::{Request, Response};
use tokio::time::Instant;

use crate::peers::limits::MISS_FLOOR;
use crate::peers::server::UploadLimits;
use crate::peers::testing::{Blob, RawClient, Served, cache_key, identity, narinfo_of, peer};
use crate::sharing::Share;

fn everything(blob: &Blob, narinfo: &NarInfo) -> [Request; 4] {
    [
        Request::NarInfo { hash: narinfo.store_path.hash() },
        Request::Lookup { digest: blob.digest() },
        Request::Lookup { digest: Digest::Blake3(blob.id()) },
        blob.range_request(0, 4),
    ]
}

/// The four answers; the body of a range is read.
async fn answers(client: &mut RawClient, requests: &[Request]) -> Vec<Response> {
    let mut answers = Vec::new();
    for request in requests {
        let answer = client.ask(request).await;
        if let Response::Data { encoded_bytes } = answer {
            client.body(encoded_bytes).await;
        }
        answers.push(answer);
    }
    answers
}

fn found(answers: &[Response]) -> usize {
    answers.iter().filter(|answer| **answer != Response::NotFound).count()
}

#[tokio::test]
async fn only_the_allowed_scope_gets_anything() {
    for (share, scope, expected) in [
        (Share::None, Scope::Lan, 0),
        (Share::None, Scope::Public, 0),
        (Share::Lan, Scope::Lan, 4),
        (Share::Lan, Scope::Public, 0),
        (Share::Public, Scope::Lan, 4),
        (Share::Public, Scope::Public, 4),
    ] {
        let served = Served::start_with(UploadLimits::default(), share);
        let blob = served.published(200_000);
        let narinfo = narinfo_of(&blob, &[&cache_key("trusted-1")]);
        served.holdings.add_narinfo(narinfo.clone());
        let mut client = served.greeted(peer(2), scope).await;
        let answers = answers(&mut client, &everything(&blob, &narinfo)).await;
        assert_eq!(found(&answers), expected, "share {share}, {scope:?}: {answers:?}");
    }
}

#[tokio::test]
async fn only_published_or_trusted_content_is_shared() {
    let trusted = cache_key("trusted-1");
    let foreign = cache_key("private-cache-1");
    // The right name with another key.
    let forged = SecretKey::from_seed("trusted-1", &[99; 32]).unwrap();
    for (published, keys, blobs, narinfos) in [
        (false, vec![], 0, 0),
        (true, vec![], 3, 0),
        (false, vec![&trusted], 3, 1),
        (false, vec![&foreign], 0, 0),
        (false, vec![&forged], 0, 0),
        (false, vec![&foreign, &trusted], 3, 1),
        (true, vec![&foreign], 3, 0),
    ] {
        let served = Served::start(UploadLimits::default());
        let blob = Arc::new(Blob::new(200_000));
        served.holdings.add(&blob, published);
        let narinfo = narinfo_of(&blob, &keys);
        served.holdings.add_narinfo(narinfo.clone());
        let mut client = served.greeted(peer(2), Scope::Lan).await;
        let answers = answers(&mut client, &everything(&blob, &narinfo)).await;
        assert_eq!(found(&answers[..1]), narinfos, "{answers:?}");
        assert_eq!(found(&answers[1..]), blobs, "{answers:?}");
    }
}

#[tokio::test]
async fn what_an_excluded_name_has_is_not_shared_whoever_vouches_for_it() {
    for published in [false, true] {
        let served = Served::start(UploadLimits::default());
        let blob = Arc::new(Blob::new(200_000));
        served.holdings.add(&blob, published);
        let mut narinfo = narinfo_of(&blob, &[]);
        let path = narinfo.store_path.to_string().replace("-thing", "-my-secret-thing");
        narinfo.store_path = path.parse().unwrap();
        narinfo.sign(&cache_key("trusted-1"));
        served.holdings.add_narinfo(narinfo.clone());
        let mut client = served.greeted(peer(2), Scope::Lan).await;
        let answers = answers(&mut client, &everything(&blob, &narinfo)).await;
        assert_eq!(found(&answers), 0, "{answers:?}");
    }
}

#[tokio::test]
async fn signatures_of_other_caches_stay_here() {
    let served = Served::start(UploadLimits::default());
    let blob = Blob::new(1000);
    let narinfo = narinfo_of(&blob, &[&cache_key("private-cache-1"), &cache_key("trusted-1")]);
    served.holdings.add_narinfo(narinfo.clone());
    let mut client = served.greeted(peer(2), Scope::Lan).await;
    let answer = client.ask(&Request::NarInfo { hash: narinfo.store_path.hash() }).await;
    let Response::NarInfo { text } = answer else { panic!("a public narinfo is served") };
    assert!(text.contains("Sig: trusted-1:") && !text.contains("private-cache"), "{text}");
}

#[tokio::test]
async fn a_signature_over_another_size_covers_nothing() {
    let served = Served::start(UploadLimits::default());
    let blob = Arc::new(Blob::new(200_000));
    served.holdings.add(&blob, false);
    let mut narinfo = narinfo_of(&blob, &[]);
    narinfo.nar_size += 1;
    narinfo.sign(&cache_key("trusted-1"));
    served.holdings.add_narinfo(narinfo);
    let mut client = served.greeted(peer(2), Scope::Lan).await;
    assert_eq!(client.ask(&Request::Lookup { digest: blob.digest() }).await, Response::NotFound);
}

#[tokio::test]
async fn a_narinfo_says_nothing_of_where_it_came_from() {
    let served = Served::start(UploadLimits::default());
    let blob = Blob::new(1000);
    let narinfo = narinfo_of(&blob, &[&cache_key("trusted-1")]);
    served.holdings.add_narinfo(narinfo.clone());
    let mut client = served.greeted(peer(2), Scope::Lan).await;
    let Response::NarInfo { text } = client.ask(&Request::NarInfo { hash: narinfo.store_path.hash() }).await
    else {
        panic!("a trusted narinfo is served");
    };
    for private in ["private.example", "token", "secret", "X-Internal", "xz"] {
        assert!(!text.contains(private), "{text}");
    }
    let public = NarInfo::parse(&text).unwrap();
    assert!(public.verified_by(&TrustedKeys::new(vec![cache_key("trusted-1").public_key()])).is_some());
    assert_eq!((public.nar_hash, public.nar_size), (narinfo.nar_hash, narinfo.nar_size));
}

/// Tries on a machine that does other things, too; the shortest counts.
const TRIES: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn not_shared_is_answered_like_not_held_to_the_millisecond() {
    let served = Served::start(UploadLimits::default());
    let blob = Arc::new(Blob::new(200_000));
    served.holdings.add(&blob, false);
    let secret = narinfo_of(&blob, &[&cache_key("private-cache-1")]);
    served.holdings.add_narinfo(secret.clone());
    let absent = Blob::new(200_001);
    let unknown = narinfo_of(&absent, &[]);
    let wrong_size = Request::Range { blob: blob.id(), size: 190_000, range: GroupRange::new(0, 4) };
    let mut client = served.greeted(peer(2), Scope::Lan).await;
    let requests =
        [&everything(&blob, &secret)[..], &everything(&absent, &unknown)[..], &[wrong_size]].concat();
    for request in requests {
        let mut shortest = Duration::MAX;
        for _ in 0..TRIES {
            let start = Instant::now();
            assert_eq!(client.ask(&request).await, Response::NotFound);
            shortest = shortest.min(start.elapsed());
        }
        assert!(
            (MISS_FLOOR..MISS_FLOOR + Duration::from_millis(1)).contains(&shortest),
            "{request:?} took {shortest:?}"
        );
    }
}

#[tokio::test]
async fn a_broken_store_looks_empty_and_the_stream_lives_on() {
    let served = Served::start(UploadLimits::default());
    let blob = served.published(200_000);
    let narinfo = narinfo_of(&blob, &[&cache_key("trusted-1")]);
    served.holdings.add_narinfo(narinfo.clone());
    let mut client = served.greeted(peer(2), Scope::Lan).await;
    served.holdings.broken.store(true, Ordering::Relaxed);
    assert_eq!(found(&answers(&mut client, &everything(&blob, &narinfo)).await), 0);
    served.holdings.broken.store(false, Ordering::Relaxed);
    assert_eq!(found(&answers(&mut client, &everything(&blob, &narinfo)).await), 4);
}

#[derive(Default)]
struct Collected(Vec<u8>);

impl RangeSink for Collected {
    fn data(&mut self, _offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn parent(&mut self, _outboard_offset: u64, _pair: &[u8; 64]) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn claims_and_ranges_stand_up_to_verification() {
    let served = Served::start(UploadLimits::default());
    let blob = served.published(1_500_001);
    let mut client = served.greeted(peer(2), Scope::Public).await;
    for _ in 0..2 {
        let Response::Have { claim } = client.ask(&Request::Lookup { digest: blob.digest() }).await else {
            panic!("a published blob is offered");
        };
        assert_eq!(claim.signer.0, identity(1).signing_key().verifying_key().to_bytes());
        assert_eq!(claim.verify().unwrap(), &blob.claim);
    }
    let groups = GroupRange::all(blob.claim.size).end;
    for (start, end) in [(0, 64), (64, groups), (groups - 1, groups), (7, 9)] {
        let Response::Data { encoded_bytes } = client.ask(&blob.range_request(start, end)).await else {
            panic!("a published blob is served");
        };
        let encoded = client.body(encoded_bytes).await;
        let mut collected = Collected::default();
        let range = GroupRange::new(start, end);
        decode_range(blob.id(), blob.claim.size, range, &encoded, &mut collected).unwrap();
        let bytes = range.bytes(blob.claim.size);
        assert_eq!(collected.0, &blob.bytes[bytes.start as usize..bytes.end as usize]);
    }
    let missing = Request::Lookup { digest: Digest::Sha256(Sha256Digest::of(b"something else")) };
    assert_eq!(client.ask(&missing).await, Response::NotFound);
}
