//! What a setting is.

use std::path::PathBuf;

use super::environment::Surroundings;
use super::model::Config;
use super::settings::SETTINGS;

/// What all variables of the environment begin with.
pub const ENVIRONMENT_PREFIX: &str = "P2P_CACHE_";

/// One setting.
pub struct Setting {
    /// Key in the TOML file; the flag is `--KEY`, the variable `P2P_CACHE_KEY` with `_` for `-`.
    pub key: &'static str,
    /// Whether `serve` has a flag for it.
    pub flag: bool,
    /// Whether a running node takes a change over when the configuration is read again: see `daemon::reload`.
    pub live: bool,
    /// Placeholder of the value in help texts, which names its unit or form.
    pub value_name: &'static str,
    /// What it does, and what it costs.
    pub help: &'static str,
    /// How to write it, as an order; ends every message about a bad value.
    pub remedy: &'static str,
    /// A value that is accepted and differs from the default.
    pub example: &'static str,
    /// A value that is refused; the tests feed it through every layer.
    pub bad_example: &'static str,
    /// Value when no layer gives one.
    pub default: DefaultValue,
    /// Whether a bare TOML integer is a value.
    pub takes_integer: bool,
    /// How a value reaches the configuration.
    pub assign: Assign,
}

/// The default of a setting.
pub enum DefaultValue {
    /// Fixed, as text that the setting's own parser reads.
    Text(&'static [&'static str]),
    /// Depends on the user and the environment; the error says what is missing.
    Computed(fn(&Surroundings) -> Result<PathBuf, String>),
}

/// A failure is a clause that follows the value in a message: "is not a whole number".
type Put = fn(&mut Config, &str) -> Result<(), String>;

/// How a value reaches the configuration.
pub enum Assign {
    /// A single value.
    One(Put),
    /// A list: cleared first, then each item is pushed. A layer replaces the list of the layer below.
    Many {
        /// Empties the list.
        clear: fn(&mut Config),
        /// Adds one item.
        push: Put,
    },
    /// True or false; the flag alone means true.
    Switch(fn(&mut Config, bool)),
}

impl Setting {
    /// What most settings have in common: neither flag nor reload, text only, no value by default.
    pub(super) const PLAIN: Setting = Setting {
        key: "",
        flag: false,
        live: false,
        value_name: "",
        help: "",
        remedy: "",
        example: "",
        bad_example: "",
        default: DefaultValue::Text(&[]),
        takes_integer: false,
        assign: Assign::One(|_, _| Err("cannot be set".to_owned())),
    };
    /// What is true or false, and false by default.
    pub(super) const SWITCH: Setting = Setting {
        value_name: "true|false",
        remedy: "write true or false",
        example: "true",
        bad_example: "maybe",
        default: DefaultValue::Text(&["false"]),
        ..Setting::PLAIN
    };

    /// The setting with this key.
    #[must_use]
    pub fn find(key: &str) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.key == key)
    }

    /// Name of its environment variable.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("{ENVIRONMENT_PREFIX}{}", self.key.to_ascii_uppercase().replace('-', "_"))
    }

    /// Name of its flag, with dashes, whether or not a command has it.
    #[must_use]
    pub fn flag_name(&self) -> String {
        format!("--{}", self.key)
    }

    /// Whether several values may be given.
    #[must_use]
    pub fn is_list(&self) -> bool {
        matches!(self.assign, Assign::Many { .. })
    }

    /// Whether it is true or false.
    #[must_use]
    pub fn is_switch(&self) -> bool {
        matches!(self.assign, Assign::Switch(_))
    }
}
