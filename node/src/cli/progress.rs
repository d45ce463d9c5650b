//! Progress bars on a terminal, nothing elsewhere.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use p2p_cache_http_gateway::SourceStatus;

use super::console::{Console, printable};

/// Redraws per second.
const REDRAWS_PER_SECOND: u8 = 10;

/// A bar over bytes with rate and time left; without a known length, a counter with a rate.
pub(super) fn bytes(console: &Console, what: &'static str, length: Option<u64>) -> ProgressBar {
    let template = match length {
        Some(_) => "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec} ETA {eta}",
        None => "{msg} {bytes} {bytes_per_sec}",
    };
    let target = if console.err_is_terminal {
        ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_SECOND)
    } else {
        ProgressDrawTarget::hidden()
    };
    let bar = ProgressBar::with_draw_target(length, target).with_message(what);
    // The templates are constants; a mistake in one costs the style, not the command.
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style.progress_chars("=> ")),
        Err(_) => bar,
    }
}

/// Sources of one transfer that have a bar of their own; the rest is in the sum.
const MAX_SOURCES: usize = 8;
/// The end of a peer id tells peers apart, its beginning does not.
const SHOWN_ID_CHARS: usize = 8;

/// Bars below the bar of a download: how much of it came from whom.
pub(super) struct Sources {
    all: MultiProgress,
    bars: Vec<(String, ProgressBar)>,
    length: u64,
}

impl Sources {
    /// Puts `whole` on top. `None` where there is no terminal.
    pub(super) fn below(console: &Console, whole: &ProgressBar, length: Option<u64>) -> Option<Self> {
        let length = length.filter(|_| console.err_is_terminal)?;
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(REDRAWS_PER_SECOND));
        all.add(whole.clone());
        Some(Self { all, bars: Vec::new(), length })
    }

    pub(super) fn show(&mut self, sources: &[SourceStatus]) {
        for source in sources.iter().filter(|source| source.bytes > 0) {
            let known = self.bars.iter().position(|(name, _)| *name == source.name);
            let place = known.or_else(|| self.add(&source.name));
            if let Some((_, bar)) = place.and_then(|place| self.bars.get(place)) {
                bar.set_position(source.bytes);
            }
        }
    }

    fn add(&mut self, name: &str) -> Option<usize> {
        if self.bars.len() >= MAX_SOURCES {
            return None;
        }
        let bar = self.all.add(ProgressBar::new(self.length).with_message(short_name(name)));
        let bar = match ProgressStyle::with_template("  {msg:14} {bar:30} {bytes}") {
            Ok(style) => bar.with_style(style.progress_chars("=> ")),
            Err(_) => bar,
        };
        self.bars.push((name.to_owned(), bar));
        Some(self.bars.len() - 1)
    }
}

impl Drop for Sources {
    fn drop(&mut self) {
        self.bars.iter().for_each(|(_, bar)| bar.finish_and_clear());
    }
}

/// `origin`, `disk`, or `peer …` with the end of its id.
fn short_name(name: &str) -> String {
    let name = printable(name);
    match name.char_indices().rev().nth(SHOWN_ID_CHARS - 1) {
        Some((start, _)) if start > 0 => format!("peer {}", name.get(start..).unwrap_or_default()),
        _ => name,
    }
}

/// Sizes for people: `1.50 GiB`.
pub(super) fn size(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A sign of life for work of unknown length.
pub(super) fn spinner(console: &Console, what: &'static str) -> ProgressBar {
    if console.err_is_terminal {
        ProgressBar::new_spinner().with_message(what)
    } else {
        ProgressBar::hidden()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_named_by_the_end_of_their_ids() {
        assert_eq!(short_name("12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp"), "peer vnc6iDEp");
        assert_eq!((short_name("origin"), short_name("disk")), ("origin".to_owned(), "disk".to_owned()));
    }
}
