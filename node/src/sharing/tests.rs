//! Who may see what: a table of cases, and what must hold for all of them.

use p2p_cache_discovery::Scope;
use p2p_cache_protocol::{NarInfo, SecretKey};
use proptest::prelude::*;

use super::*;

const HASH: &str = "7rjj86a15146cq1d3qy068lml7n7ykzm";
const SCOPES: [Scope; 2] = [Scope::Lan, Scope::Public];

fn key(name: &str) -> SecretKey {
    SecretKey::from_seed(name, &[name.len() as u8; 32]).unwrap()
}

/// A path of this name, with a content address if `ca`, signed by these keys.
fn path(name: &str, ca: bool, keys: &[&str]) -> NarInfo {
    let text = format!(
        "StorePath: /nix/store/{HASH}-{name}\nURL: nar/x.nar\nCompression: none\n\
         NarHash: sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s\nNarSize: 120\nReferences: \n{}",
        if ca { "CA: fixed:r:sha256:1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s\n" } else { "" }
    );
    let mut narinfo = NarInfo::parse(&text).unwrap();
    for name in keys {
        narinfo.sign(&key(name));
    }
    narinfo
}

/// Shares with everybody what `shared-1` signed, but for what is called secret.
fn policy(share: Share, publish: &[&str]) -> SharingPolicy {
    SharingPolicy::new(SharingRules {
        share,
        public_keys: vec![key("shared-1").public_key()],
        publish: publish.iter().map(|path| path.parse().unwrap()).collect(),
        never: vec!["*secret*".parse().unwrap()],
    })
}

/// Of a path: its name, whether it has a content address, who signed it, whether its owner named it in `publish`, and
/// whether it may be shared.
const PATHS: &[(&str, bool, &[&str], bool, bool)] = &[
    ("hello", false, &["shared-1"], false, true),
    ("hello", false, &["private-1", "shared-1"], false, true),
    ("hello", true, &["shared-1"], false, true),
    ("unsigned-build", false, &[], false, false),
    ("unsigned-build", false, &[], true, true),
    ("of-a-private-cache", false, &["private-1"], false, false),
    ("of-a-private-cache", false, &["private-1"], true, true),
    ("private-source", true, &[], false, false),
    ("private-source", true, &["private-1"], false, false),
    ("private-source", true, &[], true, true),
    ("hello.drv", true, &[], false, false),
    ("hello.drv", true, &["shared-1"], false, false),
    ("hello.drv", true, &[], true, true),
    ("hello.drvs", false, &["shared-1"], false, true),
    ("my-secret-1", false, &["shared-1"], false, false),
    ("my-secret-1", false, &["shared-1"], true, false),
    ("my-secret.drv", false, &[], true, false),
];

#[test]
fn the_table_of_store_paths() {
    for (name, ca, keys, published, expected) in PATHS {
        let policy = policy(Share::Public, if *published { &[HASH] } else { &[] });
        let narinfo = path(name, *ca, keys);
        let case = format!("{name}, ca {ca}, signed by {keys:?}, published {published}");
        // Twice: the second time it is remembered.
        for _ in 0..2 {
            for scope in SCOPES {
                assert_eq!(policy.may_share(&Subject::path(&narinfo), scope), *expected, "{case}");
            }
        }
        // The only path of a blob decides for the blob.
        let blob = Subject::blob(std::slice::from_ref(&narinfo), false);
        assert_eq!(policy.may_share(&blob, Scope::Lan), *expected, "blob of {case}");
    }
}

#[test]
fn share_bounds_how_far_anything_goes() {
    let narinfo = path("hello", false, &["shared-1"]);
    for (share, lan, public) in
        [(Share::None, false, false), (Share::Lan, true, false), (Share::Public, true, true)]
    {
        let policy = policy(share, &[HASH]);
        for subject in [Subject::path(&narinfo), Subject::blob(&[], true)] {
            assert_eq!(policy.may_share(&subject, Scope::Lan), lan, "{share}");
            assert_eq!(policy.may_share(&subject, Scope::Public), public, "{share}");
        }
        assert_eq!((policy.serves(Scope::Lan), policy.serves(Scope::Public)), (lan, public));
    }
}

#[test]
fn a_blob_is_shared_by_hand_or_for_one_of_its_paths_and_never_with_an_excluded_one() {
    let policy = policy(Share::Public, &[]);
    let (public, private) = (path("hello", false, &["shared-1"]), path("hello", false, &["private-1"]));
    let excluded = path("secret", false, &["shared-1"]);
    for (paths, by_hand, expected) in [
        (vec![], false, false),
        (vec![], true, true),
        (vec![&private], false, false),
        (vec![&private], true, true),
        (vec![&private, &public], false, true),
        (vec![&public, &excluded], false, false),
        (vec![&excluded], true, false),
    ] {
        let paths: Vec<_> = paths.into_iter().cloned().collect();
        let subject = Subject::blob(&paths, by_hand);
        assert_eq!(policy.may_share(&subject, Scope::Public), expected, "{paths:?}, by hand {by_hand}");
    }
}

#[tokio::test]
async fn other_rules_hold_from_the_next_question_on() {
    let policy = policy(Share::Lan, &[]);
    let rules = |key_name: &str, never: &[&str]| SharingRules {
        share: Share::Public,
        public_keys: vec![key(key_name).public_key()],
        publish: Vec::new(),
        never: never.iter().map(|pattern| pattern.parse().unwrap()).collect(),
    };
    let (first, second) = (path("hello", false, &["shared-1"]), path("world", false, &["private-1"]));
    let shared = |narinfo| policy.may_share(&Subject::path(narinfo), Scope::Lan);
    assert_eq!((shared(&first), shared(&second)), (true, false));
    policy.replace(rules("private-1", &[]));
    assert_eq!((shared(&first), shared(&second)), (false, true), "what was decided before is forgotten");
    assert!(!policy.serves(Scope::Public), "who is served is another thing");
    policy.names().outdated().await;
    policy.replace(rules("private-1", &["wor*"]));
    assert_eq!((shared(&first), shared(&second)), (false, false));
}

#[test]
fn a_key_of_the_right_name_and_another_value_covers_nothing() {
    let mut narinfo = path("hello", false, &[]);
    narinfo.sign(&SecretKey::from_seed("shared-1", &[99; 32]).unwrap());
    assert!(!policy(Share::Public, &[]).may_share(&Subject::path(&narinfo), Scope::Lan));
}

#[test]
fn verdicts_are_remembered_by_all_that_they_depend_on() {
    let policy = policy(Share::Public, &[]);
    let may_share = |narinfo: &NarInfo| policy.may_share(&Subject::path(narinfo), Scope::Lan);
    let signed = path("hello", false, &["shared-1"]);
    assert!(may_share(&signed));
    assert!(may_share(&signed));
    assert_eq!(policy.remembered_verdicts(), 1);
    // The same store path and NAR, but not what was signed.
    let altered = NarInfo { references: vec![format!("{HASH}-other")], ..signed.clone() };
    assert!(!may_share(&altered));
    assert!(!may_share(&NarInfo { nar_size: 121, ..signed.clone() }));
    // A signature that comes later counts at once.
    let mut late = path("late", false, &["private-1"]);
    assert!(!may_share(&late));
    late.sign(&key("shared-1"));
    assert!(may_share(&late));
}

#[test]
fn what_is_remembered_is_bounded() {
    let policy = policy(Share::Public, &[]);
    let mut narinfo = path("hello", false, &["private-1"]);
    for size in 1..40_000 {
        narinfo.nar_size = size;
        assert!(!policy.may_share(&Subject::path(&narinfo), Scope::Lan));
    }
    assert_eq!(policy.remembered_verdicts(), 32 * 1024);
}

#[test]
fn signatures_of_private_caches_are_shown_on_published_paths_only() {
    let narinfo = path("hello", false, &["private-1", "shared-1"]);
    let shown = |policy: &SharingPolicy| -> Vec<_> {
        let shown = policy.public_part(narinfo.clone()).signatures;
        shown.iter().map(|signature| signature.key_name().to_owned()).collect()
    };
    assert_eq!(shown(&policy(Share::Lan, &[])), ["shared-1"]);
    assert_eq!(shown(&policy(Share::Lan, &[HASH])), ["private-1", "shared-1"]);
}

#[test]
fn patterns_match_whole_names() {
    for (pattern, name, expected) in [
        ("secret", "secret", true),
        ("secret", "secret-1", false),
        ("*secret*", "my-secret-1", true),
        ("*-secrets*", "secrets", false),
        ("work-?", "work-1", true),
        ("work-?", "work-12", false),
        ("work-[0-9]", "work-7", true),
        ("work-[!0-9]", "work-7", false),
        ("*", ".hidden", true),
        ("Secret", "secret", false),
        ("*.drv", "hello.drv", true),
    ] {
        let parsed: NamePattern = pattern.parse().unwrap();
        assert_eq!(parsed.matches(name), expected, "{pattern} and {name}");
        assert_eq!(parsed.to_string(), pattern);
    }
}

#[test]
fn patterns_that_are_wrong_or_never_match_are_refused_with_a_reason() {
    let with_hash = format!("{HASH}-secret");
    for (text, reason) in [
        ("", "is empty"),
        ("/nix/store/*-secret", "slash"),
        ("a/b", "slash"),
        ("ä*", "in no name"),
        ("{a,b}", "in no name"),
        (with_hash.as_str(), "begins with the hash"),
        ("a[b", "at character 2"),
        ("a***b", "at character"),
    ] {
        let error = text.parse::<NamePattern>().unwrap_err().to_string();
        assert!(error.contains(reason), "{text:?}: {error}");
    }
}

#[test]
fn published_paths_are_read_in_three_forms() {
    let base = format!("{HASH}-hello-2.12.1");
    for text in [&format!("/nix/store/{base}"), &format!("/other/store/{base}"), &base, HASH] {
        let path: PublishedPath = text.parse().unwrap();
        assert_eq!(path.hash().to_string(), HASH);
        assert_eq!(path.name(), (text != HASH).then_some("hello-2.12.1"));
    }
    for text in ["", "hello", "/nix/store/hello", &format!("/nix/store/{base}/bin/hello"), &HASH[1..]] {
        assert!(text.parse::<PublishedPath>().is_err(), "{text:?}");
    }
}

#[test]
fn share_words_round_trip_and_others_are_refused() {
    for share in Share::ALL {
        assert_eq!(share.to_string().parse(), Ok(share));
    }
    assert_eq!(Share::default(), Share::Lan);
    for wrong in ["", "LAN", "all", "lan "] {
        let error = wrong.parse::<Share>().unwrap_err().to_string();
        assert!(error.contains("none, lan, public"), "{error}");
    }
}

proptest! {
    #[test]
    fn nothing_is_shared_that_is_neither_published_nor_signed_by_a_shared_key(
        name in "[a-z.-]{1,8}(secret)?(\\.drv)?",
        ca: bool,
        signed_by in proptest::collection::vec("(private|other)-1", 0..3),
        by_hand: bool,
        signed: bool,
        named: bool,
    ) {
        prop_assume!(p2p_cache_protocol::store_path::split_base_name(&format!("{HASH}-{name}")).is_ok());
        let mut keys: Vec<&str> = signed_by.iter().map(String::as_str).collect();
        keys.extend(signed.then_some("shared-1"));
        let narinfo = path(&name, ca, &keys);
        let policy = policy(Share::Public, if named { &[HASH] } else { &[] });
        let subject = Subject::blob(std::slice::from_ref(&narinfo), by_hand);
        let expected = !name.contains("secret") && (by_hand || named || (signed && !name.ends_with(".drv")));
        for scope in SCOPES {
            prop_assert_eq!(policy.may_share(&subject, scope), expected);
        }
        prop_assert!(!super::tests::policy(Share::None, &[HASH]).may_share(&subject, Scope::Lan));
    }

    #[test]
    fn no_text_panics(text in ".{0,60}", pattern in "[a-z*?\\[\\]!-]{0,40}", name in "[a-z.-]{0,40}") {
        let _ = text.parse::<PublishedPath>();
        let _ = text.parse::<NamePattern>();
        if let Ok(pattern) = pattern.parse::<NamePattern>() {
            let _ = pattern.matches(&name);
        }
    }

    #[test]
    fn patterns_of_many_stars_are_matched_in_no_time(stars in 1_usize..60) {
        let pattern: NamePattern = format!("{}b", "*a".repeat(stars)).parse().unwrap();
        prop_assert!(!pattern.matches(&"a".repeat(211)));
    }
}
