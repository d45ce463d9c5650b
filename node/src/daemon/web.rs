//! What the gateway needs of the configuration.

use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use p2p_cache_http_gateway::{Access, AccessControl, GatewayConfig, WriteToken};
use p2p_cache_protocol::TrustedKeys;

use super::DaemonError;
use crate::config::Config;
use crate::origin::Origins;
use crate::side_files::SideFiles;
use crate::write_token;

/// Answers to HTTP clients that are short enough finish within this; longer ones are cut at a verified boundary.
const HTTP_GRACE: Duration = Duration::from_secs(3);

pub(super) fn gateway_config(
    config: &Config,
    listener: Option<TcpListener>,
    access: AccessControl,
) -> GatewayConfig {
    GatewayConfig {
        address: config.http,
        listener: listener.map(Arc::new),
        shutdown_grace: HTTP_GRACE,
        access,
        ..GatewayConfig::default()
    }
}

/// By which names clients may ask, and what uploads must show.
pub(super) async fn access(config: &Config) -> Result<Access, DaemonError> {
    let token_file = config.write_token_file.clone();
    let read = move || (token_file.as_deref().map(self::write_token).transpose(), host_name());
    let (write_token, host_name) = tokio::task::spawn_blocking(read).await?;
    let mut allowed_hosts = config.allowed_hosts.clone();
    allowed_hosts.extend(host_name);
    Ok(Access { allowed_hosts, write_token: write_token? })
}

pub(super) async fn side_files(config: &Config, origins: &Origins) -> Result<SideFiles, DaemonError> {
    let (state_dir, missing_for) = (config.state_dir.clone(), config.origin_missing_memory);
    let (origins, directory) = (origins.clone(), state_dir.join("side"));
    let opened =
        tokio::task::spawn_blocking(move || SideFiles::open(&state_dir, origins, missing_for)).await?;
    opened.map_err(|error| format!("cannot use {}: {error}", directory.display()).into())
}

/// Whoever has signed what this node takes from peers, or gives to them, may have signed an upload.
pub(super) fn accepted_keys(config: &Config) -> TrustedKeys {
    let keys = [&config.trusted_public_keys, &config.shared_public_keys, &config.extra_shared_keys];
    TrustedKeys::new(keys.into_iter().flatten().cloned().collect())
}

/// Reads the token. Blocking.
fn write_token(path: &Path) -> Result<WriteToken, DaemonError> {
    let text = write_token::read(path).map_err(|error| {
        format!(
            "the write-token-file {} cannot be read: {error}; let the node read it, or set write-token-file to none",
            path.display()
        )
    })?;
    WriteToken::new(&text).map_err(|error| format!("the write-token-file {} {error}", path.display()).into())
}

/// The name of this machine, by which its own clients may call it; nothing where the system does not say. Blocking.
fn host_name() -> Vec<String> {
    let Ok(name) = std::fs::read_to_string("/proc/sys/kernel/hostname") else { return Vec::new() };
    let name = name.trim().to_ascii_lowercase();
    if name.is_empty() || name == "(none)" { Vec::new() } else { vec![format!("{name}.local"), name] }
}
