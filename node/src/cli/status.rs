//! `p2p-cache status`

use std::fmt::Write;
use std::time::Duration;

use p2p_cache_http_gateway::Status;

use super::client::NodeClient;
use super::console::{Console, printable};
use super::error::CliError;
use super::progress::size;

/// The node computes its status in milliseconds.
const SILENCE: Duration = Duration::from_secs(10);
/// Longest status that is read. A peer takes about 200 bytes.
const MAX_STATUS_BYTES: usize = 8 * 1024 * 1024;
const PATH: &str = "/api/v1/status";

pub(super) async fn run(console: &Console, http: std::net::SocketAddr, json: bool) -> Result<(), CliError> {
    let client = NodeClient::new(http, Some(SILENCE))?;
    let (request, attempt) = client.get(PATH);
    let mut response = client.send(request, &attempt).await?;
    let mut body = Vec::new();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) if body.len() + chunk.len() > MAX_STATUS_BYTES => {
                let reason = format!("the status is longer than {}", size(MAX_STATUS_BYTES as u64));
                return Err(attempt.broken(reason, "check that --http names a p2p-cache node"));
            }
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(error) => return Err(attempt.failed(&error, "look at the log of the node")),
        }
    }
    let status: Status = serde_json::from_slice(&body).map_err(|error| {
        attempt.broken(
            format!("the status cannot be understood ({error})"),
            "check that --http names a p2p-cache node of the same version",
        )
    })?;
    if json { console.print_json(&status) } else { console.print(&describe(&status, client.base())) }
}

/// The status for people. Texts of other machines are made harmless.
fn describe(status: &Status, base: &str) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = write_summary(&mut text, status, base).and_then(|()| write_lists(&mut text, status));
    text
}

fn write_summary(out: &mut String, status: &Status, base: &str) -> std::fmt::Result {
    let uptime = indicatif::HumanDuration(Duration::from_secs(status.uptime_seconds));
    writeln!(out, "p2p-cache {}, up {uptime}", printable(&status.version))?;
    writeln!(out, "id        {}", printable(&status.peer_id))?;
    writeln!(out, "http      {base}")?;
    for address in &status.listen {
        writeln!(out, "listen    {}", printable(address))?;
    }
    let limit = status.store.max_bytes.map_or("unlimited".to_owned(), size);
    writeln!(out, "store     {} in {} blobs, limit {limit}", size(status.store.bytes), status.store.blobs)?;
    let totals = &status.totals;
    let (origin, peer) = (size(totals.received_origin_bytes), size(totals.received_peer_bytes));
    writeln!(out, "received  {origin} from origins, {peer} from peers")?;
    let (client, peer) = (size(totals.served_client_bytes), size(totals.served_peer_bytes));
    writeln!(out, "served    {client} to clients, {peer} to peers")
}

fn write_lists(out: &mut String, status: &Status) -> std::fmt::Result {
    writeln!(out, "peers     {}", status.peers.len())?;
    for peer in &status.peers {
        let rtt = peer.rtt_ms.map_or("?".to_owned(), |rtt| format!("{rtt:.1}"));
        let agent = peer.agent.as_deref().map(printable).unwrap_or_default();
        let (id, scope, address) =
            (printable(&peer.peer_id), printable(&peer.scope), printable(&peer.address));
        writeln!(out, "  {id}  {scope}  {rtt} ms  {address}  {agent}")?;
    }
    writeln!(out, "origins   {}", status.origins.len())?;
    for origin in &status.origins {
        let health = match (origin.healthy, &origin.last_error) {
            (true, None) => "ok".to_owned(),
            (true, Some(error)) => format!("ok, last failure: {}", printable(error)),
            (false, error) => format!("down: {}", printable(error.as_deref().unwrap_or("unknown reason"))),
        };
        writeln!(out, "  {}  {health}", printable(&origin.url))?;
    }
    writeln!(out, "transfers {}", status.transfers.len())?;
    for transfer in &status.transfers {
        let (present, whole) = (size(transfer.present_bytes), size(transfer.size_bytes));
        writeln!(
            out,
            "  {}  {present} of {whole}, {} readers",
            printable(&transfer.digest),
            transfer.readers
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use p2p_cache_http_gateway::{OriginStatus, PeerStatus};

    #[test]
    fn a_status_names_its_parts_and_tames_texts_of_peers() {
        let status = Status {
            version: "0.1.0".into(),
            peers: vec![PeerStatus {
                peer_id: "12D3".into(),
                scope: "lan".into(),
                rtt_ms: Some(0.42),
                agent: Some("evil\x1b[2J".into()),
                ..PeerStatus::default()
            }],
            origins: vec![OriginStatus {
                url: "http://o".into(),
                healthy: false,
                last_error: Some("refused".into()),
            }],
            ..Status::default()
        };
        let text = describe(&status, "http://127.0.0.1:5380");
        for part in
            ["p2p-cache 0.1.0", "12D3  lan  0.4 ms", "down: refused", "limit unlimited", "transfers 0"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains('\x1b'));
    }
}
