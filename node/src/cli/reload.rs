//! `p2p-cache reload`

use std::net::SocketAddr;
use std::time::Duration;

use p2p_cache_http_gateway::Reloaded;
use reqwest::StatusCode;

use super::client::NodeClient;
use super::console::{Console, printable};
use super::error::CliError;

/// A configuration is read in milliseconds; a disk that sleeps takes longer.
const SILENCE: Duration = Duration::from_secs(30);
/// Longest list of faults, or answer, that is read.
const MAX_ANSWER_BYTES: usize = 256 * 1024;
const PATH: &str = "/api/v1/reload";

pub(super) async fn run(console: &Console, http: SocketAddr, json: bool) -> Result<(), CliError> {
    let client = NodeClient::new(http, Some(SILENCE))?;
    let (request, attempt) = client.post(PATH);
    let mut response = client.exchange(request, &attempt).await?;
    if response.status() == StatusCode::UNPROCESSABLE_ENTITY {
        let faults = attempt.read(&mut response, MAX_ANSWER_BYTES).await?;
        let faults = String::from_utf8_lossy(&faults);
        let faults = faults.trim().lines().map(printable).collect::<Vec<_>>().join("\n");
        return Err(CliError::NotReloaded { faults });
    }
    let mut response = attempt.succeeded(response).await?;
    let body = attempt.read(&mut response, MAX_ANSWER_BYTES).await?;
    let reloaded: Reloaded = serde_json::from_slice(&body).map_err(|error| {
        let reason = format!("the answer cannot be understood ({error})");
        attempt.broken(reason, "check that --http names a p2p-cache node of the same version")
    })?;
    if json { console.print_json(&reloaded) } else { console.print(&describe(&reloaded)) }
}

fn describe(reloaded: &Reloaded) -> String {
    let list = |keys: &[String]| keys.iter().map(|key| printable(key)).collect::<Vec<_>>().join(", ");
    let mut text = match reloaded.applied.as_slice() {
        [] => "nothing to apply\n".to_owned(),
        keys => format!("applied: {}\n", list(keys)),
    };
    if !reloaded.needs_restart.is_empty() {
        text += &format!("changed, but needs a restart: {}\n", list(&reloaded.needs_restart));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_applied_and_what_was_not_is_told() {
        let both =
            Reloaded { applied: vec!["peer".into(), "log".into()], needs_restart: vec!["http".into()] };
        assert_eq!(describe(&both), "applied: peer, log\nchanged, but needs a restart: http\n");
        assert_eq!(describe(&Reloaded::default()), "nothing to apply\n");
    }
}
