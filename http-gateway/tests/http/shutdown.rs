//! The end of a gateway.

use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::faults::{Fault, Faulty};
use crate::support::{Server, get, nar_path, stocked};

#[tokio::test]
async fn idle_and_unused_connections_do_not_hold_it_up() {
    let server = Server::start(stocked().0).await;
    let mut idle = server.connect().await;
    assert_eq!(idle.ask(&get("/healthz")).await.status, 200);
    let mut unused = server.connect().await;
    // A second answer shows that the unused connection has been accepted by now.
    assert_eq!(idle.ask(&get("/healthz")).await.status, 200);
    let address = server.gateway.local_addr();
    let started = Instant::now();
    let report = server.gateway.shutdown().await;
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    assert_eq!((report.aborted, report.panicked), (0, 0));
    idle.closed().await;
    unused.closed().await;
    assert!(TcpStream::connect(address).await.is_err(), "the port is free again");
}

#[tokio::test]
async fn an_answer_under_way_is_finished_and_a_long_one_is_cut_after_the_grace_period() {
    let (source, paths) = stocked();
    let (narinfo, nar) = &paths[2];
    let server = Server::start(source).await;
    let mut client = server.connect().await;
    client.send(get(&nar_path(narinfo))).await.unwrap();
    let head = client.head().await.unwrap().unwrap();
    assert_eq!(head.status, 200);
    let shutdown = tokio::spawn(server.gateway.shutdown());
    let mut body = vec![0; nar.len()];
    tokio::io::AsyncReadExt::read_exact(&mut client.stream, &mut body).await.unwrap();
    assert_eq!(body, *nar);
    client.closed().await;
    assert_eq!(shutdown.await.unwrap().aborted, 0);

    let server = Server::start(Faulty::new(stocked().0, Fault::StallsAfter(1000))).await;
    let mut client = server.connect().await;
    client.send(get(&nar_path(narinfo))).await.unwrap();
    assert_eq!(client.head().await.unwrap().unwrap().status, 200);
    let started = Instant::now();
    let report = server.gateway.shutdown_within(Duration::from_millis(200)).await;
    assert!(started.elapsed() >= Duration::from_millis(200));
    assert_eq!((report.aborted, report.panicked), (1, 0));
    client.closed().await;
}

#[tokio::test]
async fn a_gateway_that_is_dropped_leaves_nothing_behind() {
    let server = Server::start(stocked().0).await;
    let mut client = server.connect().await;
    assert_eq!(client.ask(&get("/healthz")).await.status, 200);
    let address = server.gateway.local_addr();
    drop(server);
    client.closed().await;
    assert!(TcpStream::connect(address).await.is_err());
}
