//! The program as it is called.
// Helpers of tests may panic as tests may.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn call(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_p2p-cache-simulations")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_scenario_prints_a_table_and_exits_with_success() {
    let output = call(&["--scenario", "origin-only", "--seed", "5"]);
    assert!(output.status.success());
    let table = text(&output.stdout);
    for part in ["origin-only, seed 5", "time", "ideal", "ratio", "origin"] {
        assert!(table.contains(part), "{part} in {table}");
    }
}

#[test]
fn json_goes_to_a_file_or_to_standard_output() {
    let output = call(&["--scenario", "liar", "--seed", "2", "--json", "-"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["scenario"], "liar");
    assert_eq!(report["outcome"], "complete");
    assert_eq!(report["sources"].as_array().unwrap().len(), 4);

    let file = std::env::temp_dir().join(format!("p2p-cache-simulation-{}.json", std::process::id()));
    let output = call(&["--scenario", "liar", "--seed", "2", "--json", file.to_str().unwrap()]);
    assert!(output.status.success());
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(written, report);
}

#[test]
fn a_file_that_cannot_be_written_is_an_error() {
    let output = call(&["--scenario", "origin-only", "--json", "/no/such/directory/x.json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/no/such/directory/x.json"));
}

#[test]
fn an_unknown_scenario_is_refused_with_the_known_ones() {
    let output = call(&["--scenario", "no-such"]);
    assert_eq!(output.status.code(), Some(64));
    let message = text(&output.stderr);
    assert!(message.contains("`no-such`") && message.contains("four-sources"), "{message}");
}

#[test]
fn nonsense_is_refused_and_help_has_examples() {
    for args in [&[][..], &["--seed", "x", "--scenario", "liar"], &["--what"], &["--scenario"]] {
        assert_eq!(call(args).status.code(), Some(64), "{args:?}");
    }
    let help = call(&["--help"]);
    assert!(help.status.success() && text(&help.stdout).contains("Examples:"));
    let list = call(&["--list"]);
    assert!(list.status.success() && text(&list.stdout).contains("origin-and-late-peer"));
}
