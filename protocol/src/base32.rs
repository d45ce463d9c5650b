//! Nix's base 32: digits before letters, without `e`, `o`, `t` and `u`, the last character first.
//!
//! Neither RFC 4648 nor a reordering of it: the bytes are read as one little-endian number and written with
//! the most significant five bits in front.

const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";
const INVALID: u8 = 0xff;

const VALUES: [u8; 256] = {
    let mut values = [INVALID; 256];
    let mut digit = 0;
    while digit < ALPHABET.len() {
        values[ALPHABET[digit] as usize] = digit as u8;
        digit += 1;
    }
    values
};

/// Why a text is not Nix base 32.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Base32Error {
    /// A character outside of the alphabet.
    #[error(
        "{character:?} at position {position} is not a digit of Nix base 32 ({alphabet})",
        alphabet = "0-9 a-z without e, o, t, u"
    )]
    Character {
        /// The offending character.
        character: char,
        /// Its byte offset.
        position: usize,
    },
    /// No number of bytes is written with this many characters.
    #[error("{length} characters are no whole number of bytes in Nix base 32")]
    Length {
        /// Characters in the text.
        length: usize,
    },
    /// The bits left over in the first character are not zero, so the text is not what [`encode`] writes.
    #[error("the first character of the Nix base 32 text has bits that no byte holds")]
    Padding,
}

/// The number of characters that `bytes` bytes take.
pub const fn encoded_len(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

/// Writes `bytes` in Nix base 32.
pub fn encode(bytes: &[u8]) -> String {
    (0..encoded_len(bytes.len()))
        .rev()
        .map(|digit| {
            let bit = digit * 5;
            let (byte, shift) = (bit / 8, bit % 8);
            let low = u16::from(bytes[byte]);
            let high = u16::from(bytes.get(byte + 1).copied().unwrap_or(0));
            let value = ((high << 8 | low) >> shift) & 0x1f;
            char::from(ALPHABET[usize::from(value)])
        })
        .collect()
}

/// Reads Nix base 32. Only the canonical text, the one that [`encode`] writes, is accepted.
pub fn decode(text: &str) -> Result<Vec<u8>, Base32Error> {
    let mut bytes = vec![0; text.len() * 5 / 8];
    decode_into(text, &mut bytes)?;
    Ok(bytes)
}

/// Reads Nix base 32 of a known number of bytes.
pub(crate) fn decode_array<const N: usize>(text: &str) -> Result<[u8; N], Base32Error> {
    let mut bytes = [0; N];
    decode_into(text, &mut bytes)?;
    Ok(bytes)
}

fn decode_into(text: &str, bytes: &mut [u8]) -> Result<(), Base32Error> {
    if text.len() != encoded_len(bytes.len()) {
        // A wrong character explains a wrong length better, and a multi-byte one would be counted wrongly.
        check_characters(text)?;
        return Err(Base32Error::Length { length: text.len() });
    }
    for (digit, character) in text.bytes().rev().enumerate() {
        let value = VALUES[usize::from(character)];
        if value == INVALID {
            check_characters(text)?;
        }
        let bit = digit * 5;
        let (byte, shift) = (bit / 8, bit % 8);
        let wide = u16::from(value) << shift;
        bytes[byte] |= wide as u8;
        let carry = (wide >> 8) as u8;
        match bytes.get_mut(byte + 1) {
            Some(next) => *next |= carry,
            None if carry != 0 => return Err(Base32Error::Padding),
            None => {}
        }
    }
    Ok(())
}

fn check_characters(text: &str) -> Result<(), Base32Error> {
    match text.char_indices().find(|(_, c)| !c.is_ascii() || VALUES[*c as usize & 0xff] == INVALID) {
        Some((position, character)) => Err(Base32Error::Character { character, position }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn known_texts_are_read_and_written() {
        // Written by `nix hash to-base32`.
        let known = [
            (
                "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
                "0mdqa9w1p6cmli6976v4wi0sw9r4p5prkj7lzfd1877wk11c9c73",
            ),
            (
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                "1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s",
            ),
            ("0839703786356bca59b0f4a32987eb2e6de43ae8", "x0xf8v9fxf3jk8zln1cwlsrmhqvp0f88"),
        ];
        for (hex_text, text) in known {
            let bytes = hex::decode(hex_text).unwrap();
            assert_eq!(encode(&bytes), text);
            assert_eq!(decode(text).unwrap(), bytes);
        }
        assert_eq!((encode(&[]), decode("").unwrap()), (String::new(), Vec::new()));
    }

    #[test]
    fn texts_that_no_bytes_have_are_refused() {
        assert_eq!(decode("1e"), Err(Base32Error::Character { character: 'e', position: 1 }));
        assert_eq!(decode("0ß"), Err(Base32Error::Character { character: 'ß', position: 1 }));
        assert_eq!(decode("1"), Err(Base32Error::Length { length: 1 }));
        assert_eq!(decode("zz"), Err(Base32Error::Padding));
        assert!(decode("0A").is_err(), "only lower case");
    }

    proptest! {
        #[test]
        fn bytes_survive(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let text = encode(&bytes);
            prop_assert_eq!(text.len(), encoded_len(bytes.len()));
            prop_assert_eq!(decode(&text).unwrap(), bytes);
        }

        #[test]
        fn what_is_accepted_is_canonical(text in "[0-9a-z]{0,60}|.{0,20}") {
            if let Ok(bytes) = decode(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
