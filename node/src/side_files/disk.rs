//! Side files on disk: `side/<BLAKE3 of the name>`, a line of JSON and then the bytes.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use bytes::Bytes;
use p2p_cache_http_gateway::{MAX_SIDE_FILE_BYTES, MAX_SIDE_FILE_NAME_BYTES};
use p2p_cache_protocol::BlobId;
use serde::{Deserialize, Serialize};

use super::table::{Entry, Key};

/// Longest first line: a name and a few words.
const MAX_HEADER_BYTES: usize = 2 * MAX_SIDE_FILE_NAME_BYTES + 512;
/// Files that are being written end like this.
const UNFINISHED: &str = ".new";

/// What is said of a file in front of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Header {
    pub(super) name: String,
    pub(super) encoding: Option<String>,
    uploaded: bool,
    /// BLAKE3 of the bytes, in hex.
    blake3: String,
}

impl Header {
    pub(super) fn new(name: &str, encoding: Option<String>, uploaded: bool, bytes: &[u8]) -> Self {
        Self { name: name.to_owned(), encoding, uploaded, blake3: BlobId::of(bytes).to_string() }
    }
}

/// The directory.
#[derive(Debug)]
pub(super) struct Disk {
    directory: PathBuf,
    next: AtomicU64,
}

impl Disk {
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        Ok(Self { directory: directory.to_owned(), next: AtomicU64::new(0) })
    }

    /// What there is, the oldest first. What is not finished or not readable is removed.
    pub(super) fn list(&self) -> io::Result<Vec<(Key, Entry)>> {
        let mut found = Vec::new();
        for file in fs::read_dir(&self.directory)? {
            let file = file?;
            let key = file.file_name().to_str().and_then(Key::parse);
            let entry = key.and_then(|key| Some((key, entry_of(&file.path()).ok()?)));
            match entry {
                Some(entry) => found.push(entry),
                None => fs::remove_file(file.path())?,
            }
        }
        found.sort_by_key(|(_, entry)| entry.stored);
        Ok(found)
    }

    /// Whole or not at all.
    pub(super) fn write(&self, key: Key, header: &Header, bytes: &[u8]) -> io::Result<Entry> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.directory.join(format!("{number}{UNFINISHED}"));
        let mut line = serde_json::to_vec(header).map_err(io::Error::other)?;
        line.push(b'\n');
        let written = File::create(&unfinished).and_then(|mut file| {
            file.write_all(&line)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&unfinished, self.path(key))
        });
        if let Err(error) = written {
            let _ = fs::remove_file(&unfinished);
            return Err(error);
        }
        let bytes = (line.len() + bytes.len()) as u64;
        Ok(Entry { bytes, stored: SystemTime::now(), uploaded: header.uploaded })
    }

    /// The file; an error when it is not what was written.
    pub(super) fn read(&self, key: Key) -> io::Result<(Header, Bytes)> {
        let mut text = Vec::new();
        let limit = (MAX_HEADER_BYTES + MAX_SIDE_FILE_BYTES + 1) as u64;
        File::open(self.path(key))?.take(limit).read_to_end(&mut text)?;
        let (header, start) = header_of(&text)?;
        let bytes = Bytes::from(text).slice(start..);
        if BlobId::of(&bytes).to_string() == header.blake3 {
            Ok((header, bytes))
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, "its bytes have another hash"))
        }
    }

    pub(super) fn remove(&self, key: Key) {
        let path = self.path(key);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(file = %path.display(), %error, "cannot remove a side file");
            }
            _ => {}
        }
    }

    fn path(&self, key: Key) -> PathBuf {
        self.directory.join(key.file_name())
    }
}

fn entry_of(path: &Path) -> io::Result<Entry> {
    let file = File::open(path)?;
    let meta = file.metadata()?;
    let mut start = Vec::new();
    file.take(MAX_HEADER_BYTES as u64).read_to_end(&mut start)?;
    let (header, _) = header_of(&start)?;
    Ok(Entry { bytes: meta.len(), stored: meta.modified()?, uploaded: header.uploaded })
}

/// The header, and where the bytes begin.
fn header_of(text: &[u8]) -> io::Result<(Header, usize)> {
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "its first line is not readable");
    let end = text.iter().take(MAX_HEADER_BYTES).position(|byte| *byte == b'\n').ok_or_else(bad)?;
    let header = serde_json::from_slice(text.get(..end).unwrap_or_default()).map_err(|_| bad())?;
    Ok((header, end + 1))
}
