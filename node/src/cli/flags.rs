//! The flags of settings, made from the settings table.

use std::ffi::OsString;
use std::marker::PhantomData;
use std::path::PathBuf;

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, ArgMatches};

use super::args::describe;
use crate::config::{Flags, SETTINGS, Setting};

/// Which settings a command has flags for. All of a command's configuration is loaded and checked
/// nevertheless: the others come from the file and the environment.
pub(super) trait Subset {
    fn has(setting: &Setting) -> bool;
}

/// All that have a flag.
#[derive(Debug, Clone)]
pub(super) struct Everything;
/// What a command needs that talks to a running node.
#[derive(Debug, Clone)]
pub(super) struct Client;
/// What a command needs that opens the state directory.
#[derive(Debug, Clone)]
pub(super) struct State;
/// What a command needs that works on the store's size.
#[derive(Debug, Clone)]
pub(super) struct Store;

impl Subset for Everything {
    fn has(setting: &Setting) -> bool {
        setting.flag
    }
}

impl Subset for Client {
    fn has(setting: &Setting) -> bool {
        setting.key == "http"
    }
}

impl Subset for State {
    fn has(setting: &Setting) -> bool {
        setting.key == "state-dir"
    }
}

impl Subset for Store {
    fn has(setting: &Setting) -> bool {
        matches!(setting.key, "state-dir" | "max-store-size")
    }
}

/// `--config` and the flags of the settings in `S`, as texts: the configuration checks them all together.
#[derive(Debug, Clone)]
pub(super) struct SettingFlags<S> {
    pub(super) flags: Flags,
    subset: PhantomData<S>,
}

const CONFIG_FILE: &str = "config";

fn settings<S: Subset>() -> impl Iterator<Item = &'static Setting> {
    SETTINGS.iter().filter(|setting| S::has(setting))
}

fn argument(setting: &'static Setting) -> Arg {
    let argument = Arg::new(setting.key)
        .long(setting.key)
        .value_name(setting.value_name)
        .help(describe(setting))
        .help_heading("Settings")
        .value_parser(ValueParser::os_string())
        // `-5` is a bad value of this flag, not an unknown flag.
        .allow_negative_numbers(true);
    if setting.is_switch() {
        argument.action(ArgAction::Set).num_args(0..=1).require_equals(true).default_missing_value("true")
    } else if setting.is_list() {
        argument.action(ArgAction::Append)
    } else {
        argument.action(ArgAction::Set)
    }
}

impl<S: Subset> clap::Args for SettingFlags<S> {
    fn augment_args(command: clap::Command) -> clap::Command {
        let file = Arg::new(CONFIG_FILE)
            .long(CONFIG_FILE)
            .value_name("FILE")
            .help("TOML file with settings [env: P2P_CACHE_CONFIG] [default: /etc/p2p-cache/p2p-cache.toml, if it exists]")
            .help_heading("Settings")
            .value_parser(ValueParser::path_buf());
        command.arg(file).args(settings::<S>().map(argument))
    }

    fn augment_args_for_update(command: clap::Command) -> clap::Command {
        Self::augment_args(command)
    }
}

impl<S: Subset> clap::FromArgMatches for SettingFlags<S> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let values = settings::<S>().filter_map(|setting| {
            let texts: Vec<OsString> = matches.get_many::<OsString>(setting.key)?.cloned().collect();
            Some((setting.key, texts))
        });
        let flags =
            Flags { config_file: matches.get_one::<PathBuf>(CONFIG_FILE).cloned(), values: values.collect() };
        Ok(SettingFlags { flags, subset: PhantomData })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
