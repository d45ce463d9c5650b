//! Whatever a peer says, a client never completes a wrong body and never waits for long, and the liar is found out.

use std::time::{Duration, Instant};

use p2p_cache_protocol::{Claim, NarInfo, SecretKey, Sha256Digest};
use p2p_cache_tests::daemon::wait_until;
use p2p_cache_tests::hostile::{Lies, LyingPeer, Manner, Package, Tree, random_bytes};
use p2p_cache_tests::http::{self, Answer};
use p2p_cache_tests::{Daemon, Origin};

/// The longest that a client may be left without its whole body.
const PATIENCE: Duration = Duration::from_secs(15);
/// Several extents, so that a peer that lies late has been believed before.
const LARGE: usize = 4_000_000;
/// Verified as a whole before its first byte leaves.
const SMALL: usize = 100_000;

/// A daemon that is connected with one hostile peer, and an origin that holds the package.
struct Scene {
    package: Package,
    origin: Origin,
    liar: LyingPeer,
    node: Daemon,
}

impl Scene {
    fn new(nar_bytes: usize, lies: impl FnOnce(&Package) -> Lies) -> Self {
        let package = Package::new(nar_bytes, 1);
        let origin = Origin::serve(package.cache());
        let liar = LyingPeer::start(lies(&package));
        let node =
            Daemon::builder().origin(origin.url()).trust(package.public_key()).peer(&liar.address).start();
        node.wait_for_peers(1);
        Self { package, origin, liar, node }
    }

    /// The same with an origin that cannot be reached.
    fn without_origin(nar_bytes: usize, lies: impl FnOnce(&Package) -> Lies) -> Self {
        let scene = Self::new(nar_bytes, lies);
        scene.origin.stop();
        scene
    }

    fn get_narinfo(&self) -> Answer {
        http::get(&format!("{}{}", self.node.http, self.package.narinfo_path()))
    }

    fn get_nar(&self) -> Answer {
        let started = Instant::now();
        let answer = http::get(&format!("{}{}", self.node.http, self.package.nar_path()));
        println!("{} after {:?}, {} bytes", answer.status, started.elapsed(), answer.body.len());
        assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
        assert!(
            !answer.complete || answer.status == 404 || answer.body == self.package.nar,
            "a wrong body was completed"
        );
        answer
    }

    fn assert_whole(&self, answer: &Answer) {
        assert!(answer.status == 200 && answer.complete, "{}\n{}", answer.head, self.node.log());
        assert!(answer.body == self.package.nar, "the bytes are right");
    }

    fn bans(&self, reason: &str) -> u64 {
        self.node.metric(&format!("p2p_cache_bans_total{{reason=\"{reason}\"}}"))
    }

    /// Banned once, for this and nothing else.
    fn assert_banned(&self, reason: &str) {
        let limit = Duration::from_secs(5);
        wait_until(limit, "the ban", || self.node.metric_sum("p2p_cache_bans_total") > 0);
        assert_eq!(self.bans(reason), 1, "banned for {reason}: {}", self.node.log());
        wait_until(limit, "the liar to be disconnected", || self.node.peers() == 0);
    }

    fn assert_nothing_kept(&self) {
        self.node.wait_until_idle();
        assert!(self.node.blob_files().is_empty(), "nothing wrong is kept");
    }
}

/// Narinfos of the package that no trusted key vouches for, each with what is wrong with it.
fn forgeries(package: &Package) -> Vec<(&'static str, String)> {
    let changed = |change: &dyn Fn(&mut NarInfo)| {
        let mut narinfo = package.narinfo.clone();
        change(&mut narinfo);
        narinfo.to_string()
    };
    let signed_by = |name: &str| {
        let key = SecretKey::from_seed(name, &[9; 32]).expect("a key");
        changed(&|narinfo| {
            narinfo.signatures.clear();
            narinfo.sign(&key);
        })
    };
    let signature = package.narinfo.signatures[0].to_string();
    let bit_flipped = |at: usize| {
        let mut bytes = signature.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        let flipped = String::from_utf8(bytes).expect("still text");
        package.narinfo.to_string().replace(&signature, &flipped)
    };
    let payload = signature.find(':').expect("a name") + 1;
    vec![
        ("no signature", changed(&|narinfo| narinfo.signatures.clear())),
        ("the signature's first bits changed", bit_flipped(payload)),
        ("the signature's second half changed", bit_flipped(payload + 60)),
        ("another NarHash", changed(&|narinfo| narinfo.nar_hash = Sha256Digest::of(b"malware"))),
        ("another NarSize", changed(&|narinfo| narinfo.nar_size += 1)),
        ("another reference", changed(&|narinfo| narinfo.references.push(format!("{}-x", "0".repeat(32))))),
        ("another name", package.narinfo.to_string().replace("-thing\n", "-other\n")),
        ("a foreign key", signed_by("foreign-1")),
        ("a foreign key under the trusted name", signed_by(package.key.name())),
    ]
}

#[test]
fn a_narinfo_that_no_trusted_key_signed_is_never_served() {
    for (what, text) in forgeries(&Package::new(SMALL, 1)) {
        assert_ne!(text, Package::new(SMALL, 1).narinfo.to_string(), "{what}: it is forged");
        let scene = Scene::without_origin(SMALL, |_| Lies::narinfo(text.clone()));
        let answer = scene.get_narinfo();
        assert_eq!(answer.status, 404, "{what}: {}", answer.text());
        assert!(scene.liar.narinfos_asked() > 0, "{what}: the liar was asked");
        // The liar may be the leader, who is asked for it as such.
        let refused = |log: &str, whom| log.contains(&format!("narinfo of a {whom} refused"));
        scene.node.wait_for_log(|log| refused(log, "peer") || refused(log, "leader"));
        assert_eq!(scene.get_narinfo().status, 404, "{what}: nor later");
    }
}

#[test]
fn a_rightly_signed_narinfo_of_such_a_peer_is_served() {
    let scene = Scene::without_origin(SMALL, |package| Lies::narinfo(package.narinfo.to_string()));
    let answer = scene.get_narinfo();
    assert_eq!(answer.status, 200, "{}", scene.node.log());
    let served = NarInfo::parse(&answer.text()).expect("a narinfo");
    assert_eq!(served.fingerprint(), scene.package.narinfo.fingerprint());
    assert_eq!(served.signatures, scene.package.narinfo.signatures);
}

#[test]
fn a_forged_narinfo_of_a_peer_does_not_hide_that_of_the_origin() {
    for (what, text) in forgeries(&Package::new(SMALL, 1)) {
        let scene = Scene::new(SMALL, |_| Lies::narinfo(text.clone()));
        let answer = scene.get_narinfo();
        assert_eq!(answer.status, 200, "{what}");
        let served = NarInfo::parse(&answer.text()).expect("a narinfo");
        assert_eq!(served.fingerprint(), scene.package.narinfo.fingerprint(), "{what}");
    }
}

#[test]
fn a_signed_narinfo_of_another_store_path_is_refused() {
    let other = Package::new(SMALL, 2);
    let scene = Scene::without_origin(SMALL, |_| Lies::narinfo(other.narinfo.to_string()));
    assert_eq!(scene.get_narinfo().status, 404);
    assert!(scene.liar.narinfos_asked() > 0);
    let own = http::get(&format!("{}{}", scene.node.http, other.narinfo_path()));
    assert_eq!(own.status, 200, "under its own name it is right");
}

#[test]
fn a_text_that_is_no_narinfo_is_a_404() {
    let long = format!("StorePath: {}\n", "x".repeat(200_000));
    for text in ["", "\n", "hello", "StorePath: /nix/store\n", "\u{1F4A9}: \0\n", long.as_str()] {
        let scene = Scene::without_origin(SMALL, |_| Lies::narinfo(text));
        assert_eq!(scene.get_narinfo().status, 404, "{:.20}", text);
        assert!(scene.liar.narinfos_asked() > 0);
    }
}

#[test]
fn a_false_claim_is_never_completed_and_the_next_request_is_right() {
    let scene =
        Scene::new(LARGE, |package| Lies::false_claim(package, random_bytes(LARGE, 3), Manner::Proper));
    let answer = scene.get_nar();
    assert!(!answer.complete, "{}", scene.node.log());
    assert!(scene.liar.ranges_asked() > 0, "the liar was believed");
    scene.assert_banned("false_claim");
    scene.assert_nothing_kept();
    scene.assert_whole(&scene.get_nar());
}

#[test]
fn a_false_claim_about_a_small_blob_costs_the_client_nothing() {
    let scene =
        Scene::new(SMALL, |package| Lies::false_claim(package, random_bytes(SMALL, 3), Manner::Proper));
    scene.assert_whole(&scene.get_nar());
    assert!(scene.liar.ranges_asked() > 0, "the liar was believed");
    scene.assert_banned("false_claim");
}

#[test]
fn a_false_claim_with_the_origin_gone_is_a_404_and_a_ban() {
    let scene = Scene::without_origin(SMALL, |package| {
        let lies = Lies::false_claim(package, random_bytes(SMALL, 3), Manner::Proper);
        Lies { narinfo: Some(package.narinfo.to_string()), ..lies }
    });
    assert_eq!(scene.get_nar().status, 404, "{}", scene.node.log());
    scene.assert_banned("false_claim");
    scene.assert_nothing_kept();
}

#[test]
fn a_false_claim_that_is_only_served_in_part_does_not_lock_the_origin_out() {
    // Part of the body is false, the rest comes from the origin: nobody can tell from the whole who lied. The liar
    // then denies everything, so that no second transfer can convict it.
    let scene = Scene::new(LARGE, |package| {
        Lies::false_claim(package, random_bytes(LARGE, 3), Manner::OnceAndBelow(32))
    });
    let answer = scene.get_nar();
    assert!(!answer.complete);
    assert!(scene.liar.ranges_asked() > 0, "the liar was believed");
    scene.assert_nothing_kept();
    scene.assert_whole(&scene.get_nar());
}

#[test]
fn a_false_claim_that_is_never_served_does_not_keep_honest_holders_out() {
    let package = Package::new(LARGE, 1);
    let first = Lies::false_claim(&package, random_bytes(LARGE, 3), Manner::Proper);
    let narinfo = Some(package.narinfo.to_string());
    let liar = LyingPeer::start(Lies { narinfo, tree: Tree::of(Vec::new()), ..first });
    let holder = LyingPeer::start(Lies::none(&package, Manner::Late));
    let builder = Daemon::builder().trust(package.public_key());
    let node = builder.peer(&liar.address).peer(&holder.address).start();
    node.wait_for_peers(2);
    let url = format!("{}{}", node.http, package.nar_path());
    let tries = (0..3).map(|_| http::get(&url)).find(|answer| answer.status == 200 && answer.complete);
    assert!(liar.lookups_asked() > 0 && holder.lookups_asked() > 0);
    assert!(tries.is_some_and(|answer| answer.body == package.nar), "{}", node.log());
}

#[test]
fn a_claim_of_another_size_is_passed_over() {
    for size in [1, LARGE as u64 - 1, LARGE as u64 + 1, 1 << 48] {
        let scene = Scene::new(LARGE, |package| {
            let lies = Lies::none(package, Manner::Proper);
            Lies { claim: lies.claim.map(|claim| Claim { size, ..claim }), ..lies }
        });
        scene.assert_whole(&scene.get_nar());
        assert!(scene.liar.lookups_asked() > 0);
        assert_eq!(scene.liar.ranges_asked(), 0, "nothing is asked of it");
    }
}

#[test]
fn a_size_that_nobody_else_knows_is_no_reason_to_fill_memory_or_disk() {
    // Without a narinfo the claim's size is all there is.
    for size in [1, SMALL as u64 - 1, SMALL as u64 + 1, 1 << 40, 1 << 48] {
        let scene = Scene::without_origin(SMALL, |package| {
            let lies = Lies::none(package, Manner::Proper);
            Lies { claim: lies.claim.map(|claim| Claim { size, ..claim }), ..lies }
        });
        let before = scene.node.resident_kib();
        let url = format!("{}/blobs/sha256/{}", scene.node.http, scene.package.narinfo.nar_hash);
        let started = Instant::now();
        let answer = http::get(&url);
        assert_eq!(answer.status, 404, "{size}: {}", scene.node.log());
        assert!(started.elapsed() < PATIENCE, "{size}: {:?}", started.elapsed());
        assert!(scene.node.resident_kib() < before + 32 * 1024, "{size}: memory grew");
        scene.assert_nothing_kept();
    }
}

#[test]
fn corrupt_groups_ban_their_sender_and_the_origin_takes_over_inside_the_same_body() {
    let scene = Scene::new(LARGE, |package| Lies::none(package, Manner::CorruptRanges));
    scene.assert_whole(&scene.get_nar());
    assert!(scene.liar.ranges_asked() > 0, "the liar was believed");
    scene.assert_banned("corrupt_data");
}

#[test]
fn a_peer_that_falls_silent_in_mid_range_is_replaced_inside_the_same_body() {
    let scene = Scene::new(LARGE, |package| Lies::none(package, Manner::SilentAfterHalf));
    scene.assert_whole(&scene.get_nar());
    assert!(scene.liar.ranges_asked() > 0);
    assert_eq!(scene.node.metric_sum("p2p_cache_bans_total"), 0, "silence is no crime");
}

#[test]
fn a_peer_that_sends_a_byte_a_second_is_replaced_inside_the_same_body() {
    let scene = Scene::new(LARGE, |package| Lies::none(package, Manner::Trickle));
    scene.assert_whole(&scene.get_nar());
    assert!(scene.liar.ranges_asked() > 0);
}

#[test]
fn a_silent_peer_with_the_origin_gone_is_given_up_in_time() {
    // Which of the two nodes leads depends on their identities: often enough for both to happen.
    let manners = (0..6).map(|n| if n % 2 == 0 { Manner::SilentAfterHalf } else { Manner::Trickle });
    std::thread::scope(|threads| {
        for manner in manners {
            threads.spawn(move || {
                let scene = Scene::without_origin(LARGE, |package| {
                    let narinfo = Some(package.narinfo.to_string());
                    Lies { narinfo, ..Lies::none(package, manner.clone()) }
                });
                assert_eq!(scene.get_nar().status, 404, "{manner:?}");
            });
        }
    });
}

#[test]
fn a_range_of_another_length_than_asked_is_a_violation_of_the_protocol() {
    let scene = Scene::new(LARGE, |package| Lies::none(package, Manner::TooLong(1)));
    scene.assert_whole(&scene.get_nar());
    assert!(scene.liar.ranges_asked() > 0);
    scene.assert_banned("protocol_violation");
}

/// What is no frame of the protocol, however it is read.
fn garbage() -> Vec<(&'static str, Vec<u8>)> {
    let seed = rand::random();
    println!("seed {seed}");
    let framed = |payload: &[u8]| [&(payload.len() as u32).to_le_bytes()[..], payload].concat();
    let mut random = random_bytes(200, seed);
    // No known kind of message begins like this.
    random[0] = 0xff;
    vec![
        ("an endless frame", vec![0xff; 64]),
        ("an empty frame", vec![0; 4]),
        ("a frame of noise", framed(&random)),
        ("a message with bytes behind it", framed(&[0, 0])),
        ("HTTP", b"HTTP/1.1 200 OK\r\n\r\n".to_vec()),
    ]
}

#[test]
fn garbage_instead_of_an_answer_bans_its_sender_and_harms_nobody() {
    for (what, bytes) in garbage() {
        let scene = Scene::new(SMALL, |package| Lies::none(package, Manner::Garbage(bytes)));
        scene.assert_whole(&scene.get_nar());
        println!("{what}");
        scene.assert_banned("protocol_violation");
    }
}

#[test]
fn garbage_instead_of_a_range_bans_its_sender_and_the_origin_takes_over() {
    for (what, bytes) in garbage() {
        let scene = Scene::new(LARGE, |package| Lies::none(package, Manner::GarbageForRanges(bytes)));
        scene.assert_whole(&scene.get_nar());
        println!("{what}");
        assert!(scene.liar.ranges_asked() > 0);
        scene.assert_banned("protocol_violation");
    }
}

#[test]
fn a_hello_of_garbage_bans_its_sender_and_harms_nobody() {
    for (what, bytes) in garbage() {
        let scene = Scene::new(SMALL, |package| Lies::none(package, Manner::Hello(bytes)));
        scene.assert_whole(&scene.get_nar());
        println!("{what}");
        scene.assert_banned("protocol_violation");
    }
}
