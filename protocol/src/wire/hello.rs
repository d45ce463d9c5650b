//! The first message of a substream, and the version that two of them agree on.

use serde::{Deserialize, Serialize};

use super::{MessageError, WireMessage};
use crate::limits::MAX_AGENT_BYTES;

/// The oldest version that this build speaks.
pub const MIN_VERSION: u16 = 1;

/// The newest version that this build speaks.
pub const MAX_VERSION: u16 = 1;

/// The first message each way.
///
/// It never changes its form, whatever the versions in it: all that a later version adds goes into messages
/// after the agreement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest version that the sender speaks.
    pub min_version: u16,
    /// The newest version that the sender speaks.
    pub max_version: u16,
    /// The program and its version, for people; at most [`MAX_AGENT_BYTES`] bytes of printable text.
    pub agent: String,
}

/// Two nodes have no version in common.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "no version in common: we speak {ours_min} to {ours_max}, the peer {theirs_min} to {theirs_max}; upgrade the older one"
)]
pub struct VersionError {
    /// Our oldest.
    pub ours_min: u16,
    /// Our newest.
    pub ours_max: u16,
    /// Their oldest.
    pub theirs_min: u16,
    /// Their newest.
    pub theirs_max: u16,
}

impl Hello {
    /// The hello of this build.
    pub fn new(agent: impl Into<String>) -> Self {
        Self { min_version: MIN_VERSION, max_version: MAX_VERSION, agent: agent.into() }
    }
}

impl WireMessage for Hello {
    fn validate(&self) -> Result<(), MessageError> {
        if self.min_version > self.max_version {
            return Err(MessageError::Versions { min: self.min_version, max: self.max_version });
        }
        if self.agent.len() > MAX_AGENT_BYTES || self.agent.chars().any(char::is_control) {
            return Err(MessageError::Agent { length: self.agent.len() });
        }
        Ok(())
    }
}

/// The newest version that both speak. Both sides get the same answer.
pub fn negotiate(ours: &Hello, theirs: &Hello) -> Result<u16, VersionError> {
    let newest = ours.max_version.min(theirs.max_version);
    if newest < ours.min_version.max(theirs.min_version) {
        return Err(VersionError {
            ours_min: ours.min_version,
            ours_max: ours.max_version,
            theirs_min: theirs.min_version,
            theirs_max: theirs.max_version,
        });
    }
    Ok(newest)
}
