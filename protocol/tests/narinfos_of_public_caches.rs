//! Narinfos as cache.nixos.org serves them, from 2008's gcc to today's zstd, and their real signatures.
#![allow(clippy::expect_used, reason = "helpers of tests may fail loudly")]

use p2p_cache_protocol::{Compression, NarInfo, PublicKey, SecretKey, TrustedKeys};

const KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

/// Name of the file, and its text.
const SIGNED: [(&str, &str); 11] = [
    ("curl", include_str!("data/curl-7.82.0-bin.narinfo")),
    ("digikam", include_str!("data/digikam-2.6.0.narinfo")),
    ("flake source", include_str!("data/flake-source.narinfo")),
    ("gnutls derivation", include_str!("data/gnutls-3.8.6.tar.xz.drv.narinfo")),
    ("hello 2.10", include_str!("data/hello-2.10.narinfo")),
    ("hello 2.12.1", include_str!("data/hello-2.12.1.narinfo")),
    ("net-tools", include_str!("data/net-tools-1.60.narinfo")),
    ("perl-HTTP-Cookies", include_str!("data/perl-HTTP-Cookies-6.01.narinfo")),
    ("ripgrep", include_str!("data/ripgrep-15.2.0.narinfo")),
    ("ruby", include_str!("data/ruby-2.7.3.narinfo")),
    ("texlive-hyphenex", include_str!("data/texlive-hyphenex-37354.narinfo")),
];

/// Its signature covers the references in the order of the file, where Nix sorts them.
const OUT_OF_ORDER: &str = include_str!("data/gcc-3.4.6.narinfo");

/// Written by `nix copy --to file://...?secret-key=` of Nix 2.8, with the key beside it.
const BY_NIX: &str = include_str!("data/tools-1.0-by-nix-2.8.narinfo");
const BY_NIX_SECRET: &str =
    "test-key-1:CxreFWVySyLbiPRzsWIT3Sn7rtj02otRX4gHGtzPGPuVkCaCQZu2svx7JYus+NAuGuE8VDiuMEPIAY7PoI+7CQ==";

fn trusted() -> TrustedKeys {
    TrustedKeys::new(vec![KEY.parse().expect("the published key")])
}

fn parse(name: &str) -> NarInfo {
    let (_, text) = SIGNED.iter().find(|(known, _)| *known == name).expect("a file of that name");
    NarInfo::parse(text).expect("a narinfo that Nix accepts")
}

#[test]
fn every_published_signature_verifies() {
    for (name, text) in SIGNED {
        let info = NarInfo::parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let keys = trusted();
        let key = info.verified_by(&keys).unwrap_or_else(|| panic!("{name}: {}", info.fingerprint()));
        assert_eq!(key.name(), "cache.nixos.org-1");
    }
}

#[test]
fn formatting_gives_back_the_file() {
    for (name, text) in SIGNED {
        // The one whose NarHash is in hex comes back in the form that everybody writes today.
        let text = text.replace(
            "NarHash: sha256:60adfd293a4d81ad7cd7e47263cbb3fc846309ef91b154a08ba672b558f94ff3",
            "NarHash: sha256:1wsgz5cbawm6ifh59ccixw4n717wng5n6wp4sxyav0ad78lzvbb0",
        );
        assert_eq!(parse(name).to_string(), text, "{name}");
    }
}

#[test]
fn a_signature_over_unsorted_references_counts_as_little_as_with_nix() {
    let info = NarInfo::parse(OUT_OF_ORDER).expect("a narinfo that Nix accepts");
    assert_eq!(info.verified_by(&trusted()), None);
    assert_eq!(info.to_string(), OUT_OF_ORDER);
}

#[test]
fn signing_gives_the_signature_that_nix_gives() {
    let secret: SecretKey = BY_NIX_SECRET.parse().expect("a key that Nix made");
    let mut info = NarInfo::parse(BY_NIX).expect("a narinfo that Nix wrote");
    assert!(info.verified_by(&TrustedKeys::new(vec![secret.public_key()])).is_some());
    info.signatures.clear();
    info.sign(&secret);
    assert_eq!(info.to_string(), BY_NIX);
}

#[test]
fn a_change_to_anything_that_is_signed_breaks_the_signature() {
    let changes: [fn(&mut NarInfo); 5] = [
        |info| info.store_path = info.store_path.to_string().replace("curl", "kurl").parse().expect("a path"),
        |info| info.nar_hash.0[31] ^= 1,
        |info| info.nar_size += 1,
        |info| drop(info.references.pop()),
        |info| info.references.push("yxvjs9drzsphm9pcf42a4byzj1kb9m7k-openssl-1.1.1o".to_owned()),
    ];
    for change in changes {
        let mut info = parse("curl");
        change(&mut info);
        assert_eq!(info.verified_by(&trusted()), None, "{info}");
    }
}

#[test]
fn a_proxy_may_change_what_is_not_signed() {
    let mut info = parse("curl");
    info.url = "nar/elsewhere.nar".to_owned();
    info.compression = Compression::None;
    info.file_hash = None;
    info.file_size = Some(info.nar_size);
    info.deriver = None;
    info.references.reverse();
    info.signatures.reverse();
    assert!(info.verified_by(&trusted()).is_some());
}

#[test]
fn a_signature_under_another_name_does_not_count() {
    let renamed: PublicKey = KEY.replace("cache.nixos.org-1", "mirror-1").parse().expect("a key");
    assert_eq!(parse("curl").verified_by(&TrustedKeys::new(vec![renamed])), None);
    assert_eq!(parse("curl").verified_by(&TrustedKeys::default()), None);
}

#[test]
fn a_published_fingerprint_is_reproduced() {
    assert_eq!(
        parse("curl").fingerprint(),
        "1;/nix/store/syd87l2rxw8cbsxmxl853h0r6pdwhwjr-curl-7.82.0-bin;\
         sha256:1b4sb93wp679q4zx9k1ignby1yna3z7c4c2ri3wphylbc2dwsys0;196040;\
         /nix/store/0jqd0rlxzra1rs38rdxl43yh6rxchgc6-curl-7.82.0,\
         /nix/store/6w8g7njm4mck5dmjxws0z1xnrxvl81xa-glibc-2.34-115,\
         /nix/store/j5jxw3iy7bbz4a57fh9g2xm2gxmyal8h-zlib-1.2.12,\
         /nix/store/yxvjs9drzsphm9pcf42a4byzj1kb9m7k-openssl-1.1.1n"
    );
}

#[test]
fn the_fields_are_where_they_belong() {
    let digikam = parse("digikam");
    assert_eq!(digikam.system.as_deref(), Some("i686-linux"));
    assert_eq!(digikam.compression, Compression::Bzip2);
    assert_eq!((digikam.file_size, digikam.nar_size), (Some(43_503_778), 100_658_640));
    assert_eq!(digikam.references.len(), 38);

    let drv = parse("gnutls derivation");
    assert_eq!(drv.deriver, None);
    assert_eq!(drv.ca.as_deref(), Some("text:sha256:18cyz621xqngdfc8kmxrj3v5rrxyzdls5ahqb6qaq5ggm7q9gjdq"));

    let source = parse("flake source");
    assert!(source.references.is_empty());
    assert_eq!(source.store_path.name(), "source");
    assert_eq!(source.store_path.hash().to_string(), "mg5riyrz6hva7njw82gr5ghvajklkccq");
}
