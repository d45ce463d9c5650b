//! TCP (TLS 1.3 preferred, noise accepted, yamux) and QUIC.
//!
//! There is no DNS in here: names stand only in the configuration, and are resolved by the system (`task::dial`)
//! before they are dialled, so that the scope of the connection is known and hosts files and `.local` names work.

mod coalesce;
mod mux;
mod records;
mod room;
mod tls;
mod verifier;

use libp2p::{
    Swarm, SwarmBuilder, noise,
    swarm::{Config, NetworkBehaviour},
    tcp,
};

use crate::{config::NetworkConfig, error::NetworkError, identity::Identity};

#[cfg(test)]
pub(crate) use mux::Mux;
#[cfg(test)]
pub(crate) use tls::Tls;

/// Streams that one connection may have in negotiation inwards; more wait, none is lost.
const MAX_NEGOTIATING_INBOUND: usize = 256;
/// Commands that may wait for one connection's task.
const NOTIFY_QUEUE: usize = 32;
/// Events of one connection's task that may wait for the swarm.
const EVENT_QUEUE: usize = 32;

/// Builds the swarm. Must run inside a tokio runtime.
pub(crate) fn build_swarm<B: NetworkBehaviour>(
    config: &NetworkConfig,
    identity: &Identity,
    behaviour: B,
) -> Result<Swarm<B>, NetworkError> {
    let failed =
        |what: &str, error: &dyn std::fmt::Display| NetworkError::Transport(format!("{what}: {error}"));
    let builder = SwarmBuilder::with_existing_identity(identity.keypair().clone())
        .with_tokio()
        .with_tcp(
            // Without nodelay a request-answer pattern loses an order of magnitude to Nagle's algorithm.
            tcp::Config::new().nodelay(true),
            (tls::Tls::new, noise::Config::new),
            mux::Mux::default,
        )
        .map_err(|error| failed("TCP", &error))?
        .with_quic();
    let idle = config.idle_timeout;
    let tune = move |swarm: Config| {
        let swarm = swarm
            .with_idle_connection_timeout(idle)
            .with_max_negotiating_inbound_streams(MAX_NEGOTIATING_INBOUND)
            .with_per_connection_event_buffer_size(EVENT_QUEUE);
        match NOTIFY_QUEUE.try_into() {
            Ok(size) => swarm.with_notify_handler_buffer_size(size),
            Err(_) => swarm,
        }
    };
    Ok(builder
        .with_behaviour(|_| behaviour)
        .map_err(|error| failed("behaviour", &error))?
        .with_swarm_config(tune)
        .build())
}
