//! Where a fetched blob goes: to a file that appears only when it is whole and right, or to standard
//! output. Everything here blocks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use indicatif::ProgressBar;
use p2p_cache_protocol::{BlobId, Digest};
use tokio::sync::mpsc;

use super::console::Console;
use super::error::CliError;
use crate::sha256::Sha256;

/// Names that are tried for the temporary file.
const MAX_TEMPORARY_NAMES: u32 = 16;

/// What a download hands to its writer.
pub(super) enum Message {
    Bytes(Bytes),
    /// All has come. A queue that closes without it was cut off.
    End,
}

pub(super) enum Sink {
    File(TemporaryFile),
    Output(Console),
}

impl Sink {
    /// A file that takes its name at the end.
    pub(super) fn file(path: PathBuf) -> Result<Sink, CliError> {
        TemporaryFile::beside(path).map(Sink::File)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), CliError> {
        match self {
            Sink::File(temporary) => temporary.file.write_all(bytes).map_err(|error| temporary.error(error)),
            Sink::Output(console) => console.write(bytes),
        }
    }

    fn finish(self) -> Result<(), CliError> {
        match self {
            Sink::File(temporary) => temporary.keep(),
            Sink::Output(_) => Ok(()),
        }
    }
}

/// Writes and hashes what comes; keeps it only when it is all there and is the blob that was asked for.
pub(super) fn drain(
    mut sink: Sink,
    expected: Digest,
    mut receiver: mpsc::Receiver<Message>,
    bar: &ProgressBar,
) -> Result<(), CliError> {
    let mut hasher = Hasher::like(&expected);
    while let Some(message) = receiver.blocking_recv() {
        match message {
            Message::Bytes(bytes) => {
                hasher.update(&bytes);
                sink.write(&bytes)?;
                bar.inc(bytes.len() as u64);
            }
            Message::End => {
                let actual = hasher.finish();
                if actual != expected {
                    let (expected, actual) = (expected.to_string(), actual.to_string());
                    return Err(CliError::Mismatch { expected, actual });
                }
                return sink.finish();
            }
        }
    }
    Err(CliError::Interrupted)
}

enum Hasher {
    Sha256(Sha256),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    fn like(digest: &Digest) -> Hasher {
        match digest {
            Digest::Sha256(_) => Hasher::Sha256(Sha256::default()),
            Digest::Blake3(_) => Hasher::Blake3(Box::default()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Blake3(hasher) => {
                hasher.update(bytes);
            }
        }
    }

    fn finish(self) -> Digest {
        match self {
            Hasher::Sha256(hasher) => Digest::Sha256(hasher.finish()),
            Hasher::Blake3(hasher) => Digest::Blake3(BlobId(*hasher.finalize().as_bytes())),
        }
    }
}

/// A file beside the wanted one, removed unless it is kept.
pub(super) struct TemporaryFile {
    file: File,
    /// `None` once it has its final name.
    temporary: Option<PathBuf>,
    path: PathBuf,
}

impl TemporaryFile {
    fn beside(path: PathBuf) -> Result<TemporaryFile, CliError> {
        let Some(name) = path.file_name().filter(|_| !path.is_dir()) else {
            let error = io::Error::new(io::ErrorKind::IsADirectory, "it is a directory");
            return Err(unwritable(&path, error));
        };
        for number in 0..MAX_TEMPORARY_NAMES {
            let mut hidden = std::ffi::OsString::from(".");
            hidden.push(name);
            hidden.push(format!(".{}-{number}.part", std::process::id()));
            let temporary = path.with_file_name(hidden);
            match OpenOptions::new().write(true).create_new(true).open(&temporary) {
                Ok(file) => return Ok(TemporaryFile { file, temporary: Some(temporary), path }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(unwritable(&path, error)),
            }
        }
        Err(unwritable(&path, io::ErrorKind::AlreadyExists.into()))
    }

    fn keep(mut self) -> Result<(), CliError> {
        self.file.sync_all().map_err(|error| self.error(error))?;
        if let Some(temporary) = &self.temporary {
            fs::rename(temporary, &self.path).map_err(|error| self.error(error))?;
        }
        self.temporary = None;
        Ok(())
    }

    fn error(&self, error: io::Error) -> CliError {
        unwritable(&self.path, error)
    }
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Nothing can be done about a left-over but naming it, which its own name does.
            let _ = fs::remove_file(temporary);
        }
    }
}

fn unwritable(path: &Path, error: io::Error) -> CliError {
    CliError::File {
        action: "cannot write",
        path: path.to_owned(),
        error,
        remedy: "choose another -o FILE, or make room and rights for it",
    }
}

#[cfg(test)]
mod tests {
    use p2p_cache_protocol::Sha256Digest;

    use super::*;

    fn feed(path: &Path, expected: Digest, messages: Vec<Message>) -> Result<(), CliError> {
        let (sender, receiver) = mpsc::channel(messages.len() + 1);
        for message in messages {
            assert!(sender.try_send(message).is_ok());
        }
        drop(sender);
        drain(Sink::file(path.to_owned())?, expected, receiver, &ProgressBar::hidden())
    }

    fn bytes(text: &'static str) -> Message {
        Message::Bytes(Bytes::from_static(text.as_bytes()))
    }

    #[test]
    fn a_whole_blob_takes_its_name_and_replaces_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blob");
        fs::write(&path, "old").unwrap();
        for expected in [Digest::Sha256(Sha256Digest::of(b"hello")), Digest::Blake3(BlobId::of(b"hello"))] {
            feed(&path, expected, vec![bytes("hel"), bytes("lo"), Message::End]).unwrap();
            assert_eq!(fs::read(&path).unwrap(), b"hello");
        }
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn wrong_or_unfinished_bytes_leave_nothing_and_spare_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("blob");
        fs::write(&path, "old").unwrap();
        let expected = Digest::Sha256(Sha256Digest::of(b"hello"));
        let wrong = feed(&path, expected, vec![bytes("hellO"), Message::End]).unwrap_err();
        assert!(matches!(wrong, CliError::Mismatch { .. }));
        let cut = feed(&path, expected, vec![bytes("hello")]).unwrap_err();
        assert!(matches!(cut, CliError::Interrupted));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_is_no_target() {
        let directory = tempfile::tempdir().unwrap();
        let error = Sink::file(directory.path().to_owned()).err().unwrap();
        assert!(error.to_string().contains("-o FILE"), "{error}");
    }
}
