//! Runs one scenario: `cargo run -p p2p-cache-simulations -- --scenario four-sources --seed 1`.

use std::process::ExitCode;

fn main() -> ExitCode {
    p2p_cache_simulations::cli::main(std::env::args_os())
}
