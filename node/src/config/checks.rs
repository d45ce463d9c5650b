//! Values that are right one by one and wrong together.

use std::net::IpAddr;

use super::fault::{Fault, Source, redact};
use super::layers::Effective;
use super::model::Config;
use super::parsers::{parts_of, port_of};
use p2p_cache_discovery::Multiaddr;

/// A rule over several settings.
struct Rule {
    /// The settings it reads; the first one is blamed. It is skipped when one of them is faulty itself.
    keys: &'static [&'static str],
    /// Problem and remedy of each violation.
    violations: fn(&Config) -> Vec<(String, String)>,
}

const RULES: &[Rule] = &[
    Rule { keys: &["http", "listen"], violations: http_port_is_taken },
    Rule { keys: &["listen"], violations: listen_twice },
    Rule { keys: &["origin", "http"], violations: origin_is_this_node },
    Rule { keys: &["origin"], violations: origin_twice },
    Rule { keys: &["peer", "allowed-peers"], violations: static_peer_is_not_allowed },
    Rule {
        keys: &["origin-connect-timeout", "origin-first-byte-timeout"],
        violations: connect_outlasts_first_byte,
    },
    Rule { keys: &["state-dir", "nix-store"], violations: state_in_the_nix_store },
    Rule { keys: &["publish", "never-share"], violations: published_and_never_shared },
];

/// Every contradiction, blamed on the setting of the highest layer among those involved.
pub(super) fn contradictions(config: &Config, values: &[Effective], bad_keys: &[&str]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for rule in RULES {
        if rule.keys.iter().any(|key| bad_keys.contains(key)) {
            continue;
        }
        let involved = || values.iter().filter(|value| rule.keys.contains(&value.setting.key));
        let source = involved().map(|value| value.source.clone()).max().unwrap_or(Source::Default);
        let blamed = involved().find(|value| value.source == source);
        let key = blamed.map_or(rule.keys[0], |value| value.setting.key);
        for (problem, remedy) in (rule.violations)(config) {
            faults.push(Fault { source: source.clone(), key: key.to_owned(), value: None, problem, remedy });
        }
    }
    faults
}

fn http_port_is_taken(config: &Config) -> Vec<(String, String)> {
    let (ip, port) = (config.http.ip(), config.http.port());
    let clash = |address: &&Multiaddr| {
        let overlaps = ip_of(address).is_none_or(|other| {
            other == ip
                || (other.is_ipv4() == ip.is_ipv4() && (other.is_unspecified() || ip.is_unspecified()))
        });
        port != 0 && overlaps && port_of(address) == Some(("tcp".to_owned(), port))
    };
    let clashes = config.listen.iter().filter(clash);
    clashes
        .map(|address| {
            (
                format!("asks for one TCP port twice: http {} and listen {address}", config.http),
                "change the port of one of them".to_owned(),
            )
        })
        .collect()
}

fn listen_twice(config: &Config) -> Vec<(String, String)> {
    let fixed = config.listen.iter().filter(|address| port_of(address).is_some_and(|(_, port)| port != 0));
    repeated(fixed.map(ToString::to_string))
        .map(|address| (format!("names {address} twice"), "remove one of them".to_owned()))
        .collect()
}

fn origin_is_this_node(config: &Config) -> Vec<(String, String)> {
    let is_this_node = |url: &&url::Url| {
        let host: Option<IpAddr> = match url.host() {
            Some(url::Host::Ipv4(ip)) => Some(ip.into()),
            Some(url::Host::Ipv6(ip)) => Some(ip.into()),
            Some(url::Host::Domain("localhost")) => Some(std::net::Ipv4Addr::LOCALHOST.into()),
            _ => None,
        };
        let own = config.http.ip();
        config.http.port() != 0
            && url.port_or_known_default() == Some(config.http.port())
            && host.is_some_and(|host| host == own || (host.is_loopback() && own.is_unspecified()))
    };
    let mirrors = config.origins.iter().filter(is_this_node);
    mirrors
        .map(|url| {
            (
                format!("makes the node its own origin: {} is its http address", redact(url.as_str())),
                "name the cache behind it, or change http".to_owned(),
            )
        })
        .collect()
}

fn origin_twice(config: &Config) -> Vec<(String, String)> {
    repeated(config.origins.iter().map(|url| url.as_str().trim_end_matches('/').to_owned()))
        .map(|url| (format!("names {} twice", redact(&url)), "remove one of them".to_owned()))
        .collect()
}

fn static_peer_is_not_allowed(config: &Config) -> Vec<(String, String)> {
    let Some(allowed) = &config.allowed_peers else { return Vec::new() };
    let allowed: Vec<String> = allowed.iter().map(ToString::to_string).collect();
    let ids = config.peers.iter().filter_map(|address| {
        let (name, id) = parts_of(address).pop()?;
        id.filter(|_| name == "p2p")
    });
    ids.filter(|id| !allowed.contains(id))
        .map(|id| {
            (
                format!("contradicts: peer {id} is not among allowed-peers"),
                "add it to allowed-peers or remove it from peer".to_owned(),
            )
        })
        .collect()
}

fn connect_outlasts_first_byte(config: &Config) -> Vec<(String, String)> {
    let (connect, first) = (config.origin_connect_timeout, config.origin_first_byte_timeout);
    if connect <= first {
        return Vec::new();
    }
    vec![(
        format!(
            "contradicts: origin-connect-timeout {connect:?} is longer than origin-first-byte-timeout {first:?}"
        ),
        "make the time for the connection the shorter one".to_owned(),
    )]
}

fn state_in_the_nix_store(config: &Config) -> Vec<(String, String)> {
    let store = config.nix_store.as_ref().map(|root| root.join("nix/store"));
    if !store.is_some_and(|store| config.state_dir.starts_with(store)) {
        return Vec::new();
    }
    vec![(
        format!("contradicts: state-dir {} lies in the Nix store", config.state_dir.display()),
        "choose a directory outside it, for example /var/lib/p2p-cache".to_owned(),
    )]
}

fn published_and_never_shared(config: &Config) -> Vec<(String, String)> {
    let excluded_by = |name: &str| config.never_share.iter().find(|pattern| pattern.matches(name));
    let contradictions = config.publish.iter().filter_map(|path| Some((path, excluded_by(path.name()?)?)));
    contradictions
        .map(|(path, pattern)| {
            (
                format!("contradicts: publish names {path}, which never-share excludes as {pattern}"),
                "remove one of them; an exclusion wins over everything".to_owned(),
            )
        })
        .collect()
}

fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    parts_of(address).into_iter().find_map(|(_, value)| value?.parse().ok())
}

/// Each value that occurs again, as often as it occurs again.
fn repeated(values: impl Iterator<Item = String>) -> impl Iterator<Item = String> {
    let mut seen = std::collections::HashSet::new();
    values.filter(move |value| !seen.insert(value.clone()))
}
