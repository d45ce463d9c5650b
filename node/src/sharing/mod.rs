//! What may leave this machine, and how far. [`SharingPolicy`] is the one place that decides; whatever could reveal a
//! holding asks it first: announcements, the answers to peers, and what the gateway tells other machines.

mod names;
mod patterns;
mod policy;
mod published;
mod share;
#[cfg(test)]
mod tests;
mod verdicts;

pub use names::{Name, PublicNames};
pub use patterns::{NamePattern, NamePatternError};
pub use policy::{SharingPolicy, SharingRules, Subject};
pub use published::{PublishedPath, PublishedPathError};
pub use share::{ParseShareError, Share};
