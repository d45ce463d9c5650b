//! The peer port: bytes that are no handshake, and handshakes with nothing good behind them.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use p2p_cache_protocol::wire::{Hello, encode_frame};
use p2p_cache_tests::daemon::wait_until;
use p2p_cache_tests::hostile::{Lies, LyingPeer, Manner, random_bytes};

use super::{Target, open_files, printed_seed};

#[test]
fn noise_at_the_peer_port_does_no_harm() {
    let target = Target::new();
    let seed = printed_seed();
    // The handshakes that the port speaks: multistream-select, TLS and noise behind it, yamux never reached.
    let multistream = b"\x13/multistream/1.0.0\n";
    let openings: [&[u8]; 6] = [
        b"",
        multistream,
        b"\x13/multistream/1.0.0\n\x0b/tls/1.0.0\n",
        b"\x13/multistream/1.0.0\n\x07/noise\n",
        b"\xff\xff\xff\xff\x7f",
        b"\x16\x03\x01\xff\xff",
    ];
    for round in 0..200 {
        let noise = random_bytes((round as usize * 331) % 70_000 + 1, seed.wrapping_add(round));
        let mut stream = target.peer_socket();
        let _ = stream.write_all(&[openings[round as usize % openings.len()], &noise].concat());
        let _ = stream.shutdown(Shutdown::Write);
    }
    target.assert_unharmed();
}

#[test]
fn endless_zeros_at_the_peer_port_are_hung_up_on() {
    let target = Target::new();
    let zeros = vec![0; 1 << 20];
    let openings: [&[u8]; 3] =
        [b"", b"\x13/multistream/1.0.0\n\x0b/tls/1.0.0\n", b"\x13/multistream/1.0.0\n\x07/noise\n"];
    for opening in openings {
        let mut stream = target.peer_socket();
        stream.write_all(opening).expect("it is sent");
        let started = Instant::now();
        let mut sent = 0u64;
        while stream.write_all(&zeros).is_ok() {
            sent += zeros.len() as u64;
            assert!(started.elapsed() < Duration::from_secs(30) && sent < 4 << 30, "{sent} bytes were taken");
        }
        println!("{sent} bytes in {:?}", started.elapsed());
        target.assert_unharmed();
    }
}

#[test]
fn hundreds_of_half_open_connections_at_the_peer_port_are_let_go() {
    let target = Target::new();
    let before = open_files(&target.node);
    let held: Vec<TcpStream> = (0..400)
        .map(|index| {
            let mut stream = target.peer_socket();
            let opening = [&b""[..], b"\x13/multistream/1.0.0\n"][index % 2];
            let _ = stream.write_all(opening);
            stream
        })
        .collect();
    target.assert_unharmed();
    wait_until(Duration::from_secs(30), "half-open connections to be closed", || {
        open_files(&target.node) < before + 20
    });
    drop(held);
    let honest = LyingPeer::dialling(Lies::none(&target.package, Manner::Proper), &target.node.peer);
    target.node.wait_for_peers(1);
    drop(honest);
    target.assert_unharmed();
}

#[test]
fn frames_that_the_protocol_does_not_allow_get_their_sender_banned() {
    let target = Target::new();
    let seed = printed_seed();
    let hello = encode_frame(&Hello::new("intruder/1")).expect("a frame");
    let framed = |length: u32, payload: &[u8]| [&length.to_le_bytes()[..], payload].concat();
    let mut noise = random_bytes(200, seed);
    noise[0] = 0xff;
    let attacks = [
        ("a hello without end", framed(u32::MAX, &[0; 1000])),
        ("a hello that is too long", framed(100_000, &vec![b'x'; 100_000])),
        ("a hello of noise", framed(200, &noise)),
        ("an endless stream of zeros", vec![0; 5_000_000]),
        ("an endless request", [&hello[..], &framed(u32::MAX, &[0; 1000])].concat()),
        ("a request that is too long", [&hello[..], &framed(200_000, &vec![1; 200_000])].concat()),
        ("a request of noise", [&hello[..], &framed(200, &noise)].concat()),
        ("an empty request", [&hello[..], &framed(0, &[])].concat()),
    ];
    for (number, (what, bytes)) in (1..).zip(attacks) {
        let intruder = LyingPeer::dialling(Lies::none(&target.package, Manner::Proper), &target.node.peer);
        target.node.wait_for_peers(1);
        let closed = intruder.intrude(&target.node.peer, &bytes, Duration::from_secs(10));
        assert!(closed, "{what}, seed {seed}: the stream is still open");
        let bans = || target.node.metric("p2p_cache_bans_total{reason=\"protocol_violation\"}");
        wait_until(Duration::from_secs(5), what, || bans() == number);
        wait_until(Duration::from_secs(5), what, || target.node.peers() == 0);
    }
    target.assert_unharmed();
}
