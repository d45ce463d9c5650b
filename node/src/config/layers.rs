//! Built-in defaults below the file, the file below credentials, those below the environment, all below flags.

use std::ffi::OsString;
use std::path::PathBuf;

use super::checks;
use super::environment::{CONFIG_FILE_VARIABLE, Surroundings};
use super::fault::{ConfigError, Fault, Source};
use super::file;
use super::model::Config;
use super::setting::{Assign, DefaultValue, Setting};
use super::settings::{EMPTY_LIST, SETTINGS};

/// What the command line gives.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// The file that `--config` names.
    pub config_file: Option<PathBuf>,
    /// Keys of settings with the texts of their flags, in the order given.
    pub values: Vec<(&'static str, Vec<OsString>)>,
}

/// One text of a layer. A list has several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item(pub(super) String);

impl Item {
    pub(super) fn new(text: &str) -> Item {
        Item(text.to_owned())
    }
}

/// What one layer says about one setting.
pub(super) struct Given {
    pub(super) setting: &'static Setting,
    pub(super) source: Source,
    pub(super) items: Vec<Item>,
}

impl Given {
    pub(super) fn new(setting: &'static Setting, source: Source, items: Vec<Item>) -> Given {
        Given { setting, source, items }
    }
}

/// A setting as it came out of the layers.
#[derive(Clone)]
pub struct Effective {
    /// The setting.
    pub setting: &'static Setting,
    /// Its value as it was written: one text, or any number of them for a list.
    pub texts: Vec<String>,
    /// The layer that gave it.
    pub source: Source,
}

/// A checked configuration and where each value of it came from.
pub struct Loaded {
    /// What the daemon consumes.
    pub config: Config,
    /// Every setting in the order of the table.
    pub values: Vec<Effective>,
    /// The file that was read, if any.
    pub file: Option<PathBuf>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loaded")
            .field("config", &self.config)
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// Reads all layers, checks every value of every layer (one that is overridden, too) and then the whole.
/// Opens nothing but the configuration file and the credentials.
///
/// # Errors
/// Every fault that was found.
pub fn load(flags: &Flags, surroundings: &Surroundings) -> Result<Loaded, ConfigError> {
    let path = config_file(flags, surroundings);
    let (mut given, mut faults) = path.as_deref().map(file::read).unwrap_or_default();
    for (values, problems) in [surroundings.credentials(), surroundings.read(), read_flags(flags)] {
        given.extend(values);
        faults.extend(problems);
    }
    let mut merge = Merge::defaults(surroundings, &given);
    for one in given {
        merge.apply(one);
    }
    faults.append(&mut merge.faults);
    faults.sort_by(|a, b| a.source.cmp(&b.source));
    let bad_keys: Vec<&str> = faults.iter().map(|fault| fault.key.as_str()).collect();
    faults.extend(checks::contradictions(&merge.config, &merge.values, &bad_keys));
    if faults.is_empty() {
        Ok(Loaded { config: merge.config, values: merge.values, file: path })
    } else {
        Err(ConfigError { faults })
    }
}

/// Reads the same layers again: the files and what the service manager hands over may have changed, the command line
/// and the environment are those of the process.
#[derive(Debug, Clone)]
pub struct Reader {
    flags: Flags,
    surroundings: Surroundings,
}

impl Reader {
    /// Of what the process was started with.
    #[must_use]
    pub fn new(flags: Flags, surroundings: Surroundings) -> Self {
        Self { flags, surroundings }
    }

    /// See [`load`]. Blocks.
    ///
    /// # Errors
    /// Every fault that was found.
    pub fn read(&self) -> Result<Loaded, ConfigError> {
        load(&self.flags, &self.surroundings)
    }
}

impl Config {
    /// The built-in configuration of a node that keeps its state in `state_dir`, untouched by files,
    /// environment and flags.
    ///
    /// # Errors
    /// The directory is empty or not UTF-8.
    pub fn built_in(state_dir: PathBuf) -> Result<Config, ConfigError> {
        let flags = Flags { config_file: None, values: vec![("state-dir", vec![state_dir.into()])] };
        load(&flags, &Surroundings::none()).map(|loaded| loaded.config)
    }
}

fn config_file(flags: &Flags, surroundings: &Surroundings) -> Option<PathBuf> {
    let named = flags.config_file.clone();
    named.or_else(|| surroundings.variable(CONFIG_FILE_VARIABLE).map(PathBuf::from)).or_else(|| {
        // A file that cannot even be looked at is an error to report, not one to pass over.
        let default = &surroundings.default_file;
        let missing = !default.try_exists().unwrap_or(true);
        (!default.as_os_str().is_empty() && !missing).then(|| default.clone())
    })
}

fn read_flags(flags: &Flags) -> (Vec<Given>, Vec<Fault>) {
    let mut given = Vec::new();
    let mut faults = Vec::new();
    for (key, texts) in &flags.values {
        let Some(setting) = Setting::find(key) else { continue };
        let source = Source::Flag { name: setting.flag_name() };
        let texts: Result<Vec<Item>, &OsString> =
            texts.iter().map(|text| text.to_str().map(Item::new).ok_or(text)).collect();
        match texts {
            Ok(items) if setting.is_list() && items == [Item::new(EMPTY_LIST)] => {
                given.push(Given::new(setting, source, Vec::new()));
            }
            Ok(items) => given.push(Given::new(setting, source, items)),
            Err(text) => faults.push(Fault {
                source,
                key: setting.key.to_owned(),
                value: Some(text.to_string_lossy().into_owned()),
                problem: "is not valid UTF-8".to_owned(),
                remedy: setting.remedy.to_owned(),
            }),
        }
    }
    (given, faults)
}

/// The configuration as the layers pile up.
struct Merge {
    config: Config,
    values: Vec<Effective>,
    faults: Vec<Fault>,
}

impl Merge {
    fn defaults(surroundings: &Surroundings, given: &[Given]) -> Merge {
        let mut merge =
            Merge { config: Config::blank(), values: Vec::with_capacity(SETTINGS.len()), faults: Vec::new() };
        for setting in SETTINGS {
            let texts = match setting.default {
                DefaultValue::Text(texts) => Ok(texts.iter().map(|text| Item::new(text)).collect()),
                DefaultValue::Computed(compute) => compute(surroundings).and_then(|path| {
                    let text = path.to_str().ok_or("has a default that is not UTF-8")?;
                    Ok(vec![Item::new(text)])
                }),
            };
            merge.values.push(Effective { setting, texts: Vec::new(), source: Source::Default });
            match texts {
                Ok(items) => merge.apply(Given::new(setting, Source::Default, items)),
                // A default that cannot be had matters only when nothing replaces it.
                Err(_) if given.iter().any(|one| one.setting.key == setting.key) => {}
                Err(problem) => merge.fault(setting, Source::Default, None, problem),
            }
        }
        merge
    }

    fn apply(&mut self, given: Given) {
        let Given { setting, source, items } = given;
        if let Assign::Many { clear, .. } = setting.assign {
            clear(&mut self.config);
        }
        for Item(text) in &items {
            let outcome = match setting.assign {
                Assign::One(put) | Assign::Many { push: put, .. } => put(&mut self.config, text),
                Assign::Switch(switch) => {
                    super::parsers::boolean(text).map(|value| switch(&mut self.config, value))
                }
            };
            if let Err(problem) = outcome {
                let is_secret = matches!(source, Source::Credential { .. });
                let shown = (!is_secret).then(|| text.clone());
                self.fault(setting, source.clone(), shown, problem);
            }
        }
        if let Some(value) = self.values.iter_mut().find(|value| value.setting.key == setting.key) {
            value.texts = items.into_iter().map(|Item(text)| text).collect();
            value.source = source;
        }
    }

    fn fault(&mut self, setting: &Setting, source: Source, value: Option<String>, problem: String) {
        let remedy = setting.remedy.to_owned();
        self.faults.push(Fault { source, key: setting.key.to_owned(), value, problem, remedy });
    }
}
