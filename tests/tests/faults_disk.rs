//! A disk that runs full while a node fetches: the client gets a clean failure, the daemon lives, and what it held
//! before is intact. Needs root, to mount a small file system.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use p2p_cache_tests::{Closure, Daemon, Fault, NixStore, Origin, crowd, daemon, http};
use tempfile::TempDir;

const MIB: u64 = 1024 * 1024;
/// A node always leaves this much free.
const RESERVE_BYTES: u64 = 64 * MIB;

/// A file system of its own size in memory; unmounted when dropped.
struct SmallDisk {
    directory: TempDir,
}

impl SmallDisk {
    /// `None`, and the reason is printed, where nothing can be mounted.
    fn mount(bytes: u64) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let options = format!("size={bytes}");
        let mut mount = Command::new("mount");
        let output = mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(directory.path()).output();
        match output {
            Ok(output) if output.status.success() => Some(Self { directory }),
            other => {
                println!("SKIPPED: no file system can be mounted here (it needs root): {other:?}");
                None
            }
        }
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn filler(&self) -> std::path::PathBuf {
        self.path().join("filler")
    }

    /// Somebody else's file takes all that is left.
    fn fill_up(&self) {
        let mut file = File::create(self.filler()).expect("the filler");
        let block = vec![0; MIB as usize / 4];
        while file.write_all(&block).is_ok() {}
    }

    fn free_up(&self) {
        fs::remove_file(self.filler()).expect("the filler");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let done = Command::new("umount").arg("--lazy").arg(self.path()).status();
        if !done.is_ok_and(|status| status.success()) {
            eprintln!("a file system of the test is left behind: {}", self.path().display());
        }
    }
}

/// A node on a small disk that holds one closure, and the origin of another one.
struct Scene {
    held: Closure,
    wanted: Closure,
    origin: Origin,
    node: Daemon,
    disk: SmallDisk,
}

impl Scene {
    /// The wanted closure's NAR has `wanted_bytes`; the disk has room for `room_bytes` beside what is held and the
    /// reserve.
    fn new(wanted_bytes: u64, room_bytes: u64) -> Option<Self> {
        const HELD_BYTES: u64 = 10_000_000;
        let disk = SmallDisk::mount(HELD_BYTES + 3 * MIB + RESERVE_BYTES + room_bytes)?;
        let (held, wanted) =
            (Closure::build(HELD_BYTES / 1000, "none"), Closure::build(wanted_bytes / 1000, "none"));
        let (first, origin) = (Origin::serve(&held.cache()), Origin::serve(&wanted.cache()));
        let node = Daemon::builder()
            .origin(first.url())
            .origin(origin.url())
            .trust(&held.public_key)
            .trust(&wanted.public_key)
            .state_dir(&disk.path().join("state"))
            .start();
        crowd::fill(&node, &held);
        first.stop();
        Some(Self { held, wanted, origin, node, disk })
    }

    fn assert_lives_with_old_blobs_intact(&self) {
        assert_eq!(http::get(&format!("{}/healthz", self.node.http)).status, 200, "{}", self.node.log());
        let body = http::get(&format!("{}{}", self.node.http, self.held.top_nar_path()));
        assert!(body.status == 200 && body.complete && body.body == self.held.top_nar(), "the old blob");
        let store = NixStore::new();
        let copied = store.copy_from(&self.node.http, &self.held);
        assert!(copied.success, "{}\n{}", copied.stderr, self.node.log());
    }

    fn assert_clear_error(&self) {
        let said = || self.node.log().contains("no space left on the file system of");
        daemon::wait_until(Duration::from_secs(5), "the reason in the log", said);
    }

    fn assert_nothing_is_left_of_the_wanted(&self) {
        self.node.wait_until_idle();
        let leftovers = || fs::read_dir(self.node.state_dir.join("partial")).expect("partial").count();
        daemon::wait_until(Duration::from_secs(5), "the unfinished blob to go", || leftovers() == 0);
    }

    /// After a clean end the whole store is as it should be.
    fn assert_verifies(mut self) {
        assert_eq!(self.node.terminate().code(), Some(0), "{}", self.node.log());
        let state = self.node.state_dir.display().to_string();
        let verified = daemon::p2p_cache(&["verify", "--state-dir", &state]);
        assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    }
}

#[test]
fn a_nar_that_cannot_fit_is_refused_and_costs_nothing_that_is_held() {
    let Some(scene) = Scene::new(60_000_000, 20 * MIB) else { return };
    let copied = NixStore::new().copy_from(&scene.node.http, &scene.wanted);
    assert!(!copied.success, "there is no room for it");
    assert!(copied.elapsed < Duration::from_secs(60), "a clean failure, not a wait: {:?}", copied.elapsed);
    scene.assert_clear_error();
    scene.assert_lives_with_old_blobs_intact();
    scene.assert_nothing_is_left_of_the_wanted();
    scene.assert_verifies();
}

#[test]
fn a_disk_that_runs_full_in_mid_transfer_ends_the_body_cleanly_and_the_daemon_lives() {
    const WANTED: u64 = 40_000_000;
    let Some(scene) = Scene::new(WANTED, WANTED + 20 * MIB) else { return };
    // Slow enough that the disk is full long before the NAR is whole.
    scene.origin.set_fault(Fault::Slow(8_000_000));
    let (before, nar) = (scene.origin.bytes(), scene.wanted.top_nar());
    let url = format!("{}{}", scene.node.http, scene.wanted.top_nar_path());
    let answer = std::thread::scope(|scope| {
        let client = scope.spawn(|| http::get(&url));
        daemon::wait_until(Duration::from_secs(20), "bytes from the origin", || {
            scene.origin.bytes() > before + 4_000_000
        });
        scene.disk.fill_up();
        client.join().expect("the client")
    });
    assert!(!answer.complete, "it could not be kept, and its tail not be checked");
    assert!(answer.status != 200 || nar.starts_with(&answer.body), "not a wrong byte");
    scene.assert_clear_error();
    scene.assert_lives_with_old_blobs_intact();
    // With Nix, on the disk that is full from the start.
    let copied = NixStore::new().copy_from(&scene.node.http, &scene.wanted);
    assert!(!copied.success && copied.elapsed < Duration::from_secs(60), "{copied:?}");

    scene.disk.free_up();
    scene.origin.set_fault(Fault::None);
    let store = NixStore::new();
    let copied = store.copy_from(&scene.node.http, &scene.wanted);
    assert!(copied.success, "with room again: {}\n{}", copied.stderr, scene.node.log());
    assert!(store.dump(&scene.wanted) == nar);
    scene.assert_lives_with_old_blobs_intact();
    scene.assert_verifies();
}
