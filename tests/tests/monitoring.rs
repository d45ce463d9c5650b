//! The dashboard and the alert rules ask for what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use p2p_cache_tests::metrics;
use serde_json::Value;

/// Labels that Prometheus itself adds.
const ADDED: [&str; 2] = ["instance", "job"];

/// Of each metric, under the name that a query uses, the labels with the values that were seen.
type Known = BTreeMap<String, BTreeMap<String, BTreeSet<String>>>;

fn file(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../node/dist/monitoring").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// `name="value", other=~"value"` as names, operators and values; values may hold anything.
fn matchers(text: &str) -> Vec<(String, String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((head, tail)) = rest.split_once('"') {
        let (value, after) = tail.split_once('"').expect("a quote is closed");
        let head = head.trim_start_matches([',', ' ']);
        let name_end = head.find(['=', '!']).expect("an operator");
        found.push((
            head[..name_end].trim().to_owned(),
            head[name_end..].trim().to_owned(),
            value.to_owned(),
        ));
        rest = after;
    }
    found
}

/// The text between a brace and the one that closes it, quotes apart.
fn braced(text: &str) -> &str {
    let mut quoted = false;
    let end = text.char_indices().skip(1).find(|(_, c)| {
        quoted ^= *c == '"';
        *c == '}' && !quoted
    });
    &text[1..end.expect("a brace is closed").0]
}

fn known(metrics: &str) -> Known {
    let mut known = Known::new();
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a name");
        let labels = known.entry(name.to_owned()).or_default();
        if let Some(rest) = line.strip_prefix(name).filter(|rest| rest.starts_with('{')) {
            for (label, _, value) in matchers(braced(rest)) {
                labels.entry(label).or_default().insert(value);
            }
        }
    }
    known
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Checks one expression, and returns the labels that its metrics have.
fn check(expression: &str, known: &Known) -> BTreeSet<String> {
    let mut labels: BTreeSet<String> = ADDED.iter().map(|label| (*label).to_owned()).collect();
    let mut rest = expression;
    while let Some(at) = rest.find("p2p_cache_") {
        rest = &rest[at..];
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let of_metric = known.get(name).unwrap_or_else(|| panic!("{name} does not exist: {expression}"));
        labels.extend(of_metric.keys().cloned());
        rest = after;
        if after.starts_with('{') {
            let selector = braced(after);
            for (label, operator, value) in matchers(selector) {
                if ADDED.contains(&label.as_str()) {
                    continue;
                }
                let values =
                    of_metric.get(&label).unwrap_or_else(|| panic!("{name} has no {label}: {expression}"));
                assert!(
                    operator != "=" || values.contains(&value),
                    "{name} never has {label}={value:?}: {values:?}"
                );
            }
            rest = &after[selector.len() + 2..];
        }
    }
    for group in expression.split("by (").skip(1) {
        let group = group.split(')').next().expect("a group is closed");
        for label in group.split(',').map(str::trim) {
            assert!(labels.contains(label), "nothing has the label {label}: {expression}");
        }
    }
    labels
}

/// `{{label}}` in a text.
fn placeholders(text: &str) -> impl Iterator<Item = &str> {
    text.split("{{").skip(1).filter_map(|rest| rest.split("}}").next()).map(|name| name.trim())
}

/// All objects in a JSON value that have this key.
fn with_key<'v>(value: &'v Value, key: &str, found: &mut Vec<&'v Value>) {
    match value {
        Value::Object(map) => {
            if map.contains_key(key) {
                found.push(value);
            }
            map.values().for_each(|value| with_key(value, key, found));
        }
        Value::Array(items) => items.iter().for_each(|value| with_key(value, key, found)),
        _ => {}
    }
}

#[test]
fn every_panel_of_the_dashboard_shows_metrics_and_labels_that_exist() {
    let known = known(&metrics::of_a_used_node());
    let dashboard: Value = serde_json::from_str(&file("grafana-dashboard.json")).expect("JSON");
    let mut targets = Vec::new();
    with_key(&dashboard, "expr", &mut targets);
    assert!(targets.len() >= dashboard["panels"].as_array().expect("panels").len());
    for target in targets {
        let expression = target["expr"].as_str().expect("text");
        assert!(expression.contains("p2p_cache_"), "{expression}");
        let labels = check(expression, &known);
        for label in placeholders(target["legendFormat"].as_str().expect("text")) {
            assert!(labels.contains(label), "nothing has the label {label} of a legend: {expression}");
        }
    }
    // What a node counts and no panel shows is forgotten sooner or later.
    let text = dashboard.to_string();
    for name in known.keys() {
        let family =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(text.contains(family) || family.ends_with("_created"), "no panel shows {family}");
    }
}

#[test]
fn every_alert_asks_for_what_exists_and_says_what_to_do() {
    let known = known(&metrics::of_a_used_node());
    let rules = file("prometheus-rules.yml");
    let alerts: Vec<_> = rules.split("- alert: ").skip(1).collect();
    assert!(alerts.len() >= 5);
    for alert in alerts {
        let field = |name: &str| {
            let line = alert.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
            line.unwrap_or_else(|| panic!("no {name} in {alert}")).to_owned()
        };
        let labels = check(&field("expr"), &known);
        assert!(["info", "warning", "critical"].contains(&field("severity").as_str()), "{alert}");
        for text in [field("summary"), field("description")] {
            assert!(text.starts_with('"') && text.ends_with('"'), "{text}");
            for label in placeholders(&text).filter_map(|name| name.strip_prefix("$labels.")) {
                assert!(labels.contains(label), "nothing has the label {label}: {alert}");
            }
        }
    }
}

#[test]
fn selectors_are_read_with_anything_in_their_values() {
    let text = r#"x{route="/{hash}.narinfo",status=~"5.."} > 0"#;
    let inside = braced(&text[1..]);
    assert_eq!(inside, r#"route="/{hash}.narinfo",status=~"5..""#);
    let expected = [("route", "=", "/{hash}.narinfo"), ("status", "=~", "5..")];
    assert_eq!(matchers(inside), expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));
}
