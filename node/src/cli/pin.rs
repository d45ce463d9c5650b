//! `p2p-cache pin DIGEST...` and `p2p-cache unpin DIGEST...`

use std::time::Duration;

use p2p_cache_protocol::{Digest, NarInfo, StorePath};

use super::client::{NodeClient, with_token};
use super::console::Console;
use super::error::CliError;
use super::get;
use crate::config::Config;

/// The node answers when a copy of a path of the Nix store is on its own disk, if it has to make one.
const SILENCE: Duration = Duration::from_secs(600);
/// Longer than every narinfo.
const MAX_NARINFO_BYTES: usize = 1024 * 1024;

pub(super) async fn run(
    console: &Console,
    config: &Config,
    names: &[String],
    pinned: bool,
) -> Result<(), CliError> {
    let client = NodeClient::new(config.http, Some(SILENCE))?;
    for name in names {
        let digest = digest_of(&client, name).await?;
        let path = NodeClient::blob_path(&digest).replacen("/blobs", "/api/v1/pins", 1);
        let (request, attempt) = if pinned { client.put(&path) } else { client.delete(&path) };
        match client.send(with_token(request, config).await?, &attempt).await {
            Ok(_) => console.print(&format!("{} {digest}\n", if pinned { "pinned" } else { "unpinned" }))?,
            Err(CliError::Refused { method, url, status: status @ 404, .. }) => {
                let message = format!("{digest} is not on this machine");
                let remedy = "fetch it through the node first, with `p2p-cache get` or with Nix";
                return Err(CliError::Refused { method, url, status, message, remedy });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The digest, or that of the NAR of a store path.
async fn digest_of(client: &NodeClient, name: &str) -> Result<Digest, CliError> {
    let Ok(path) = name.parse::<StorePath>() else { return get::parse(name) };
    let (request, attempt) = client.get(&format!("/{}.narinfo", path.hash()));
    let mut response = client.send(request, &attempt).await?;
    let text = attempt.read(&mut response, MAX_NARINFO_BYTES).await?;
    let narinfo = NarInfo::parse(&String::from_utf8_lossy(&text)).map_err(|error| {
        attempt.broken(
            format!("the narinfo cannot be read: {error}"),
            "check that --http names a p2p-cache node",
        )
    })?;
    Ok(Digest::Sha256(narinfo.nar_hash))
}
