//! `p2p-cache get DIGEST [-o FILE]`

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use p2p_cache_protocol::Digest;
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Response, StatusCode};
use tokio::sync::mpsc;

use super::client::{Attempt, NodeClient};
use super::console::Console;
use super::error::CliError;
use super::sink::{Message, Sink, drain};
use super::{progress, status};

/// Longest pause of the node in a body: longer than its own time-outs towards peers and origins.
const SILENCE: Duration = Duration::from_secs(60);
/// Between two looks at where a blob comes from.
const SOURCES_INTERVAL: Duration = Duration::from_millis(300);
/// Chunks between the network and the disk; a chunk has at most a few hundred KiB.
const QUEUE_CHUNKS: usize = 16;
/// How often a body that broke is taken up again.
const MAX_RESUMPTIONS: u32 = 1;

pub(super) async fn run(
    console: &Console,
    http: SocketAddr,
    digest: &str,
    output: Option<PathBuf>,
) -> Result<(), CliError> {
    let digest = parse(digest)?;
    let to_stdout = output.as_ref().is_none_or(|path| path.as_os_str() == "-");
    if output.is_none() && console.out_is_terminal {
        return Err(CliError::Argument {
            argument: "get",
            problem: "standard output is a terminal, which binary data would upset".to_owned(),
            remedy: "name a file with -o FILE, redirect the output, or insist with -o -",
        });
    }
    let client = NodeClient::new(http, Some(SILENCE))?;
    // The answer comes first: what does not exist makes no file.
    let mut download = Download::start(&client, digest).await?;
    let sink = match output.filter(|_| !to_stdout) {
        Some(path) => tokio::task::spawn_blocking(move || Sink::file(path)).await??,
        None => Sink::Output(console.clone()),
    };
    let bar = progress::bytes(console, "receiving", download.size);
    let (sender, receiver) = mpsc::channel(QUEUE_CHUNKS);
    let writer = {
        let bar = bar.clone();
        tokio::task::spawn_blocking(move || drain(sink, digest, receiver, &bar))
    };
    let sources = progress::Sources::below(console, &bar, download.size);
    let received = tokio::select! {
        received = download.run(&sender) => received,
        never = show_sources(&client, digest, sources) => match never {},
        _ = tokio::signal::ctrl_c() => Err(CliError::Interrupted),
    };
    let complete = received.is_ok();
    if complete {
        // A writer that failed has closed the queue and tells why below.
        let _ = sender.send(Message::End).await;
    }
    drop(sender);
    let written = writer.await?;
    bar.finish_and_clear();
    // The disk's complaint explains a download that was cut for it; not the other way round.
    match written {
        Err(error) if !matches!(error, CliError::Interrupted) => Err(error),
        _ => received,
    }
}

/// Shows who brings what, as the node knows it. Says nothing when the node says nothing: the download has its own errors.
async fn show_sources(client: &NodeClient, digest: Digest, sources: Option<progress::Sources>) -> Infallible {
    let Some(mut sources) = sources else { return std::future::pending().await };
    let digest = digest.to_string();
    loop {
        tokio::time::sleep(SOURCES_INTERVAL).await;
        if let Ok(status) = status::ask(client).await
            && let Some(transfer) = status.transfers.iter().find(|transfer| transfer.digest == digest)
        {
            sources.show(&transfer.sources);
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Digest, CliError> {
    text.parse().map_err(|error| CliError::Argument {
        argument: "DIGEST",
        problem: format!("{text:?} is not a digest ({error})"),
        remedy: "write sha256:HEX, sha256:NIX32, sha256-BASE64 or blake3:HEX, as `p2p-cache put` prints them",
    })
}

/// One blob on its way, over one answer or two.
struct Download<'c> {
    client: &'c NodeClient,
    path: String,
    attempt: Attempt,
    response: Response,
    /// Length of the blob, when the node tells it.
    size: Option<u64>,
    received: u64,
}

impl<'c> Download<'c> {
    async fn start(client: &'c NodeClient, digest: Digest) -> Result<Download<'c>, CliError> {
        let path = NodeClient::blob_path(&digest);
        let (request, attempt) = client.get(&path);
        let response = client.send(request, &attempt).await?;
        let size = response.content_length();
        Ok(Download { client, path, attempt, response, size, received: 0 })
    }

    /// Hands the whole body on, in order. Ends early and without an error when nobody takes it any more.
    async fn run(&mut self, sender: &mpsc::Sender<Message>) -> Result<(), CliError> {
        let mut resumptions = 0;
        loop {
            match self.response.chunk().await {
                Ok(Some(chunk)) => {
                    self.received += chunk.len() as u64;
                    if sender.send(Message::Bytes(chunk)).await.is_err() {
                        return Ok(());
                    }
                }
                Ok(None) => return self.check_length(),
                Err(_) if self.size == Some(self.received) => return Ok(()),
                Err(_) if resumptions < MAX_RESUMPTIONS => {
                    resumptions += 1;
                    self.resume().await?;
                }
                Err(error) => {
                    return Err(self.attempt.failed(&error, "look at the log of the node, then try again"));
                }
            }
        }
    }

    async fn resume(&mut self) -> Result<(), CliError> {
        let (request, attempt) = self.client.get(&self.path);
        let request = request.header(RANGE, format!("bytes={}-", self.received));
        let response = self.client.send(request, &attempt).await?;
        let expected = format!("bytes {}-", self.received);
        let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
        let fits = range.is_some_and(|range| range.starts_with(&expected));
        if response.status() != StatusCode::PARTIAL_CONTENT || !fits {
            let reason =
                format!("the answer broke off after {} bytes and was not taken up there", self.received);
            return Err(attempt.broken(reason, "try again"));
        }
        self.response = response;
        self.attempt = attempt;
        Ok(())
    }

    fn check_length(&self) -> Result<(), CliError> {
        match self.size {
            Some(size) if size != self.received => {
                let reason = format!("{} of {size} bytes came", self.received);
                Err(self.attempt.broken(reason, "look at the log of the node, then try again"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_that_is_none_is_a_wrong_command_line() {
        for bad in ["", "sha256:", "sha256:zz", "md5:abc", &"a".repeat(64)] {
            let error = parse(bad).unwrap_err();
            assert_eq!(error.exit_code(), super::super::error::EXIT_USAGE);
            assert!(
                error.to_string().contains("DIGEST") && error.to_string().contains("sha256:HEX"),
                "{error}"
            );
        }
    }
}
