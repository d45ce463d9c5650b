//! Listening on the interfaces that the configuration names, whatever addresses they have.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use libp2p::Multiaddr;

use super::{Task, listen::reason};

/// Time between two looks at the addresses of the interfaces.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

impl Task {
    /// Where to listen now.
    pub(super) fn wanted_addresses(&self) -> Vec<Multiaddr> {
        self.config.listen.iter().flat_map(|configured| self.interfaces.listening(configured)).collect()
    }

    /// When the interfaces are looked at again; never when all of them will do, since libp2p follows those.
    pub(super) fn first_look(&self) -> Option<Instant> {
        self.interfaces.are_restricted().then(|| Instant::now() + LOOK_INTERVAL)
    }

    /// Listens on addresses that the interfaces have got, and no longer on those that they have lost.
    pub(super) fn follow_interfaces(&mut self, now: Instant) {
        if self.next_look.is_none_or(|at| at > now) {
            return;
        }
        self.next_look = Some(now + LOOK_INTERVAL);
        let wanted = self.wanted_addresses();
        let keep: HashSet<&Multiaddr> = wanted.iter().collect();
        let lost: Vec<_> =
            self.listeners.iter().filter(|(_, address)| !keep.contains(address)).map(|(id, _)| *id).collect();
        for id in lost {
            self.swarm.remove_listener(id);
            self.listeners.remove(&id);
        }
        for address in wanted {
            if self.listeners.values().any(|known| *known == address) {
                continue;
            }
            match self.swarm.listen_on(address.clone()) {
                Ok(id) => {
                    self.listeners.insert(id, address);
                }
                // The address may just have gone, and is looked at again.
                Err(error) => tracing::debug!(%address, reason = reason(&error), "not listening there"),
            }
        }
    }
}
