//! Whether Nix asks the node, and believes whom the node believes.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use url::{Host, Url};

use super::Finding;
use crate::config::Config;

const NIX: &str = "nix";
const SUBSTITUTER: &str = "substituter";
const KEYS: &str = "keys";
/// It reads a few files.
const PATIENCE: Duration = Duration::from_secs(15);

/// What Nix is configured to do.
#[derive(Debug, Default, PartialEq, Eq)]
struct NixConfig {
    substituters: Vec<String>,
    trusted_public_keys: HashSet<String>,
}

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    match read().await {
        Ok(nix) => vec![substituter(config, &nix), keys(config, &nix)],
        Err(problem) => {
            let remedy =
                "without Nix on this machine all is well; else put `nix` into PATH and run this again";
            vec![Finding::warn(NIX, problem, remedy)]
        }
    }
}

/// Asks Nix itself: its configuration has several files, and includes.
async fn read() -> Result<NixConfig, String> {
    const CALLS: [&[&str]; 2] = [&["config", "show"], &["show-config"]];
    let mut problem = String::new();
    for call in CALLS {
        let mut command = Command::new("nix");
        command.args(["--extra-experimental-features", "nix-command"]).args(call);
        command.stdin(Stdio::null()).kill_on_drop(true);
        match tokio::time::timeout(PATIENCE, command.output()).await {
            Ok(Ok(output)) if output.status.success() => {
                return Ok(parse(&String::from_utf8_lossy(&output.stdout)));
            }
            Ok(Ok(output)) => problem = format!("`nix {}` failed ({})", call.join(" "), output.status),
            Ok(Err(error)) => return Err(format!("`nix` cannot be run: {error}")),
            Err(_) => return Err(format!("`nix {}` takes longer than {PATIENCE:?}", call.join(" "))),
        }
    }
    Err(problem)
}

fn parse(text: &str) -> NixConfig {
    let mut nix = NixConfig::default();
    for line in text.lines() {
        let Some((name, value)) = line.split_once('=') else { continue };
        let words = value.split_whitespace().map(str::to_owned);
        match name.trim() {
            "substituters" | "extra-substituters" => nix.substituters.extend(words),
            "trusted-public-keys" | "extra-trusted-public-keys" => nix.trusted_public_keys.extend(words),
            _ => {}
        }
    }
    nix
}

fn substituter(config: &Config, nix: &NixConfig) -> Finding {
    if nix.substituters.iter().any(|url| is_node(url, config.http)) {
        return Finding::ok(SUBSTITUTER, format!("Nix asks the node at {}", config.http));
    }
    Finding::fail(
        SUBSTITUTER,
        format!("Nix does not ask the node: none of its substituters is http://{}", config.http),
        format!(
            "add `extra-substituters = http://{}` to /etc/nix/nix.conf and restart nix-daemon (on NixOS \
             services.p2p-cache.enable does it)",
            config.http
        ),
    )
}

/// Whether a substituter leads to the node. Parameters such as `?priority=` and `?trusted=` change nothing.
fn is_node(substituter: &str, node: SocketAddr) -> bool {
    let Ok(url) = Url::parse(substituter) else { return false };
    let same_host = match url.host() {
        Some(Host::Domain(name)) => {
            name == "localhost" && (node.ip().is_loopback() || node.ip().is_unspecified())
        }
        Some(Host::Ipv4(ip)) => same_ip(ip.into(), node.ip()),
        Some(Host::Ipv6(ip)) => same_ip(ip.into(), node.ip()),
        None => false,
    };
    url.scheme() == "http" && same_host && url.port_or_known_default() == Some(node.port())
}

fn same_ip(ip: IpAddr, node: IpAddr) -> bool {
    ip == node || (node.is_unspecified() && ip.is_loopback())
}

fn keys(config: &Config, nix: &NixConfig) -> Finding {
    let unknown: Vec<String> = config
        .trusted_public_keys
        .iter()
        .map(ToString::to_string)
        .filter(|key| !nix.trusted_public_keys.contains(key))
        .collect();
    if unknown.is_empty() {
        return Finding::ok(KEYS, "Nix trusts every key that the node trusts");
    }
    let remedy = format!(
        "add `extra-trusted-public-keys = {}` to /etc/nix/nix.conf and restart nix-daemon, or take them out of \
         `trusted-public-key`",
        unknown.join(" ")
    );
    if unknown.len() == config.trusted_public_keys.len() {
        Finding::fail(KEYS, "Nix trusts none of the node's keys: it refuses all that the node brings", remedy)
    } else {
        let message =
            format!("Nix refuses what only these keys of the node have signed: {}", unknown.join(", "));
        Finding::warn(KEYS, message, remedy)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    const KEY: &str = "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=";

    #[test]
    fn the_node_is_known_by_all_its_names() {
        let node: SocketAddr = "127.0.0.1:5380".parse().unwrap();
        for url in ["http://127.0.0.1:5380", "http://localhost:5380/", "http://localhost:5380?trusted=1"] {
            assert!(is_node(url, node), "{url}");
        }
        for url in [
            "https://localhost:5380",
            "http://localhost",
            "http://localhost:538",
            "daemon",
            "http://[::1]:5380",
        ] {
            assert!(!is_node(url, node), "{url}");
        }
        assert!(is_node("http://[::1]:5380", "[::]:5380".parse().unwrap()));
        assert!(is_node("http://10.0.0.1", "10.0.0.1:80".parse().unwrap()));
    }

    #[test]
    fn what_nix_says_is_read_and_compared() {
        let config = Config::built_in("/x".into()).unwrap();
        let nix = parse(&format!(
            "cores = 0\nsubstituters = https://cache.nixos.org/ http://localhost:5380\ntrusted-public-keys = a:b {KEY}\n"
        ));
        assert_eq!(nix.substituters.len(), 2);
        assert_eq!(substituter(&config, &nix).level, Level::Ok);
        assert_eq!(keys(&config, &nix).level, Level::Ok);
        let other = parse("substituters = https://cache.nixos.org/\ntrusted-public-keys =\nnonsense\n");
        assert_eq!(substituter(&config, &other).level, Level::Fail);
        assert_eq!(keys(&config, &other).level, Level::Fail);
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_read(text in "(.{0,30}\n){0,5}", url in ".{0,40}") {
            let _ = (parse(&text), is_node(&url, "127.0.0.1:5380".parse().unwrap()));
        }
    }
}
