//! HTTP to the node that runs on this machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use p2p_cache_protocol::Digest;
use reqwest::{Client, RequestBuilder, Response, StatusCode};

use super::console::printable;
use super::error::CliError;
use crate::config::Config;
use crate::write_token;

/// A node on this machine answers at once or not at all.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Longest message of a refusal that is repeated.
const MAX_MESSAGE_BYTES: usize = 512;

/// Where the node is, and a connection pool to it.
pub(super) struct NodeClient {
    http: Client,
    base: String,
}

/// One request, for messages about it.
pub(super) struct Attempt {
    method: &'static str,
    url: String,
    started: Instant,
}

impl NodeClient {
    /// A client for the node with this `http` setting. `silence` is the longest pause of the node in an
    /// answer; `None` for requests whose body takes its time.
    pub(super) fn new(address: SocketAddr, silence: Option<Duration>) -> Result<NodeClient, CliError> {
        if address.port() == 0 {
            return Err(CliError::Argument {
                argument: "http",
                problem: "port 0 stands for any free port, so the node cannot be found by it".to_owned(),
                remedy: "give --http the address of the node's ready line",
            });
        }
        let base = format!("http://{}", reachable(address));
        // A proxy of the environment is not meant for this machine.
        let mut builder = Client::builder().no_proxy().connect_timeout(CONNECT_TIMEOUT);
        if let Some(silence) = silence {
            builder = builder.read_timeout(silence);
        }
        let http = builder
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("p2p-cache/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| CliError::NoNode { url: base.clone(), reason: reason(&error) })?;
        Ok(NodeClient { http, base })
    }

    /// `http://ADDR:PORT`
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    /// The path of a blob.
    pub(super) fn blob_path(digest: &Digest) -> String {
        match digest {
            Digest::Sha256(hash) => format!("/blobs/sha256/{hash}"),
            Digest::Blake3(hash) => format!("/blobs/blake3/{hash}"),
        }
    }

    pub(super) fn get(&self, path: &str) -> (RequestBuilder, Attempt) {
        let url = format!("{}{path}", self.base);
        (self.http.get(&url), Attempt { method: "GET", url, started: Instant::now() })
    }

    pub(super) fn put(&self, path: &str) -> (RequestBuilder, Attempt) {
        let url = format!("{}{path}", self.base);
        (self.http.put(&url), Attempt { method: "PUT", url, started: Instant::now() })
    }

    pub(super) fn delete(&self, path: &str) -> (RequestBuilder, Attempt) {
        let url = format!("{}{path}", self.base);
        (self.http.delete(&url), Attempt { method: "DELETE", url, started: Instant::now() })
    }

    pub(super) fn post(&self, path: &str) -> (RequestBuilder, Attempt) {
        let url = format!("{}{path}", self.base);
        (self.http.post(&url), Attempt { method: "POST", url, started: Instant::now() })
    }

    /// Sends a request; an answer other than success is an error.
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
        attempt: &Attempt,
    ) -> Result<Response, CliError> {
        attempt.succeeded(self.exchange(request, attempt).await?).await
    }

    /// Sends a request and returns any answer.
    pub(super) async fn exchange(
        &self,
        request: RequestBuilder,
        attempt: &Attempt,
    ) -> Result<Response, CliError> {
        request.send().await.map_err(|error| {
            if error.is_connect() {
                CliError::NoNode { url: self.base.clone(), reason: reason(&error) }
            } else {
                attempt.failed(&error, "look at the log of the node")
            }
        })
    }
}

/// With the write token, where there is one.
pub(super) async fn with_token(request: RequestBuilder, config: &Config) -> Result<RequestBuilder, CliError> {
    let Some(file) = config.write_token_file.clone() else { return Ok(request) };
    let token = tokio::task::spawn_blocking(move || {
        write_token::read(&file).map_err(|error| CliError::File {
            action: "cannot read the write token in",
            path: file,
            error,
            remedy: "become a user who may read it, or name another write-token-file",
        })
    });
    Ok(request.bearer_auth(token.await??))
}

impl Attempt {
    /// An answer other than success is an error.
    pub(super) async fn succeeded(&self, response: Response) -> Result<Response, CliError> {
        if response.status().is_success() { Ok(response) } else { Err(self.refused(response).await) }
    }

    /// The whole body of an answer that is no longer than `most`.
    pub(super) async fn read(&self, response: &mut Response, most: usize) -> Result<Vec<u8>, CliError> {
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() > most => {
                    let reason = format!("the answer is longer than {}", super::progress::size(most as u64));
                    return Err(self.broken(reason, "check that --http names a p2p-cache node"));
                }
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => return Ok(body),
                Err(error) => return Err(self.failed(&error, "look at the log of the node")),
            }
        }
    }

    /// The request failed below HTTP.
    pub(super) fn failed(&self, error: &reqwest::Error, remedy: &'static str) -> CliError {
        self.broken(reason(error), remedy)
    }

    /// The answer is not one that can be used.
    pub(super) fn broken(&self, reason: String, remedy: &'static str) -> CliError {
        CliError::Request {
            method: self.method,
            url: self.url.clone(),
            reason,
            elapsed_seconds: self.started.elapsed().as_secs_f64(),
            remedy,
        }
    }

    async fn refused(&self, mut response: Response) -> CliError {
        let status = response.status();
        let mut body = Vec::new();
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() >= MAX_MESSAGE_BYTES {
                body.truncate(MAX_MESSAGE_BYTES);
                break;
            }
        }
        let message = printable(String::from_utf8_lossy(&body).trim());
        CliError::Refused {
            method: self.method,
            url: self.url.clone(),
            status: status.as_u16(),
            message: if message.is_empty() {
                status.canonical_reason().unwrap_or_default().into()
            } else {
                message
            },
            remedy: remedy(status),
        }
    }
}

fn remedy(status: StatusCode) -> &'static str {
    match status.as_u16() {
        404 | 410 => {
            "neither the node nor its peers and origins have it: check the digest and `p2p-cache status`"
        }
        400 => "check the digest and the versions of node and command (--version)",
        401 => "set write-token-file to the file that has the token of the node",
        403 => "run the command on the machine of the node, as the message says",
        405 | 501 => "check that --http names a p2p-cache node, and its version",
        408 => "the file came too slowly: try again",
        413 => "the file is larger than the node takes: raise its max-store-size",
        422 => "the file changed while it was read: try again when it is at rest",
        507 => "free disk space on the node, or raise its max-store-size",
        _ => "look at the log of the node",
    }
}

/// An address that a client can connect to: "any address" stands for this machine.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

/// The innermost cause, which is the one that says something, without the URL.
pub(in crate::cli) fn reason(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_address_is_reached_over_loopback() {
        for (bound, expected) in
            [("0.0.0.0:1", "127.0.0.1:1"), ("[::]:1", "[::1]:1"), ("10.0.0.1:1", "10.0.0.1:1")]
        {
            assert_eq!(reachable(bound.parse().unwrap()).to_string(), expected);
        }
    }

    #[test]
    fn port_zero_cannot_be_found() {
        let outcome = NodeClient::new("127.0.0.1:0".parse().unwrap(), None);
        assert!(outcome.is_err_and(|error| error.to_string().contains("ready line")));
    }
}
