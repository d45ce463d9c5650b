//! `p2p-cache generate`: what packages install beside the program.

use std::fs;
use std::path::Path;

use clap_complete::Shell;

use super::args::{self, Generated};
use super::console::Console;
use super::error::CliError;
use crate::config::{DefaultValue, SETTINGS, Setting};

/// Shells that complete the command line.
const SHELLS: [Shell; 3] = [Shell::Bash, Shell::Fish, Shell::Zsh];
/// Name of the program, of its completions and of its manual pages.
const PROGRAM: &str = "p2p-cache";
/// Longest line of the example configuration, in characters.
const MAX_LINE_CHARS: usize = 100;

/// Writes the files of one kind into a directory, which is made.
pub(super) fn run(console: &Console, what: Generated, directory: &Path) -> Result<(), CliError> {
    let failed = |error| CliError::File {
        action: "cannot write to",
        path: directory.to_owned(),
        error,
        remedy: "name a directory that can be written to",
    };
    fs::create_dir_all(directory).map_err(failed)?;
    match what {
        Generated::Completions => {
            for shell in SHELLS {
                clap_complete::generate_to(shell, &mut args::command(), PROGRAM, directory)
                    .map_err(failed)?;
            }
        }
        Generated::Man => clap_mangen::generate_to(args::command(), directory).map_err(failed)?,
        Generated::Config => {
            fs::write(directory.join("p2p-cache.toml"), example_configuration()).map_err(failed)?;
        }
    }
    console.print(&format!("{}\n", directory.display()))
}

/// A configuration file that changes nothing: every setting with its meaning and its default, as a comment.
fn example_configuration() -> String {
    let head = "# Settings of p2p-cache, each with its default. Remove the # in front of what you change;\n\
                # `p2p-cache config --check` says whether it is right.\n";
    SETTINGS.iter().fold(head.to_owned(), |text, setting| text + "\n" + &entry(setting))
}

fn entry(setting: &Setting) -> String {
    let quoted = |text: &str| serde_json::Value::from(text).to_string();
    let value = match setting.default {
        // That of a service; another user has another one.
        DefaultValue::Computed(_) => quoted("/var/lib/p2p-cache"),
        DefaultValue::Text(texts) if setting.is_list() => match texts {
            [] => "[]".to_owned(),
            [one] => format!("[{}]", quoted(one)),
            several => {
                let items: String = several.iter().map(|text| format!("#   {},\n", quoted(text))).collect();
                format!("[\n{items}# ]")
            }
        },
        DefaultValue::Text(texts) if setting.is_switch() => texts.concat(),
        DefaultValue::Text(texts) => quoted(&texts.concat()),
    };
    format!("{}{}# {} = {value}\n", comment(setting.help), comment(&capitalized(setting.remedy)), setting.key)
}

/// A sentence as comment lines.
fn comment(sentence: &str) -> String {
    let mut lines = vec!["#".to_owned()];
    for word in format!("{sentence}.").split_whitespace() {
        if let Some(line) = lines.last_mut().filter(|line| line.len() + word.len() < MAX_LINE_CHARS) {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(format!("# {word}"));
        }
    }
    lines.join("\n") + "\n"
}

fn capitalized(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, Source, Surroundings, load};

    fn loaded(text: &str) -> crate::config::Loaded {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p2p-cache.toml");
        fs::write(&path, text).unwrap();
        let flags = Flags { config_file: Some(path), values: Vec::new() };
        let mut surroundings = Surroundings::none();
        surroundings.variables.insert("HOME".into(), "/home/somebody".into());
        load(&flags, &surroundings).unwrap()
    }

    #[test]
    fn the_example_changes_nothing_and_without_its_marks_says_every_default() {
        let text = example_configuration();
        assert!(loaded(&text).values.iter().all(|value| value.source == Source::Default), "{text}");
        let settings: String = text
            .lines()
            .filter(|line| {
                let line = line.trim_start_matches("# ");
                line.contains(" = ") && SETTINGS.iter().any(|setting| line.starts_with(setting.key))
                    || line.starts_with(['"', ']', ' '])
            })
            .map(|line| format!("{}\n", line.trim_start_matches("# ")))
            .collect();
        let all = loaded(&settings);
        for (value, default) in all.values.iter().zip(loaded("").values) {
            assert!(matches!(value.source, Source::File { .. }), "{} is missing", value.setting.key);
            assert!(
                value.texts == default.texts || value.setting.key == "state-dir",
                "{}",
                value.setting.key
            );
        }
    }

    #[test]
    fn no_line_of_the_example_is_too_long_to_read() {
        for line in example_configuration().lines().filter(|line| !line.contains('=')) {
            assert!(line.chars().count() <= MAX_LINE_CHARS, "{line}");
        }
    }
}
