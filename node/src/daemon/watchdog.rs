//! Tells systemd that the daemon lives, as long as it does: a daemon that accepts and then hangs costs its clients more than
//! one that is restarted.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use p2p_cache_discovery::Network;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;

/// Looks at the daemon in one period of the watchdog, so that one slow answer does not end it.
const LOOKS_PER_PERIOD: u32 = 3;

/// What the daemon does not do any more.
#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Gateway(String),
    Network,
}

/// Keeps the watchdog quiet until it is dropped; `None` when systemd does not ask for it (`WATCHDOG_USEC`).
pub(super) fn start(gateway: SocketAddr, network: Network) -> Option<AbortOnDropHandle<()>> {
    let mut period_us = 0;
    if !sd_notify::watchdog_enabled(false, &mut period_us) {
        return None;
    }
    let look = async move || look(gateway, &network).await;
    let tell = || {
        let _ = sd_notify::notify(false, &[sd_notify::NotifyState::Watchdog]);
    };
    let task = keep_alive(Duration::from_micros(period_us), look, tell);
    Some(AbortOnDropHandle::new(tokio::spawn(task)))
}

/// Tells only after a look that found nothing in its time.
async fn keep_alive(
    period: Duration,
    mut look: impl AsyncFnMut() -> Result<(), Fault>,
    mut tell: impl FnMut(),
) {
    let interval = (period / LOOKS_PER_PERIOD).max(Duration::from_millis(1));
    loop {
        match tokio::time::timeout(interval, look()).await {
            Ok(Ok(())) => tell(),
            Ok(Err(fault)) => tracing::error!(?fault, "part of the daemon is dead: systemd is to restart it"),
            Err(_) => tracing::error!(
                "the daemon did not answer itself within {interval:?}: unless it does soon, systemd restarts it"
            ),
        }
        tokio::time::sleep(interval).await;
    }
}

/// The runtime runs this, the gateway answers, and so does the network's task.
async fn look(gateway: SocketAddr, network: &Network) -> Result<(), Fault> {
    gateway_answers(gateway).await.map_err(|error| Fault::Gateway(error.to_string()))?;
    if network.responds().await { Ok(()) } else { Err(Fault::Network) }
}

/// One request as a client makes it. A gateway that has too many connections closes this one at once, and lives.
async fn gateway_answers(address: SocketAddr) -> io::Result<()> {
    let ip: IpAddr = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let mut stream = TcpStream::connect((ip, address.port())).await?;
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    // Refused in mid-request is an answer.
    if stream.write_all(request).await.is_ok() {
        let _ = stream.read(&mut [0; 64]).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const PERIOD: Duration = Duration::from_secs(30);

    /// How often systemd hears something in five periods.
    async fn told(look: impl AsyncFnMut() -> Result<(), Fault>) -> u32 {
        let count = Cell::new(0);
        let task = keep_alive(PERIOD, look, || count.set(count.get() + 1));
        let _ = tokio::time::timeout(5 * PERIOD, task).await;
        count.get()
    }

    #[tokio::test(start_paused = true)]
    async fn systemd_hears_of_a_daemon_that_answers_several_times_a_period() {
        let looks = told(async || Ok(())).await;
        assert!((5 * LOOKS_PER_PERIOD..=5 * LOOKS_PER_PERIOD + 1).contains(&looks), "{looks}");
    }

    #[tokio::test(start_paused = true)]
    async fn systemd_hears_nothing_of_a_daemon_that_hangs_or_has_lost_a_part() {
        assert_eq!(told(async || std::future::pending().await).await, 0);
        assert_eq!(told(async || Err(Fault::Network)).await, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_slow_answer_is_forgiven() {
        let mut looks = 0;
        let heard = told(async || {
            looks += 1;
            if looks == 2 { std::future::pending().await } else { Ok(()) }
        });
        assert!(heard.await >= 4 * LOOKS_PER_PERIOD);
    }

    #[tokio::test]
    async fn a_port_where_nobody_listens_is_a_fault_and_one_that_closes_is_none() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let closing = tokio::spawn(async move { drop(listener.accept().await) });
        assert!(gateway_answers(address).await.is_ok());
        closing.await.unwrap();
        assert!(gateway_answers(address).await.is_err());
    }
}
