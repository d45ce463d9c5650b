//! The command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;

use crate::report::{Outcome, Report};
use crate::scenario::{SCENARIOS, Scenario};
use crate::world;

/// Exit code of a bad command line, as that of the daemon.
const USAGE: u8 = 64;

const EXAMPLES: &str = "\
Examples:
  p2p-cache-simulations --list
  p2p-cache-simulations --scenario four-sources --seed 1
  p2p-cache-simulations --scenario straggler --seed 42 --json straggler.json

The exit code is 0 when the fetch completed, 1 when it did not (or the JSON file could not be written), and 64 for a
command line that makes no sense.";

/// Plays a fetch in virtual time with the scheduler that the daemon uses.
#[derive(Debug, Parser)]
#[command(name = "p2p-cache-simulations", version, after_help = EXAMPLES)]
struct Options {
    /// What to play; --list shows what there is.
    #[arg(long, value_name = "NAME", required_unless_present = "list")]
    scenario: Option<String>,
    /// Decides rates, round trips and times of faults, and the choices of the scheduler.
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Also write the result as JSON to this file ("-": to standard output instead of the table).
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// List the scenarios.
    #[arg(long, conflicts_with_all = ["scenario", "json"])]
    list: bool,
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
    let Some(name) = options.scenario else {
        print!("{}", scenario_list());
        return ExitCode::SUCCESS;
    };
    let Some(scenario) = Scenario::find(&name) else {
        eprintln!("error: there is no scenario `{name}`. There are:\n{}", scenario_list());
        return ExitCode::from(USAGE);
    };
    let report = world::run(scenario, options.seed);
    let written = show(&report, options.json.as_deref());
    if let Err(message) = &written {
        eprintln!("error: {message}");
    }
    if report.outcome != Outcome::Complete {
        eprintln!("error: the fetch did not complete; play it again with\n  {}", report.replay());
    }
    if written.is_ok() && report.outcome == Outcome::Complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn scenario_list() -> String {
    SCENARIOS.iter().map(|scenario| format!("  {:<22} {}\n", scenario.name, scenario.about)).collect()
}

fn show(report: &Report, json: Option<&Path>) -> Result<(), String> {
    let text =
        || serde_json::to_string_pretty(report).map_err(|error| format!("cannot write the report: {error}"));
    match json {
        Some(path) if path == Path::new("-") => println!("{}", text()?),
        Some(path) => {
            print!("{report}");
            let failed =
                |error| format!("cannot write {}: {error}; --json needs a writable file", path.display());
            std::fs::write(path, text()? + "\n").map_err(failed)?;
        }
        None => print!("{report}"),
    }
    Ok(())
}
