//! `p2p-cache id`

use std::path::PathBuf;

use p2p_cache_discovery::{Identity, KEY_FILE};

use super::console::Console;
use super::error::CliError;

/// Prints the peer id; makes the key only when told to.
pub(super) async fn run(
    console: &Console,
    state_dir: PathBuf,
    create: bool,
    json: bool,
) -> Result<(), CliError> {
    let identity = tokio::task::spawn_blocking(move || load(state_dir, create)).await??;
    let peer_id = identity.peer_id().to_string();
    if json {
        console.print_json(&serde_json::json!({ "peer_id": peer_id }))
    } else {
        console.print(&format!("{peer_id}\n"))
    }
}

fn load(state_dir: PathBuf, create: bool) -> Result<Identity, CliError> {
    // A key that is there but cannot be looked at is for the identity to complain about.
    let is_missing = state_dir.join(KEY_FILE).try_exists().is_ok_and(|exists| !exists);
    if is_missing && !create {
        return Err(CliError::NoIdentity { path: state_dir });
    }
    Ok(Identity::load_or_create(&state_dir)?)
}
