use proptest::prelude::*;

use super::*;
use crate::signature::SecretKey;

const MINIMAL: &str = "\
StorePath: /nix/store/syd87l2rxw8cbsxmxl853h0r6pdwhwjr-curl
URL: nar/x.nar.bz2
NarHash: sha256:1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0
NarSize: 196040
References: \n";

fn with(line: &str) -> Result<NarInfo, NarInfoError> {
    NarInfo::parse(&format!("{MINIMAL}{line}\n"))
}

fn replaced(field: &str, value: &str) -> Result<NarInfo, NarInfoError> {
    let lines = MINIMAL.lines().map(|line| match line.split_once(':') {
        Some((name, _)) if name == field => format!("{field}: {value}\n"),
        _ => format!("{line}\n"),
    });
    NarInfo::parse(&lines.collect::<String>())
}

#[test]
fn a_narinfo_without_compression_is_bzip2() {
    assert_eq!(NarInfo::parse(MINIMAL).unwrap().compression, Compression::Bzip2);
    assert_eq!(with("Compression: ").unwrap().compression, Compression::Bzip2);
}

#[test]
fn compressions_are_known_by_their_names_in_the_wild() {
    for (name, expected) in [
        ("none", Compression::None),
        ("xz", Compression::Xz),
        ("zstd", Compression::Zstd),
        ("bzip2", Compression::Bzip2),
        ("gzip", Compression::Gzip),
        ("gz", Compression::Gzip),
        ("br", Compression::Br),
        ("brotli", Compression::Br),
        ("lz4", Compression::Other("lz4".to_owned())),
    ] {
        assert_eq!(with(&format!("Compression: {name}")).unwrap().compression, expected);
    }
    assert!(with("Compression: two words").is_err());
}

#[test]
fn a_nar_hash_may_be_nix32_hex_or_sri() {
    let expected = NarInfo::parse(MINIMAL).unwrap();
    let hex = expected.nar_hash.to_string();
    let sri = "sha256-AGw4aDzW/FzYJ0jTZvYmgDNq/Q3hQUbGDJmDf6y8Vaw=";
    let sri_digest: crate::Digest = sri.parse().unwrap();
    assert_eq!(replaced("NarHash", &format!("sha256:{hex}")).unwrap(), expected);
    assert_eq!(crate::Digest::Sha256(replaced("NarHash", sri).unwrap().nar_hash), sri_digest);
    for wrong in ["", &hex, "sha512:00", &format!("blake3:{hex}"), "sha256:", "sha256:00"] {
        assert!(
            matches!(replaced("NarHash", wrong), Err(NarInfoError::Value { field: "NarHash", .. })),
            "{wrong}"
        );
    }
}

#[test]
fn sizes_that_no_nar_has_are_refused() {
    for wrong in ["0", "", "-1", "+1", "1e3", "0x10", "18446744073709551616", "281474976710657", "1 "] {
        assert!(
            matches!(replaced("NarSize", wrong), Err(NarInfoError::Value { field: "NarSize", .. })),
            "{wrong}"
        );
    }
    assert_eq!(replaced("NarSize", "281474976710656").unwrap().nar_size, crate::MAX_BLOB_BYTES);
    assert_eq!(with("FileSize: 0").unwrap().file_size, None);
    assert!(with("FileSize: many").is_err());
}

#[test]
fn a_file_hash_that_we_cannot_check_is_left_out() {
    assert_eq!(with("FileHash: ").unwrap().file_hash, None);
    assert_eq!(with("FileHash: sha512:abc").unwrap().file_hash, None);
    assert!(with("FileHash: sha256:abc").is_err());
    assert!(with("FileHash: nonsense").is_err());
}

#[test]
fn what_must_be_there_must_be_there_once() {
    for field in ["StorePath", "URL", "NarHash", "NarSize", "References"] {
        let line = MINIMAL.lines().find(|line| line.starts_with(field)).unwrap();
        let without = MINIMAL.replace(&format!("{line}\n"), "");
        if field == "References" {
            assert!(NarInfo::parse(&without).unwrap().references.is_empty());
        } else {
            assert_eq!(NarInfo::parse(&without), Err(NarInfoError::Missing { field }));
        }
        assert_eq!(with(line), Err(NarInfoError::Duplicate { field }));
    }
    for field in ["Compression", "FileHash", "FileSize", "Deriver", "System", "CA"] {
        assert_eq!(with(&format!("{field}: x\n{field}: x")), Err(NarInfoError::Duplicate { field }));
    }
}

#[test]
fn damaged_texts_are_refused() {
    assert_eq!(NarInfo::parse(""), Err(NarInfoError::Unfinished));
    assert_eq!(NarInfo::parse(MINIMAL.trim_end_matches('\n')), Err(NarInfoError::Unfinished));
    for line in
        ["", "no colon", ": no field", "Two words: x", "Tab:\tx", "Null: \0", "Bell: \u{7}", "CR: x\r"]
    {
        assert_eq!(with(line), Err(NarInfoError::Line { line: 6 }), "{line:?}");
    }
    let long = format!("X: {}", "x".repeat(MAX_NARINFO_BYTES));
    assert!(matches!(with(&long), Err(NarInfoError::Length { .. })));
}

#[test]
fn signatures_and_unknown_fields_are_bounded() {
    let lines = |line: &str, count: usize| [line].repeat(count).join("\n");
    assert!(with(&lines("Sig: a:b", MAX_NARINFO_SIGNATURES)).is_ok());
    assert!(matches!(
        with(&lines("Sig: a:b", MAX_NARINFO_SIGNATURES + 1)),
        Err(NarInfoError::TooMany { .. })
    ));
    assert!(with(&lines("X: y", MAX_NARINFO_UNKNOWN_FIELDS)).is_ok());
    assert!(matches!(
        with(&lines("X: y", MAX_NARINFO_UNKNOWN_FIELDS + 1)),
        Err(NarInfoError::TooMany { .. })
    ));
}

#[test]
fn an_unknown_deriver_is_none() {
    assert_eq!(with("Deriver: unknown-deriver").unwrap().deriver, None);
    assert_eq!(with("Deriver: ").unwrap().deriver, None);
    assert!(with("Deriver: /etc/passwd").is_err());
}

#[test]
fn references_are_base_names() {
    let info =
        replaced("References", "syd87l2rxw8cbsxmxl853h0r6pdwhwjr-a  0jqd0rlxzra1rs38rdxl43yh6rxchgc6-b")
            .unwrap();
    assert_eq!(info.references, ["syd87l2rxw8cbsxmxl853h0r6pdwhwjr-a", "0jqd0rlxzra1rs38rdxl43yh6rxchgc6-b"]);
    for wrong in
        ["x", "/nix/store/0jqd0rlxzra1rs38rdxl43yh6rxchgc6-b", "0jqd0rlxzra1rs38rdxl43yh6rxchgc6-b,c"]
    {
        assert!(matches!(replaced("References", wrong), Err(NarInfoError::StorePath { .. })), "{wrong}");
    }
}

#[test]
fn urls_stay_within_the_cache() {
    for fine in [
        "nar/x.nar.xz",
        "x.nar",
        "/nar/x.nar",
        "nar/x.nar?hash=abc&path=../y",
        "nar/a..b/..c/x.nar",
        "https://cdn.example.org/x.nar",
        "HTTP://[::1]:80/x",
    ] {
        assert_eq!(replaced("URL", fine).unwrap().url, fine);
    }
    for wrong in [
        "",
        "?x",
        "#x",
        "..",
        "../x.nar",
        "nar/../../x",
        "nar/./x",
        "nar/%2e%2E/x",
        "nar/.%2e",
        "nar\\..\\x",
        "//host/x",
        "file:///etc/passwd",
        "data:text/plain,x",
        "https:///x",
        "https://host/a/../b",
        "ftp://host/x",
        "nar/x y",
        "nar/ü",
    ] {
        assert!(matches!(replaced("URL", wrong), Err(NarInfoError::Value { field: "URL", .. })), "{wrong}");
    }
    assert!(replaced("URL", &format!("nar/{}", "x".repeat(5000))).is_err());
}

#[test]
fn unknown_fields_are_kept_in_order() {
    let info = with("Zoo: 1\nExtra:two\nZoo: 3: 4\nEmpty:").unwrap();
    let kept: Vec<_> = info.unknown.iter().map(|(field, value)| (field.as_str(), value.as_str())).collect();
    assert_eq!(kept, [("Zoo", "1"), ("Extra", "two"), ("Zoo", "3: 4"), ("Empty", "")]);
    assert!(info.to_string().ends_with("Zoo: 1\nExtra: two\nZoo: 3: 4\nEmpty: \n"));
}

#[test]
fn an_own_signature_verifies() {
    let key = SecretKey::from_seed("test-1", &[5; 32]).unwrap();
    let mut info = NarInfo::parse(MINIMAL).unwrap();
    info.sign(&key);
    let keys = TrustedKeys::new(vec![key.public_key()]);
    assert_eq!(NarInfo::parse(&info.to_string()).unwrap().verified_by(&keys), Some(&key.public_key()));
}

fn base_name() -> impl Strategy<Value = String> {
    (any::<[u8; 20]>(), "[a-z0-9+_?=][a-zA-Z0-9+._?=-]{0,30}")
        .prop_map(|(hash, name)| format!("{}-{name}", crate::StoreHash::from(hash)))
}

prop_compose! {
    fn narinfo()(
        path in base_name(),
        url in "nar/[a-z0-9]{1,52}\\.nar(\\.xz)?",
        compression in "none|xz|zstd|bzip2|gzip|br|lz4",
        file in proptest::option::of((any::<[u8; 32]>(), 1u64..)),
        nar_hash: [u8; 32],
        nar_size in 1..=crate::MAX_BLOB_BYTES,
        references in proptest::collection::vec(base_name(), 0..6),
        deriver in proptest::option::of(base_name()),
        system in proptest::option::of("[a-z0-9_-]{1,20}"),
        signatures in proptest::collection::vec("[a-z0-9.-]{1,9}:[A-Za-z0-9+/]{0,86}(==)?", 0..4),
        ca in proptest::option::of("fixed:r:sha256:[a-z0-9]{52}"),
        unknown in proptest::collection::vec(("X[A-Za-z]{0,9}", "[^\\p{Cc}]{0,20}"), 0..4),
    ) -> NarInfo {
        NarInfo {
            store_path: format!("/nix/store/{path}").parse().unwrap(),
            url,
            compression: compression.parse().unwrap(),
            file_hash: file.map(|(hash, _)| Sha256Digest(hash)),
            file_size: file.map(|(_, size)| size),
            nar_hash: Sha256Digest(nar_hash),
            nar_size,
            references,
            deriver,
            system,
            signatures: signatures.iter().map(|signature| signature.parse().unwrap()).collect(),
            ca,
            unknown,
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(info in narinfo()) {
        let text = info.to_string();
        prop_assert!(text.ends_with('\n'));
        prop_assert_eq!(NarInfo::parse(&text), Ok(info));
    }

    #[test]
    fn the_fingerprint_has_five_parts(info in narinfo()) {
        let fingerprint = info.fingerprint();
        prop_assert_eq!(fingerprint.split(';').count(), 5);
        let references = fingerprint.rsplit(';').next().unwrap().split(',').filter(|r| !r.is_empty());
        prop_assert!(references.is_sorted());
    }

    #[test]
    fn a_damaged_narinfo_never_panics(info in narinfo(), position: proptest::sample::Index, with in ".{0,3}") {
        let mut text = info.to_string();
        let mut at = position.index(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        text.insert_str(at, &with);
        if let Ok(info) = NarInfo::parse(&text) {
            prop_assert_eq!(NarInfo::parse(&info.to_string()), Ok(info));
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in "((StorePath|URL|NarHash|NarSize|Sig|X)?:? ?.{0,40}\n){0,9}") {
        let _ = NarInfo::parse(&text);
    }
}
