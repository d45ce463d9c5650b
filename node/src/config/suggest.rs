//! "Did you mean" for misspelt keys.

/// The candidate nearest to `given`, when it is near enough to be a slip.
pub(super) fn nearest<'c>(given: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    // A name of thousands of characters is no slip, and the distance costs the product of the lengths.
    const MAX_CHARS: usize = 64;
    if given.len() > MAX_CHARS {
        return None;
    }
    let folded = fold(given);
    candidates
        .into_iter()
        .map(|candidate| (score(&folded, &fold(candidate)), candidate))
        .filter(|(score, candidate)| *score <= tolerance(candidate))
        .min_by_key(|(score, _)| *score)
        .map(|(_, candidate)| candidate)
}

/// Case and the kind of dash are the commonest slips and count for nothing.
fn fold(name: &str) -> String {
    name.to_lowercase().replace(['_', '.', ' '], "-")
}

fn tolerance(candidate: &str) -> usize {
    (candidate.len() / 3).clamp(1, 4)
}

/// Edit distance, except that a missing or surplus `no-` or plural counts as one slip.
fn score(given: &str, candidate: &str) -> usize {
    if given == candidate {
        return 0;
    }
    if candidate.strip_prefix("no-") == Some(given) || given.strip_suffix('s') == Some(candidate) {
        return 1;
    }
    distance(given, candidate)
}

/// Levenshtein distance in characters.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let substituted = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYS: [&str; 5] = ["http", "state-dir", "peer", "no-mdns", "trusted-public-key"];

    #[test]
    fn slips_find_their_key() {
        for (given, meant) in [
            ("htpp", "http"),
            ("state_dir", "state-dir"),
            ("STATE_DIR", "state-dir"),
            ("peers", "peer"),
            ("mdns", "no-mdns"),
            ("trusted-public-keys", "trusted-public-key"),
        ] {
            assert_eq!(nearest(given, KEYS), Some(meant), "{given}");
        }
    }

    #[test]
    fn strangers_find_nothing() {
        assert_eq!(nearest("bandwidth", KEYS), None);
        assert_eq!(nearest(&"x".repeat(100_000), KEYS), None);
        assert_eq!(nearest("", KEYS), None);
    }

    #[test]
    fn distance_counts_single_edits() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
    }
}
