//! `p2p-cache config`

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::console::Console;
use super::error::CliError;
use crate::config::{Effective, Loaded, Source, redact};

/// Prints the configuration that was loaded; a faulty one does not come this far.
pub(super) fn run(console: &Console, loaded: &Loaded, check: bool, json: bool) -> Result<(), CliError> {
    match (check, json) {
        (true, true) => console.print_json(&json!({ "ok": true, "file": loaded.file })),
        (true, false) => console.print("ok\n"),
        (false, true) => console.print_json(&Printed::of(loaded)),
        (false, false) => console.print(&table(loaded)),
    }
}

#[derive(Serialize)]
struct Printed {
    /// The file that was read, or null.
    file: Option<std::path::PathBuf>,
    /// Key to `{value, source, variable}`, in the order of the table.
    settings: Map<String, Value>,
}

#[derive(Serialize)]
struct Entry<'l> {
    value: Value,
    source: &'l Source,
    variable: String,
}

impl Printed {
    fn of(loaded: &Loaded) -> Printed {
        let entry = |value: &Effective| {
            let shown =
                Entry { value: shown(value), source: &value.source, variable: value.setting.variable() };
            (value.setting.key.to_owned(), serde_json::to_value(shown).unwrap_or(Value::Null))
        };
        Printed { file: loaded.file.clone(), settings: loaded.values.iter().map(entry).collect() }
    }
}

/// The value as JSON without credentials: a list, true or false, or the text as it was written.
fn shown(value: &Effective) -> Value {
    if matches!(value.source, Source::Credential { .. }) {
        return Value::String("***".to_owned());
    }
    let mut texts = value.texts.iter().map(|text| redact(text));
    if value.setting.is_list() {
        return texts.collect::<Vec<_>>().into();
    }
    let text = texts.next().unwrap_or_default();
    if value.setting.is_switch() {
        return crate::config::parse_boolean(&text).map_or(Value::Null, Value::Bool);
    }
    Value::String(text)
}

/// `KEY = VALUE  # source`, in columns. JSON texts, lists and truth values are TOML, too.
fn table(loaded: &Loaded) -> String {
    /// Values beyond this push their own comment only, not everybody's.
    const MAX_COLUMN_CHARS: usize = 48;
    let lines: Vec<(String, String)> = loaded
        .values
        .iter()
        .map(|value| (format!("{} = {}", value.setting.key, toml(&shown(value))), value.source.to_string()))
        .collect();
    let width = lines.iter().map(|(line, _)| line.chars().count()).filter(|n| *n <= MAX_COLUMN_CHARS).max();
    let width = width.unwrap_or_default();
    lines.iter().map(|(line, source)| format!("{line:width$}  # {source}\n")).collect()
}

fn toml(value: &Value) -> String {
    match value {
        Value::Array(items) if items.len() > 1 => {
            let items: Vec<String> = items.iter().map(|item| format!("\n  {item}")).collect();
            format!("[{}\n]", items.join(","))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Flags, SETTINGS, Surroundings, load};

    fn loaded() -> Loaded {
        let values = vec![
            ("state-dir", vec!["/x \"quoted\"".into()]),
            ("origin", vec!["https://user:secret@host/".into(), "http://b".into()]),
            ("no-mdns", vec!["yes".into()]),
        ];
        load(&Flags { config_file: None, values }, &Surroundings::none()).unwrap()
    }

    #[test]
    fn the_printed_table_is_a_configuration_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("p2p-cache.toml");
        let text = table(&loaded());
        std::fs::write(&path, &text).unwrap();
        let again =
            load(&Flags { config_file: Some(path), values: Vec::new() }, &Surroundings::none()).unwrap();
        assert_eq!(again.config.state_dir, std::path::Path::new("/x \"quoted\""));
        assert!(!again.config.mdns);
        assert_eq!(again.config.listen, loaded().config.listen);
        for setting in SETTINGS {
            assert!(text.contains(&format!("{} = ", setting.key)), "{}", setting.key);
        }
    }

    #[test]
    fn sources_are_printed_and_credentials_are_not() {
        let text = table(&loaded());
        assert!(text.contains("# flag --no-mdns") && text.contains("# default"), "{text}");
        assert!(text.contains("https://***@host/") && !text.contains("secret"), "{text}");
        let json = serde_json::to_string(&Printed::of(&loaded())).unwrap();
        assert!(json.contains("https://***@host/") && !json.contains("secret"), "{json}");
        assert!(
            json.contains(r#""no-mdns":{"source":{"from":"flag","name":"--no-mdns"},"value":true"#),
            "{json}"
        );
    }
}
