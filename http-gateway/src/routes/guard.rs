//! Who may ask, and who may write.
//!
//! A web page can make the browser of this machine send requests to the gateway. It cannot read the answers unless it
//! makes its own host name stand for this machine (DNS rebinding); then the requests say that name in `Host`. And it
//! cannot upload without the browser saying so in `Origin`.

use std::net::IpAddr;

use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, HOST, HeaderMap, ORIGIN};
use axum::http::{HeaderValue, StatusCode};

use super::{App, Connection};
use crate::access::WriteToken;
use crate::answer::Refusal;
use crate::upload::Uploader;

const FOREIGN_HOST: Refusal = Refusal::new(
    StatusCode::MISDIRECTED_REQUEST,
    "this node is not known by the name in the Host header: use localhost or an address, or add the name to the setting \
     allowed-hosts",
);

/// Refuses what a client on this machine sends to a name that is not ours. What other machines see is made for them.
pub(super) fn require_own_host(
    app: &App,
    connection: Option<&Connection>,
    request: &Request,
) -> Result<(), Refusal> {
    if !connection.is_some_and(|connection| connection.is_loopback) {
        return Ok(());
    }
    let access = app.access.get();
    let named = |host: &str| is_own_host(host, &access.allowed_hosts);
    if request.uri().host().is_some_and(|host| !named(host)) {
        return Err(FOREIGN_HOST);
    }
    let own = |value: &HeaderValue| value.to_str().is_ok_and(named);
    if request.headers().get_all(HOST).iter().all(own) { Ok(()) } else { Err(FOREIGN_HOST) }
}

/// `host` is a name or an address, with or without a port.
fn is_own_host(host: &str, allowed: &[String]) -> bool {
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or(rest, |(address, _)| address),
        // An IPv6 address without brackets has more than one colon.
        None if host.matches(':').count() == 1 => host.split_once(':').map_or(host, |(name, _)| name),
        None => host,
    };
    let name = bare.strip_suffix('.').unwrap_or(bare).to_ascii_lowercase();
    bare.parse::<IpAddr>().is_ok()
        || name == "localhost"
        || name.ends_with(".localhost")
        || allowed.contains(&name)
}

/// Who uploads, if it may. Without a write token that is whoever runs on this machine; with one, whoever knows it.
pub(super) fn writer(app: &App, is_loopback: bool, headers: &HeaderMap) -> Result<Uploader, Refusal> {
    // Browsers name the page that sends an upload; other clients name none. No web page may fill the store.
    if headers.contains_key(ORIGIN) {
        return Err(Refusal::new(StatusCode::FORBIDDEN, "uploads are not taken from web pages"));
    }
    let uploader = if is_loopback { Uploader::ThisMachine } else { Uploader::Other };
    match &app.access.get().write_token {
        Some(token) if headers.get(AUTHORIZATION).is_some_and(|value| says(token, value.as_bytes())) => {
            Ok(uploader)
        }
        Some(_) => Err(Refusal::new(
            StatusCode::UNAUTHORIZED,
            "uploads need the write token of this node, as a bearer token or as the password in a netrc file",
        )),
        None if is_loopback => Ok(uploader),
        None => Err(Refusal::new(
            StatusCode::FORBIDDEN,
            "uploads are taken from this machine only, until the node has a write-token-file",
        )),
    }
}

/// Whether an `Authorization` header has the token: `Bearer TOKEN`, or `Basic` with any user and the token as password,
/// which is what Nix makes of a netrc file.
fn says(token: &WriteToken, value: &[u8]) -> bool {
    let Some((scheme, rest)) = std::str::from_utf8(value).ok().and_then(|value| value.split_once(' ')) else {
        return false;
    };
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return token.is(rest.as_bytes());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return false;
    }
    use base64::Engine;
    let decoded = base64::engine::general_purpose::STANDARD.decode(rest).unwrap_or_default();
    let colon = decoded.iter().position(|byte| *byte == b':');
    colon.is_some_and(|colon| token.is(&decoded[colon + 1..]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use proptest::prelude::*;

    #[test]
    fn own_names_are_addresses_localhost_and_what_is_allowed() {
        let allowed = ["cache.example.org".to_owned()];
        for own in [
            "localhost",
            "localhost:5380",
            "LOCALHOST.:1",
            "node.localhost",
            "127.0.0.1",
            "127.0.0.1:5380",
            "[::1]:5380",
            "[::1]",
            "::1",
            "192.0.2.7:80",
            "Cache.Example.org:5380",
        ] {
            assert!(is_own_host(own, &allowed), "{own}");
        }
        for foreign in
            ["", ":80", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "xlocalhost"]
        {
            assert!(!is_own_host(foreign, &allowed), "{foreign}");
        }
    }

    #[test]
    fn the_token_is_taken_as_bearer_and_as_password_of_any_user() {
        let token = WriteToken::new("0123456789abcdef").unwrap();
        let basic = |text: &str| {
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(text)).into_bytes()
        };
        assert!(says(&token, b"Bearer 0123456789abcdef"));
        assert!(says(&token, b"bearer  0123456789abcdef "));
        assert!(says(&token, &basic("anybody:0123456789abcdef")));
        assert!(says(&token, &basic(":0123456789abcdef")));
        for bad in [
            &b"Bearer 0123456789abcde"[..],
            b"Bearer 0123456789abcdef0",
            b"Bearer",
            b"0123456789abcdef",
            b"Digest 0123456789abcdef",
            b"Basic ?",
            b"\xff Bearer",
            &basic("0123456789abcdef"),
            &basic("0123456789abcdef:"),
        ] {
            assert!(!says(&token, bad), "{}", String::from_utf8_lossy(bad));
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read_without_a_panic(host in "\\PC{0,60}", value: Vec<u8>) {
            let _ = is_own_host(&host, &[]);
            let _ = says(&WriteToken::new("0123456789abcdef").unwrap(), &value);
        }
    }
}
