//! The node's ed25519 key, kept in the state directory.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use ed25519_dalek::SigningKey;
use libp2p::{PeerId, identity::Keypair};
use p2p_cache_protocol::claim::NodeKey;

use crate::error::IdentityError;

/// Name of the key file in the state directory.
pub const KEY_FILE: &str = "node.key";

/// First word of the key file; the 64 hex digits of the ed25519 seed follow it.
const KEY_TAG: &str = "p2p-cache-node-key-ed25519:";
/// A well-formed key file is far shorter; more is never read.
const MAX_KEY_FILE_BYTES: u64 = 1024;

/// Who this node is: an ed25519 key pair.
///
/// The public half is the node's name ([`PeerId`], [`NodeKey`]); the private half signs its claims and
/// authenticates its connections.
#[derive(Clone)]
pub struct Identity {
    signing: SigningKey,
    keypair: Keypair,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("peer", &self.peer_id()).finish_non_exhaustive()
    }
}

impl Identity {
    /// Reads `node.key` of a state directory, or makes it (mode 0600, in one step: a crash leaves either no key
    /// or a whole one, and of two processes that make one at once both end with the same). The directory is
    /// made too when missing. Blocks on the disk.
    ///
    /// # Errors
    /// A key that others may read, a file that is no key, or a failed file operation, each with its path.
    pub fn load_or_create(state_dir: &Path) -> Result<Self, IdentityError> {
        let path = state_dir.join(KEY_FILE);
        if let Some(identity) = Self::load(&path)? {
            return Ok(identity);
        }
        fs::create_dir_all(state_dir).map_err(io_error("create the state directory", state_dir))?;
        let identity = Self::generate();
        identity.store(state_dir, &path)?;
        // Somebody else may have been faster: what stands in the file counts.
        Self::load(&path)?.ok_or_else(|| IdentityError::Io {
            action: "read back",
            path,
            source: io::ErrorKind::NotFound.into(),
        })
    }

    /// A fresh identity that is kept nowhere.
    pub fn generate() -> Self {
        Self::from_seed(rand::random())
    }

    /// The identity that follows from a seed of 32 secret bytes.
    pub fn from_seed(mut seed: [u8; 32]) -> Self {
        let signing = SigningKey::from_bytes(&seed);
        // Fails only for a slice that is not 32 bytes long, which the type rules out.
        match Keypair::ed25519_from_bytes(&mut seed) {
            Ok(keypair) => Self { signing, keypair },
            Err(_) => unreachable!("32 bytes are always an ed25519 seed"),
        }
    }

    /// The node's name in libp2p.
    pub fn peer_id(&self) -> PeerId {
        self.keypair.public().to_peer_id()
    }

    /// The node's public key.
    pub fn node_key(&self) -> NodeKey {
        NodeKey(self.signing.verifying_key().to_bytes())
    }

    /// The private key, for signing claims.
    pub fn signing_key(&self) -> SigningKey {
        self.signing.clone()
    }

    pub(crate) fn keypair(&self) -> &Keypair {
        &self.keypair
    }

    fn load(path: &Path) -> Result<Option<Self>, IdentityError> {
        let malformed = |reason| IdentityError::Malformed { path: path.to_owned(), reason };
        match fs::metadata(path) {
            // Opening a pipe or device could block or have effects.
            Ok(metadata) if !metadata.is_file() => return Err(malformed("not a regular file")),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("inspect", path)(error)),
        }
        let file = File::open(path).map_err(io_error("open", path))?;
        check_mode(&file, path)?;
        let mut text = Vec::new();
        file.take(MAX_KEY_FILE_BYTES).read_to_end(&mut text).map_err(io_error("read", path))?;
        let text = std::str::from_utf8(&text).map_err(|_| malformed("not text"))?.trim_end();
        let hex = text
            .strip_prefix(KEY_TAG)
            .ok_or_else(|| malformed("its first word is not that of a node key"))?;
        let seed = from_hex(hex).ok_or_else(|| malformed("the key is not 64 hexadecimal digits"))?;
        Ok(Some(Self::from_seed(seed)))
    }

    fn store(&self, state_dir: &Path, path: &Path) -> Result<(), IdentityError> {
        let temporary: PathBuf =
            state_dir.join(format!("{KEY_FILE}.{}-{:016x}", std::process::id(), rand::random::<u64>()));
        let written = self.write_new(&temporary).and_then(|()| {
            // A link, unlike a rename, never replaces a key that another process has just put there.
            match fs::hard_link(&temporary, path) {
                Ok(()) => Ok(()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                // File systems without hard links.
                Err(_) => fs::rename(&temporary, path),
            }
        });
        let removed = fs::remove_file(&temporary);
        written.map_err(io_error("write", path))?;
        if let Err(error) = removed
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(io_error("remove", &temporary)(error));
        }
        File::open(state_dir).and_then(|dir| dir.sync_all()).map_err(io_error("sync", state_dir))
    }

    fn write_new(&self, path: &Path) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path)?;
        file.write_all(format!("{KEY_TAG}{}\n", to_hex(&self.signing.to_bytes())).as_bytes())?;
        file.sync_all()
    }
}

fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> IdentityError + use<> {
    let path = path.to_owned();
    move |source| IdentityError::Io { action, path: path.clone(), source }
}

#[cfg(unix)]
fn check_mode(file: &File, path: &Path) -> Result<(), IdentityError> {
    use std::os::unix::fs::PermissionsExt;
    let mode = file.metadata().map_err(io_error("inspect", path))?.permissions().mode() & 0o7777;
    if mode & 0o077 == 0 { Ok(()) } else { Err(IdentityError::Permissions { path: path.to_owned(), mode }) }
}

#[cfg(not(unix))]
fn check_mode(_: &File, _: &Path) -> Result<(), IdentityError> {
    Ok(())
}

fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let [high, low] = [pair[0], pair[1]].map(|digit| char::from(digit).to_digit(16));
        *byte = u8::try_from(high? * 16 + low?).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_identity_is_made_once_and_stays_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state/below");
        let first = Identity::load_or_create(&state).unwrap();
        let second = Identity::load_or_create(&state).unwrap();
        assert_eq!(first.peer_id(), second.peer_id());
        assert_eq!(first.signing_key().to_bytes(), second.signing_key().to_bytes());
        let mode = fs::metadata(state.join(KEY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        assert_eq!(fs::read_dir(&state).unwrap().count(), 1, "no temporary file stays behind");
    }

    #[test]
    fn peer_id_and_node_key_are_the_same_key() {
        let identity = Identity::generate();
        assert_eq!(crate::Network::node_key_of(&identity.peer_id()), Some(identity.node_key()));
        assert_eq!(crate::Network::node_key_of(&PeerId::random()), None);
    }

    #[test]
    fn a_key_that_others_may_read_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        Identity::load_or_create(dir.path()).unwrap();
        let path = dir.path().join(KEY_FILE);
        for mode in [0o640, 0o604, 0o660, 0o777] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let error = Identity::load_or_create(dir.path()).unwrap_err().to_string();
            assert!(error.contains("chmod 600") && error.contains(&format!("{mode:04o}")), "{error}");
        }
    }

    #[test]
    fn garbage_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(KEY_FILE);
        let good = format!("{KEY_TAG}{}", "0".repeat(64));
        for garbage in [
            Vec::new(),
            b"hello".to_vec(),
            vec![0xff; 64],
            vec![b'a'; 100_000],
            good.as_bytes()[..good.len() - 1].to_vec(),
            good.replace('0', "g").into_bytes(),
            format!("{good}00").into_bytes(),
        ] {
            fs::write(&path, &garbage).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let error = Identity::load_or_create(dir.path()).unwrap_err();
            assert!(matches!(error, IdentityError::Malformed { .. }), "{error}");
            assert_eq!(fs::read(&path).unwrap(), garbage);
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(matches!(Identity::load_or_create(dir.path()), Err(IdentityError::Malformed { .. })));
    }

    #[test]
    fn an_unusable_state_directory_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Identity::load_or_create(&file).unwrap_err().to_string();
        assert!(error.contains(file.to_str().unwrap()), "{error}");
    }

    #[test]
    fn many_that_start_at_once_agree_on_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let peers: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| scope.spawn(|| Identity::load_or_create(dir.path()).unwrap().peer_id()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(peers.iter().all(|peer| *peer == peers[0]));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
