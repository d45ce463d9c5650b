//! A node that holds one public path and private things of every kind, and the requests about each of them.

use std::fs;
use std::time::Duration;

use p2p_cache_protocol::wire::Request;
use p2p_cache_protocol::{BlobId, Digest, GroupRange, NarInfo, SecretKey, Sha256Digest, StoreHash};
use p2p_cache_tests::hostile::random_bytes;
use p2p_cache_tests::{Closure, Daemon, DaemonBuilder, NixStore, Origin, daemon, http};
use tempfile::TempDir;

/// Bytes of each blob.
const BLOB_BYTES: usize = 100_000;
/// More look-ups than a test makes.
const NO_LIMIT: &str = "1000000";

/// Every kind of request of the wire protocol.
pub(crate) const KINDS: [&str; 7] =
    ["narinfo", "look-up by SHA-256", "look-up by BLAKE3", "range", "watch", "resolve", "follow"];

/// Something that a node may hold, by all its names.
#[derive(Clone)]
pub(crate) struct Subject {
    pub(crate) what: &'static str,
    pub(crate) path: StoreHash,
    pub(crate) sha256: Sha256Digest,
    pub(crate) blob: BlobId,
    pub(crate) size: u64,
}

impl Subject {
    /// A thing with these bytes that has no store path.
    fn of(what: &'static str, bytes: &[u8]) -> Self {
        let (sha256, blob) = (Sha256Digest::of(bytes), BlobId::of(bytes));
        Self { what, path: rand::random::<[u8; 20]>().into(), sha256, blob, size: bytes.len() as u64 }
    }

    /// A store path with this NAR.
    fn of_path(what: &'static str, path: &str, nar: &[u8]) -> Self {
        let hash = path.trim_start_matches("/nix/store/").split('-').next().expect("a hash");
        Self { path: hash.parse().expect("a store hash"), ..Self::of(what, nar) }
    }

    /// What nobody has.
    pub(crate) fn random() -> Self {
        let (path, sha256, blob): ([u8; 20], _, _) = rand::random();
        let size = BLOB_BYTES as u64;
        Self {
            what: "a random hash",
            path: path.into(),
            sha256: Sha256Digest(sha256),
            blob: BlobId(blob),
            size,
        }
    }

    /// A request of each of [`KINDS`].
    pub(crate) fn requests(&self) -> [Request; KINDS.len()] {
        let Self { path: hash, sha256, blob, size, .. } = *self;
        [
            Request::NarInfo { hash },
            Request::Lookup { digest: Digest::Sha256(sha256) },
            Request::Lookup { digest: Digest::Blake3(blob) },
            Request::Range { blob, size, range: GroupRange::new(0, size.div_ceil(16 * 1024).min(4)) },
            Request::Watch { blob, size },
            Request::Resolve { hash },
            Request::Follow { hash, nar: sha256, offset: 0 },
        ]
    }
}

/// A cache of store paths, one of each sort.
pub(crate) struct Cache {
    pub(crate) directory: TempDir,
    pub(crate) shared: SecretKey,
    pub(crate) trusted: SecretKey,
}

impl Cache {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(directory.path().join("nar")).expect("the directory of NARs");
        let key = |name: &str| SecretKey::from_seed(name, &rand::random()).expect("a key");
        Self { directory, shared: key("shared-1"), trusted: key("trusted-1") }
    }

    /// Adds a store path with a NAR of random bytes.
    pub(crate) fn add(&self, what: &'static str, name: &str, ca: bool, key: Option<&SecretKey>) -> Subject {
        let nar = random_bytes(BLOB_BYTES, rand::random());
        let subject = Subject::of(what, &nar);
        let (path, hash, size) = (subject.path, subject.sha256.to_nix32(), subject.size);
        let ca = if ca { format!("CA: fixed:r:sha256:{hash}\n") } else { String::new() };
        let text = format!(
            "StorePath: /nix/store/{path}-{name}\nURL: nar/{hash}.nar\nCompression: none\nFileHash: sha256:{hash}\n\
             FileSize: {size}\nNarHash: sha256:{hash}\nNarSize: {size}\nReferences: \n{ca}"
        );
        let mut narinfo = NarInfo::parse(&text).expect("a narinfo");
        key.into_iter().for_each(|key| narinfo.sign(key));
        let file = |name: String| self.directory.path().join(name);
        fs::write(file(narinfo.url.clone()), &nar).expect("the NAR");
        fs::write(file(format!("{path}.narinfo")), narinfo.to_string()).expect("the narinfo");
        subject
    }
}

/// Gets a store path through a node, which keeps it.
pub(crate) fn fetch(node: &Daemon, subject: &Subject) {
    let narinfo = http::get(&format!("{}/{}.narinfo", node.http, subject.path));
    assert_eq!(narinfo.status, 200, "{}: {}", subject.what, node.log());
    let nar = http::get(&format!("{}/nar/{}-{}.nar", node.http, subject.path, subject.sha256.to_nix32()));
    assert!(nar.status == 200 && nar.complete, "{}: {}", subject.what, node.log());
}

/// Stores bytes in a node; `more` are flags of `put`.
pub(crate) fn put(node: &Daemon, what: &'static str, more: &[&str]) -> Subject {
    let bytes = random_bytes(BLOB_BYTES, rand::random());
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("file");
    fs::write(&file, &bytes).expect("the file");
    let (file, http) = (file.display().to_string(), node.http.trim_start_matches("http://"));
    let stored = daemon::p2p_cache(&[&["put", &file, "--http", http], more].concat());
    assert!(stored.status.success(), "{}", String::from_utf8_lossy(&stored.stderr));
    Subject::of(what, &bytes)
}

/// The node, started again since it has got all of it: what it knows of it is on its disk alone.
pub(crate) struct Scene {
    pub(crate) node: Daemon,
    pub(crate) public: Vec<Subject>,
    pub(crate) private: Vec<Subject>,
    // Knows nothing; what is not held is asked of it.
    _origin: Origin,
    _directories: Vec<TempDir>,
    _store: Option<NixStore>,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let cache = Cache::new();
        let (shared, trusted) = (Some(&cache.shared), Some(&cache.trusted));
        let public = vec![
            cache.add("a public path", "hello", false, shared),
            cache.add("a public path with a content address", "source", true, shared),
        ];
        let mut private = vec![
            cache.add("an unsigned build", "build", false, None),
            cache.add("a private source", "private-source", true, None),
            cache.add("a path of a trusted cache", "work", false, trusted),
            cache.add("an excluded name", "my-secret-1", false, shared),
            cache.add("a derivation", "hello.drv", true, shared),
        ];
        let state = tempfile::tempdir().expect("a temporary directory");
        let origin = Origin::serve(cache.directory.path());
        let start = |origin: &Origin| {
            let builder = Daemon::builder().state_dir(&state.path().join("state")).origin(origin.url());
            with_rules(builder, &cache).start()
        };
        let mut node = start(&origin);
        public.iter().chain(&private).for_each(|subject| fetch(&node, subject));
        private.push(put(&node, "a blob that was put in private", &["--private"]));
        node.wait_until_idle();
        assert_eq!(node.blob_files().len(), public.len() + private.len());
        assert!(node.terminate().success());
        let empty = tempfile::tempdir().expect("a temporary directory");
        let origin = Origin::serve(empty.path());
        let node = start(&origin);
        wait_until_listed(&node);
        Self { node, public, private, _origin: origin, _directories: vec![empty, state], _store: None }
    }

    /// The same with a live Nix store, made by a real Nix, and nothing else.
    pub(crate) fn live() -> Self {
        let (closure, store) = (Closure::build(BLOB_BYTES as u64 / 1000, "none"), NixStore::new());
        assert!(store.copy_from(&Origin::serve(&closure.cache()).url(), &closure).success);
        let (build, derivation) = store.build("private-build", BLOB_BYTES as u64 / 1000);
        let source = store.add_file("private-source", &random_bytes(BLOB_BYTES, rand::random()));
        let subject = |what, path: &str| Subject::of_path(what, path, &store.dump_path(path));
        let public = vec![subject("a public path of the live store", &closure.top)];
        let private = vec![
            subject("an unsigned build in the live store", &build),
            subject("its derivation", &derivation),
            subject("a source with a content address in the live store", &source),
        ];
        let [empty, state] = [(); 2].map(|()| tempfile::tempdir().expect("a temporary directory"));
        let origin = Origin::serve(empty.path());
        let start = || {
            let builder = Daemon::builder().state_dir(&state.path().join("state")).origin(origin.url());
            let node = without_limits(builder.nix_store(&store.root()).trust(&closure.public_key)).start();
            let offered = || node.metric("p2p_cache_live_paths{state=\"offered\"}") == 3;
            daemon::wait_until(Duration::from_secs(30), "the closure to be offered", offered);
            node
        };
        // What was hashed before is known from the beginning.
        assert!(start().terminate().success());
        let node = start();
        wait_until_listed(&node);
        Self { node, public, private, _origin: origin, _directories: vec![empty, state], _store: Some(store) }
    }
}

/// Before that anything is looked for.
fn wait_until_listed(node: &Daemon) {
    let listed = || node.log().contains("listed what may be shared");
    daemon::wait_until(Duration::from_secs(20), "the node to list what may be shared", listed);
}

/// One key shared, one trusted, one name excluded; as many look-ups as a test likes.
fn with_rules(builder: DaemonBuilder, cache: &Cache) -> DaemonBuilder {
    let shared = cache.shared.public_key().to_string();
    let builder = builder.trust(shared).trust_only(cache.trusted.public_key().to_string());
    without_limits(builder.flag("--never-share", "*secret*"))
}

fn without_limits(builder: DaemonBuilder) -> DaemonBuilder {
    [
        "REQUESTS_PER_SECOND_PER_PEER",
        "FAILED_LOOKUPS_PER_MINUTE_PER_PEER",
        "FAILED_LOOKUPS_PER_MINUTE_PER_NETWORK",
    ]
    .into_iter()
    .fold(builder, |builder, limit| builder.env(&format!("P2P_CACHE_{limit}"), NO_LIMIT))
}
