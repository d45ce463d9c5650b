//! How far anything of this machine may travel.

use std::fmt;
use std::str::FromStr;

/// How far the node shares what it holds. The default is [`Share::Lan`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Share {
    /// Nothing is served to any peer.
    None,
    /// Peers that were reached over a loopback, link-local or private address are served.
    #[default]
    Lan,
    /// Every peer is served.
    Public,
}

impl Share {
    /// Every value, in the order in which help texts list them.
    pub const ALL: [Share; 3] = [Share::None, Share::Lan, Share::Public];

    /// The word that stands for the value on the command line and in configuration files.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Share::None => "none",
            Share::Lan => "lan",
            Share::Public => "public",
        }
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text is none of the three words that [`Share`] knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown sharing mode {given:?}: use one of none, lan, public")]
pub struct ParseShareError {
    given: String,
}

impl FromStr for Share {
    type Err = ParseShareError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Share::ALL
            .into_iter()
            .find(|share| share.as_str() == text)
            .ok_or_else(|| ParseShareError { given: text.to_owned() })
    }
}
