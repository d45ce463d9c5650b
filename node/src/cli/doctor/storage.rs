//! Whether there is room, and whether the Nix store can be read.

use std::path::Path;

use p2p_cache_http_gateway::{LiveStoreStatus, Status};

use super::Finding;
use crate::cli::progress::size;
use crate::config::Config;
use crate::nix_store::Database;

const DISK: &str = "disk";
const STORE: &str = "nix store";
/// The node leaves that much of a file system alone; see the store.
const ALWAYS_FREE_BYTES: u64 = 64 * 1024 * 1024;
/// Less than this is soon used up by one large package.
const LOW_BYTES: u64 = 1024 * 1024 * 1024;

pub(super) fn check(config: &Config, status: Option<&Status>) -> Vec<Finding> {
    let mut findings = vec![disk(&config.state_dir)];
    if let Some(live) = status.and_then(|status| status.nix_store.as_ref()) {
        findings.push(live_store(live));
    }
    findings
}

fn disk(state_dir: &Path) -> Finding {
    // The directory may not be there yet, or not be for us to see into.
    let space = state_dir.ancestors().find_map(|directory| fs4::available_space(directory).ok());
    match space {
        Some(space) => room(space, state_dir),
        None => Finding::warn(
            DISK,
            format!("how much room there is for {} cannot be found out", state_dir.display()),
            "run the command as root, or as the user of the node",
        ),
    }
}

fn room(space: u64, state_dir: &Path) -> Finding {
    let message = format!("{} free for {}", size(space), state_dir.display());
    let remedy =
        "free space, set `max-store-size` lower and run `p2p-cache gc`, or set `state-dir` to another disk";
    if space <= ALWAYS_FREE_BYTES {
        Finding::fail(DISK, format!("{message}: nothing can be stored"), remedy)
    } else if space < LOW_BYTES {
        Finding::warn(DISK, format!("{message}: nearly full"), remedy)
    } else {
        Finding::ok(DISK, message)
    }
}

fn live_store(live: &LiveStoreStatus) -> Finding {
    if let Some(problem) = &live.problem {
        let database = Database::path_below(Path::new(&live.root));
        if database.try_exists().is_ok_and(|exists| !exists) {
            return Finding::warn(
                STORE,
                format!(
                    "there is no {}: nothing of the store of {} is offered",
                    database.display(),
                    live.root
                ),
                "nothing to do if Nix has not run here yet: the node looks again every minute; set `nix-store` to \
                 none where Nix never will",
            );
        }
        return Finding::fail(
            STORE,
            format!("the store of {} cannot be read: {problem}", live.root),
            "let the user of the node read nix/var/nix/db and its files below that directory, or set `nix-store` to \
             none; the node tries again every minute",
        );
    }
    if live.bad > 0 {
        return Finding::warn(
            STORE,
            format!("{} paths are not what Nix noted; they are never offered", live.bad),
            "`nix store verify --all --no-trust` names them, `nix store repair PATH` fetches them again",
        );
    }
    Finding::ok(STORE, format!("{} paths hashed, {} to go", live.offered, live.pending))
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn a_disk_is_full_before_its_last_byte() {
        let level = |bytes| room(bytes, Path::new("/x")).level;
        assert_eq!(level(ALWAYS_FREE_BYTES), Level::Fail);
        assert_eq!(level(ALWAYS_FREE_BYTES + 1), Level::Warn);
        assert_eq!(level(LOW_BYTES), Level::Ok);
    }

    #[test]
    fn a_store_without_a_database_is_less_than_a_fault() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().display().to_string();
        let live = LiveStoreStatus { root, problem: Some("why".to_owned()), ..LiveStoreStatus::default() };
        assert_eq!(live_store(&live).level, Level::Warn);
        let database = Database::path_below(directory.path());
        std::fs::create_dir_all(database.parent().unwrap()).unwrap();
        std::fs::write(database, "anything").unwrap();
        assert_eq!(live_store(&live).level, Level::Fail);
    }

    #[test]
    fn a_state_directory_that_is_not_there_yet_lies_on_a_disk() {
        let finding = disk(Path::new("/nonexistent/for/sure"));
        assert!(finding.message.contains("free for /nonexistent/for/sure"), "{finding:?}");
    }
}
