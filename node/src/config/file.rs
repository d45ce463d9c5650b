//! The TOML file: flat keys, no sections. Wrong types and unknown keys are faults with their line.

use std::io::Read;
use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::fault::{Fault, Source};
use super::layers::{Given, Item};
use super::setting::Setting;
use super::settings::{EMPTY_LIST, SETTINGS};
use super::suggest::nearest;

/// Longest file that is read.
const MAX_CONFIG_FILE_BYTES: u64 = 1024 * 1024;

/// Reads and understands a file. The settings that are well formed are returned even when others are
/// not, so that every fault of every layer is found in one go.
pub(super) fn read(path: &Path) -> (Vec<Given>, Vec<Fault>) {
    match load(path) {
        Ok(text) => parse(path, &text),
        Err(problem) => {
            let remedy = "name another file with --config or P2P_CACHE_CONFIG, or mend this one".to_owned();
            let source = Source::File { path: path.to_owned(), line: 0 };
            (Vec::new(), vec![Fault { source, key: String::new(), value: None, problem, remedy }])
        }
    }
}

fn load(path: &Path) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read ({error})");
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_CONFIG_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_CONFIG_FILE_BYTES {
        return Err(format!("is longer than {} KiB", MAX_CONFIG_FILE_BYTES / 1024));
    }
    String::from_utf8(bytes).map_err(|_| "is not valid UTF-8".to_owned())
}

/// Understands the text of a file; `path` is only for messages.
pub(super) fn parse(path: &Path, text: &str) -> (Vec<Given>, Vec<Fault>) {
    let place = |span: &Range<usize>| Source::File { path: path.to_owned(), line: line_of(text, span.start) };
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut faults: Vec<Fault> = errors.iter().map(|error| syntax_fault(error, &place)).collect();
    if !faults.is_empty() {
        // What a parser recovers from broken TOML may be filed under the wrong key.
        return (Vec::new(), faults);
    }
    let mut given = Vec::new();
    for (key, value) in table.get_ref() {
        let source = place(&key.span());
        let name: &str = key.get_ref();
        let Some(setting) = Setting::find(name) else {
            faults.push(unknown_key(source, name, value.get_ref()));
            continue;
        };
        match items(setting, value) {
            Ok(items) => given.push(Given::new(setting, source, items)),
            Err(found) => faults.push(Fault {
                source,
                key: name.to_owned(),
                value: None,
                problem: format!("is {found}, but must be {}", expected(setting)),
                remedy: setting.remedy.to_owned(),
            }),
        }
    }
    faults.sort_by(|a, b| a.source.cmp(&b.source));
    (given, faults)
}

fn syntax_fault(error: &toml::de::Error, place: &impl Fn(&Range<usize>) -> Source) -> Fault {
    Fault {
        source: place(&error.span().unwrap_or(0..0)),
        key: String::new(),
        value: None,
        problem: format!("is not valid TOML ({})", error.message().replace('\n', ", ")),
        remedy: "write KEY = VALUE lines, with text in double quotes".to_owned(),
    }
}

fn unknown_key(source: Source, name: &str, value: &DeValue<'_>) -> Fault {
    let keys = SETTINGS.iter().map(|setting| setting.key);
    let (problem, remedy) = match (nearest(name, keys), value.is_table()) {
        (Some(near), _) => ("is not a known key".to_owned(), format!("did you mean {near}?")),
        (None, true) => {
            ("is a section".to_owned(), "write the keys on the top level: there are no sections".to_owned())
        }
        (None, false) => {
            ("is not a known key".to_owned(), "remove it; `p2p-cache config` lists the keys".to_owned())
        }
    };
    Fault { source, key: name.to_owned(), value: None, problem, remedy }
}

/// The text of every item; the error names the type that was found instead.
fn items(setting: &Setting, value: &Spanned<DeValue<'_>>) -> Result<Vec<Item>, String> {
    let value = value.get_ref();
    if setting.is_switch() {
        return match value {
            DeValue::Boolean(flag) => Ok(vec![Item::new(&flag.to_string())]),
            other => Err(type_name(other)),
        };
    }
    match value {
        DeValue::String(text) if setting.is_list() && text == EMPTY_LIST => Ok(Vec::new()),
        DeValue::String(text) => Ok(vec![Item::new(text)]),
        DeValue::Integer(number) if setting.takes_integer && number.radix() == 10 => {
            Ok(vec![Item::new(&number.as_str().replace('_', ""))])
        }
        DeValue::Array(list) if setting.is_list() => list
            .iter()
            .map(|item| match item.get_ref() {
                DeValue::String(text) => Ok(Item::new(text)),
                other => Err(format!("a list with {}", type_name(other))),
            })
            .collect(),
        other => Err(type_name(other)),
    }
}

fn expected(setting: &Setting) -> &'static str {
    match (setting.is_switch(), setting.is_list(), setting.takes_integer) {
        (true, _, _) => "true or false without quotes",
        (_, true, _) => "a list of texts",
        (_, _, true) => "a number or a text",
        _ => "a text",
    }
}

fn type_name(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a fraction without quotes",
        DeValue::Boolean(_) => "true or false",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a section",
    }
    .to_owned()
}

/// Line of a byte position, from 1.
fn line_of(text: &str, position: usize) -> usize {
    text.as_bytes().iter().take(position).filter(|byte| **byte == b'\n').count() + 1
}
