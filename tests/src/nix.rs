//! A real Nix client, and real signed caches made with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::netns;

/// Closures of this process so far: each has store paths and a key of its own.
static CLOSURES: AtomicU32 = AtomicU32::new(0);

/// Store paths that refer to each other, built by Nix and copied into a signed binary cache.
pub struct Closure {
    directory: TempDir,
    /// The path that refers to all others.
    pub top: String,
    /// The cache's public key, `NAME:BASE64`.
    pub public_key: String,
    /// Length of the largest NAR in bytes, about.
    pub largest_bytes: u64,
}

impl Closure {
    /// A closure whose largest path has `kilobytes` of random data, in a cache with this compression.
    pub fn build(kilobytes: u64, compression: &str) -> Self {
        Self::of(&chain(kilobytes), kilobytes, compression)
    }

    /// A closure of `paths` paths of `kilobytes` of random data each, in a cache with this compression.
    pub fn wide(paths: u64, kilobytes: u64, compression: &str) -> Self {
        Self::of(&fan(paths, kilobytes), kilobytes, compression)
    }

    fn of(paths: &str, largest_kilobytes: u64, compression: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let root = directory.path();
        let serial = CLOSURES.fetch_add(1, Ordering::Relaxed);
        let key = format!("test-{}-{serial}", std::process::id());
        run(nix_store(root).args(["--generate-binary-cache-key", &key, "sk", "pk"]).current_dir(root));
        let public_key = fs::read_to_string(root.join("pk")).expect("the public key").trim().to_owned();
        fs::write(root.join("closure.nix"), expression(paths, serial)).expect("the expression");
        let built = run(nix_build(root).arg("closure.nix").current_dir(root));
        let top = String::from_utf8_lossy(&built.stdout).trim().to_owned();
        assert!(top.starts_with("/nix/store/"), "{top}");
        let closure = Self { directory, top, public_key, largest_bytes: largest_kilobytes * 1000 };
        closure.copy_to_cache("cache", "sk", compression);
        closure
    }

    /// Signs and copies the closure into another cache directory of the same closure.
    fn copy_to_cache(&self, cache: &str, secret_key: &str, compression: &str) {
        let root = self.directory.path();
        let to = format!(
            "file://{}?secret-key={}&compression={compression}",
            root.join(cache).display(),
            root.join(secret_key).display()
        );
        run(nix(root)
            .args(["copy", "--from", &format!("local?root={}", root.join("root").display())])
            .args(["--to", &to, &self.top]));
    }

    /// `nix copy --to` of the closure from the store that it was built in. `settings` are those of the cache, such as
    /// `compression=xz`; `options` go to Nix.
    pub fn copy_to(&self, url: &str, settings: &str, options: &[&str]) -> Copied {
        self.copy_to_as(&NixStore::new(), url, settings, options)
    }

    /// The same by a client that remembers what it uploaded.
    pub fn copy_to_as(&self, client: &NixStore, url: &str, settings: &str, options: &[&str]) -> Copied {
        let started = Instant::now();
        let output = nix(client.directory.path())
            .args(["copy", "--from", &format!("local?root={}", self.directory.path().join("root").display())])
            .args(["--to", &format!("{url}?{settings}"), &self.top])
            .args(options)
            .output()
            .expect("nix runs");
        Copied::of(&output, started)
    }

    /// The setting of a cache that signs with the closure's key.
    pub fn secret_key(&self) -> String {
        format!("secret-key={}", self.directory.path().join("sk").display())
    }

    /// The directory that a web server would serve.
    pub fn cache(&self) -> PathBuf {
        self.directory.path().join("cache")
    }

    /// The narinfos of all paths: store hash and text.
    pub fn narinfos(&self) -> Vec<(String, String)> {
        let files = fs::read_dir(self.cache()).expect("the cache").flatten();
        let narinfos = files.filter(|file| file.path().extension().is_some_and(|ending| ending == "narinfo"));
        narinfos
            .map(|file| {
                let path = file.path();
                let hash = path.file_stem().expect("a name").to_string_lossy().into_owned();
                (hash, fs::read_to_string(path).expect("a narinfo"))
            })
            .collect()
    }

    /// The narinfo of the top path: store hash and text.
    pub fn top_narinfo(&self) -> (String, String) {
        let hash = self.top.trim_start_matches("/nix/store/")[..32].to_owned();
        let text = fs::read_to_string(self.cache().join(format!("{hash}.narinfo"))).expect("a narinfo");
        (hash, text)
    }

    /// The path of the gateway's URL for the NAR of the top path.
    pub fn top_nar_path(&self) -> String {
        let (hash, text) = self.top_narinfo();
        let field = text.lines().find_map(|line| line.strip_prefix("NarHash: sha256:")).expect("a NarHash");
        format!("/nar/{hash}-{field}.nar")
    }

    /// The NAR of the top path as `nix-store --dump` writes it.
    pub fn top_nar(&self) -> Vec<u8> {
        let root = self.directory.path();
        let path = root.join("root").join(self.top.trim_start_matches('/'));
        run(nix_store(root).arg("--dump").arg(path)).stdout
    }

    /// A directory that lives as long as the closure.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }
}

/// A fresh, empty store with a client that has cached nothing.
pub struct NixStore {
    directory: TempDir,
    netns: Option<String>,
}

/// What a copy did.
#[derive(Debug)]
pub struct Copied {
    /// Whether Nix exited 0.
    pub success: bool,
    /// What it said.
    pub stderr: String,
    /// How long it took.
    pub elapsed: Duration,
}

impl Copied {
    fn of(output: &Output, started: Instant) -> Self {
        Self {
            success: output.status.success(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            elapsed: started.elapsed(),
        }
    }
}

impl NixStore {
    /// An empty one.
    #[allow(clippy::new_without_default, reason = "it makes a directory")]
    pub fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a temporary directory"), netns: None }
    }

    /// An empty one whose client runs in this network namespace.
    pub fn in_netns(name: &str) -> Self {
        Self { netns: Some(name.to_owned()), ..Self::new() }
    }

    /// `nix copy --from URL` of the closure, verified with its key only.
    pub fn copy_from(&self, url: &str, closure: &Closure) -> Copied {
        self.copy_with_key(url, closure, &closure.public_key)
    }

    /// The same, with another trusted key.
    pub fn copy_with_key(&self, url: &str, closure: &Closure, key: &str) -> Copied {
        let root = self.directory.path();
        let started = Instant::now();
        let output = nix_in(self.netns.as_deref(), root)
            .args(["copy", "--from", url, "--to", &format!("local?root={}", root.join("root").display())])
            .args(["--option", "trusted-public-keys", key, &closure.top])
            .output()
            .expect("nix runs");
        Copied::of(&output, started)
    }

    /// `nix copy --from URL` without looking at signatures.
    pub fn copy_unsigned_from(&self, url: &str, closure: &Closure) -> Copied {
        let root = self.directory.path();
        let started = Instant::now();
        let output = nix(root)
            .args(["copy", "--no-check-sigs", "--from", url])
            .args(["--to", &format!("local?root={}", root.join("root").display()), &closure.top])
            .output()
            .expect("nix runs");
        Copied::of(&output, started)
    }

    /// What a command of Nix prints, with a home of its own.
    pub fn nix_output(&self, arguments: &[&str]) -> Vec<u8> {
        run(nix(self.directory.path()).args(arguments)).stdout
    }

    /// The directory that has `nix/store` and `nix/var/nix/db` below it.
    pub fn root(&self) -> PathBuf {
        self.directory.path().join("root")
    }

    /// Adds a file of its own, which nobody has signed; yields its path.
    pub fn add_file(&self, name: &str, bytes: &[u8]) -> String {
        let home = self.directory.path();
        let source = home.join(name);
        fs::write(&source, bytes).expect("the file");
        let store = self.root().display().to_string();
        let added = run(nix_store(home).args(["--store", &store, "--add"]).arg(source));
        String::from_utf8_lossy(&added.stdout).trim().to_owned()
    }

    /// Builds a path of its own, which nobody has signed; yields it and its derivation.
    pub fn build(&self, name: &str, kilobytes: u64) -> (String, String) {
        let home = self.directory.path();
        let serial = CLOSURES.fetch_add(1, Ordering::Relaxed);
        fs::write(home.join("build.nix"), expression(&format!(r#"in mk "{name}" [ ] {kilobytes}"#), serial))
            .expect("the expression");
        let built = String::from_utf8_lossy(&run(nix_build(home).arg("build.nix").current_dir(home)).stdout)
            .trim()
            .to_owned();
        let store = format!("local?root={}", self.root().display());
        let deriver = run(nix_store(home).args(["--store", &store, "--query", "--deriver", &built]));
        (built, String::from_utf8_lossy(&deriver.stdout).trim().to_owned())
    }

    /// Removes everything, as nothing is a root.
    pub fn collect_garbage(&self) {
        let store = self.root().display().to_string();
        run(base(None, "nix-collect-garbage", self.directory.path()).args(["--store", &store]));
    }

    /// Where the files of a path stand.
    pub fn real_path(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    /// The bytes that Nix makes of the top path, for comparison.
    pub fn dump(&self, closure: &Closure) -> Vec<u8> {
        self.dump_path(&closure.top)
    }

    /// The bytes that Nix makes of a path.
    pub fn dump_path(&self, path: &str) -> Vec<u8> {
        run(nix_store(self.directory.path()).arg("--dump").arg(self.real_path(path))).stdout
    }

    /// How many store paths it has.
    pub fn paths(&self) -> usize {
        let Ok(entries) = fs::read_dir(self.directory.path().join("root/nix/store")) else { return 0 };
        // `.links` and lock files are not paths.
        let is_path = |name: &str| !name.starts_with('.') && !name.ends_with(".lock");
        entries.flatten().filter(|entry| is_path(&entry.file_name().to_string_lossy())).count()
    }
}

/// Derivations of random data; `paths` are the names that they need and the one that refers to all.
fn expression(paths: &str, serial: u32) -> String {
    format!(
        r#"
let
  mk = name: deps: kilobytes: derivation {{
    inherit name;
    serial = {serial};
    system = builtins.currentSystem;
    builder = "/bin/sh";
    PATH = "/bin:/usr/bin";
    args = [ "-c" "mkdir $out; echo ${{toString deps}} > $out/deps; head -c ${{toString kilobytes}}000 /dev/urandom > $out/data; ln -s data $out/link" ];
  }};
{paths}
"#
    )
}

/// One small path, one that refers to it, and a large one that refers to both.
fn chain(kilobytes: u64) -> String {
    format!(
        r#"  small = mk "small" [ ] 20;
  middle = mk "middle" [ small ] 700;
in mk "top" [ small middle ] {kilobytes}"#
    )
}

/// Paths of one size, one of which refers to all others.
fn fan(paths: u64, kilobytes: u64) -> String {
    format!(
        r#"  leaf = number: mk "leaf-${{toString number}}" [ ] {kilobytes};
in mk "top" (builtins.genList leaf {}) {kilobytes}"#,
        paths.saturating_sub(1)
    )
}

fn base(netns: Option<&str>, program: &str, home: &Path) -> Command {
    let mut command = match netns {
        Some(name) => netns::command(name, program),
        None => Command::new(program),
    };
    // A home of its own: the client remembers narinfos there for a month.
    command.env("HOME", home).env("XDG_CACHE_HOME", home.join("cache")).env_remove("NIX_PATH");
    command
}

fn nix(home: &Path) -> Command {
    nix_in(None, home)
}

fn nix_in(netns: Option<&str>, home: &Path) -> Command {
    let mut command = base(netns, "nix", home);
    command.args(["--extra-experimental-features", "nix-command", "--option", "substituters", ""]);
    command
}

fn nix_store(home: &Path) -> Command {
    base(None, "nix-store", home)
}

fn nix_build(home: &Path) -> Command {
    let mut command = base(None, "nix-build", home);
    command.args(["--no-out-link", "--store", &format!("local?root={}", home.join("root").display())]);
    for (option, value) in [
        ("sandbox", "true"),
        ("extra-sandbox-paths", "/bin /lib /lib64 /usr"),
        ("build-users-group", ""),
        ("substituters", ""),
    ] {
        command.args(["--option", option, value]);
    }
    command
}

fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}
