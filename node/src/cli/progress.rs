//! Progress bars on a terminal, nothing elsewhere.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::console::Console;

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
