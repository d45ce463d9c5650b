//! The traits that all our fixed-size byte strings share.

/// Gives a newtype over `[u8; N]` lower-case hex as text, and serde that writes text for people (JSON, TOML)
/// and the bare bytes for machines (bincode).
macro_rules! hex_bytes {
    ($name:ident, $length:literal, $error:ty, $invalid:expr) => {
        impl $name {
            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }
        }

        impl From<[u8; $length]> for $name {
            fn from(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                let mut text = [0; 2 * $length];
                match hex::encode_to_slice(self.0, &mut text) {
                    Ok(()) => f.pad(std::str::from_utf8(&text).unwrap_or_default()),
                    Err(_) => Err(std::fmt::Error),
                }
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let mut bytes = [0; $length];
                match hex::decode_to_slice(text, &mut bytes) {
                    Ok(()) => Ok(Self(bytes)),
                    Err(_) => Err($invalid(text)),
                }
            }
        }

        $crate::bytes_type::bytes_serde!($name, $length);
    };
}

/// Serde by `Display` and `FromStr` where people read it, as bare bytes elsewhere.
macro_rules! bytes_serde {
    ($name:ident, $length:literal) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    Ok(Self(<[u8; $length]>::deserialize(deserializer)?))
                }
            }
        }
    };
}

/// The beginning of a text that came from outside, for an error message.
pub(crate) fn excerpt(text: &str) -> String {
    const EXCERPT_CHARS: usize = 80;
    let mut short: String = text.chars().take(EXCERPT_CHARS).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    short
}

pub(crate) use {bytes_serde, hex_bytes};
