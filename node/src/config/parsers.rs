//! Text to value, one function a type. The error is a clause that follows the value in a message:
//! "is not an address and a port".

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use p2p_cache_discovery::{Multiaddr, PeerId};
use p2p_cache_protocol::signature::PublicKey;
use tracing_subscriber::EnvFilter;
use url::Url;

use super::settings::EMPTY_LIST;
use crate::logging::LogFormat;
use crate::sharing::{NamePattern, NamePatternError, PublishedPath, PublishedPathError, Share};

/// Longest salt that makes sense; a longer one is more likely a pasted file than a salt.
const MAX_SALT_BYTES: usize = 64;

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    std::path::absolute(text).map_err(|error| format!("is not a usable path ({error})"))
}

/// A directory, or none.
pub(super) fn path_or_none(text: &str) -> Result<Option<PathBuf>, String> {
    if text == EMPTY_LIST { Ok(None) } else { path(text).map(Some) }
}

pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "is not a numeric address and a port".to_owned())
}

/// An address that can be listened on: `/ip4|ip6/ADDR/tcp/PORT` or `.../udp/PORT/quic-v1`.
pub(super) fn listen_address(text: &str) -> Result<Multiaddr, String> {
    let address = multiaddr(text)?;
    let parts = parts_of(&address);
    match names(&parts).as_slice() {
        ["ip4" | "ip6", "tcp"] | ["ip4" | "ip6", "udp", "quic-v1"] => Ok(address),
        _ => Err("is not an IP address with a TCP port, or with a UDP port and quic-v1".to_owned()),
    }
}

/// An address that can be dialled: as [`listen_address`], also by name, and with `/p2p/ID` behind it.
pub(super) fn peer_address(text: &str) -> Result<Multiaddr, String> {
    let address = multiaddr(text)?;
    let parts = parts_of(&address);
    let mut names = names(&parts);
    if names.last() == Some(&"p2p") {
        names.pop();
    }
    let dialable = matches!(
        names.as_slice(),
        ["ip4" | "ip6" | "dns" | "dns4" | "dns6", "tcp"]
            | ["ip4" | "ip6" | "dns" | "dns4" | "dns6", "udp", "quic-v1"]
            | ["dnsaddr"]
    );
    if !dialable {
        return Err("does not name a host and a TCP port, or a UDP port and quic-v1".to_owned());
    }
    match port_of(&address) {
        Some((_, 0)) => Err("has port 0, which cannot be dialled".to_owned()),
        _ => Ok(address),
    }
}

fn multiaddr(text: &str) -> Result<Multiaddr, String> {
    text.parse().map_err(|error| format!("is not a multiaddress ({error})"))
}

/// The components of an address as `(name, value)`; `quic-v1` has no value.
pub(super) fn parts_of(address: &Multiaddr) -> Vec<(String, Option<String>)> {
    let text = address.to_string();
    let mut words = text.split('/').skip(1).map(str::to_owned);
    let mut parts = Vec::new();
    for name in address.protocol_stack() {
        let valued = !matches!(name, "quic" | "quic-v1");
        // The name itself is in the text, too; what follows it is its value.
        let _ = words.next();
        parts.push((name.to_owned(), if valued { words.next() } else { None }));
    }
    parts
}

fn names(parts: &[(String, Option<String>)]) -> Vec<&str> {
    parts.iter().map(|(name, _)| name.as_str()).collect()
}

/// Transport (`tcp` or `udp`) and port of an address.
pub(super) fn port_of(address: &Multiaddr) -> Option<(String, u16)> {
    parts_of(address)
        .into_iter()
        .find(|(name, _)| matches!(name.as_str(), "tcp" | "udp"))
        .and_then(|(name, value)| Some((name, value?.parse().ok()?)))
}

pub(super) fn origin_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("is not a URL ({error})"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("has the scheme {:?}, which is not supported", url.scheme()));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a query or a fragment, which the URL of a cache cannot have".to_owned());
    }
    Ok(url)
}

pub(super) fn public_key(text: &str) -> Result<PublicKey, String> {
    PublicKey::from_str(text).map_err(|error| format!("is not a public key ({error})"))
}

pub(super) fn peer_id(text: &str) -> Result<PeerId, String> {
    PeerId::from_str(text).map_err(|error| format!("is not a peer id ({error})"))
}

pub(super) fn share(text: &str) -> Result<Share, String> {
    text.parse().map_err(|_| "is none of none, lan, public".to_owned())
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "auto" => Ok(LogFormat::Auto),
        "human" => Ok(LogFormat::Human),
        "json" => Ok(LogFormat::Json),
        _ => Err("is none of auto, human, json".to_owned()),
    }
}

pub(super) fn published_path(text: &str) -> Result<PublishedPath, String> {
    text.parse().map_err(|error: PublishedPathError| error.to_string())
}

pub(super) fn name_pattern(text: &str) -> Result<NamePattern, String> {
    text.parse().map_err(|error: NamePatternError| error.to_string())
}

/// Linux allows 15 bytes of nearly anything; names that are in use begin like a word and have few signs in them.
pub(super) fn interface(text: &str) -> Result<String, String> {
    const MAX_INTERFACE_NAME_BYTES: usize = 15;
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:@+".contains(&byte);
    let begins_well = text.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric() || first == b'_');
    if !begins_well || text.len() > MAX_INTERFACE_NAME_BYTES || !text.bytes().all(usual) {
        return Err("is not the name of a network interface".to_owned());
    }
    Ok(text.to_owned())
}

/// A name as it stands in a `Host` header, without the port.
pub(super) fn host_name(text: &str) -> Result<String, String> {
    const MAX_HOST_NAME_BYTES: usize = 253;
    let name = text.strip_suffix('.').unwrap_or(text);
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_label = |label: &str| !label.is_empty() && !label.starts_with('-') && label.bytes().all(usual);
    // What ends in a number is an address, or meant to be one; addresses need no permission.
    let is_numeric =
        name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    if name.len() > MAX_HOST_NAME_BYTES || !name.split('.').all(is_label) || is_numeric {
        return Err("is not a host name".to_owned());
    }
    Ok(name.to_ascii_lowercase())
}

/// A number from 1 to `max`.
pub(super) fn count(text: &str, max: u32) -> Result<u32, String> {
    match text.parse::<u64>() {
        Ok(0) => Err("is zero".to_owned()),
        Ok(number) => {
            u32::try_from(number).ok().filter(|n| *n <= max).ok_or_else(|| format!("is more than {max}"))
        }
        Err(_) => Err("is not a whole number".to_owned()),
    }
}

pub(super) fn salt(text: &str) -> Result<String, String> {
    match text.len() {
        0 => Err("is empty".to_owned()),
        n if n > MAX_SALT_BYTES => Err(format!("is longer than {MAX_SALT_BYTES} bytes")),
        _ => Ok(text.to_owned()),
    }
}

pub(super) fn log_filter(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("is empty".to_owned());
    }
    // The parser of tracing-subscriber 0.3 slices some filters inside a character, which panics.
    if !text.is_ascii() {
        return Err("has characters beyond ASCII".to_owned());
    }
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("is not a log filter ({error})")),
    }
}

/// The words for yes and no that environment variables and `--flag=VALUE` take.
pub(crate) fn boolean(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err("is neither true nor false".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PEER: &str = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";

    #[test]
    fn listen_addresses_need_an_ip_and_a_port() {
        for good in ["/ip4/0.0.0.0/tcp/5381", "/ip6/::/udp/0/quic-v1"] {
            assert!(listen_address(good).is_ok(), "{good}");
        }
        let named = format!("/ip4/1.2.3.4/tcp/1/p2p/{PEER}");
        for bad in ["/ip4/0.0.0.0", "/ip4/0.0.0.0/udp/1", "/dns4/host/tcp/1", "/tcp/1", "host:1", "", &named]
        {
            assert!(listen_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn peer_addresses_may_be_names_and_carry_an_id() {
        let named = format!("/dns/host/udp/1/quic-v1/p2p/{PEER}");
        for good in ["/ip4/10.0.0.2/tcp/5381", "/dns4/host/tcp/1", &named] {
            assert!(peer_address(good).is_ok(), "{good}");
        }
        let bare = format!("/p2p/{PEER}");
        for bad in ["/ip4/10.0.0.2/tcp/0", "/ip4/10.0.0.2", "10.0.0.2:5381", &bare] {
            assert!(peer_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn components_of_an_address_are_told_apart() {
        let address: Multiaddr = format!("/ip6/::1/udp/53/quic-v1/p2p/{PEER}").parse().unwrap();
        let expected = [("ip6", Some("::1")), ("udp", Some("53")), ("quic-v1", None), ("p2p", Some(PEER))];
        let expected: Vec<_> = expected.map(|(n, v)| (n.to_owned(), v.map(str::to_owned))).into();
        assert_eq!(parts_of(&address), expected);
        assert_eq!(port_of(&address), Some(("udp".to_owned(), 53)));
    }

    #[test]
    fn numbers_have_bounds() {
        assert_eq!(count("7", 10), Ok(7));
        for bad in ["0", "11", "-1", "1.5", "many", "99999999999999999999"] {
            assert!(count(bad, 10).is_err(), "{bad}");
        }
    }

    #[test]
    fn host_names_have_no_port_and_no_scheme() {
        assert_eq!(host_name("Cache.Example.org."), Ok("cache.example.org".to_owned()));
        for bad in
            ["", ".", "a..b", "host:80", "http://host", "[::1]", "a b", "-5", "a.-b", "17", "127.0.0.1"]
        {
            assert!(host_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn relative_paths_become_absolute() {
        assert!(path("some/where").unwrap().is_absolute());
        assert!(path("").is_err());
    }

    #[test]
    fn a_log_filter_that_would_panic_its_parser_is_refused() {
        assert!(log_filter("A\u{a1}=").is_err());
        assert!(log_filter("info,p2p_cache=debug").is_ok());
    }

    proptest! {
        #[test]
        fn no_ascii_filter_panics(text in "[ -~\\t]{0,60}|([a-z_:]|=|\\[|\\]|\\{|\\}|,|\"|info|\\.\\*){0,30}") {
            let _ = log_filter(&text);
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = (path(&text), socket_address(&text), listen_address(&text), peer_address(&text));
            let _ = (origin_url(&text), public_key(&text), peer_id(&text), share(&text), boolean(&text));
            let _ = (published_path(&text), name_pattern(&text));
            let _ = (count(&text, 3), salt(&text), log_filter(&text), interface(&text), host_name(&text));
        }

        #[test]
        fn no_address_like_text_panics(text in "(/(ip4|ip6|tcp|udp|quic-v1|p2p|dns|[0-9.:]{1,9})){0,6}") {
            let _ = (listen_address(&text), peer_address(&text));
        }
    }
}
