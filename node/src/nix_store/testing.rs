//! Stores for tests: real ones, made by a real Nix below a directory of their own, and databases without files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use p2p_cache_protocol::{PublicKey, SecretKey, StoreHash, TrustedKeys};
use rusqlite::{Connection, params};
use tempfile::TempDir;

use super::Database;

/// The tables as Nix makes them.
const SCHEMA: &str = r#"
    pragma journal_mode = wal;
    create table ValidPaths (
        id               integer primary key autoincrement not null,
        path             text unique not null,
        hash             text not null,
        registrationTime integer not null,
        deriver          text,
        narSize          integer,
        ultimate         integer,
        sigs             text,
        ca               text
    );
    create table Refs (
        referrer  integer not null,
        reference integer not null,
        primary key (referrer, reference),
        foreign key (referrer) references ValidPaths(id) on delete cascade,
        foreign key (reference) references ValidPaths(id) on delete restrict
    );
    create index IndexReferrer on Refs(referrer);
    create index IndexReference on Refs(reference);
"#;

/// The key that signs what tests share.
pub(crate) fn secret_key() -> SecretKey {
    SecretKey::from_seed("live-test-1", &[7; 32]).unwrap()
}

/// Its public half, trusted.
pub(crate) fn trusted_keys() -> TrustedKeys {
    TrustedKeys::new(vec![public_key()])
}

fn public_key() -> PublicKey {
    secret_key().public_key()
}

/// A store below a directory of its own, run by the real Nix.
pub(crate) struct RealStore {
    directory: TempDir,
}

impl RealStore {
    /// An empty one; `None`, said aloud, where there is no Nix.
    pub(crate) fn new() -> Option<Self> {
        if let Err(error) = Command::new("nix-store").arg("--version").output() {
            println!("SKIPPED: no Nix here ({error}); tests/run.sh installs it");
            return None;
        }
        let store = Self { directory: tempfile::tempdir().unwrap() };
        fs::write(store.file("sk"), secret_key().to_secret_text()).unwrap();
        store.nix_store(&["--init"]);
        Some(store)
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.file("root")
    }

    /// A directory beside the store.
    pub(crate) fn state_dir(&self) -> PathBuf {
        self.file("state")
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Adds a file or tree that `make` writes at the path that it is given; yields `/nix/store/...`.
    pub(crate) fn add(&self, name: &str, make: impl FnOnce(&Path)) -> String {
        let source = self.file(name);
        make(&source);
        let path = self.nix_store(&["--add", &source.display().to_string()]);
        if source.is_dir() {
            fs::remove_dir_all(source).unwrap()
        } else {
            fs::remove_file(source).unwrap()
        }
        path
    }

    /// Adds a file.
    pub(crate) fn add_file(&self, name: &str, bytes: &[u8]) -> String {
        self.add(name, |path| fs::write(path, bytes).unwrap())
    }

    /// Adds a file and signs it.
    pub(crate) fn add_signed(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.add_file(name, bytes);
        self.sign(&path);
        path
    }

    /// Adds a path that refers to another one; yields both, the referrer first.
    pub(crate) fn add_referrer(&self) -> (String, String) {
        let expression = |of: &str| format!(r#"let a = builtins.toFile "a" "x"; in builtins.toFile {of}"#);
        let evaluate = |expression: &str| {
            let mut command = self.command("nix-instantiate");
            let text = output(command.args(["--eval", "--read-write-mode", "-E", expression]));
            text.trim_matches('"').to_owned()
        };
        (evaluate(&expression(r#""b" "refers to ${a}""#)), evaluate(&expression(r#""a" "x""#)))
    }

    /// Signs with [`secret_key`].
    pub(crate) fn sign(&self, path: &str) {
        let mut command = self.command("nix");
        command.args(["--extra-experimental-features", "nix-command", "store", "sign", "-k"]);
        output(command.arg(self.file("sk")).arg(path));
    }

    /// What Nix makes of the path.
    pub(crate) fn dump(&self, path: &str) -> Vec<u8> {
        let mut command = self.command("nix-store");
        let out = command.arg("--dump").arg(self.real_path(path)).output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        out.stdout
    }

    /// Where the files of a path stand.
    pub(crate) fn real_path(&self, path: &str) -> PathBuf {
        self.root().join(path.trim_start_matches('/'))
    }

    /// Deletes one path.
    pub(crate) fn delete(&self, path: &str) {
        // Nix looks for roots among the open files of all processes, and gives up when one of them, such as a test of deep
        // trees, has one with a name that is too long for it.
        for _ in 0..50 {
            let Output { status, stderr, .. } =
                self.command("nix-store").args(["--delete", path]).output().unwrap();
            let stderr = String::from_utf8_lossy(&stderr);
            if status.success() {
                return;
            }
            assert!(stderr.contains("File name too long"), "{path}: {stderr}");
            std::thread::sleep(std::time::Duration::from_millis(200));
        }
        panic!("{path} could not be deleted");
    }

    /// Collects everything, as nothing is a root.
    pub(crate) fn collect_garbage(&self) {
        output(&mut self.command("nix-collect-garbage"));
    }

    /// Flips a bit of a file in the store, as a bad disk would.
    pub(crate) fn corrupt(&self, path: &str) {
        let file = self.real_path(path);
        let mut bytes = fs::read(&file).unwrap();
        bytes[0] ^= 1;
        let writable = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fs::set_permissions(&file, writable).unwrap();
        fs::write(&file, bytes).unwrap();
    }

    fn nix_store(&self, arguments: &[&str]) -> String {
        output(self.command("nix-store").args(arguments))
    }

    fn command(&self, program: &str) -> Command {
        let home = self.directory.path();
        let mut command = Command::new(program);
        command.args(["--store", &self.root().display().to_string()]);
        command.env("HOME", home).env("XDG_CACHE_HOME", home.join("cache")).env_remove("NIX_PATH");
        command.env_remove("NIX_REMOTE").env("NIX_CONFIG", "substituters =");
        command
    }
}

fn output(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    assert!(status.success(), "{command:?}: {}", String::from_utf8_lossy(&stderr));
    String::from_utf8(stdout).unwrap().trim().to_owned()
}

/// The hash of a path.
pub(crate) fn hash_of(path: &str) -> StoreHash {
    path.trim_start_matches("/nix/store/")[..32].parse().unwrap()
}

/// A database of Nix without any files behind it.
pub(crate) struct SyntheticStore {
    directory: TempDir,
    pub(crate) connection: Connection,
}

impl SyntheticStore {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = Database::path_below(directory.path());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path.with_file_name("schema"), "10").unwrap();
        let connection = Connection::open(path).unwrap();
        connection.execute_batch(SCHEMA).unwrap();
        Self { directory, connection }
    }

    pub(crate) fn root(&self) -> &Path {
        self.directory.path()
    }

    /// Adds `count` paths, each with a reference to the one before it; yields their hashes.
    pub(crate) fn add_rows(&mut self, count: u32) -> Vec<StoreHash> {
        let transaction = self.connection.transaction().unwrap();
        let mut hashes = Vec::new();
        for number in 0..count {
            let mut bytes = [0; 20];
            blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
            let hash = StoreHash::from(bytes);
            let id = {
                let mut statement = transaction
                    .prepare_cached(
                        "insert into ValidPaths (path, hash, registrationTime, narSize) values (?, ?, 1, ?)",
                    )
                    .unwrap();
                let nar_hash = format!("sha256:{}", blake3::hash(&bytes).to_hex());
                statement.insert(params![format!("/nix/store/{hash}-path-{number}"), nar_hash, 1000]).unwrap()
            };
            if number > 0 {
                transaction.execute("insert into Refs values (?, ?)", [id, id - 1]).unwrap();
            }
            hashes.push(hash);
        }
        transaction.commit().unwrap();
        hashes
    }
}
