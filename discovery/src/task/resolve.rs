//! Names of static peers, resolved by the system.

use std::{io, net::IpAddr, time::Duration};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use tokio::task::JoinSet;

use crate::{redial::TargetId, scope::split_peer};

/// Time in which the system must resolve a name.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses taken of one name.
const MAX_RESOLVED: usize = 16;

/// A static peer that is about to be dialled.
#[derive(Debug)]
pub(super) struct Resolution {
    pub(super) id: TargetId,
    pub(super) address: Multiaddr,
    pub(super) peer: Option<PeerId>,
    pub(super) failures: u32,
}

/// Addresses of a target, or why there are none.
pub(super) type Resolved = (Resolution, Result<Vec<Multiaddr>, String>);

/// Resolutions under way: at most one for each static peer, joined with the task that owns them.
#[derive(Debug, Default)]
pub(super) struct Resolutions(JoinSet<Resolved>);

impl Resolutions {
    /// Starts one; an address without a name is its own resolution.
    pub(super) fn start(&mut self, resolution: Resolution) {
        self.0.spawn(async move {
            let resolved = match tokio::time::timeout(RESOLVE_TIMEOUT, resolve(&resolution.address)).await {
                Ok(resolved) => resolved.map_err(|error| error.to_string()),
                Err(_) => Err(format!("no answer within {} s", RESOLVE_TIMEOUT.as_secs())),
            };
            (resolution, resolved)
        });
    }

    /// The next that is done; waits forever while there is none.
    pub(super) async fn next(&mut self) -> Resolved {
        loop {
            match self.0.join_next().await {
                Some(Ok(resolved)) => return resolved,
                // Only a panic inside could end it otherwise, and it does nothing that panics; the target is
                // tried again when its dial counts as stuck.
                Some(Err(error)) => tracing::error!(%error, "resolving a name failed"),
                None => std::future::pending().await,
            }
        }
    }
}

/// The addresses that a configured address stands for, without `/p2p`.
async fn resolve(address: &Multiaddr) -> io::Result<Vec<Multiaddr>> {
    let (address, _) = split_peer(address.clone());
    let mut parts = address.iter();
    let (name, v4, v6) = match parts.next() {
        Some(Protocol::Dns(name)) => (name, true, true),
        Some(Protocol::Dns4(name)) => (name, true, false),
        Some(Protocol::Dns6(name)) => (name, false, true),
        _ => return Ok(vec![address]),
    };
    let rest: Multiaddr = parts.collect();
    let found = tokio::net::lookup_host((name.as_ref(), 0)).await?;
    let wanted = found.map(|socket| socket.ip()).filter(|ip| if ip.is_ipv4() { v4 } else { v6 });
    let with_rest = wanted.map(|ip| {
        let host = match ip {
            IpAddr::V4(ip) => Protocol::Ip4(ip),
            IpAddr::V6(ip) => Protocol::Ip6(ip),
        };
        std::iter::once(host).chain(rest.iter()).collect()
    });
    Ok(with_rest.take(MAX_RESOLVED).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn resolved(address: &str) -> Vec<String> {
        let addresses = resolve(&address.parse().unwrap()).await.unwrap();
        addresses.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn names_become_addresses_and_addresses_stay() {
        assert_eq!(resolved("/ip4/1.2.3.4/tcp/5").await, ["/ip4/1.2.3.4/tcp/5"]);
        let local = resolved("/dns4/localhost/udp/5/quic-v1").await;
        assert!(
            local.iter().all(|address| address == "/ip4/127.0.0.1/udp/5/quic-v1") && !local.is_empty(),
            "{local:?}"
        );
        let with_id = format!("/dns/localhost/tcp/5/p2p/{}", PeerId::random());
        assert!(resolved(&with_id).await.iter().all(|address| address.ends_with("/tcp/5")));
    }

    #[tokio::test]
    async fn a_name_that_does_not_exist_is_an_error_in_bounded_time() {
        let mut resolutions = Resolutions::default();
        let address: Multiaddr = "/dns4/does-not-exist.invalid/tcp/1".parse().unwrap();
        resolutions.start(Resolution { id: 1, address, peer: None, failures: 0 });
        let (resolution, result) =
            tokio::time::timeout(2 * RESOLVE_TIMEOUT, resolutions.next()).await.unwrap();
        assert_eq!(resolution.id, 1);
        assert!(result.is_err());
    }
}
