//! The program as it is called.
// Helpers of tests may panic as tests may.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder of its own for each test, since results go below the working directory.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("p2p-cache-simulation-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn call(&self, args: &[&str]) -> Output {
        let program = env!("CARGO_BIN_EXE_p2p-cache-simulations");
        Command::new(program).current_dir(&self.0).args(args).output().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_scenario_prints_a_table_writes_its_results_and_exits_with_success() {
    let folder = Folder::new("table");
    let output = folder.call(&["--scenario", "origin-only", "--seed", "5"]);
    assert!(output.status.success());
    let table = text(&output.stdout);
    for part in ["origin-only, seed 5", "time", "ideal", "median", "origin"] {
        assert!(table.contains(part), "{part} in {table}");
    }
    let results = folder.0.join("target/simulations");
    assert_eq!(json(&results.join("origin-only-5.json"))["scenario"], "origin-only");
    let plot = std::fs::read_to_string(results.join("origin-only-5.svg")).unwrap();
    assert!(plot.starts_with("<svg") && plot.trim_end().ends_with("</svg>") && plot.contains("origin-only"));
}

#[test]
fn json_goes_to_a_file_or_to_standard_output() {
    let folder = Folder::new("json");
    let output = folder.call(&["--scenario", "liar", "--seed", "2", "--json", "-", "--svg", "plot.svg"]);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["scenario"], "liar");
    assert_eq!(report["nodes"][4]["outcome"], "complete");
    assert_eq!(report["nodes"].as_array().unwrap().len(), 5);
    assert!(folder.0.join("plot.svg").exists());

    let output = folder.call(&["--scenario", "liar", "--seed", "2", "--json", "liar.json"]);
    assert!(output.status.success());
    assert_eq!(json(&folder.0.join("liar.json")), report);
}

#[test]
fn a_run_can_be_scaled_and_says_how_to_play_it_again() {
    let folder = Folder::new("scaled");
    let args = ["--scenario", "calibration", "--nodes", "3", "--size-mib", "4", "--origin-mbit", "50"];
    let output = folder.call(&[&args[..], &["--link-mbit", "500", "--json", "-"]].concat());
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["nodes"].as_array().unwrap().len(), 3);
    assert_eq!(report["size_bytes"], 4 << 20);
    let replay = report["replay"].as_str().unwrap();
    assert!(replay.ends_with("--seed 1 --nodes 3 --size-mib 4 --origin-mbit 50 --link-mbit 500"), "{replay}");
}

#[test]
fn a_file_that_cannot_be_written_is_an_error() {
    let folder = Folder::new("unwritable");
    let output = folder.call(&["--scenario", "origin-only", "--json", "/no/such/directory/x.json"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/no/such/directory/x.json"));
}

#[test]
fn an_unknown_scenario_is_refused_with_the_known_ones() {
    let output = Folder::new("unknown").call(&["--scenario", "no-such"]);
    assert_eq!(output.status.code(), Some(64));
    let message = text(&output.stderr);
    assert!(message.contains("`no-such`") && message.contains("four-sources"), "{message}");
}

#[test]
fn nonsense_is_refused_and_help_has_examples() {
    let folder = Folder::new("nonsense");
    for args in [
        &[][..],
        &["--seed", "x", "--scenario", "liar"],
        &["--what"],
        &["--scenario"],
        &["--scenario", "office", "--nodes", "0"],
        &["--scenario", "office", "--link-mbit", "-1"],
    ] {
        assert_eq!(folder.call(args).status.code(), Some(64), "{args:?}");
    }
    let help = folder.call(&["--help"]);
    assert!(help.status.success() && text(&help.stdout).contains("Examples:"));
    let list = folder.call(&["--list"]);
    assert!(list.status.success() && text(&list.stdout).contains("origin-and-late-peer"));
}
