//! Nothing that was committed is lost and nothing half-written is ever served, whenever the process dies.

use std::time::Duration;

use p2p_cache_tests::{Closure, Daemon, NixStore, Origin, daemon};
use rand::Rng;
use rand::SeedableRng;

const KILLS: u32 = 50;

#[test]
fn kill_9_at_random_instants_leaves_a_clean_store_and_the_fetch_completes() {
    let closure = Closure::build(12_000, "none");
    let origin = Origin::serve(&closure.cache());
    let state = closure.scratch().join("state");
    let seed = rand::random();
    println!("seed {seed}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    for round in 0..KILLS {
        let mut node =
            Daemon::builder().origin(origin.url()).trust(&closure.public_key).state_dir(&state).start();
        let url = format!("{}{}", node.http, closure.top_nar_path());
        let client = std::thread::spawn(move || p2p_cache_tests::http::get(&url));
        // A whole fetch with its commit takes about 100 ms.
        std::thread::sleep(Duration::from_millis(random.random_range(0..150)));
        node.kill();
        drop(client.join());
        let verified = daemon::p2p_cache(&["verify", "--state-dir", &state.display().to_string()]);
        assert!(
            verified.status.success(),
            "round {round}, seed {seed}: {}{}",
            String::from_utf8_lossy(&verified.stdout),
            String::from_utf8_lossy(&verified.stderr)
        );
        if round % 5 == 4 {
            // Begin anew, so that commits go on happening.
            std::fs::remove_dir_all(&state).expect("the state directory");
        }
    }
    let node = Daemon::builder().origin(origin.url()).trust(&closure.public_key).state_dir(&state).start();
    let store = NixStore::new();
    let copied = store.copy_from(&node.http, &closure);
    assert!(copied.success, "{}", copied.stderr);
    assert_eq!(store.dump(&closure), closure.top_nar());
}

#[test]
fn sigterm_ends_a_daemon_in_time_even_with_a_body_under_way() {
    let closure = Closure::build(20_000, "none");
    let origin = Origin::serve(&closure.cache());
    origin.set_fault(p2p_cache_tests::Fault::Slow(1_000_000));
    let mut node = Daemon::builder().origin(origin.url()).trust(&closure.public_key).start();
    let url = format!("{}{}", node.http, closure.top_nar_path());
    let client = std::thread::spawn(move || p2p_cache_tests::http::get(&url));
    std::thread::sleep(Duration::from_millis(1500));
    let status = node.terminate();
    assert_eq!(status.code(), Some(0), "{}", node.log());
    let answer = client.join().expect("the client");
    assert!(!answer.complete, "the body was cut, not completed");
}

#[test]
fn a_second_daemon_on_the_same_state_directory_is_refused_with_a_clear_error() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let state = directory.path().join("state");
    let _first = Daemon::builder().state_dir(&state).start();
    let second = daemon::p2p_cache(&[
        "serve",
        "--no-mdns",
        "--http",
        "127.0.0.1:0",
        "--listen",
        "/ip4/127.0.0.1/tcp/0",
        "--state-dir",
        &state.display().to_string(),
    ]);
    assert_eq!(second.status.code(), Some(1));
    let text = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(text.contains("in use") && text.contains(&state.display().to_string()), "{text}");
}
