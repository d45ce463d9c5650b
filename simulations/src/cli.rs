//! The command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::plot;
use crate::report::Report;
use crate::scenario::{Params, SCENARIOS, Scenario};
use crate::world;

/// Exit code of a bad command line, as that of the daemon.
const USAGE: u8 = 64;
/// Where results go unless told otherwise.
const OUTPUT_FOLDER: &str = "target/simulations";

const EXAMPLES: &str = "\
Examples:
  p2p-cache-simulations --list
  p2p-cache-simulations --scenario office --seed 1
  p2p-cache-simulations --scenario straggler --seed 42 --json straggler.json --svg straggler.svg
  p2p-cache-simulations --scenario calibration --nodes 8 --size-mib 256 --origin-mbit 100 --link-mbit 1000

The exit code is 0 when the run went as expected, 1 when it did not (the command that plays it again is printed) or a
file could not be written, and 64 for a command line that makes no sense.";

/// Plays fetches in virtual time with the scheduler that the daemon uses.
#[derive(Debug, Parser)]
#[command(name = "p2p-cache-simulations", version, after_help = EXAMPLES)]
struct Options {
    /// What to play; --list shows what there is.
    #[arg(long, value_name = "NAME", required_unless_present = "list")]
    scenario: Option<String>,
    /// Decides rates, round trips and times of faults, and the choices of the schedulers.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Where to write the result as JSON ("-": to standard output instead of the table)
    /// [default: target/simulations/NAME-N.json].
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where to write the plot [default: target/simulations/NAME-N.svg].
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// How many nodes fetch, where the scenario leaves it open.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1000))]
    nodes: Option<u16>,
    /// Size of the blob in MiB.
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u64).range(1..=65536))]
    size_mib: Option<u64>,
    /// Rate of the origin (or of the one node that holds the blob) in Mbit/s, where the scenario leaves it open.
    #[arg(long, value_name = "MBIT", value_parser = rate)]
    origin_mbit: Option<f64>,
    /// Rate of the nodes' links in Mbit/s, where the scenario leaves it open.
    #[arg(long, value_name = "MBIT", value_parser = rate)]
    link_mbit: Option<f64>,
    /// List the scenarios.
    #[arg(long, conflicts_with_all = ["scenario", "json", "svg"])]
    list: bool,
}

fn rate(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is no number"))?;
    if (0.1..=1e6).contains(&value) { Ok(value) } else { Err("not between 0.1 and 1000000".to_owned()) }
}

/// Parses `args` (the first is the program's name), plays, prints.
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let options = match Options::try_parse_from(args) {
        Ok(options) => options,
        Err(error) => {
            let failed = error.use_stderr();
            // A closed terminal is no reason for another exit code.
            let _ = error.print();
            return if failed { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let Some(name) = &options.scenario else {
        print!("{}", scenario_list());
        return ExitCode::SUCCESS;
    };
    let Some(scenario) = Scenario::find(name) else {
        eprintln!("error: there is no scenario `{name}`. There are:\n{}", scenario_list());
        return ExitCode::from(USAGE);
    };
    let params = Params {
        nodes: options.nodes.map(usize::from),
        size_mib: options.size_mib,
        origin_mbit: options.origin_mbit,
        link_mbit: options.link_mbit,
    };
    let report = world::run(scenario, options.seed, &params);
    let written = show(&report, options.json.as_deref(), options.svg.as_deref());
    if let Err(message) = &written {
        eprintln!("error: {message}");
    }
    if !report.failures.is_empty() {
        eprintln!("error: {}; play it again with\n  {}", report.failures.join("; "), report.replay);
    }
    if written.is_ok() && report.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn scenario_list() -> String {
    SCENARIOS.iter().map(|scenario| format!("  {:<22} {}\n", scenario.name, scenario.about)).collect()
}

fn show(report: &Report, json: Option<&Path>, svg: Option<&Path>) -> Result<(), String> {
    let text = serde_json::to_string_pretty(report)
        .map_err(|error| format!("cannot write the report: {error}"))?
        + "\n";
    let default =
        |extension| Path::new(OUTPUT_FOLDER).join(format!("{}-{}.{extension}", report.scenario, report.seed));
    if json == Some(Path::new("-")) {
        print!("{text}");
    } else {
        print!("{report}");
        write(json, &default("json"), &text, "--json")?;
    }
    write(svg, &default("svg"), &plot::svg(report), "--svg")
}

/// To the file that was asked for, or to the default one, whose folder is made.
fn write(path: Option<&Path>, default: &Path, text: &str, option: &str) -> Result<(), String> {
    let path = path.unwrap_or(default);
    if path == default {
        // Where that fails, so does what follows, and says so.
        let _ = std::fs::create_dir_all(OUTPUT_FOLDER);
    }
    std::fs::write(path, text)
        .map_err(|error| format!("cannot write {}: {error}; {option} needs a writable file", path.display()))
}
