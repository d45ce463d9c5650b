//! `p2p-cache put FILE`

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use indicatif::ProgressBar;
use p2p_cache_protocol::{BlobId, Digest, Sha256Digest};
use reqwest::header::CONTENT_LENGTH;
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use super::client::{NodeClient, with_token};
use super::console::Console;
use super::error::CliError;
use super::progress;
use crate::config::Config;
use crate::sha256::Sha256;

/// Bytes read from the file at a time, for hashing and for sending.
const BUFFER_BYTES: usize = 256 * 1024;

/// What is printed about a stored blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Stored {
    /// Lower-case hex.
    sha256: String,
    /// Lower-case hex.
    blake3: String,
    /// Length in bytes.
    size: u64,
    /// Whether other nodes may have it.
    published: bool,
}

pub(super) async fn run(
    console: &Console,
    config: &Config,
    path: &Path,
    private: bool,
    json: bool,
) -> Result<(), CliError> {
    // No silence limit: the node answers when it has the whole file on disk.
    let client = NodeClient::new(config.http, None)?;
    let (sha256, blob, size) = {
        let (console, path) = (console.clone(), path.to_owned());
        tokio::task::spawn_blocking(move || hash(&console, &path)).await??
    };
    let query = if private { "" } else { "?publish=true" };
    let (request, attempt) =
        client.put(&format!("{}{query}", NodeClient::blob_path(&Digest::Sha256(sha256))));
    let bar = progress::bytes(console, "sending", Some(size));
    let body = body(path, size, bar.clone()).await?;
    let request = with_token(request, config).await?;
    let response = client.send(request.header(CONTENT_LENGTH, size).body(body), &attempt).await;
    bar.finish_and_clear();
    drop(response?);
    let stored = Stored { sha256: sha256.to_string(), blake3: blob.to_string(), size, published: !private };
    if json {
        console.print_json(&stored)
    } else {
        console.print(&format!("sha256:{}\nblake3:{}\n", stored.sha256, stored.blake3))
    }
}

/// Both digests and the length of a file. Blocks.
fn hash(console: &Console, path: &Path) -> Result<(Sha256Digest, BlobId, u64), CliError> {
    let mut file = File::open(path).map_err(unreadable(path))?;
    let metadata = file.metadata().map_err(unreadable(path))?;
    if !metadata.is_file() {
        let error = io::Error::new(io::ErrorKind::InvalidInput, "not a regular file");
        return Err(unreadable(path)(error));
    }
    let bar = progress::bytes(console, "hashing", Some(metadata.len()));
    let (mut sha256, mut blake3) = (Sha256::default(), blake3::Hasher::new());
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut size = 0;
    loop {
        let count = match file.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(unreadable(path)(error)),
        };
        sha256.update(&buffer[..count]);
        blake3.update(&buffer[..count]);
        size += count as u64;
        bar.inc(count as u64);
    }
    bar.finish_and_clear();
    Ok((sha256.finish(), BlobId(*blake3.finalize().as_bytes()), size))
}

/// The first `size` bytes of the file as a request body. A file that grew since it was hashed is cut, one
/// that changed is refused by the node.
async fn body(path: &Path, size: u64, bar: ProgressBar) -> Result<reqwest::Body, CliError> {
    let file = tokio::fs::File::open(path).await.map_err(unreadable(path))?;
    let chunks = ReaderStream::with_capacity(file.take(size), BUFFER_BYTES);
    Ok(reqwest::Body::wrap_stream(chunks.inspect_ok(move |chunk| bar.inc(chunk.len() as u64))))
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> CliError + use<> {
    let path: PathBuf = path.to_owned();
    move |error| CliError::File {
        action: "cannot read",
        path: path.clone(),
        error,
        remedy: "name a regular file that you may read",
    }
}
