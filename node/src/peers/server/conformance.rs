//! What every [`Holdings`] keeps to.

use std::sync::Arc;

use p2p_cache_protocol::tree::{GroupRange, RangeSink, decode_range, encoded_bytes};
use p2p_cache_protocol::{BlobId, Claim, Digest, GROUP_BYTES, NarInfo, Sha256Digest, StoreHash};

use super::{HeldBlob, Holdings};

/// A NAR that the holdings have, with its narinfo, and nothing else is said about them.
pub(crate) struct Fixture {
    /// Its bytes.
    pub(crate) nar: Vec<u8>,
    /// The path that it is the NAR of.
    pub(crate) hash: StoreHash,
}

/// Takes the groups of a range that verified.
struct Groups<'a> {
    bytes: &'a [u8],
    taken: u64,
}

impl RangeSink for Groups<'_> {
    fn data(&mut self, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
        let start = offset as usize;
        assert_eq!(bytes, &self.bytes[start..start + bytes.len()]);
        self.taken += 1;
        Ok(())
    }

    fn parent(&mut self, _outboard_offset: u64, _pair: &[u8; 64]) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs the suite.
pub(crate) async fn check(holdings: &dyn Holdings, fixture: &Fixture) {
    let claim = claim_of(&fixture.nar);
    for digest in [Digest::Sha256(claim.sha256), Digest::Blake3(claim.blob)] {
        let held = holdings.find(digest).await.unwrap().expect("held under both names");
        assert_eq!(held.claim, claim);
    }
    ranges_verify(holdings, fixture).await;
    narinfos_are_those_of_the_nar(holdings, fixture).await;
    what_is_not_held_is_not_found(holdings).await;
}

fn claim_of(nar: &[u8]) -> Claim {
    Claim { sha256: Sha256Digest::of(nar), blob: BlobId::of(nar), size: nar.len() as u64 }
}

async fn ranges_verify(holdings: &dyn Holdings, fixture: &Fixture) {
    let claim = claim_of(&fixture.nar);
    let open: Arc<dyn HeldBlob> = holdings.open(claim.blob).await.unwrap().expect("held");
    assert_eq!(open.held().claim, claim);
    let groups = claim.size.div_ceil(GROUP_BYTES);
    for range in [(0, groups), (0, 1), (groups - 1, groups), (groups / 2, groups / 2 + 1)] {
        let range = GroupRange::new(range.0, range.1);
        let mut encoded = vec![0; encoded_bytes(claim.size, range) as usize];
        open.encode(range, &mut encoded).unwrap();
        let mut sink = Groups { bytes: &fixture.nar, taken: 0 };
        decode_range(claim.blob, claim.size, range, &encoded, &mut sink).unwrap();
        assert_eq!(sink.taken, range.end - range.start);
    }
    let mut out = vec![0; 16 * 1024];
    assert!(open.encode(GroupRange::new(groups, groups + 1), &mut out).is_err(), "outside of the blob");
}

async fn narinfos_are_those_of_the_nar(holdings: &dyn Holdings, fixture: &Fixture) {
    let claim = claim_of(&fixture.nar);
    let narinfo = holdings.narinfo(fixture.hash).await.unwrap().expect("there is a narinfo");
    let of_the_nar = |narinfo: &NarInfo| {
        (narinfo.store_path.hash(), narinfo.nar_hash, narinfo.nar_size)
            == (fixture.hash, claim.sha256, claim.size)
    };
    assert!(of_the_nar(&narinfo), "{narinfo}");
    assert_eq!(NarInfo::parse(&narinfo.to_string()), Ok(narinfo), "its text can be read");
    let narinfos = holdings.narinfos_of(claim.sha256).await.unwrap();
    assert!(narinfos.iter().any(of_the_nar), "{narinfos:?}");
}

async fn what_is_not_held_is_not_found(holdings: &dyn Holdings) {
    let (sha256, blob) = (Sha256Digest([0x5a; 32]), BlobId([0x5a; 32]));
    for digest in [Digest::Sha256(sha256), Digest::Blake3(blob)] {
        assert_eq!(holdings.find(digest).await.unwrap(), None);
    }
    assert!(holdings.open(blob).await.unwrap().is_none());
    assert_eq!(holdings.narinfo(StoreHash::from([0x5a; 20])).await.unwrap(), None);
    assert_eq!(holdings.narinfos_of(sha256).await.unwrap(), []);
}
