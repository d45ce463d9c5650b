//! Conditional requests (RFC 9110, section 13). Our entity tags are strong: they are the digest of the content.

use axum::http::HeaderMap;
use axum::http::header::{IF_MATCH, IF_NONE_MATCH, IF_RANGE};

/// Whether `If-None-Match` says that the client has this content already. Weak comparison: `W/"x"` matches `"x"`.
pub(crate) fn client_has_it(headers: &HeaderMap, etag: &[u8]) -> bool {
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .any(|value| any_tag(value.as_bytes(), |tag| tag.strip_prefix(b"W/").unwrap_or(tag) == etag))
}

/// Whether an `If-Match` header asks for other content than this.
pub(crate) fn wants_other_content(headers: &HeaderMap, etag: &[u8]) -> bool {
    let mut values = headers.get_all(IF_MATCH).iter().peekable();
    values.peek().is_some() && !values.any(|value| any_tag(value.as_bytes(), |tag| tag == etag))
}

/// Whether the `Range` of this request counts: there is no `If-Range`, or it names exactly this content. A date
/// never does, because we send none.
pub(crate) fn range_applies(headers: &HeaderMap, etag: &[u8]) -> bool {
    headers.get(IF_RANGE).is_none_or(|value| value.as_bytes().trim_ascii() == etag)
}

/// Our tags hold neither commas nor quotes, so a list can be split at its commas.
fn any_tag(list: &[u8], matches: impl Fn(&[u8]) -> bool) -> bool {
    list.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).any(|tag| tag == b"*" || matches(tag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    const ETAG: &[u8] = b"\"sha256:ab\"";

    fn headers(name: HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn if_none_match_knows_lists_weak_tags_and_the_star() {
        for value in ["\"sha256:ab\"", "W/\"sha256:ab\"", "\"x\", \"sha256:ab\"", "*"] {
            assert!(client_has_it(&headers(IF_NONE_MATCH, &[value]), ETAG), "{value}");
        }
        assert!(client_has_it(&headers(IF_NONE_MATCH, &["\"x\"", "\"sha256:ab\""]), ETAG));
        assert!(!client_has_it(&headers(IF_NONE_MATCH, &["\"x\""]), ETAG));
        assert!(!client_has_it(&HeaderMap::new(), ETAG));
    }

    #[test]
    fn if_match_compares_strongly() {
        assert!(!wants_other_content(&HeaderMap::new(), ETAG));
        assert!(!wants_other_content(&headers(IF_MATCH, &["*"]), ETAG));
        assert!(!wants_other_content(&headers(IF_MATCH, &["\"x\", \"sha256:ab\""]), ETAG));
        assert!(wants_other_content(&headers(IF_MATCH, &["W/\"sha256:ab\""]), ETAG));
        assert!(wants_other_content(&headers(IF_MATCH, &["\"x\""]), ETAG));
    }

    #[test]
    fn if_range_applies_only_to_exactly_this_content() {
        assert!(range_applies(&HeaderMap::new(), ETAG));
        assert!(range_applies(&headers(IF_RANGE, &["\"sha256:ab\""]), ETAG));
        for value in ["W/\"sha256:ab\"", "\"x\"", "Sat, 29 Oct 1994 19:43:31 GMT"] {
            assert!(!range_applies(&headers(IF_RANGE, &[value]), ETAG), "{value}");
        }
    }
}
