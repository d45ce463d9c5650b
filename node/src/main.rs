//! The `p2p-cache` command.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// TLS libraries write their session keys to the file that this variable names.
const KEY_LOG_VARIABLE: &str = "SSLKEYLOGFILE";

fn main() -> ExitCode {
    if std::env::var_os(KEY_LOG_VARIABLE).is_some() {
        return restart_without_key_log();
    }
    p2p_cache::system::use_small_pages();
    let listener = p2p_cache::daemon::inherited_listener();
    p2p_cache::cli::run(std::env::args_os(), async |startup| p2p_cache::daemon::run(startup, listener).await)
}

/// Changing one's own environment is unsafe once libraries are loaded, so the process is replaced by itself.
fn restart_without_key_log() -> ExitCode {
    let mut arguments = std::env::args_os();
    let name = arguments.next().unwrap_or_else(|| "p2p-cache".into());
    let error = match std::env::current_exe() {
        Ok(program) => Command::new(program).arg0(name).args(arguments).env_remove(KEY_LOG_VARIABLE).exec(),
        Err(error) => error,
    };
    eprintln!("p2p-cache: {KEY_LOG_VARIABLE} is set and would leak session keys: unset it ({error})");
    ExitCode::FAILURE
}
