//! The `Range` header (RFC 9110, section 14), for single ranges of bytes.

use std::ops::Range;

/// What a request wants of a representation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Selection {
    /// All of it: no range, one we need not honour (several ranges, other units), or one that is malformed.
    Whole,
    /// These bytes, never empty.
    Part(Range<u64>),
    /// A well-formed range with no byte in the representation: 416.
    Unsatisfiable,
}

/// Reads the value of a `Range` header for a representation of `size` bytes.
pub(crate) fn select(header: &[u8], size: u64) -> Selection {
    let Some((unit, spec)) = split_once(header, b'=') else { return Selection::Whole };
    if !unit.eq_ignore_ascii_case(b"bytes") {
        return Selection::Whole;
    }
    let Some((first, last)) = split_once(trim(spec), b'-') else { return Selection::Whole };
    match (first, last) {
        (b"", suffix) => match digits(suffix) {
            Some(0) => Selection::Unsatisfiable,
            // "The last five bytes of nothing" is satisfiable, yet has no Content-Range: answer the empty whole.
            Some(_) if size == 0 => Selection::Whole,
            Some(length) => Selection::Part(size.saturating_sub(length)..size),
            None => Selection::Whole,
        },
        (first, last) => {
            let Some(first) = digits(first) else { return Selection::Whole };
            let last = if last.is_empty() { Some(u64::MAX) } else { digits(last) };
            match last {
                Some(last) if last < first => Selection::Whole,
                Some(_) if first >= size => Selection::Unsatisfiable,
                Some(last) => Selection::Part(first..last.saturating_add(1).min(size)),
                None => Selection::Whole,
            }
        }
    }
}

/// One or more ASCII digits; what is too large for 64 bits is as good as the largest of them.
fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0_u64, |value, byte| {
        byte.is_ascii_digit().then(|| value.saturating_mul(10).saturating_add(u64::from(byte - b'0')))
    })
}

fn split_once(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let position = text.iter().position(|byte| *byte == at)?;
    Some((&text[..position], &text[position + 1..]))
}

fn trim(text: &[u8]) -> &[u8] {
    text.trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;
    use Selection::{Part, Unsatisfiable, Whole};
    use proptest::prelude::*;

    #[test]
    fn single_ranges_are_selected() {
        for (header, size, expected) in [
            ("bytes=0-0", 10, Part(0..1)),
            ("bytes=0-9", 10, Part(0..10)),
            ("bytes=2-5", 10, Part(2..6)),
            ("bytes=5-", 10, Part(5..10)),
            ("bytes=5-100", 10, Part(5..10)),
            ("BYTES=5-6", 10, Part(5..7)),
            ("bytes= 5-6 ", 10, Part(5..7)),
            ("bytes=-3", 10, Part(7..10)),
            ("bytes=-30", 10, Part(0..10)),
            ("bytes=0-99999999999999999999999999", 10, Part(0..10)),
        ] {
            assert_eq!(select(header.as_bytes(), size), expected, "{header}");
        }
    }

    #[test]
    fn ranges_beyond_the_end_are_unsatisfiable() {
        for (header, size) in [
            ("bytes=10-", 10),
            ("bytes=10-20", 10),
            ("bytes=-0", 10),
            ("bytes=0-", 0),
            ("bytes=99999999999999999999-", 10),
        ] {
            assert_eq!(select(header.as_bytes(), size), Unsatisfiable, "{header}");
        }
    }

    #[test]
    fn what_is_malformed_or_not_single_is_ignored() {
        for header in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=5",
            "bytes=5-4",
            "bytes=1-2,4-5",
            "bytes=+1-2",
            "bytes=1 - 2",
            "items=0-1",
            "=0-1",
            "bytes=0-1-2",
            "bytes=--1",
            "bytes=\u{661}-2",
            "bytes =0-1",
        ] {
            assert_eq!(select(header.as_bytes(), 10), Whole, "{header}");
        }
        assert_eq!(select(b"bytes=-5", 0), Whole);
    }

    proptest! {
        #[test]
        fn any_header_selects_within_the_representation(header in prop::collection::vec(any::<u8>(), 0..40), size: u64) {
            if let Part(range) = select(&header, size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }

        #[test]
        fn anything_like_a_range_selects_within_the_representation(header in "bytes=[0-9]{0,22}-?[0-9]{0,22}", size in 0_u64..1000) {
            if let Part(range) = select(header.as_bytes(), size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }
    }
}
