//! Behaviour of the whole: every setting through every layer.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const PEER: &str = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";

fn home() -> Surroundings {
    let mut surroundings = Surroundings::none();
    surroundings.variables.insert("HOME".into(), "/home/somebody".into());
    surroundings
}

fn with_variable(name: &str, value: &str) -> Surroundings {
    let mut surroundings = home();
    surroundings.variables.insert(name.into(), value.into());
    surroundings
}

fn flag(key: &'static str, texts: &[&str]) -> Flags {
    Flags { config_file: None, values: vec![(key, texts.iter().map(OsString::from).collect())] }
}

fn file(directory: &tempfile::TempDir, text: &str) -> Flags {
    let path = directory.path().join("p2p-cache.toml");
    std::fs::write(&path, text).unwrap();
    Flags { config_file: Some(path), values: Vec::new() }
}

fn handed(directory: &tempfile::TempDir) -> Surroundings {
    let mut surroundings = home();
    surroundings.variables.insert("CREDENTIALS_DIRECTORY".into(), directory.path().into());
    surroundings
}

fn toml_line(setting: &Setting, text: &str) -> String {
    match (setting.is_switch(), setting.is_list()) {
        (true, _) => format!("{} = {text}", setting.key),
        (_, true) => format!("{} = [{text:?}]", setting.key),
        _ => format!("{} = {text:?}", setting.key),
    }
}

fn faults(flags: &Flags, surroundings: &Surroundings) -> Vec<String> {
    load(flags, surroundings).unwrap_err().faults.iter().map(ToString::to_string).collect()
}

fn effective<'l>(loaded: &'l Loaded, key: &str) -> &'l Effective {
    loaded.values.iter().find(|value| value.setting.key == key).unwrap()
}

#[test]
fn without_anything_the_defaults_of_the_contract_hold() {
    let config = load(&Flags::default(), &home()).unwrap().config;
    assert_eq!(config.http.to_string(), "127.0.0.1:5380");
    let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
    assert_eq!(
        listen,
        [
            "/ip4/0.0.0.0/tcp/5381",
            "/ip6/::/tcp/5381",
            "/ip4/0.0.0.0/udp/5381/quic-v1",
            "/ip6/::/udp/5381/quic-v1"
        ]
    );
    assert_eq!(config.origins.len(), 1);
    assert_eq!(config.origins[0].as_str(), "https://cache.nixos.org/");
    assert_eq!(config.trusted_public_keys.len(), 1);
    assert_eq!(config.share, crate::sharing::Share::Lan);
    // A key that is trusted is not thereby shared; by default both are the same one.
    assert_eq!(config.shared_public_keys, config.trusted_public_keys);
    assert!(
        config.extra_shared_keys.is_empty() && config.publish.is_empty() && config.never_share.is_empty()
    );
    assert!(config.mdns && config.dht);
    assert_eq!((config.upload_rate, config.upload_rate_lan, config.upload_rate_public), (None, None, None));
    assert_eq!(config.nix_store.as_deref(), Some(Path::new("/")));
    assert_eq!(config.hash_rate, Some(200_000_000));
    assert!(config.peers.is_empty() && config.allowed_peers.is_none());
    assert_eq!(config.state_dir, Path::new("/home/somebody/.local/state/p2p-cache"));
}

#[test]
fn the_state_directory_follows_systemd_then_the_user() {
    let state_dir =
        |surroundings: &Surroundings| load(&Flags::default(), surroundings).unwrap().config.state_dir;
    let mut surroundings = home();
    surroundings.variables.insert("XDG_STATE_HOME".into(), "/state".into());
    assert_eq!(state_dir(&surroundings), Path::new("/state/p2p-cache"));
    surroundings.is_root = true;
    assert_eq!(state_dir(&surroundings), Path::new("/var/lib/p2p-cache"));
    surroundings.variables.insert("STATE_DIRECTORY".into(), "/var/lib/one:/var/lib/two".into());
    assert_eq!(state_dir(&surroundings), Path::new("/var/lib/one"));
}

#[test]
fn a_missing_default_matters_only_when_nothing_replaces_it() {
    let found = faults(&Flags::default(), &Surroundings::none());
    assert_eq!(found.len(), 1);
    assert!(found[0].contains("state-dir") && found[0].contains("HOME"), "{found:?}");
    assert!(load(&flag("state-dir", &["/x"]), &Surroundings::none()).is_ok());
    assert_eq!(Config::built_in("/x".into()).unwrap().state_dir, Path::new("/x"));
}

/// What the example of each setting must do to the configuration.
type Effect = fn(&Config) -> bool;
const EFFECTS: &[(&str, Effect)] = &[
    ("state-dir", |c| c.state_dir == Path::new("/srv/p2p-cache")),
    ("http", |c| c.http.to_string() == "127.0.0.1:8080"),
    ("listen", |c| c.listen == ["/ip4/127.0.0.1/tcp/0".parse().unwrap()]),
    ("peer", |c| c.peers == ["/ip4/192.0.2.7/tcp/5381".parse().unwrap()]),
    ("origin", |c| c.origins.len() == 1 && c.origins[0].as_str() == "https://cache.example.org/nix"),
    ("trusted-public-key", |c| {
        c.trusted_public_keys.len() == 1 && c.trusted_public_keys[0].to_string().starts_with("example-1:")
    }),
    ("share", |c| c.share == crate::sharing::Share::Public),
    ("shared-public-keys", |c| {
        c.shared_public_keys.len() == 1 && c.shared_public_keys[0].to_string().starts_with("example-1:")
    }),
    ("extra-shared-keys", |c| c.extra_shared_keys.len() == 1 && c.shared_public_keys.len() == 1),
    ("publish", |c| c.publish.len() == 1 && c.publish[0].name() == Some("hello-2.12.1")),
    ("never-share", |c| c.never_share.len() == 1 && c.never_share[0].matches("my-secrets-1")),
    ("metered", |c| c.metered && c.effective_share() == crate::sharing::Share::None),
    ("interfaces", |c| c.interfaces == ["enp1s0"]),
    ("no-mdns", |c| !c.mdns),
    ("no-dht", |c| !c.dht),
    ("max-store-size", |c| c.max_store_size == Some(200 << 20)),
    ("upload-rate", |c| c.upload_rate == Some(6_250_000)),
    ("upload-rate-lan", |c| c.upload_rate_lan == Some(62_500_000)),
    ("upload-rate-public", |c| c.upload_rate_public == Some(2_500_000)),
    ("nix-store", |c| c.nix_store.as_deref() == Some(Path::new("/mnt"))),
    ("hash-rate", |c| c.hash_rate == Some(20_000_000)),
    ("origin-connect-timeout", |c| c.origin_connect_timeout == Duration::from_secs(1)),
    ("origin-first-byte-timeout", |c| c.origin_first_byte_timeout == Duration::from_secs(6)),
    ("origin-progress-timeout", |c| c.origin_progress_timeout == Duration::from_secs(20)),
    ("origin-attempts", |c| c.origin_attempts == 2),
    ("origin-down-memory", |c| c.origin_down_memory == Duration::from_secs(60)),
    ("origin-missing-memory", |c| c.origin_missing_memory == Duration::from_secs(1)),
    // As a credential it is the file that the service manager hands over, and not what is in it.
    ("write-token-file", |c| c.write_token_file.is_some()),
    ("allowed-hosts", |c| c.allowed_hosts == ["cache.example.org"]),
    ("upload-slots", |c| c.upload_slots == 8),
    ("requests-per-second-per-peer", |c| c.requests_per_second_per_peer == 100),
    ("failed-lookups-per-minute-per-peer", |c| c.failed_lookups_per_minute_per_peer == 60),
    ("failed-lookups-per-minute-per-network", |c| c.failed_lookups_per_minute_per_network == 600),
    ("allowed-peers", |c| c.allowed_peers.as_deref() == Some(&[PEER.parse().unwrap()])),
    ("swarm-salt", |c| c.swarm_salt == "our-office"),
    ("log", |c| c.log == "warn,p2p_cache=debug"),
    ("log-format", |c| c.log_format == crate::logging::LogFormat::Json),
];

#[test]
fn every_setting_has_its_effect_from_every_layer() {
    let tested: BTreeSet<&str> = EFFECTS.iter().map(|(key, _)| *key).collect();
    let known: BTreeSet<&str> = SETTINGS.iter().map(|setting| setting.key).collect();
    assert_eq!(tested, known, "a setting without a test of its effect");
    let defaults = load(&Flags::default(), &home()).unwrap().config;
    let (directory, secrets) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (key, effect) in EFFECTS {
        let setting = Setting::find(key).unwrap();
        assert!(!effect(&defaults), "{key}: its example is the default");
        let by_flag = load(&flag(setting.key, &[setting.example]), &home()).unwrap();
        let by_variable =
            load(&Flags::default(), &with_variable(&setting.variable(), setting.example)).unwrap();
        let by_file = load(&file(&directory, &toml_line(setting, setting.example)), &home()).unwrap();
        std::fs::write(secrets.path().join(key), format!("{}\n", setting.example)).unwrap();
        let by_secret = load(&Flags::default(), &handed(&secrets)).unwrap();
        std::fs::remove_file(secrets.path().join(key)).unwrap();
        for loaded in [&by_flag, &by_variable, &by_file, &by_secret] {
            assert!(effect(&loaded.config), "{key} from {}", effective(loaded, key).source);
        }
        assert_eq!(effective(&by_flag, key).source.to_string(), format!("flag --{key}"));
        assert_eq!(
            effective(&by_variable, key).source.to_string(),
            format!("environment {}", setting.variable())
        );
        assert_eq!(effective(&by_secret, key).source.to_string(), format!("credential {key}"));
        assert!(effective(&by_file, key).source.to_string().ends_with("p2p-cache.toml:1"));
        assert_eq!(effective(&by_file, key).texts, [setting.example]);
    }
}

#[test]
fn nonsense_in_any_setting_and_any_layer_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    for setting in SETTINGS {
        let bad = setting.bad_example;
        let line =
            if setting.is_switch() { format!("{} = {bad:?}", setting.key) } else { toml_line(setting, bad) };
        for (place, found) in [
            (setting.flag_name(), faults(&flag(setting.key, &[bad]), &home())),
            (setting.variable(), faults(&Flags::default(), &with_variable(&setting.variable(), bad))),
            ("p2p-cache.toml:1".to_owned(), faults(&file(&directory, &line), &home())),
        ] {
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].contains(&place) && found[0].contains(setting.key), "{place}: {}", found[0]);
            assert!(found[0].ends_with(setting.remedy), "{}", found[0]);
        }
    }
}

#[test]
fn a_wrong_toml_type_is_refused_for_every_setting() {
    let directory = tempfile::tempdir().unwrap();
    for setting in SETTINGS {
        let wrong = if setting.is_switch() { "1" } else { "true" };
        for wrong in [wrong, "1979-05-27", "1.5", "{ a = 1 }", "[[1]]"] {
            let found = faults(&file(&directory, &format!("\n{} = {wrong}", setting.key)), &home());
            assert_eq!(found.len(), 1, "{found:?}");
            let expected = format!("p2p-cache.toml:2: {} is ", setting.key);
            assert!(found[0].contains(&expected) && found[0].contains("must be"), "{}", found[0]);
        }
    }
}

#[test]
fn a_flag_beats_a_variable_beats_the_file_beats_the_default() {
    let directory = tempfile::tempdir().unwrap();
    let mut flags = file(&directory, "http = \"127.0.0.1:1\"\nshare = \"none\"\nlog = \"debug\"");
    let mut surroundings = with_variable("P2P_CACHE_HTTP", "127.0.0.1:2");
    surroundings.variables.insert("P2P_CACHE_SHARE".into(), "public".into());
    flags.values.push(("http", vec!["127.0.0.1:3".into()]));
    let loaded = load(&flags, &surroundings).unwrap();
    assert_eq!(loaded.config.http.port(), 3);
    assert_eq!(loaded.config.share, crate::sharing::Share::Public);
    assert_eq!(loaded.config.log, "debug");
    assert!(loaded.config.mdns);
    assert_eq!(effective(&loaded, "no-mdns").source, Source::Default);
    assert_eq!(loaded.file, flags.config_file);
}

#[test]
fn the_nix_store_can_be_left_alone() {
    assert_eq!(load(&flag("nix-store", &["none"]), &home()).unwrap().config.nix_store, None);
}

#[test]
fn what_is_published_and_never_shared_is_a_contradiction() {
    const PATH: &str = "7rjj86a15146cq1d3qy068lml7n7ykzm-my-secret";
    let mut flags = flag("publish", &[PATH]);
    flags.values.push(("never-share", vec!["*-secret".into()]));
    let found = faults(&flags, &home());
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains(PATH) && found[0].contains("*-secret"), "{found:?}");
    flags.values[1].1 = vec!["*-secret-*".into()];
    assert!(load(&flags, &home()).is_ok());
}

#[test]
fn a_switch_can_be_turned_back_on_by_a_higher_layer() {
    let surroundings = with_variable("P2P_CACHE_NO_MDNS", "yes");
    assert!(!load(&Flags::default(), &surroundings).unwrap().config.mdns);
    assert!(load(&flag("no-mdns", &["false"]), &surroundings).unwrap().config.mdns);
}

#[test]
fn a_list_replaces_the_list_below_and_can_be_emptied() {
    let two = with_variable("P2P_CACHE_ORIGIN", "http://a, http://b\thttp://c");
    assert_eq!(load(&Flags::default(), &two).unwrap().config.origins.len(), 3);
    assert_eq!(load(&flag("origin", &["http://d"]), &two).unwrap().config.origins.len(), 1);
    assert!(load(&flag("origin", &["none"]), &two).unwrap().config.origins.is_empty());
    for empty in ["", "none", " , "] {
        let surroundings = with_variable("P2P_CACHE_ORIGIN", empty);
        assert!(load(&Flags::default(), &surroundings).unwrap().config.origins.is_empty(), "{empty:?}");
    }
    let directory = tempfile::tempdir().unwrap();
    for empty in ["origin = []", "origin = \"none\""] {
        assert!(load(&file(&directory, empty), &home()).unwrap().config.origins.is_empty(), "{empty}");
    }
    let one = load(&file(&directory, "origin = \"http://a\""), &home()).unwrap();
    assert_eq!(one.config.origins.len(), 1);
}

#[test]
fn every_fault_of_every_layer_is_reported_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let mut flags = file(
        &directory,
        "# comment\nhtpp = \"127.0.0.1:1\"\nshare = \"all\"\nno-dht = \"yes\"\npeer = [\"x\", \"/ip4/192.0.2.7/tcp/1\", \"y\"]\n\
         listen = [\"/ip4/0.0.0.0/tcp/7\", \"/ip4/0.0.0.0/tcp/7\"]\n",
    );
    flags.values.push(("upload-rate", vec!["fast".into()]));
    let mut surroundings = with_variable("P2P_CACHE_UPLOAD_RAT", "1MB/s");
    surroundings.variables.insert("P2P_CACHE_MAX_STORE_SIZE".into(), "big".into());
    let found = faults(&flags, &surroundings);
    let expected = [
        (".toml:2", "htpp", "did you mean http?"),
        (".toml:3", "share", "none, lan or public"),
        (".toml:4", "no-dht", "write true or false"),
        (".toml:5", "peer", "\"x\""),
        (".toml:5", "peer", "\"y\""),
        ("P2P_CACHE_MAX_STORE_SIZE", "max-store-size", "200MiB"),
        ("P2P_CACHE_UPLOAD_RAT", "not a known setting", "did you mean P2P_CACHE_UPLOAD_RATE?"),
        ("--upload-rate", "upload-rate", "50Mbit/s"),
        (".toml:6", "listen", "twice"),
    ];
    assert_eq!(found.len(), expected.len(), "{found:#?}");
    for (fault, (place, key, remedy)) in found.iter().zip(expected) {
        assert!(fault.contains(place) && fault.contains(key) && fault.contains(remedy), "{fault}");
    }
}

#[test]
fn an_overridden_value_is_checked_all_the_same() {
    let surroundings = with_variable("P2P_CACHE_HTTP", "nonsense");
    assert_eq!(faults(&flag("http", &["127.0.0.1:1"]), &surroundings).len(), 1);
}

#[test]
fn variables_of_others_are_none_of_our_business() {
    let mut surroundings = with_variable("P2P_CACHED", "x");
    surroundings.variables.insert("RUST_LOG".into(), "x".into());
    assert!(load(&Flags::default(), &surroundings).is_ok());
}

#[cfg(unix)]
#[test]
fn values_that_are_not_utf8_are_refused_by_name() {
    use std::os::unix::ffi::OsStringExt;
    let garbage = OsString::from_vec(vec![b'/', 0xff]);
    let mut surroundings = home();
    surroundings.variables.insert("P2P_CACHE_STATE_DIR".into(), garbage.clone());
    let flags = Flags { config_file: None, values: vec![("nix-store", vec![garbage])] };
    let found = faults(&flags, &surroundings);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("P2P_CACHE_STATE_DIR") && found[1].contains("--nix-store"), "{found:?}");
}

#[test]
fn the_file_is_the_one_named_by_flag_then_variable_then_the_default_if_it_exists() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, level: &str| -> PathBuf {
        let path = directory.path().join(name);
        std::fs::write(&path, format!("log = {level:?}")).unwrap();
        path
    };
    let mut surroundings = home();
    surroundings.default_file = directory.path().join("missing.toml");
    assert_eq!(load(&Flags::default(), &surroundings).unwrap().file, None);
    surroundings.default_file = write("default.toml", "error");
    assert_eq!(load(&Flags::default(), &surroundings).unwrap().config.log, "error");
    surroundings.variables.insert(CONFIG_FILE_VARIABLE.into(), write("variable.toml", "warn").into());
    assert_eq!(load(&Flags::default(), &surroundings).unwrap().config.log, "warn");
    let flags = Flags { config_file: Some(write("flag.toml", "debug")), values: Vec::new() };
    assert_eq!(load(&flags, &surroundings).unwrap().config.log, "debug");
}

#[test]
fn files_that_cannot_be_read_or_understood_are_faults_with_their_place() {
    let directory = tempfile::tempdir().unwrap();
    let missing = Flags { config_file: Some(directory.path().join("none.toml")), values: Vec::new() };
    assert!(faults(&missing, &home())[0].contains("none.toml: cannot be read"));
    let is_directory = Flags { config_file: Some(directory.path().into()), values: Vec::new() };
    assert!(faults(&is_directory, &home())[0].contains("cannot be read"));
    assert!(
        faults(&file(&directory, "log = \"info\"\nhttp = \n"), &home())[0]
            .contains("toml:2: is not valid TOML")
    );
    assert!(faults(&file(&directory, "log = \"a\"\nlog = \"b\"\n"), &home())[0].contains("toml:2"));
    let section = faults(&file(&directory, "[settings]\nlog = \"info\"\n"), &home());
    assert!(section[0].contains("toml:1: settings is a section"), "{section:?}");
    let huge = file(&directory, &"# comment\n".repeat(200_000));
    assert!(faults(&huge, &home())[0].contains("is longer than 1024 KiB"));
}

#[test]
fn contradictions_are_faults_of_the_higher_layer() {
    let directory = tempfile::tempdir().unwrap();
    let stranger = "12D3KooWLeL3jkDwRWRgFBwLVJiPNjD2dVEbYbgMMWf9hRuTpJPk";
    for (text, key, clause) in [
        ("http = \"0.0.0.0:5381\"".to_owned(), "http", "one TCP port twice"),
        ("listen = [\"/ip4/127.0.0.1/tcp/5380\"]".to_owned(), "listen", "one TCP port twice"),
        ("origin = [\"http://localhost:5380\"]".to_owned(), "origin", "its own origin"),
        ("origin = [\"http://a/x\", \"http://a/x/\"]".to_owned(), "origin", "twice"),
        ("listen = [\"/ip6/::/tcp/1\", \"/ip6/::/tcp/1\"]".to_owned(), "listen", "twice"),
        (
            format!("allowed-peers = [{PEER:?}]\npeer = [\"/ip4/192.0.2.1/tcp/1/p2p/{stranger}\"]"),
            "peer",
            "not among allowed-peers",
        ),
        ("origin-connect-timeout = \"9s\"".to_owned(), "origin-connect-timeout", "longer than"),
        ("state-dir = \"/nix/store/x\"".to_owned(), "state-dir", "lies in the Nix store"),
    ] {
        let found = faults(&file(&directory, &text), &home());
        assert_eq!(found.len(), 1, "{text}: {found:?}");
        assert!(found[0].contains("p2p-cache.toml:") && found[0].contains(key), "{}", found[0]);
        assert!(found[0].contains(clause), "{}", found[0]);
    }
}

#[test]
fn what_looks_like_a_contradiction_and_is_none_passes() {
    let directory = tempfile::tempdir().unwrap();
    for text in [
        "http = \"127.0.0.1:0\"\nlisten = [\"/ip4/127.0.0.1/tcp/0\", \"/ip4/127.0.0.1/tcp/0\"]".to_owned(),
        "http = \"127.0.0.1:7\"\nlisten = [\"/ip4/127.0.0.2/tcp/7\", \"/ip4/127.0.0.1/udp/7/quic-v1\"]"
            .to_owned(),
        "http = \"127.0.0.1:80\"\norigin = [\"http://cache.example.org\"]".to_owned(),
        format!(
            "allowed-peers = [{PEER:?}]\npeer = [\"/ip4/192.0.2.1/tcp/1/p2p/{PEER}\", \"/ip4/1.2.3.4/tcp/1\"]"
        ),
    ] {
        let outcome = load(&file(&directory, &text), &home());
        assert!(outcome.is_ok(), "{text}: {outcome:?}");
    }
}

#[test]
fn a_credential_of_a_key_that_names_a_file_is_that_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("write-token-file");
    std::fs::write(&path, "a secret that is long enough").unwrap();
    let surroundings = with_variable("CREDENTIALS_DIRECTORY", directory.path().to_str().unwrap());
    let config = load(&Flags::default(), &surroundings).unwrap().config;
    assert_eq!(config.write_token_file, Some(path));
}

#[test]
fn credentials_stay_out_of_messages() {
    let found = faults(&flag("origin", &["ftp://user:secret@host/"]), &home());
    assert!(found[0].contains("***@host") && !found[0].contains("secret"), "{found:?}");
    let found = faults(&flag("origin", &["http://user:secret@h", "http://user:secret@h/"]), &home());
    assert!(!found[0].contains("secret"), "{found:?}");
}

#[test]
fn a_credential_beats_the_file_and_its_value_stays_out_of_messages() {
    let (directory, secrets) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let write = |name: &str, text: &str| std::fs::write(secrets.path().join(name), text).unwrap();
    write("origin", "https://user:secret@one/\nhttps://user:secret@two/\n");
    let loaded = load(&file(&directory, "origin = [\"http://open\"]"), &handed(&secrets)).unwrap();
    assert_eq!(loaded.config.origins.len(), 2);
    let mut surroundings = handed(&secrets);
    surroundings.variables.insert("P2P_CACHE_ORIGIN".into(), "http://variable".into());
    assert_eq!(
        load(&Flags::default(), &surroundings).unwrap().config.origins[0].as_str(),
        "http://variable/"
    );

    write("origin", "secret");
    write("orign", "x");
    write("swarm-salt", &"s".repeat(70_000));
    let found = faults(&Flags::default(), &handed(&secrets));
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("credential origin: origin is not a URL"), "{found:?}");
    assert!(found[1].contains("credential orign: is not a known key; did you mean origin?"), "{found:?}");
    assert!(
        found[2].contains("credential swarm-salt") && found[2].contains("longer than 64 KiB"),
        "{found:?}"
    );
    assert!(!found.concat().contains("secret"), "{found:?}");
    let missing = Path::new("/none/such");
    let mut surroundings = home();
    surroundings.variables.insert("CREDENTIALS_DIRECTORY".into(), missing.into());
    assert!(faults(&Flags::default(), &surroundings)[0].contains("/none/such: cannot be read"));
}

#[test]
fn keys_are_spelt_alike_everywhere() {
    let mut seen = BTreeSet::new();
    for setting in SETTINGS {
        assert!(seen.insert(setting.key), "{} twice", setting.key);
        let said = [setting.key, setting.value_name, setting.help, setting.remedy, setting.example];
        assert!(said.iter().all(|text| !text.is_empty()), "{said:?}");
        assert!(setting.key.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'), "{}", setting.key);
        assert!(!setting.help.ends_with('.') && !setting.remedy.ends_with('.'), "{}", setting.key);
    }
}

proptest! {
    #[test]
    fn no_file_panics(text in "([a-z\\-\\[\\]{}=\", \n0-9._/:]|http|listen|no-mdns|true|\"\"\"){0,80}") {
        let _ = super::file::parse(Path::new("x"), &text);
    }

    #[test]
    fn the_highest_layer_that_speaks_wins(file_port in proptest::option::of(1_u16..), variable_port in proptest::option::of(1_u16..), flag_port in proptest::option::of(1_u16..)) {
        let address = |port: u16| format!("127.0.0.2:{port}");
        let directory = tempfile::tempdir().unwrap();
        let text = file_port.map(|port| format!("http = \"{}\"", address(port))).unwrap_or_default();
        let mut flags = file(&directory, &format!("{text}\nlisten = []"));
        let mut surroundings = home();
        if let Some(port) = variable_port {
            surroundings.variables.insert("P2P_CACHE_HTTP".into(), address(port).into());
        }
        if let Some(port) = flag_port {
            flags.values.push(("http", vec![address(port).into()]));
        }
        let expected = flag_port.or(variable_port).or(file_port).unwrap_or(5380);
        prop_assert_eq!(load(&flags, &surroundings).unwrap().config.http.port(), expected);
    }

    #[test]
    fn no_flag_text_panics(index in 0..SETTINGS.len(), text in ".{0,60}") {
        let _ = load(&flag(SETTINGS[index].key, &[&text]), &home());
    }
}
