//! What the process was started with: the variables of its environment and the user it runs as.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::credentials;
use super::fault::{Fault, Source};
use super::layers::{Given, Item};
use super::setting::{ENVIRONMENT_PREFIX, Setting};
use super::settings::{EMPTY_LIST, SETTINGS};
use super::suggest::nearest;

/// Variable that names the configuration file.
pub const CONFIG_FILE_VARIABLE: &str = "P2P_CACHE_CONFIG";
/// File that is read when nothing names another one; it may be missing.
pub const DEFAULT_CONFIG_FILE: &str = "/etc/p2p-cache/p2p-cache.toml";
/// State directory of a node that runs as root without systemd.
const ROOT_STATE_DIR: &str = "/var/lib/p2p-cache";

/// Everything around the process that influences its configuration; an argument, so that tests need not
/// change the real environment.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The variables of the environment.
    pub variables: BTreeMap<OsString, OsString>,
    /// Whether the process runs as root.
    pub is_root: bool,
    /// The file that is read when nothing names another one.
    pub default_file: PathBuf,
}

impl Surroundings {
    /// Those of this process.
    #[must_use]
    pub fn of_process() -> Surroundings {
        Surroundings {
            variables: std::env::vars_os().collect(),
            is_root: runs_as_root(),
            default_file: DEFAULT_CONFIG_FILE.into(),
        }
    }

    /// None at all: no variable, no file, an ordinary user.
    #[must_use]
    pub fn none() -> Surroundings {
        Surroundings { variables: BTreeMap::new(), is_root: false, default_file: PathBuf::new() }
    }

    /// The file, as `DEVICE:INODE`, that leads to the journal of systemd.
    #[must_use]
    pub fn journal_stream(&self) -> Option<&str> {
        self.variable("JOURNAL_STREAM")?.to_str()
    }

    /// The value of a variable that is set and not empty.
    pub(super) fn variable(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// The default of `state-dir`: the first of $STATE_DIRECTORY (set by systemd), /var/lib/p2p-cache for
    /// root, $XDG_STATE_HOME/p2p-cache, ~/.local/state/p2p-cache.
    pub(super) fn state_dir(&self) -> Result<PathBuf, String> {
        if let Some(dirs) = self.variable("STATE_DIRECTORY") {
            // systemd separates several directories with colons; ours is the first.
            let text = dirs.to_str().ok_or("cannot be taken from STATE_DIRECTORY, which is not UTF-8")?;
            return Ok(text.split(':').next().unwrap_or(text).into());
        }
        if self.is_root {
            return Ok(ROOT_STATE_DIR.into());
        }
        let absolute = |name| self.variable(name).map(Path::new).filter(|path| path.is_absolute());
        absolute("XDG_STATE_HOME")
            .map(Path::to_path_buf)
            .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
            .map(|base| base.join("p2p-cache"))
            .ok_or_else(|| "has no default, because neither XDG_STATE_HOME nor HOME is set".to_owned())
    }

    /// The settings that credentials give, and what is wrong with them.
    pub(super) fn credentials(&self) -> (Vec<Given>, Vec<Fault>) {
        let directory = self.variable(credentials::DIRECTORY_VARIABLE).map(Path::new);
        directory.map(credentials::read).unwrap_or_default()
    }

    /// The settings that variables give, and what is wrong with the variables of our prefix.
    pub(super) fn read(&self) -> (Vec<Given>, Vec<Fault>) {
        let mut given = Vec::new();
        let mut faults = Vec::new();
        for (name, value) in &self.variables {
            let name = name.to_string_lossy();
            if !name.starts_with(ENVIRONMENT_PREFIX) || name == CONFIG_FILE_VARIABLE {
                continue;
            }
            let source = Source::Environment { name: name.to_string() };
            match SETTINGS.iter().find(|setting| setting.variable() == name) {
                None => faults.push(unknown(&name)),
                Some(setting) => match value.to_str() {
                    Some(text) => given.push(Given::new(setting, source, items(setting, text))),
                    None => faults.push(Fault {
                        source,
                        key: setting.key.to_owned(),
                        value: None,
                        problem: "is not valid UTF-8".to_owned(),
                        remedy: setting.remedy.to_owned(),
                    }),
                },
            }
        }
        (given, faults)
    }
}

/// A list is separated by commas or white space; empty text is an empty list.
pub(super) fn items(setting: &Setting, text: &str) -> Vec<Item> {
    if !setting.is_list() {
        return vec![Item::new(text)];
    }
    let words: Vec<&str> =
        text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty()).collect();
    if words == [EMPTY_LIST] { Vec::new() } else { words.into_iter().map(Item::new).collect() }
}

fn unknown(name: &str) -> Fault {
    let known: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
    let candidates = known.iter().map(String::as_str).chain([CONFIG_FILE_VARIABLE]);
    let remedy = match nearest(name, candidates) {
        Some(near) => format!("did you mean {near}?"),
        None => "remove it; `p2p-cache serve --help` lists the variables".to_owned(),
    };
    Fault {
        source: Source::Environment { name: name.to_owned() },
        key: String::new(),
        value: None,
        problem: "is not a known setting".to_owned(),
        remedy,
    }
}

/// Reads the owner of the process's own directory in /proc, where there is one; else the user's name.
fn runs_as_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    match std::fs::metadata("/proc/self") {
        Ok(own) => own.uid() == 0,
        Err(_) => std::env::var_os("USER").is_some_and(|user| user == "root"),
    }
}
