//! `p2p-cache doctor`: the usual faults, each with what mends it.

mod network;
mod nix;
mod node;
mod origins;
mod storage;

use serde::Serialize;

use super::console::{Console, printable};
use super::error::CliError;
use crate::config::Config;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    /// Something works less well than it could, or could not be found out.
    Warn,
    Fail,
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    level: Level,
    message: String,
    /// What to do; with every level but `ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, message: message.into(), remedy: None }
    }

    fn warn(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, level: Level::Warn, message: message.into(), remedy: Some(remedy.into()) }
    }

    fn fail(check: &'static str, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { check, level: Level::Fail, message: message.into(), remedy: Some(remedy.into()) }
    }
}

#[derive(Serialize)]
struct Report<'f> {
    /// Whether nothing failed.
    ok: bool,
    findings: &'f [Finding],
}

/// Makes all checks; an error when one of them failed.
pub(super) async fn run(console: &Console, config: &Config, json: bool) -> Result<(), CliError> {
    let node = node::Node::look(config.http).await;
    let status = node.status();
    let (origins, nix) = tokio::join!(origins::check(config), nix::check(config));
    let mut findings = node.findings();
    findings.extend(network::check(config, status));
    findings.extend(storage::check(config, status));
    findings.extend(nix);
    findings.extend(origins);

    let failed = findings.iter().filter(|finding| finding.level == Level::Fail).count();
    if json {
        console.print_json(&Report { ok: failed == 0, findings: &findings })?;
    } else {
        console.print(&describe(&findings))?;
    }
    if failed == 0 { Ok(()) } else { Err(CliError::Unhealthy { failed, all: findings.len() }) }
}

/// A line for each finding, and one for its remedy. What others said is made harmless.
fn describe(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { check, level, message, remedy } in findings {
        let word = match level {
            Level::Ok => "ok",
            Level::Warn => "warn",
            Level::Fail => "fail",
        };
        text += &format!("{word:<4}  {check:<12}  {}\n", printable(message));
        if let Some(remedy) = remedy {
            text += &format!("{:20}-> {}\n", "", printable(remedy));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_its_remedy_below_it() {
        let findings = [Finding::ok("node", "it runs"), Finding::fail("disk", "full\x1b[2J", "make room")];
        let expected =
            "ok    node          it runs\nfail  disk          full?[2J\n                    -> make room\n";
        assert_eq!(describe(&findings), expected);
    }
}
