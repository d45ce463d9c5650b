//! The origins against real sockets, with faults that have names.

mod codecs;
mod faults;
mod flaky_origin;
mod narinfos;
mod nars;

use std::time::Duration;

use async_compression::tokio::bufread::{BrotliEncoder, BzEncoder, GzipEncoder, XzEncoder, ZstdEncoder};
use p2p_cache_protocol::{Compression, NarInfo, SecretKey, Sha256Digest, StoreHash, TrustedKeys};
use prometheus_client::metrics::counter::Counter;
use tokio::io::AsyncReadExt;
use url::Url;

use super::*;
use flaky_origin::{Act, File, FlakyOrigin, refusing};

const HASH: &str = "6b0f32nzhbhwgvs0ibd3yjh5gdg81m4p";
const NARINFO: &str = "/6b0f32nzhbhwgvs0ibd3yjh5gdg81m4p.narinfo";
const NAR: &str = "/nar/file";
const CODECS: [Compression; 6] = [
    Compression::None,
    Compression::Xz,
    Compression::Zstd,
    Compression::Bzip2,
    Compression::Gzip,
    Compression::Br,
];

/// Everything short enough for a test; real time, since real sockets do not know a paused clock.
fn quick(urls: Vec<Url>) -> OriginConfig {
    OriginConfig {
        urls,
        connect_timeout: Duration::from_millis(500),
        first_byte_timeout: Duration::from_millis(600),
        progress_timeout: Duration::from_millis(400),
        answer_timeout: Duration::from_secs(3),
        hedge_delay: Duration::from_millis(150),
        backoff: Duration::from_millis(10),
        down_memory: Duration::from_millis(700),
        use_system_proxy: false,
        ..OriginConfig::default()
    }
}

fn origins(servers: &[&FlakyOrigin]) -> Origins {
    let urls = servers.iter().map(|server| server.url.clone()).collect();
    Origins::new(quick(urls), Counter::default()).unwrap()
}

fn hash() -> StoreHash {
    HASH.parse().unwrap()
}

/// Half of it compresses, half of it does not.
fn nar_bytes(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..length)
        .map(|at| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            if at % 8192 < 4096 { b'n' } else { (state >> 56) as u8 }
        })
        .collect()
}

async fn compress(compression: &Compression, bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    match compression {
        Compression::Xz => XzEncoder::new(bytes).read_to_end(&mut out).await,
        Compression::Zstd => ZstdEncoder::new(bytes).read_to_end(&mut out).await,
        Compression::Bzip2 => BzEncoder::new(bytes).read_to_end(&mut out).await,
        Compression::Gzip => GzipEncoder::new(bytes).read_to_end(&mut out).await,
        Compression::Br => {
            let level = async_compression::Level::Precise(4);
            BrotliEncoder::with_quality(bytes, level).read_to_end(&mut out).await
        }
        _ => {
            out.extend_from_slice(bytes);
            Ok(0)
        }
    }
    .unwrap();
    out
}

/// The narinfo of a NAR that stands as `file` at [`NAR`].
fn narinfo(nar: &[u8], compression: Compression, file: &[u8]) -> NarInfo {
    NarInfo {
        store_path: format!("/nix/store/{HASH}-sample").parse().unwrap(),
        url: NAR.trim_start_matches('/').to_owned(),
        compression,
        file_hash: Some(Sha256Digest::of(file)),
        file_size: Some(file.len() as u64),
        nar_hash: Sha256Digest::of(nar),
        nar_size: nar.len() as u64,
        references: Vec::new(),
        deriver: None,
        system: None,
        signatures: Vec::new(),
        ca: None,
        unknown: Vec::new(),
    }
}

fn signed(mut narinfo: NarInfo, seed: u8) -> (NarInfo, TrustedKeys) {
    let key = SecretKey::from_seed("test-1", &[seed; 32]).unwrap();
    narinfo.signatures.push(key.sign(&narinfo.fingerprint()));
    (narinfo, TrustedKeys::new(vec![key.public_key()]))
}

/// Reads a stream to its end: the bytes until then, and the error if it ended with one.
async fn drain(mut stream: NarStream) -> (Vec<u8>, Option<OriginError>) {
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => {
                assert!(!chunk.is_empty() && chunk.len() <= MAX_CHUNK_BYTES);
                bytes.extend_from_slice(&chunk);
            }
            Err(error) => {
                assert!(stream.next().await.is_none(), "nothing follows an error");
                return (bytes, Some(error));
            }
        }
    }
    assert!(stream.next().await.is_none());
    (bytes, None)
}

/// Opens and reads a NAR: the bytes until the end or the error.
async fn fetch(origins: &Origins, narinfo: &NarInfo) -> (Vec<u8>, Option<OriginError>) {
    match origins.open_nar(narinfo, OriginId(0)).await {
        Ok(stream) => drain(stream).await,
        Err(error) => (Vec::new(), Some(error)),
    }
}

/// The fault that fetching ends with, and how much came before.
async fn fault(origins: &Origins, narinfo: &NarInfo) -> (usize, Fault) {
    match fetch(origins, narinfo).await {
        (bytes, Some(OriginError::Request(request))) => (bytes.len(), request.fault),
        (bytes, other) => panic!("{} bytes, then {other:?}", bytes.len()),
    }
}
