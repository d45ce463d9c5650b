//! Parsing, configuration, exit codes.

use std::sync::{Arc, Mutex};

use super::{Closed, Home};
use crate::cli::console::Console;
use crate::cli::{EXIT_FAILURE, EXIT_USAGE, args, run_in};
use crate::config::SETTINGS;

const COMMANDS: [&str; 10] =
    ["serve", "status", "put", "get", "pin", "unpin", "verify", "gc", "config", "id"];

#[test]
fn the_command_line_is_well_formed() {
    args::command().debug_assert();
}

#[test]
fn help_and_version_go_to_standard_output_and_succeed() {
    let home = Home::new();
    for args in [vec!["--help"], vec!["-h"], vec!["--version"], vec!["help"]] {
        let outcome = home.run(args);
        assert_eq!(outcome.code, 0);
        assert!(!outcome.out.is_empty() && outcome.err.is_empty());
    }
    for command in COMMANDS {
        let outcome = home.run([command, "--help"]);
        assert_eq!(outcome.code, 0, "{command}");
        assert!(outcome.text().contains("Examples:"), "{command}: {}", outcome.text());
        assert!(outcome.text().contains(&format!("p2p-cache {command}")), "{command}");
    }
    assert!(home.run(["--version"]).text().starts_with("p2p-cache "));
}

#[test]
fn help_of_serve_tells_every_setting_its_default_and_its_variable() {
    let help = Home::new().run(["serve", "--help"]).text().to_owned();
    for setting in SETTINGS {
        assert!(help.contains(setting.key), "{}", setting.key);
        assert_eq!(help.contains(&setting.flag_name()), setting.flag, "{}", setting.key);
        assert!(help.contains(&setting.variable()), "{}", setting.key);
    }
}

#[test]
fn a_wrong_command_line_exits_with_64_and_says_so_on_standard_error() {
    let home = Home::new();
    for args in [
        vec![],
        vec!["dance"],
        vec!["serve", "--nonsense"],
        vec!["serve", "--http"],
        vec!["serve", "stray"],
        vec!["serve", "--http", "127.0.0.1:1", "--http", "127.0.0.1:2"],
        vec!["put"],
        vec!["put", "a", "b"],
        vec!["get"],
        vec!["get", "nonsense"],
        vec!["get", "sha256:zz", "-o", "x"],
        vec!["status", "--state-dir", "/x"],
        vec!["id", "--http", "127.0.0.1:1"],
    ] {
        let outcome = home.run(args.clone());
        assert_eq!(outcome.code, EXIT_USAGE, "{args:?}");
        assert!(outcome.out.is_empty() && !outcome.err.is_empty(), "{args:?}");
        assert!(outcome.served.is_none());
    }
}

#[test]
fn nonsense_in_any_flag_exits_with_64_and_names_it() {
    let home = Home::new();
    for setting in SETTINGS.iter().filter(|setting| setting.flag) {
        for command in ["serve", "config"] {
            for value in [setting.bad_example, "\u{1F4A9}", "-5"] {
                let is_fine = match setting.key {
                    "state-dir" | "nix-store" | "write-token-file" => !value.is_empty(),
                    "never-share" => value == "-5",
                    _ => false,
                };
                let outcome = home.run([command, &format!("{}={value}", setting.flag_name())]);
                if is_fine {
                    continue;
                }
                assert_eq!(outcome.code, EXIT_USAGE, "{command} {} {value}", setting.key);
                assert!(outcome.err.contains(&setting.flag_name()), "{}", outcome.err);
                assert!(outcome.err.contains(setting.remedy), "{}", outcome.err);
                assert!(outcome.out.is_empty() && outcome.served.is_none());
            }
        }
    }
}

#[test]
fn nonsense_in_any_variable_or_key_exits_with_64_in_every_command() {
    for setting in SETTINGS {
        let mut home = Home::new();
        home.set(&setting.variable(), setting.bad_example);
        let file = home.path().join("settings.toml");
        std::fs::write(&file, format!("{} = {{ bad = 1 }}\nunheard-of = 1\n", setting.key)).unwrap();
        home.set("P2P_CACHE_CONFIG", file.to_str().unwrap());
        for args in
            [vec!["serve"], vec!["status"], vec!["config", "--check"], vec!["verify"], vec!["put", "x"]]
        {
            let outcome = home.run(args);
            assert_eq!(outcome.code, EXIT_USAGE, "{}", setting.key);
            assert!(outcome.err.contains("error: 3 faults in the configuration"), "{}", outcome.err);
            for part in [&setting.variable(), setting.key, "settings.toml:1", "settings.toml:2", "unheard-of"]
            {
                assert!(outcome.err.contains(part), "{part}: {}", outcome.err);
            }
        }
    }
}

#[test]
fn serve_gets_the_configuration_of_its_flags() {
    let outcome = Home::new().run([
        "serve",
        "--http=127.0.0.1:0",
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
        "--listen",
        "/ip4/127.0.0.1/udp/0/quic-v1",
        "--peer",
        "/ip4/127.0.0.1/tcp/9",
        "--origin",
        "none",
        "--no-mdns",
        "--no-dht",
        "--share",
        "none",
        "--max-store-size",
        "unlimited",
        "--upload-rate",
        "10MB/s",
        "--state-dir",
        "/srv/x",
    ]);
    assert_eq!((outcome.code, outcome.err.as_str()), (0, ""));
    let config = outcome.served.unwrap();
    assert_eq!((config.listen.len(), config.peers.len(), config.origins.len()), (2, 1, 0));
    assert!(!config.mdns && !config.dht);
    assert_eq!((config.max_store_size, config.upload_rate), (None, Some(10_000_000)));
    assert_eq!(config.state_dir, std::path::Path::new("/srv/x"));
}

#[test]
fn a_switch_can_be_turned_off_by_its_flag() {
    let mut home = Home::new();
    home.set("P2P_CACHE_NO_DHT", "true");
    assert!(!home.run(["serve"]).served.unwrap().dht);
    assert!(home.run(["serve", "--no-dht=false"]).served.unwrap().dht);
}

#[test]
fn a_daemon_that_fails_exits_with_1_and_tells_why() {
    let err = Arc::new(Mutex::new(Vec::new()));
    let console = Console::to(Arc::new(Mutex::new(Vec::new())), err.clone());
    let home = Home::new();
    let args = ["p2p-cache", "serve"].map(Into::into);
    let code = run_in(args, &home.surroundings, &console, async |_| Err("port 5380 is taken".into()));
    assert_eq!(code, EXIT_FAILURE);
    assert_eq!(String::from_utf8(err.lock().unwrap().clone()).unwrap(), "error: port 5380 is taken\n");
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let err = Arc::new(Mutex::new(Vec::new()));
    let console = Console::to(Arc::new(Mutex::new(Closed)), err.clone());
    for args in [vec!["p2p-cache", "config"], vec!["p2p-cache", "--help"]] {
        let code =
            run_in(args.into_iter().map(Into::into), &Home::new().surroundings, &console, async |_| Ok(()));
        assert_eq!(code, 0);
    }
    assert!(err.lock().unwrap().is_empty());
}

#[test]
fn config_prints_values_with_their_sources() {
    let mut home = Home::new();
    home.set("P2P_CACHE_SHARE", "none");
    let outcome = home.run(["config", "--no-dht"]);
    assert_eq!(outcome.code, 0);
    let line = |key: &str| outcome.text().lines().find(|line| line.starts_with(key)).unwrap().to_owned();
    assert!(line("share").contains("\"none\"") && line("share").ends_with("# environment P2P_CACHE_SHARE"));
    assert!(line("no-dht").contains("true") && line("no-dht").ends_with("# flag --no-dht"));
    assert!(line("http").contains("127.0.0.1:5380") && line("http").ends_with("# default"));
    let json = home.run(["config", "--json"]).json();
    assert_eq!(json["settings"]["share"]["value"], "none");
    assert_eq!(json["settings"]["share"]["source"]["name"], "P2P_CACHE_SHARE");
    assert_eq!(json["settings"].as_object().unwrap().len(), SETTINGS.len());
    assert_eq!(home.run(["config", "--check"]).text(), "ok\n");
    assert_eq!(home.run(["config", "--check", "--json"]).json()["ok"], true);
}

#[test]
fn generate_writes_completions_manual_pages_and_an_example() {
    let home = Home::new();
    let written = |what: &str| {
        let directory = home.path().join(what);
        let outcome = home.run(["generate", what, directory.to_str().unwrap()]);
        assert_eq!(outcome.code, 0, "{}", outcome.err);
        let files = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().file_name());
        let mut names: Vec<String> = files.map(|name| name.into_string().unwrap()).collect();
        names.sort();
        names
    };
    assert_eq!(written("completions"), ["_p2p-cache", "p2p-cache.bash", "p2p-cache.fish"]);
    let pages = written("man");
    assert!(pages.contains(&"p2p-cache.1".to_owned()), "{pages:?}");
    for command in COMMANDS {
        assert!(pages.contains(&format!("p2p-cache-{command}.1")), "{command}: {pages:?}");
    }
    assert!(!pages.concat().contains("generate"), "{pages:?}");
    assert_eq!(written("config"), ["p2p-cache.toml"]);
    let file = home.path().join("config/p2p-cache.toml");
    assert_eq!(home.run(["config", "--check", "--config", file.to_str().unwrap()]).code, 0);
    assert_eq!(home.run(["generate", "money", "/tmp"]).code, EXIT_USAGE);
}

#[test]
fn the_id_is_stable_and_made_only_on_demand() {
    let home = Home::new();
    let missing = home.run(["id"]);
    assert_eq!(missing.code, EXIT_FAILURE);
    assert!(missing.err.contains("--create") && missing.err.contains("serve"), "{}", missing.err);
    assert!(!home.path().join(".local").exists());
    let created = home.run(["id", "--create"]);
    assert_eq!(created.code, 0, "{}", created.err);
    assert!(created.text().starts_with("12D3KooW"), "{}", created.text());
    assert_eq!(home.run(["id"]).text(), created.text());
    assert_eq!(home.run(["id", "--json"]).json()["peer_id"], created.text().trim());
}
