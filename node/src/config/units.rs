//! Sizes, rates and durations as people write them: `200MiB`, `50Mbit/s`, `1.5s`.
//!
//! Units are exact and case-sensitive, because `Mb`, `MB` and `Mib` differ by factors that nobody wants
//! guessed. Decimal fractions are computed with integers and rounded down.

use std::time::Duration;

/// The word for "no limit", in sizes and rates.
pub const UNLIMITED: &str = "unlimited";

/// The longest duration that a setting may have.
pub const MAX_DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// Digits after the decimal point that are still understood.
const MAX_FRACTION_DIGITS: usize = 9;

const BYTE_UNITS: &[(&str, u128)] = &[
    ("B", 1),
    ("kB", 1_000),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

const BIT_RATE_UNITS: &[(&str, u128)] =
    &[("bit/s", 1), ("kbit/s", 1_000), ("Mbit/s", 1_000_000), ("Gbit/s", 1_000_000_000)];

const DURATION_UNITS_NS: &[(&str, u128)] =
    &[("ms", 1_000_000), ("s", 1_000_000_000), ("min", 60 * 1_000_000_000), ("h", 3_600 * 1_000_000_000)];

/// Parses a size in bytes: a number with a unit from `B` to `TB` or `TiB`, a bare number of bytes, or
/// `unlimited` (then `None`).
///
/// # Errors
/// Says in one clause what is wrong with the text. Zero and sizes beyond 64 bits are refused.
pub fn parse_size(text: &str) -> Result<Option<u64>, String> {
    if text.trim() == UNLIMITED {
        return Ok(None);
    }
    let (number, unit) = Decimal::split(text)?;
    let scale = match unit {
        "" if number.fraction == 0 => 1,
        _ => factor(BYTE_UNITS, unit)
            .ok_or_else(|| unknown_unit(unit, "B, kB, MB, GB, TB, KiB, MiB, GiB, TiB"))?,
    };
    positive(number.times(scale, 1)?).map(Some)
}

/// Parses a rate and returns bytes per second: byte units (`10MB/s`), bit units (`50Mbit/s`), or
/// `unlimited` (then `None`).
///
/// # Errors
/// Says in one clause what is wrong with the text. A rate without a unit is refused, and so is a rate
/// below one byte per second.
pub fn parse_rate(text: &str) -> Result<Option<u64>, String> {
    if text.trim() == UNLIMITED {
        return Ok(None);
    }
    const KNOWN: &str = "B/s, kB/s, MB/s, GB/s, KiB/s, MiB/s, GiB/s, bit/s, kbit/s, Mbit/s, Gbit/s";
    let (number, unit) = Decimal::split(text)?;
    if unit.is_empty() {
        return Err(format!("has no unit (one of {KNOWN})"));
    }
    let bytes = unit.strip_suffix("/s").and_then(|unit| factor(BYTE_UNITS, unit)).map(|scale| (scale, 1));
    let bits = factor(BIT_RATE_UNITS, unit).map(|scale| (scale, 8));
    let (scale, divisor) = bytes.or(bits).ok_or_else(|| unknown_unit(unit, KNOWN))?;
    positive(number.times(scale, divisor)?).map(Some)
}

/// Parses a duration with one of the units `ms`, `s`, `min` and `h`.
///
/// # Errors
/// Says in one clause what is wrong with the text. Zero and more than [`MAX_DURATION`] are refused.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    const KNOWN: &str = "ms, s, min, h";
    let (number, unit) = Decimal::split(text)?;
    if unit.is_empty() {
        return Err(format!("has no unit (one of {KNOWN})"));
    }
    let scale = factor(DURATION_UNITS_NS, unit).ok_or_else(|| unknown_unit(unit, KNOWN))?;
    let duration = Duration::from_nanos(positive(number.times(scale, 1)?)?);
    if duration > MAX_DURATION {
        return Err(format!("is longer than {} h", MAX_DURATION.as_secs() / 3600));
    }
    Ok(duration)
}

fn factor(units: &[(&str, u128)], unit: &str) -> Option<u128> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, scale)| *scale)
}

fn unknown_unit(unit: &str, known: &str) -> String {
    if unit.is_empty() {
        format!("has no unit (one of {known})")
    } else {
        format!("has the unknown unit {unit:?} (one of {known})")
    }
}

fn positive(value: u64) -> Result<u64, String> {
    if value == 0 { Err("is zero".to_owned()) } else { Ok(value) }
}

/// A decimal number without sign or exponent: `whole + fraction / 10^digits`.
struct Decimal {
    whole: u64,
    fraction: u64,
    digits: u32,
}

impl Decimal {
    /// Splits `12.5 MiB` into the number and the unit; the unit may be empty.
    fn split(text: &str) -> Result<(Decimal, &str), String> {
        let text = text.trim();
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if whole.is_empty() || fraction.is_empty() || fraction.contains('.') {
            return Err("does not begin with a number".to_owned());
        }
        if fraction.len() > MAX_FRACTION_DIGITS {
            return Err(format!("has more than {MAX_FRACTION_DIGITS} digits after the point"));
        }
        let whole = whole.parse().map_err(|_| "is too large".to_owned())?;
        let digits = fraction.len() as u32;
        let fraction = fraction.parse().map_err(|_| "does not begin with a number".to_owned())?;
        Ok((Decimal { whole, fraction, digits }, unit.trim_start()))
    }

    /// The number times `scale / divisor`, rounded down.
    fn times(&self, scale: u128, divisor: u128) -> Result<u64, String> {
        let denominator = 10_u128.pow(self.digits);
        let numerator = u128::from(self.whole) * denominator + u128::from(self.fraction);
        let product = numerator.checked_mul(scale).ok_or("is too large")? / denominator / divisor;
        u64::try_from(product).map_err(|_| "is too large".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_take_decimal_and_binary_units() {
        assert_eq!(parse_size("200MiB"), Ok(Some(200 << 20)));
        assert_eq!(parse_size("1GB"), Ok(Some(1_000_000_000)));
        assert_eq!(parse_size("1.5 KiB"), Ok(Some(1536)));
        assert_eq!(parse_size("4096"), Ok(Some(4096)));
        assert_eq!(parse_size("unlimited"), Ok(None));
    }

    #[test]
    fn rates_take_bits_and_bytes() {
        assert_eq!(parse_rate("50Mbit/s"), Ok(Some(6_250_000)));
        assert_eq!(parse_rate("10MB/s"), Ok(Some(10_000_000)));
        assert_eq!(parse_rate("1.5 MiB/s"), Ok(Some(1_572_864)));
        assert_eq!(parse_rate("unlimited"), Ok(None));
    }

    #[test]
    fn durations_take_units_from_milliseconds_to_hours() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2min"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("24h"), Ok(MAX_DURATION));
    }

    #[test]
    fn ambiguous_or_senseless_text_is_refused() {
        for bad in [
            "",
            "MiB",
            "-1GB",
            "1e9",
            "1Mb",
            "1M",
            "1.2.3GB",
            ".5GB",
            "5.GB",
            "0",
            "0GB",
            "1.5",
            "99999999999TiB",
        ] {
            assert!(parse_size(bad).is_err(), "size {bad:?}");
        }
        for bad in ["", "10", "10MB", "10Mb/s", "0bit/s", "7bit/s", "unlimited/s", "10 M B/s"] {
            assert!(parse_rate(bad).is_err(), "rate {bad:?}");
        }
        for bad in ["", "3", "0s", "25h", "3 fortnights", "-1s", "1.0000000001s"] {
            assert!(parse_duration(bad).is_err(), "duration {bad:?}");
        }
    }

    proptest! {
        #[test]
        fn every_whole_number_with_every_unit_is_exact(number in 1_u64..1_000_000, unit in 0..BYTE_UNITS.len()) {
            let (name, scale) = BYTE_UNITS[unit];
            let bytes = u64::try_from(u128::from(number) * scale).unwrap();
            prop_assert_eq!(parse_size(&format!("{number}{name}")), Ok(Some(bytes)));
            prop_assert_eq!(parse_size(&format!("{number} {name}")), Ok(Some(bytes)));
            prop_assert_eq!(parse_rate(&format!("{number}{name}/s")), Ok(Some(bytes)));
        }

        #[test]
        fn a_bit_rate_is_an_eighth_of_the_byte_rate(number in 8_u64..1_000_000) {
            prop_assert_eq!(parse_rate(&format!("{number}bit/s")), Ok(Some(number / 8)));
            prop_assert_eq!(parse_rate(&format!("{number}Mbit/s")), Ok(Some(number * 125_000)));
        }

        #[test]
        fn fractions_are_exact(milli in 1_u64..10_000_000) {
            let text = format!("{}.{:03}s", milli / 1000, milli % 1000);
            prop_assert_eq!(parse_duration(&text), Ok(Duration::from_millis(milli)));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = (parse_size(&text), parse_rate(&text), parse_duration(&text));
        }

        #[test]
        fn no_number_like_text_panics(text in "[0-9.]{0,40} ?[kKMGTiBbhms/]{0,5}") {
            let _ = (parse_size(&text), parse_rate(&text), parse_duration(&text));
        }
    }
}
