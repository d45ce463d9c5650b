//! Binding and unbinding the listen addresses.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, Ipv6Addr, TcpListener},
    sync::PoisonError,
    time::Duration,
};

use futures::StreamExt;
use libp2p::{
    Multiaddr, TransportError,
    core::transport::ListenerId,
    multiaddr::Protocol,
    swarm::{DialError, SwarmEvent},
};

use super::Task;
use crate::error::NetworkError;

/// Time in which a bound listener must tell its addresses. It does not when the machine has no interface up;
/// it will when one comes.
const ADDRESS_WAIT: Duration = Duration::from_secs(3);

impl Task {
    /// Binds every listen address and waits until each has told where it listens.
    pub(crate) async fn listen(&mut self) -> Result<(), NetworkError> {
        let mut pending: HashMap<ListenerId, Multiaddr> = HashMap::new();
        let mut skipped = None;
        let wanted = self.wanted_addresses();
        self.next_look = self.first_look();
        if wanted.is_empty() && !self.config.listen.is_empty() {
            tracing::warn!(
                interfaces = self.config.interfaces.join(" "),
                "none of the interfaces has an address yet: no peer reaches this node before"
            );
        }
        // All of them before the first of ours is bound, which would be in the way.
        for address in &wanted {
            check_free(address).map_err(|error| NetworkError::Listen {
                address: address.clone(),
                reason: error.to_string(),
            })?;
        }
        for address in wanted {
            match self.swarm.listen_on(address.clone()) {
                Ok(id) => {
                    self.listeners.insert(id, address.clone());
                    pending.insert(id, address);
                }
                Err(error) => {
                    let failure = NetworkError::Listen { address: address.clone(), reason: reason(&error) };
                    if !is_ipv6(&address) || !unavailable(&error) {
                        return Err(failure);
                    }
                    tracing::info!(%address, "this machine has no such IPv6 address: not listening there");
                    skipped = Some(failure);
                }
            }
        }
        if pending.is_empty()
            && let Some(failure) = skipped
        {
            return Err(failure);
        }
        let deadline = tokio::time::Instant::now() + ADDRESS_WAIT;
        while !pending.is_empty() {
            let Ok(event) = tokio::time::timeout_at(deadline, self.swarm.select_next_some()).await else {
                tracing::warn!(waiting = pending.len(), "some listen addresses have no interface yet");
                break;
            };
            match &event {
                SwarmEvent::NewListenAddr { listener_id, .. } => {
                    pending.remove(listener_id);
                }
                SwarmEvent::ListenerClosed { listener_id, reason, .. } => {
                    if let Some(address) = pending.remove(listener_id) {
                        let reason = match reason {
                            Ok(()) => "the listener closed".to_owned(),
                            Err(error) => error.to_string(),
                        };
                        return Err(NetworkError::Listen { address, reason });
                    }
                }
                _ => {}
            }
            self.on_swarm_event(event);
        }
        Ok(())
    }

    /// Publishes the current addresses to the handles.
    pub(super) fn refresh_listening(&mut self) {
        let mut addresses: Vec<_> = self.swarm.listeners().cloned().collect();
        addresses.sort();
        *self.listening.write().unwrap_or_else(PoisonError::into_inner) = addresses;
    }

    /// Closes all listeners.
    pub(super) fn stop_listening(&mut self) {
        for (id, _) in self.listeners.drain().collect::<Vec<_>>() {
            self.swarm.remove_listener(id);
        }
        self.listening.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Finds out whether somebody else listens on a TCP port. libp2p shares listening ports (SO_REUSEPORT): without
/// this a second daemon of the same user would start, and each would get half of the connections.
fn check_free(address: &Multiaddr) -> io::Result<()> {
    let mut parts = address.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => IpAddr::V4(ip),
        // The standard library would bind both families here, but ours binds one.
        Some(Protocol::Ip6(Ipv6Addr::UNSPECIFIED)) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        Some(Protocol::Ip6(ip)) => IpAddr::V6(ip),
        _ => return Ok(()),
    };
    match parts.next() {
        Some(Protocol::Tcp(port)) if port != 0 => match TcpListener::bind((ip, port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Err(error),
            // Whatever else is wrong, the real attempt will tell.
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

fn is_ipv6(address: &Multiaddr) -> bool {
    matches!(address.iter().next(), Some(Protocol::Ip6(_)))
}

/// Whether the machine lacks the address or its family.
fn unavailable(error: &TransportError<io::Error>) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(io) = error.downcast_ref::<io::Error>()
            && matches!(io.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        {
            return true;
        }
        source = error.source();
    }
    // The family is not compiled in or disabled: the standard library has no kind for it.
    const EAFNOSUPPORT: &str = "Address family not supported";
    reason(error).contains(EAFNOSUPPORT)
}

/// The innermost error of a chain, which is the one that says something.
pub(super) fn reason(error: &(dyn std::error::Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// What went wrong with a dial, address by address, in one line.
pub(super) fn dial_reason(error: &DialError) -> String {
    match error {
        DialError::Transport(errors) => {
            let each = errors.iter().map(|(address, error)| format!("{address}: {}", reason(error)));
            each.collect::<Vec<_>>().join("; ")
        }
        DialError::Denied { cause } => reason(cause),
        other => other.to_string(),
    }
}
