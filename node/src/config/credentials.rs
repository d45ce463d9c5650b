//! Settings whose value is a secret: files that systemd hands to the service alone (`LoadCredential=`), each named like the
//! key that it is the value of; of a key that names a file it is that file itself. No message repeats what is in them.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use super::environment::items;
use super::fault::{Fault, Source};
use super::layers::Given;
use super::setting::Setting;
use super::settings::SETTINGS;
use super::suggest::nearest;

/// Variable that names the directory of the files.
pub(super) const DIRECTORY_VARIABLE: &str = "CREDENTIALS_DIRECTORY";
/// Files that are looked at; more have nothing to do with us.
const MAX_CREDENTIALS: usize = 256;
/// How keys end whose value is the path of a file.
const FILE_KEY: &str = "-file";
/// Longest value.
const MAX_CREDENTIAL_BYTES: u64 = 64 * 1024;

/// The settings that files of the directory give, and what is wrong with them.
pub(super) fn read(directory: &Path) -> (Vec<Given>, Vec<Fault>) {
    let mut given = Vec::new();
    let mut faults = Vec::new();
    let mut names: Vec<String> = match fs::read_dir(directory) {
        Ok(entries) => {
            let entries = entries.take(MAX_CREDENTIALS).flatten();
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
        }
        Err(error) => {
            let source = Source::Credential { name: directory.display().to_string() };
            let problem = format!("cannot be read ({error})");
            let remedy = format!("look at {DIRECTORY_VARIABLE}, which the service manager sets");
            return (given, vec![fault(source, "", problem, remedy)]);
        }
    };
    names.sort();
    for name in names {
        let source = Source::Credential { name: name.clone() };
        let Some(setting) = Setting::find(&name) else {
            faults.push(unknown(source, &name));
            continue;
        };
        if name.ends_with(FILE_KEY) {
            let path = directory.join(&name).to_string_lossy().into_owned();
            given.push(Given::new(setting, source, items(setting, &path)));
            continue;
        }
        match text_of(&directory.join(&name)) {
            Ok(text) => given.push(Given::new(setting, source, items(setting, text.trim_end()))),
            Err(error) => {
                faults.push(fault(
                    source,
                    &name,
                    format!("cannot be read ({error})"),
                    setting.remedy.to_owned(),
                ));
            }
        }
    }
    (given, faults)
}

fn text_of(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(MAX_CREDENTIAL_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_CREDENTIAL_BYTES {
        return Err(io::Error::other(format!("longer than {} KiB", MAX_CREDENTIAL_BYTES / 1024)));
    }
    Ok(text)
}

fn unknown(source: Source, name: &str) -> Fault {
    let remedy = match nearest(name, SETTINGS.iter().map(|setting| setting.key)) {
        Some(near) => format!("did you mean {near}?"),
        None => "name it like a key of the configuration file; `p2p-cache config` lists them".to_owned(),
    };
    fault(source, "", "is not a known key".to_owned(), remedy)
}

fn fault(source: Source, key: &str, problem: String, remedy: String) -> Fault {
    Fault { source, key: key.to_owned(), value: None, problem, remedy }
}
