//! Flags, variables and the TOML file: every fault is reported with its place, all at once, before anything is opened.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use p2p_cache::config::{SETTINGS, Setting};
use p2p_cache_tests::daemon::binary;

/// Exit code of a wrong command line or configuration.
const EXIT_USAGE: i32 = 64;
/// Settings that take any text but the empty one.
const PATHS: [&str; 3] = ["state-dir", "nix-store", "write-token-file"];

/// Settings in which nearly any text means something.
const FREE_TEXTS: [&str; 3] = ["swarm-salt", "log", "never-share"];

/// `p2p-cache serve` with a harmless environment of loopback addresses, which flags and variables override.
struct Serve {
    command: Command,
    directory: tempfile::TempDir,
}

impl Serve {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new(binary());
        command.arg("serve").env_clear().env("HOME", directory.path());
        command.env("P2P_CACHE_STATE_DIR", directory.path().join("state"));
        command.env("P2P_CACHE_HTTP", "127.0.0.1:0").env("P2P_CACHE_LISTEN", "/ip4/127.0.0.1/tcp/0");
        command.env("P2P_CACHE_ORIGIN", "none");
        command.env("P2P_CACHE_NO_MDNS", "true").env("P2P_CACHE_NO_DHT", "true");
        Self { command, directory }
    }

    fn flag(mut self, flag: impl Into<OsString>) -> Self {
        self.command.arg(flag.into());
        self
    }

    fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.command.env(name, value.into());
        self
    }

    fn file(self, text: &str) -> Self {
        let path = self.directory.path().join("settings.toml");
        std::fs::write(&path, text).expect("the file");
        self.env("P2P_CACHE_CONFIG", path)
    }

    /// Runs it to its end, which must be a refusal; what it said on standard error.
    fn refusal(mut self, what: &str) -> String {
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().expect("the daemon starts");
        let started = Instant::now();
        while child.try_wait().expect("it can be waited for").is_none() {
            if started.elapsed() > Duration::from_secs(20) {
                child.kill().expect("it can be killed");
                panic!("{what}: accepted, or not refused within 20 s");
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        let output = child.wait_with_output().expect("it has ended");
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(EXIT_USAGE), "{what}: {stderr}");
        assert!(output.stdout.is_empty(), "{what}: results only on standard output");
        assert!(!stderr.contains("panicked"), "{what}: {stderr}");
        assert!(!self.directory.path().join("state").exists(), "{what}: nothing was opened");
        stderr
    }
}

/// Values that a setting cannot have.
fn nonsense(setting: &Setting) -> Vec<OsString> {
    let mut values = vec![OsString::from(setting.bad_example), OsString::from_vec(vec![b'a', 0xff, b'b'])];
    if !PATHS.contains(&setting.key) && !FREE_TEXTS.contains(&setting.key) {
        let texts = ["\u{1F4A9}", "-5", " ", "18446744073709551616", "../../etc/passwd", "%n%s{}"];
        values.extend(texts.map(OsString::from));
    }
    values
}

#[test]
fn every_flag_of_the_help_is_a_setting_that_is_tested_here() {
    let help = p2p_cache_tests::daemon::p2p_cache(&["serve", "--help"]);
    let help = String::from_utf8(help.stdout).expect("text");
    let lines = help.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
    let flags: Vec<&str> = lines
        .filter_map(|line| line.split([' ', '=', '[', ',']).find(|word| word.starts_with("--")))
        .collect();
    assert!(flags.len() > 5, "{flags:?}");
    for flag in &flags {
        let known = SETTINGS.iter().any(|setting| setting.flag && setting.flag_name() == *flag);
        assert!(known || ["--help", "--version", "--config"].contains(flag), "{flag} is not tested");
    }
    for setting in SETTINGS.iter().filter(|setting| setting.flag) {
        assert!(flags.contains(&setting.flag_name().as_str()), "{} is not in the help", setting.key);
    }
}

#[test]
fn nonsense_in_any_flag_is_refused_and_named() {
    for setting in SETTINGS.iter().filter(|setting| setting.flag) {
        for value in nonsense(setting) {
            let mut flag = OsString::from(format!("{}=", setting.flag_name()));
            flag.push(&value);
            let what = flag.to_string_lossy().into_owned();
            let stderr = Serve::new().flag(flag).refusal(&what);
            assert!(stderr.contains(&setting.flag_name()), "{what}: {stderr}");
            assert!(stderr.contains(setting.remedy), "{what}: {stderr}");
        }
    }
}

#[test]
fn nonsense_in_any_variable_is_refused_and_named() {
    for setting in SETTINGS {
        // An empty list is a list.
        for value in nonsense(setting).into_iter().filter(|value| !setting.is_list() || value != " ") {
            let what = format!("{}={value:?}", setting.variable());
            let stderr = Serve::new().env(&setting.variable(), value).refusal(&what);
            assert!(stderr.contains(&setting.variable()), "{what}: {stderr}");
            assert!(stderr.contains(setting.remedy), "{what}: {stderr}");
        }
    }
}

#[test]
fn nonsense_in_any_key_of_the_file_is_refused_and_named() {
    for setting in SETTINGS {
        let bad =
            [format!("{:?}", setting.bad_example), "{ x = 1 }".into(), "1979-05-27".into(), "[[1]]".into()];
        for value in bad {
            let what = format!("{} = {value}", setting.key);
            let stderr = Serve::new().file(&format!("\n{what}\n")).refusal(&what);
            assert!(stderr.contains(&format!("settings.toml:2: {}", setting.key)), "{what}: {stderr}");
        }
    }
    for text in ["=", "http", "http = ", "[http]\n", "\u{0}", "http = \"\nshare = \"", "a.b = 1"] {
        let stderr = Serve::new().file(text).refusal(text);
        assert!(stderr.contains("settings.toml"), "{text:?}: {stderr}");
    }
}

#[test]
fn unknown_flags_keys_and_variables_are_refused_and_named() {
    for flag in ["--nonsense", "--htpp=127.0.0.1:1", "-x", "stray"] {
        let stderr = Serve::new().flag(flag).refusal(flag);
        assert!(stderr.contains(&flag[..flag.find('=').unwrap_or(flag.len())]), "{flag}: {stderr}");
    }
    for key in ["nonsense", "htpp", "state_dir", "HTTP"] {
        let stderr = Serve::new().file(&format!("{key} = \"x\"\n")).refusal(key);
        assert!(stderr.contains(key), "{key}: {stderr}");
        let name = format!("P2P_CACHE_X{}", key.to_uppercase());
        let stderr = Serve::new().env(&name, "x").refusal(&name);
        assert!(stderr.contains(&name), "{name}: {stderr}");
    }
    let stderr = Serve::new().flag("--config=/nonexistent/settings.toml").refusal("a missing file");
    assert!(stderr.contains("/nonexistent/settings.toml"), "{stderr}");
}

#[test]
fn all_faults_of_all_layers_are_reported_at_once() {
    let mut serve = Serve::new().env("P2P_CACHE_NONSENSE", "1");
    let mut file = "unheard-of = 1\n".to_owned();
    let mut places = vec!["P2P_CACHE_NONSENSE".to_owned(), "unheard-of".to_owned()];
    for setting in SETTINGS {
        file.push_str(&format!("{} = {{ x = 1 }}\n", setting.key));
        serve = serve.env(&setting.variable(), setting.bad_example);
        places.extend([format!(": {} is a section", setting.key), setting.variable()]);
        if setting.flag {
            serve = serve.flag(format!("{}={}", setting.flag_name(), setting.bad_example));
            places.push(format!("flag {}", setting.flag_name()));
        }
    }
    let stderr = serve.file(&file).refusal("everything");
    for place in &places {
        assert!(stderr.contains(place.as_str()), "{place} is missing in {stderr}");
    }
    assert!(stderr.contains(&format!("{} faults", places.len())), "{} places: {stderr}", places.len());
}
