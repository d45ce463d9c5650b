//! Whether the origins answer, and what time it is there.

use std::time::{Duration, SystemTime};

use futures::future::join_all;
use reqwest::Client;
use reqwest::header::DATE;
use url::Url;

use super::Finding;
use crate::cli::client::reason;
use crate::config::{Config, redact};

const ORIGIN: &str = "origin";
const CLOCK: &str = "clock";
/// Off by more than this, expiry times and the log are misleading; by more than the second, certificates seem to be not
/// valid yet, or no longer.
const CLOCK_WARN: Duration = Duration::from_secs(60);
const CLOCK_FAIL: Duration = Duration::from_secs(600);

/// What an origin said: the time there, if it told it.
type Answer = Result<Option<SystemTime>, String>;

pub(super) async fn check(config: &Config) -> Vec<Finding> {
    let client = Client::builder()
        .connect_timeout(config.origin_connect_timeout)
        .timeout(config.origin_first_byte_timeout)
        .user_agent(concat!("p2p-cache/", env!("CARGO_PKG_VERSION")))
        .build();
    let client = match client {
        Ok(client) => client,
        Err(error) => {
            let remedy = "install the CA certificates of your distribution (ca-certificates)";
            return vec![Finding::fail(ORIGIN, format!("no origin can be asked: {error}"), remedy)];
        }
    };
    if config.origins.is_empty() {
        return vec![Finding::ok(ORIGIN, "none is configured")];
    }
    let answers = join_all(config.origins.iter().map(|url| ask(&client, url))).await;
    let some_answer = answers.iter().any(Result::is_ok);
    let pairs = config.origins.iter().zip(&answers);
    let mut findings: Vec<Finding> = pairs.map(|(url, answer)| of_origin(url, answer, some_answer)).collect();
    let there = answers.iter().find_map(|answer| answer.as_ref().ok().copied().flatten());
    findings.push(clock(SystemTime::now(), there));
    findings
}

async fn ask(client: &Client, origin: &Url) -> Answer {
    let mut url = origin.clone();
    // What every binary cache has; a bucket that answers otherwise is reached all the same.
    url.set_path(&format!("{}/nix-cache-info", origin.path().trim_end_matches('/')));
    let response = client.get(url).send().await.map_err(|error| reason(&error))?;
    if response.status().is_server_error() {
        return Err(format!("it answers {}", response.status()));
    }
    let date = response.headers().get(DATE).and_then(|date| date.to_str().ok());
    Ok(date.and_then(|date| httpdate::parse_http_date(date).ok()))
}

fn of_origin(url: &Url, answer: &Answer, some_answer: bool) -> Finding {
    let url = redact(url.as_str());
    match answer {
        Ok(_) => Finding::ok(ORIGIN, format!("{url} answers")),
        Err(problem) => {
            let message = format!("{url} does not answer: {problem}");
            let remedy = "check the address, the name server, the proxy and the line; until then only what this node and \
                          its peers hold is served";
            // The others stand in for it.
            let level = if some_answer { Finding::warn } else { Finding::fail };
            level(ORIGIN, message, remedy)
        }
    }
}

fn clock(here: SystemTime, there: Option<SystemTime>) -> Finding {
    let Some(there) = there else {
        return Finding::warn(
            CLOCK,
            "no origin told the time, so the clock was not compared",
            "ask again later",
        );
    };
    let (off, direction) = match here.duration_since(there) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(behind) => (behind.duration(), "behind"),
    };
    let message = format!("{} s {direction} that of the origin", off.as_secs());
    let remedy = "set the clock: `timedatectl set-ntp true`";
    if off >= CLOCK_FAIL {
        Finding::fail(CLOCK, message, remedy)
    } else if off >= CLOCK_WARN {
        Finding::warn(CLOCK, message, remedy)
    } else {
        Finding::ok(CLOCK, message)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn a_clock_may_be_off_in_both_directions() {
        let now = SystemTime::now();
        let level = |seconds| {
            let off = Duration::from_secs(seconds);
            let findings = [clock(now, now.checked_sub(off)), clock(now, now.checked_add(off))];
            assert_eq!(findings[0].level, findings[1].level);
            findings[0].level
        };
        assert_eq!(
            (level(0), level(59), level(61), level(3600)),
            (Level::Ok, Level::Ok, Level::Warn, Level::Fail)
        );
        assert_eq!(clock(now, None).level, Level::Warn);
    }

    #[test]
    fn one_origin_of_two_may_be_down() {
        let url: Url = "https://user:secret@cache.example.org/".parse().unwrap();
        let finding = of_origin(&url, &Err("refused".into()), true);
        assert_eq!(finding.level, Level::Warn);
        assert!(!finding.message.contains("secret"), "{finding:?}");
        assert_eq!(of_origin(&url, &Err("refused".into()), false).level, Level::Fail);
    }
}
