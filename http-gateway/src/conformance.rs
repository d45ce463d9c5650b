//! What every [`ArtifactSource`] must do, whatever is behind it. Each implementation's tests call [`suite`].

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use p2p_cache_protocol::{
    BlobId, Compression, Digest, KeyError, NarInfo, PublicKey, SecretKey, Sha256Digest, StoreHash,
};

use crate::{
    Artifact, ArtifactSource, BODY_CHUNK_BYTES, BodyStream, NarFile, Rejection, SideFile, SideFileName,
    SourceError, Uploader, Uploads,
};

/// A promise that was not kept.
#[derive(Debug)]
pub struct Violation(String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Violation {}

/// The store paths that a source under test must hold, or be able to get.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// Narinfos as an origin would serve them, each with its NAR. They are signed by [`Fixture::trusted_key`]. Sizes:
    /// one byte; one group of 16 KiB exactly; more than a megabyte, and no multiple of anything.
    pub paths: Vec<(NarInfo, Bytes)>,
    /// Whose signatures to trust.
    pub trusted_key: PublicKey,
}

impl Fixture {
    /// The same store paths every time. The "NARs" are arbitrary bytes: no source needs to look into a NAR.
    ///
    /// # Errors
    /// When the protocol crate does not read what is written here, which is a fault of one of the two.
    pub fn new() -> Result<Self, Violation> {
        let broken = |error: KeyError| Violation(format!("the fixture's key: {error}"));
        let key = SecretKey::from_seed("conformance-1", &[7; 32]).map_err(broken)?;
        let paths = [1, 16 * 1024, 1_234_567]
            .into_iter()
            .enumerate()
            .map(|(number, size)| store_path(number, size, &key))
            .collect::<Result<_, _>>()?;
        Ok(Self { paths, trusted_key: key.public_key() })
    }
}

/// `size` bytes that depend on `seed` and repeat nowhere near.
pub fn sample_bytes(seed: u64, size: usize) -> Bytes {
    let mut bytes = BytesMut::with_capacity(size + 32);
    let mut counter = 0_u64;
    while bytes.len() < size {
        let input = [seed.to_le_bytes(), counter.to_le_bytes()].concat();
        bytes.extend_from_slice(&BlobId::of(&input).0);
        counter += 1;
    }
    bytes.truncate(size);
    bytes.freeze()
}

fn store_path(number: usize, size: usize, key: &SecretKey) -> Result<(NarInfo, Bytes), Violation> {
    let nar = sample_bytes(number as u64, size);
    let nar_hash = Sha256Digest::of(&nar).to_nix32();
    // 32 characters of Nix base 32, another for each path.
    let hash = &Sha256Digest::of(&[b'p', number as u8]).to_nix32()[..32];
    let text = format!(
        "StorePath: /nix/store/{hash}-path-{number}\nURL: nar/{nar_hash}.nar\nCompression: none\n\
         NarHash: sha256:{nar_hash}\nNarSize: {size}\nReferences: \n"
    );
    let mut narinfo = NarInfo::parse(&text).map_err(|error| Violation(format!("the fixture: {error}")))?;
    narinfo.sign(key);
    Ok((narinfo, nar))
}

/// Runs every check against sources that `make` builds, each holding the fixture or able to get it.
///
/// # Errors
/// The first promise that was not kept.
pub async fn suite<F, Made>(make: F) -> Result<(), Violation>
where
    F: Fn(Fixture) -> Made,
    Made: Future<Output = Arc<dyn ArtifactSource>>,
{
    let fixture = Fixture::new()?;
    let source = make(fixture.clone()).await;
    let source = source.as_ref();
    narinfos_are_those_of_the_fixture(source, &fixture).await?;
    sizes_are_known_and_nars_arrive_whole(source, &fixture).await?;
    nars_are_blobs_too(source, &fixture).await?;
    what_nobody_has_is_not_found(source, &fixture).await?;
    blobs_go_in_and_come_out(source).await?;
    wrong_and_broken_uploads_leave_nothing(source).await
}

async fn narinfos_are_those_of_the_fixture(
    source: &dyn ArtifactSource,
    fixture: &Fixture,
) -> Result<(), Violation> {
    for (expected, _) in &fixture.paths {
        let hash = expected.store_path.hash();
        let found = kept("narinfo", source.narinfo(hash).await)?;
        let same = found.store_path == expected.store_path
            && found.nar_hash == expected.nar_hash
            && found.nar_size == expected.nar_size
            && found.references == expected.references;
        check(same, || format!("the narinfo of {hash} is another: {found}"))?;
        let signed = found.signatures.iter().any(|signature| expected.signatures.contains(signature));
        check(signed, || format!("the narinfo of {hash} has lost its signature"))?;
    }
    Ok(())
}

async fn sizes_are_known_and_nars_arrive_whole(
    source: &dyn ArtifactSource,
    fixture: &Fixture,
) -> Result<(), Violation> {
    for (narinfo, nar) in &fixture.paths {
        let (hash, nar_hash) = (narinfo.store_path.hash(), narinfo.nar_hash);
        let size = kept("nar_size", source.nar_size(hash, nar_hash).await)?;
        check(size == nar.len() as u64, || format!("nar_size is {size}, not {}", nar.len()))?;
        let artifact = kept("nar", source.nar(hash, nar_hash).await)?;
        reads_are_exact(&artifact, nar).await?;
    }
    Ok(())
}

/// Once they have been read, NARs can be had by their NarHash.
async fn nars_are_blobs_too(source: &dyn ArtifactSource, fixture: &Fixture) -> Result<(), Violation> {
    for (narinfo, nar) in &fixture.paths {
        let digest = Digest::Sha256(narinfo.nar_hash);
        let artifact = kept("blob of a NAR", source.blob(digest).await)?;
        reads_are_exact(&artifact, nar).await?;
    }
    Ok(())
}

async fn what_nobody_has_is_not_found(
    source: &dyn ArtifactSource,
    fixture: &Fixture,
) -> Result<(), Violation> {
    let nowhere = Sha256Digest::of(b"held by nobody");
    let no_hash: StoreHash = Sha256Digest::of(b"built by nobody").to_nix32()[..32]
        .parse()
        .map_err(|error| Violation(format!("the fixture: {error}")))?;
    not_found("narinfo", source.narinfo(no_hash).await)?;
    not_found("nar_size", source.nar_size(no_hash, nowhere).await)?;
    missing("nar", source.nar(no_hash, nowhere).await).await?;
    for digest in [Digest::Sha256(nowhere), Digest::Blake3(BlobId::of(b"held by nobody"))] {
        not_found("blob_size", source.blob_size(digest).await)?;
        missing("blob", source.blob(digest).await).await?;
    }
    for (narinfo, _) in &fixture.paths {
        missing("nar of a path under another hash", source.nar(narinfo.store_path.hash(), nowhere).await)
            .await?;
    }
    Ok(())
}

async fn blobs_go_in_and_come_out(source: &dyn ArtifactSource) -> Result<(), Violation> {
    for (seed, size) in [(100, 0), (101, 33), (102, 16 * 1024), (103, 700_001)] {
        let bytes = sample_bytes(seed, size);
        let (sha256, blob) = (Sha256Digest::of(&bytes), BlobId::of(&bytes));
        let first = kept("put_blob", source.put_blob(Digest::Sha256(sha256), false, body_of(&bytes)).await)?;
        let again =
            kept("put_blob again", source.put_blob(Digest::Blake3(blob), true, body_of(&bytes)).await)?;
        check(first.created && !again.created, || {
            "`created` is true the first time, and only then".to_owned()
        })?;
        for outcome in [first, again] {
            let right = outcome.sha256 == sha256 && outcome.blob == blob && outcome.size == size as u64;
            check(right, || format!("put_blob says {outcome:?} of {sha256}"))?;
        }
        for digest in [Digest::Sha256(sha256), Digest::Blake3(blob)] {
            let found = kept("blob_size", source.blob_size(digest).await)?;
            check(found == size as u64, || format!("blob_size is {found}, not {size}"))?;
            let artifact = kept("blob", source.blob(digest).await)?;
            reads_are_exact(&artifact, &bytes).await?;
            for pinned in [true, true, false, false] {
                kept("pin_blob", source.pin_blob(digest, pinned).await)?;
            }
        }
    }
    let nobody_has = Digest::Sha256(Sha256Digest::of(b"nobody has this"));
    not_found("pin_blob", source.pin_blob(nobody_has, true).await)?;
    not_found("pin_blob", source.pin_blob(nobody_has, false).await)
}

async fn wrong_and_broken_uploads_leave_nothing(source: &dyn ArtifactSource) -> Result<(), Violation> {
    let bytes = sample_bytes(200, 50_000);
    let digest = Digest::Sha256(Sha256Digest::of(&bytes));

    let short = source.put_blob(digest, false, body_of(&bytes.slice(..49_999))).await;
    check(matches!(short, Err(SourceError::Mismatch(_))), || {
        format!("other bytes are a mismatch, not {short:?}")
    })?;

    let broken = stream::iter([
        Ok(bytes.slice(..20_000)),
        Err(std::io::Error::new(std::io::ErrorKind::ConnectionAborted, "the client left")),
    ]);
    let broken = source.put_blob(digest, false, Box::pin(broken)).await;
    check(broken.is_err(), || "an upload that broke off is an error".to_owned())?;
    not_found("blob_size after failed uploads", source.blob_size(digest).await)
}

/// Runs every check of [`Uploads`] against empty sources that `make` builds and that trust the fixture's key.
///
/// # Errors
/// The first promise that was not kept.
pub async fn uploads_suite<F, Made>(make: F) -> Result<(), Violation>
where
    F: Fn(Fixture) -> Made,
    Made: Future<Output = Arc<dyn ArtifactSource>>,
{
    let fixture = Fixture::new()?;
    let source = make(fixture.clone()).await;
    let missing = || Violation("a source under test takes uploads".to_owned());
    let uploads = source.uploads().ok_or_else(missing)?;
    for (narinfo, nar) in &fixture.paths {
        nothing_is_taken_without_its_nar(&*source, &*uploads, narinfo, nar).await?;
        a_nar_and_its_narinfo_make_a_store_path(&*source, &*uploads, narinfo, nar).await?;
    }
    let side = SideFile { bytes: sample_bytes(300, 1000), encoding: Some("br".to_owned()) };
    for path in
        ["log/x.drv", "realisations/sha256:00!out.doi", "build-trace-v2/x.drv/out.doi", "debuginfo/00"]
    {
        let name = SideFileName::parse(path).ok_or_else(|| Violation(format!("{path} is not read")))?;
        not_found("side_file", source.side_file(&name).await)?;
        let first = kept("put_side_file", uploads.put_side_file(name.clone(), side.clone()).await)?;
        let again = kept("put_side_file again", uploads.put_side_file(name.clone(), side.clone()).await)?;
        check(first && !again, || format!("{path} is new the first time, and only then"))?;
        let found = kept("side_file", source.side_file(&name).await)?;
        check(found == side, || format!("{path} comes back as another"))?;
    }
    Ok(())
}

async fn nothing_is_taken_without_its_nar(
    source: &dyn ArtifactSource,
    uploads: &dyn Uploads,
    narinfo: &NarInfo,
    nar: &Bytes,
) -> Result<(), Violation> {
    let (file, hash) =
        (NarFile { file_hash: narinfo.nar_hash, compression: Compression::None }, narinfo.store_path.hash());
    not_found("nar_file_size", uploads.nar_file_size(&file).await)?;
    let early = uploads.put_narinfo(narinfo.clone(), Uploader::ThisMachine).await;
    let missing = matches!(early, Err(SourceError::Rejected(Rejection::NarMissing)));
    check(missing, || format!("a narinfo before its NAR gives {early:?}"))?;

    let longer = Bytes::from([&nar[..], b"x"].concat());
    let other = uploads.put_nar_file(file.clone(), body_of(&longer)).await;
    let differs = matches!(other, Err(SourceError::Rejected(Rejection::FileDiffers)));
    check(differs, || format!("a file of another hash than its name gives {other:?}"))?;

    let gone = || std::io::Error::new(std::io::ErrorKind::ConnectionAborted, "the client left");
    let broken = stream::iter([Ok(nar.clone()), Err(gone())]);
    let broken = uploads.put_nar_file(file.clone(), Box::pin(broken)).await;
    check(broken.is_err(), || "a NAR that broke off is an error".to_owned())?;
    not_found("nar_file_size after failed uploads", uploads.nar_file_size(&file).await)?;
    not_found("narinfo after failed uploads", source.narinfo(hash).await)
}

async fn a_nar_and_its_narinfo_make_a_store_path(
    source: &dyn ArtifactSource,
    uploads: &dyn Uploads,
    narinfo: &NarInfo,
    nar: &Bytes,
) -> Result<(), Violation> {
    let (file, hash) =
        (NarFile { file_hash: narinfo.nar_hash, compression: Compression::None }, narinfo.store_path.hash());
    kept("put_nar_file", uploads.put_nar_file(file.clone(), body_of(nar)).await)?;
    let size = kept("nar_file_size", uploads.nar_file_size(&file).await)?;
    check(size == nar.len() as u64, || format!("nar_file_size is {size}, not {}", nar.len()))?;
    not_found("narinfo before it is uploaded", source.narinfo(hash).await)?;

    let wrong = NarInfo { url: file.to_string(), nar_size: narinfo.nar_size + 1, ..narinfo.clone() };
    let refused = uploads.put_narinfo(wrong, Uploader::ThisMachine).await;
    let differs = matches!(refused, Err(SourceError::Rejected(Rejection::NarDiffers)));
    check(differs, || format!("a narinfo of another size gives {refused:?}"))?;

    let right = NarInfo { url: file.to_string(), ..narinfo.clone() };
    let first = kept("put_narinfo", uploads.put_narinfo(right.clone(), Uploader::ThisMachine).await)?;
    let again = kept("put_narinfo again", uploads.put_narinfo(right, Uploader::ThisMachine).await)?;
    check(first && !again, || "a path is new the first time, and only then".to_owned())?;
    let found = kept("narinfo", source.narinfo(hash).await)?;
    check(found.nar_hash == narinfo.nar_hash, || format!("the narinfo of {hash} is another: {found}"))?;
    reads_are_exact(&kept("nar", source.nar(hash, narinfo.nar_hash).await)?, nar).await
}

/// Whole, and in ranges that begin and end on and beside the borders of groups and chunks.
async fn reads_are_exact(artifact: &Arc<dyn Artifact>, expected: &Bytes) -> Result<(), Violation> {
    let size = expected.len() as u64;
    check(artifact.size() == size, || format!("size() is {}, not {size}", artifact.size()))?;
    kept("ready", artifact.ready().await)?;
    let chunk = BODY_CHUNK_BYTES as u64;
    let borders = [0, 1, 16_383, 16_384, 16_385, chunk - 1, chunk, chunk + 1, size.saturating_sub(1), size];
    let borders: Vec<u64> = borders.into_iter().filter(|border| *border <= size).collect();
    for start in &borders {
        for end in borders.iter().filter(|end| *end >= start) {
            read_is_exact(artifact, *start..*end, expected).await?;
        }
    }
    Ok(())
}

async fn read_is_exact(
    artifact: &Arc<dyn Artifact>,
    range: Range<u64>,
    expected: &Bytes,
) -> Result<(), Violation> {
    let mut body = Arc::clone(artifact).read(range.clone());
    let mut rest = expected.slice(range.start as usize..range.end as usize);
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|error| Violation(format!("reading {range:?} failed: {error}")))?;
        check(rest.starts_with(&chunk), || format!("reading {range:?} gave a wrong byte or too many"))?;
        check(chunk.len() <= 4 * BODY_CHUNK_BYTES, || {
            format!("a chunk of {} bytes is too large", chunk.len())
        })?;
        rest = rest.slice(chunk.len()..);
    }
    check(rest.is_empty(), || format!("reading {range:?} ended {} bytes early", rest.len()))
}

fn body_of(bytes: &Bytes) -> BodyStream {
    let pieces: Vec<_> = bytes.chunks(9_999).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    Box::pin(stream::iter(pieces))
}

fn check(kept: bool, complaint: impl FnOnce() -> String) -> Result<(), Violation> {
    if kept { Ok(()) } else { Err(Violation(complaint())) }
}

fn kept<T>(what: &str, result: Result<T, SourceError>) -> Result<T, Violation> {
    result.map_err(|error| Violation(format!("{what} failed: {error}")))
}

fn not_found<T>(what: &str, result: Result<T, SourceError>) -> Result<(), Violation> {
    match result {
        Err(SourceError::NotFound) => Ok(()),
        Err(error) => Err(Violation(format!("{what} says `{error}` instead of not found"))),
        Ok(_) => Err(Violation(format!("{what} finds what nobody has"))),
    }
}

/// Not found at once, or as soon as it is known.
async fn missing(what: &str, result: Result<Arc<dyn Artifact>, SourceError>) -> Result<(), Violation> {
    match result {
        Ok(artifact) => not_found(what, artifact.ready().await),
        Err(error) => not_found::<()>(what, Err(error)),
    }
}
