//! Sources that die, fall silent, dawdle or lie in the middle of a transfer, with no origin to fall back on: the Nix
//! client succeeds at its first try and no client ever sees a wrong byte.

use std::time::Duration;

use p2p_cache_protocol::Claim;
use p2p_cache_tests::crowd::SERVED_TO_PEERS;
use p2p_cache_tests::daemon::wait_until;
use p2p_cache_tests::hostile::{Lies, LyingPeer, Manner};
use p2p_cache_tests::{Crowd, Daemon};

const PATIENCE: Duration = Duration::from_secs(30);

/// A peer with the right NAR and bad manners.
fn liar(crowd: &Crowd, manner: Manner) -> LyingPeer {
    LyingPeer::start(Lies::about(&crowd.nar, manner))
}

/// A peer that claims another size than the signed one, and would serve the right bytes.
fn liar_about_size(crowd: &Crowd, size: u64) -> LyingPeer {
    let lies = Lies::about(&crowd.nar, Manner::Proper);
    LyingPeer::start(Lies { claim: lies.claim.map(|claim| Claim { size, ..claim }), ..lies })
}

fn corrupter(crowd: &Crowd) -> LyingPeer {
    let seed = rand::random();
    println!("seed {seed}");
    liar(crowd, Manner::CorruptAtRandom { one_in: 3, seed })
}

/// Runs `act` when the seeders have sent `bytes` of the transfer that goes on meanwhile.
fn in_mid_transfer<'scope>(
    scope: &'scope std::thread::Scope<'scope, '_>,
    seeders: &'scope [Daemon],
    bytes: u64,
    act: impl FnOnce() + Send + 'scope,
) {
    scope.spawn(move || {
        wait_until(PATIENCE, "bytes from the seeders", || {
            seeders.iter().map(|seeder| seeder.metric(SERVED_TO_PEERS)).sum::<u64>() > bytes
        });
        act();
    });
}

#[test]
fn half_of_eight_seeders_killed_in_mid_transfer_cost_nothing() {
    let mut crowd = Crowd::new(40_000, 8, "2MB/s");
    let node = crowd.cold_node(&[]);
    let mut dying = crowd.seeders.split_off(4);
    std::thread::scope(|scope| {
        in_mid_transfer(scope, &crowd.seeders, 6_000_000, move || dying.iter_mut().for_each(Daemon::kill));
        crowd.assert_served(&node);
    });
    assert_eq!(node.peers(), 4, "the others are gone");
    assert!(crowd.served() > 20_000_000, "the survivors took over");
}

#[test]
fn a_seeder_that_falls_silent_in_mid_transfer_costs_nothing() {
    let mut crowd = Crowd::new(40_000, 4, "4MB/s");
    let node = crowd.cold_node(&[]);
    let silent = crowd.seeders.split_off(3);
    std::thread::scope(|scope| {
        in_mid_transfer(scope, &crowd.seeders, 6_000_000, || silent[0].pause());
        crowd.assert_served(&node);
    });
}

#[test]
fn a_seeder_that_was_silent_before_costs_nothing() {
    let crowd = Crowd::new(20_000, 3, "8MB/s");
    let node = crowd.cold_node(&[]);
    crowd.seeders[0].pause();
    let honest = &crowd.seeders[1..];
    crowd.assert_served(&node);
    assert!(honest.iter().all(|seeder| seeder.metric(SERVED_TO_PEERS) > 0));
}

#[test]
fn a_seeder_of_a_byte_a_second_costs_nothing() {
    let crowd = Crowd::new(20_000, 2, "8MB/s");
    let trickling = liar(&crowd, Manner::Trickle);
    let node = crowd.cold_node(&[&trickling.address]);
    crowd.assert_served(&node);
    assert!(trickling.ranges_asked() > 0, "it was believed");
}

#[test]
fn seeders_that_lie_about_the_size_cost_nothing() {
    let crowd = Crowd::new(20_000, 2, "8MB/s");
    let size = crowd.nar.len() as u64;
    let liars = [1, size - 1, size + 1, 1 << 40].map(|size| liar_about_size(&crowd, size));
    let addresses: Vec<_> = liars.iter().map(|liar| liar.address.as_str()).collect();
    let node = crowd.cold_node(&addresses);
    crowd.assert_served(&node);
    assert!(liars.iter().all(|liar| liar.lookups_asked() > 0), "all were asked");
    assert!(liars.iter().all(|liar| liar.ranges_asked() == 0), "none was believed");
}

#[test]
fn seeders_that_corrupt_groups_at_random_cost_nothing_and_are_banned() {
    let crowd = Crowd::new(40_000, 2, "4MB/s");
    let liars = [corrupter(&crowd), corrupter(&crowd)];
    let node = crowd.cold_node(&[&liars[0].address, &liars[1].address]);
    crowd.assert_served(&node);
    assert!(liars.iter().all(|liar| liar.ranges_asked() > 0), "they were believed");
    // Each is banned as soon as one of its ranges was wrong: one in three is.
    assert!(node.metric("p2p_cache_bans_total{reason=\"corrupt_data\"}") >= 1, "{}", node.log());
}

#[test]
fn all_faults_at_once_cost_nothing() {
    let mut crowd = Crowd::new(40_000, 4, "4MB/s");
    let size = crowd.nar.len() as u64;
    let hostile = [
        liar(&crowd, Manner::Trickle),
        liar(&crowd, Manner::SilentAfterHalf),
        liar(&crowd, Manner::TooLong(1)),
        liar_about_size(&crowd, size + 1),
        corrupter(&crowd),
    ];
    let addresses: Vec<_> = hostile.iter().map(|liar| liar.address.as_str()).collect();
    let node = crowd.cold_node(&addresses);
    let mut dying = crowd.seeders.split_off(3);
    let silent = crowd.seeders.split_off(2);
    std::thread::scope(|scope| {
        in_mid_transfer(scope, &crowd.seeders, 5_000_000, || {
            dying[0].kill();
            silent[0].pause();
        });
        crowd.assert_served(&node);
    });
}
