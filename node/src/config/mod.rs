//! Configuration in layers: built-in default, TOML file, credentials, environment, flags; the later wins.
//!
//! [`SETTINGS`] describes every setting once; [`load`] reads all layers, reports every fault at once with
//! place and remedy, and yields a plain [`Config`] for the daemon beside the origin of each value.
//! Nothing but the configuration file and the credentials is opened.

mod checks;
mod credentials;
mod environment;
mod fault;
mod file;
mod layers;
mod model;
mod parsers;
mod setting;
mod settings;
mod suggest;
#[cfg(test)]
mod tests;
mod units;

pub use environment::{CONFIG_FILE_VARIABLE, DEFAULT_CONFIG_FILE, Surroundings};
pub use fault::{ConfigError, Fault, Source, redact};
pub use layers::{Effective, Flags, Loaded, Reader, load};
pub use model::Config;
pub(crate) use parsers::boolean as parse_boolean;
pub use setting::{Assign, DefaultValue, ENVIRONMENT_PREFIX, Setting};
pub use settings::{EMPTY_LIST, SETTINGS};
pub use units::{MAX_DURATION, UNLIMITED, parse_duration, parse_rate, parse_size};
