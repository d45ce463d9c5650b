//! What a host of a test's network runs: an origin, or a client that fetches as Nix does. Processes of their own, because a
//! network namespace belongs to a process.
//!
//! `p2p-cache-test-host origin DIRECTORY ADDR:PORT` prints `ready`, then for each line on its input the bytes of bodies
//! and the requests so far, and ends with its input. `p2p-cache-test-host fetch URL PARALLEL` reads lines of a store hash
//! and a NarHash in Nix base 32, fetches each narinfo and then its NAR, once, and prints one line: the bytes and the
//! milliseconds, or what went wrong.

use std::collections::VecDeque;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use p2p_cache_protocol::Sha256Digest;
use p2p_cache_tests::{Origin, http};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["origin", directory, address] => origin(Path::new(directory), address),
        ["fetch", url, parallel] => fetch(url, parallel.parse().expect("a number")),
        _ => {
            eprintln!("usage: p2p-cache-test-host origin DIRECTORY ADDR:PORT | fetch URL PARALLEL");
            ExitCode::FAILURE
        }
    }
}

fn origin(directory: &Path, address: &str) -> ExitCode {
    let origin = Origin::serve_at(directory, address);
    say("ready");
    for _ in std::io::stdin().lines() {
        say(&format!("{} {}", origin.bytes(), origin.requests()));
    }
    ExitCode::SUCCESS
}

fn say(line: &str) {
    println!("{line}");
    std::io::stdout().flush().expect("stdout");
}

fn fetch(url: &str, parallel: usize) -> ExitCode {
    let lines = std::io::stdin().lines().map(|line| line.expect("text"));
    let wanted: Mutex<VecDeque<String>> = Mutex::new(lines.collect());
    let (started, outcomes) = (Instant::now(), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..parallel {
            scope.spawn(|| {
                loop {
                    let Some(line) = wanted.lock().expect("the list").pop_front() else { return };
                    let outcome = fetch_one(url, &line);
                    outcomes.lock().expect("the outcomes").push(outcome);
                }
            });
        }
    });
    let outcomes: Result<Vec<u64>, String> =
        outcomes.into_inner().expect("the outcomes").into_iter().collect();
    match outcomes {
        Ok(bytes) => {
            println!("{} {}", bytes.iter().sum::<u64>(), started.elapsed().as_millis());
            ExitCode::SUCCESS
        }
        Err(reason) => {
            println!("{reason}");
            ExitCode::FAILURE
        }
    }
}

fn fetch_one(url: &str, line: &str) -> Result<u64, String> {
    let (store_hash, nar_hash) = line.split_once(' ').expect("two words");
    let narinfo = http::get(&format!("{url}/{store_hash}.narinfo"));
    let text = narinfo.text();
    let field = |name| text.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
    let (Some(path), Some(hash)) = (field("URL: "), field("NarHash: sha256:")) else {
        return Err(format!("{store_hash}.narinfo: status {}", narinfo.status));
    };
    if hash != nar_hash {
        return Err(format!("{store_hash}.narinfo names another NAR"));
    }
    let nar = http::get(&format!("{url}/{path}"));
    if nar.status != 200 || !nar.complete {
        return Err(format!("{path}: status {}, {} bytes", nar.status, nar.body.len()));
    }
    if Sha256Digest::of(&nar.body).to_nix32() != nar_hash {
        return Err(format!("{path}: wrong bytes"));
    }
    Ok(nar.body.len() as u64)
}
