//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::PathBuf;

use serde::Serialize;

/// Where a value came from; a later variant beats an earlier one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "from", rename_all = "lowercase")]
pub enum Source {
    /// Built in.
    Default,
    /// A line (counted from 1) of the configuration file.
    File {
        /// Path of the file as it was given.
        path: PathBuf,
        /// Line of the key; 0 when the fault concerns the whole file.
        line: usize,
    },
    /// A secret that the service manager hands over.
    Credential {
        /// Its name, which is that of the key.
        name: String,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        name: String,
    },
    /// A flag of the command line.
    Flag {
        /// The flag with its dashes.
        name: String,
    },
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File { path, line: 0 } => write!(f, "{}", path.display()),
            Source::File { path, line } => write!(f, "{}:{line}", path.display()),
            Source::Credential { name } => write!(f, "credential {name}"),
            Source::Environment { name } => write!(f, "environment {name}"),
            Source::Flag { name } => write!(f, "flag {name}"),
        }
    }
}

/// One thing that is wrong, with its remedy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where the bad value stands.
    pub source: Source,
    /// The key that it concerns; empty when the fault concerns a whole file.
    pub key: String,
    /// The bad value as given; credentials in it are not printed.
    pub value: Option<String>,
    /// What is wrong, as a clause that follows the value: "is not an address and a port".
    pub problem: String,
    /// What to do about it, as an order: "write ADDR:PORT, for example 127.0.0.1:5380".
    pub remedy: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.source)?;
        match (self.key.as_str(), &self.value) {
            ("", None) => {}
            ("", Some(value)) => write!(f, "{} ", quoted(value))?,
            (key, None) => write!(f, "{key} ")?,
            (key, Some(value)) => write!(f, "{key} = {} ", quoted(value))?,
        }
        write!(f, "{}; {}", self.problem, self.remedy)
    }
}

/// Longest value that a message repeats, in characters.
const MAX_SHOWN_CHARS: usize = 120;

fn quoted(value: &str) -> String {
    let value = redact(value);
    if value.chars().count() <= MAX_SHOWN_CHARS {
        return format!("{value:?}");
    }
    let head: String = value.chars().take(MAX_SHOWN_CHARS).collect();
    format!("{head:?}...")
}

/// Every fault of a configuration, in the order file, environment, flags, contradictions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// At least one.
    pub faults: Vec<Fault>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.faults.len() {
            1 => write!(f, "1 fault in the configuration:")?,
            n => write!(f, "{n} faults in the configuration:")?,
        }
        for fault in &self.faults {
            write!(f, "\n  {fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

/// Replaces the credentials of every URL in a text (`scheme://user:password@host`) with `***`.
///
/// Works on text that is not a valid URL too, because it is there for messages about invalid ones.
#[must_use]
pub fn redact(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        shown.push_str(before);
        let authority_end = after.find(['/', '?', '#', ' ']).unwrap_or(after.len());
        let (authority, remainder) = after.split_at(authority_end);
        match authority.rsplit_once('@') {
            Some((_, host)) => {
                shown.push_str("***@");
                shown.push_str(host);
            }
            None => shown.push_str(authority),
        }
        rest = remainder;
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_where_what_and_what_to_do() {
        let fault = Fault {
            source: Source::File { path: "/etc/p.toml".into(), line: 3 },
            key: "http".into(),
            value: Some("abc".into()),
            problem: "is not an address".into(),
            remedy: "write ADDR:PORT".into(),
        };
        assert_eq!(fault.to_string(), "/etc/p.toml:3: http = \"abc\" is not an address; write ADDR:PORT");
    }

    #[test]
    fn credentials_never_reach_a_message() {
        assert_eq!(redact("https://user:secret@host/x"), "https://***@host/x");
        assert_eq!(redact("a https://u@h b http://p:q@i:1"), "a https://***@h b http://***@i:1");
        assert_eq!(redact("ftp://u:p@ss@host"), "ftp://***@host");
        assert_eq!(redact("https://host/a@b"), "https://host/a@b");
        assert_eq!(redact("no url, me@home"), "no url, me@home");
    }

    #[test]
    fn a_long_value_is_cut() {
        assert!(quoted(&"x".repeat(10_000)).len() < 200);
    }

    proptest::proptest! {
        #[test]
        fn redaction_takes_any_text(text in ".*") {
            let _ = redact(&text);
        }
    }
}
