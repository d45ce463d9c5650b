//! Which `URL` values of a narinfo are safe to follow.

/// Why a URL is refused, as the end of a sentence; `None` when it is fine.
///
/// A relative URL must stay below the cache however it is joined: as text, as Nix does, or by the rules of
/// RFC 3986. So it may neither climb, nor name a host, nor a scheme, in any spelling that a URL parser
/// understands.
pub(super) fn refusal(url: &str) -> Option<&'static str> {
    const MAX_URL_BYTES: usize = 4096;
    if url.is_empty() {
        return Some("it is empty");
    }
    if url.len() > MAX_URL_BYTES {
        return Some("it is longer than 4096 bytes");
    }
    if !url.bytes().all(|c| c.is_ascii_graphic() && c != b'\\') {
        return Some("only printable ASCII without spaces and backslashes is allowed");
    }
    let path = url.split(['?', '#']).next().unwrap_or_default();
    let path = match split_scheme(path) {
        Some(rest) => {
            if rest.is_empty() || rest.starts_with('/') {
                return Some("it names no host");
            }
            rest
        }
        None => {
            if path.starts_with("//") {
                return Some("it names a host without a scheme");
            }
            if path.is_empty() {
                return Some("it has no path");
            }
            if path.split('/').next().is_some_and(|first| first.contains(':')) {
                return Some("of the schemes only http and https are allowed");
            }
            path
        }
    };
    path.split('/').any(is_dots).then_some("it has segments of dots")
}

fn split_scheme(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    let web = scheme.eq_ignore_ascii_case("http") || scheme.eq_ignore_ascii_case("https");
    web.then_some(rest)
}

/// `.` and `..`, spelled out or in percent-encoding, which URL parsers treat alike.
fn is_dots(segment: &str) -> bool {
    let plain = segment.replace("%2e", ".").replace("%2E", ".");
    plain == "." || plain == ".."
}
