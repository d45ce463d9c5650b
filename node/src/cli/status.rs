//! `p2p-cache status`

mod table;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use p2p_cache_http_gateway::Status;

use super::client::NodeClient;
use super::console::Console;
use super::error::CliError;
use table::{Sample, describe};

/// The node computes its status in milliseconds.
const SILENCE: Duration = Duration::from_secs(10);
/// Longest status that is read. A peer takes about 200 bytes.
const MAX_STATUS_BYTES: usize = 8 * 1024 * 1024;
const PATH: &str = "/api/v1/status";
/// Between two looks of `--watch`.
const INTERVAL: Duration = Duration::from_secs(1);
/// Cursor to the corner, and everything below it away: less flicker than an empty screen first.
const REDRAW: &str = "\x1b[H\x1b[J";
const CLEAR: &str = "\x1b[2J";

pub(super) async fn run(
    console: &Console,
    http: SocketAddr,
    json: bool,
    watch: bool,
) -> Result<(), CliError> {
    let client = NodeClient::new(http, Some(SILENCE))?;
    if watch {
        return tokio::select! {
            ended = follow(console, &client, json) => ended,
            _ = tokio::signal::ctrl_c() => Ok(()),
        };
    }
    let status = ask(&client).await?;
    if json { console.print_json(&status) } else { console.print(&describe(&status, client.base(), None)) }
}

/// What the node says of itself.
pub(super) async fn ask(client: &NodeClient) -> Result<Status, CliError> {
    let (request, attempt) = client.get(PATH);
    let mut response = client.send(request, &attempt).await?;
    let body = attempt.read(&mut response, MAX_STATUS_BYTES).await?;
    serde_json::from_slice(&body).map_err(|error| {
        attempt.broken(
            format!("the status cannot be understood ({error})"),
            "check that --http names a p2p-cache node of the same version",
        )
    })
}

/// Again and again. A node that is not there at first is an error; one that restarts is waited for.
async fn follow(console: &Console, client: &NodeClient, json: bool) -> Result<(), CliError> {
    let redraws = console.out_is_terminal && !json;
    if redraws {
        console.print(CLEAR)?;
    }
    let mut last: Option<Sample> = None;
    loop {
        match ask(client).await {
            Ok(status) if json => console.print(&one_line(&status)?)?,
            Ok(status) => {
                let text = describe(&status, client.base(), last.as_ref());
                console.print(&if redraws { format!("{REDRAW}{text}") } else { text + "\n" })?;
                last = Some(Sample { totals: status.totals, at: Instant::now() });
            }
            Err(CliError::NoNode { url, reason }) if last.is_some() => {
                let text = format!("no node answers on {url} ({reason}); waiting for it\n");
                console.print(&if redraws { format!("{REDRAW}{text}") } else { text })?;
            }
            Err(error) => return Err(error),
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

fn one_line(status: &Status) -> Result<String, CliError> {
    serde_json::to_string(status).map(|text| text + "\n").map_err(|error| CliError::Json { error })
}
