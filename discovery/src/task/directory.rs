//! The directory's side of the task: records, publications, look-ups.

use std::time::{Duration, Instant};

use libp2p::{
    PeerId,
    kad::{self, GetProvidersOk, InboundRequest, ProviderRecord, QueryResult, RecordKey, store::RecordStore},
};
use tokio::sync::oneshot;

use super::Task;
use crate::{
    addresses::filter,
    dht::{LOOKUP_TIMEOUT, MAX_ADVERTISED_KEYS},
    directory::ProviderKey,
    error::DirectoryError,
    scope::Reach,
};

/// Look-ups of callers that run at a time.
const MAX_LOOKUPS: usize = 256;
/// Time before Kademlia's own limit at which a look-up is answered; Kademlia looks at its clock only when
/// something happens.
const LOOKUP_MARGIN: Duration = Duration::from_millis(250);

/// A look-up that somebody waits for.
pub(super) struct Lookup {
    found: Vec<PeerId>,
    limit: usize,
    reply: oneshot::Sender<Result<Vec<PeerId>, DirectoryError>>,
    pub(super) deadline: Instant,
}

impl Lookup {
    fn answer(self) {
        // Whoever asked may have gone.
        let _ = self.reply.send(Ok(self.found));
    }
}

fn record_key(key: &ProviderKey) -> RecordKey {
    RecordKey::new(key.as_bytes())
}

impl Task {
    /// Keeps a record of our own, from which this node answers, and queues its publication.
    pub(super) fn advertise(&mut self, key: ProviderKey) -> Result<(), DirectoryError> {
        if !self.publisher.add(key) {
            return Err(DirectoryError::Full { limit: MAX_ADVERTISED_KEYS });
        }
        let local = *self.swarm.local_peer_id();
        let record = ProviderRecord::new(record_key(&key), local, Vec::new());
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
            kad.kad()
                .store_mut()
                .add_provider(record)
                .map_err(|_| DirectoryError::Full { limit: MAX_ADVERTISED_KEYS })?;
        }
        Ok(())
    }

    /// Forgets a record of our own.
    pub(super) fn withdraw(&mut self, key: ProviderKey) {
        self.publisher.remove(&key);
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
            kad.kad().stop_providing(&record_key(&key));
        }
    }

    /// Starts the publications that are due.
    pub(super) fn publish_due(&mut self, now: Instant) {
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else { return };
        while let Some(key) = self.publisher.due(now) {
            if kad.kad().start_providing(record_key(&key)).is_err() {
                self.publisher.on_done();
            }
        }
    }

    /// Starts a look-up.
    pub(super) fn find(
        &mut self,
        key: ProviderKey,
        limit: usize,
        reply: oneshot::Sender<Result<Vec<PeerId>, DirectoryError>>,
    ) {
        if limit == 0 {
            let _ = reply.send(Ok(Vec::new()));
            return;
        }
        if self.lookups.len() >= MAX_LOOKUPS {
            let _ = reply.send(Err(DirectoryError::Busy { limit: MAX_LOOKUPS }));
            return;
        }
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else {
            let _ = reply.send(Ok(Vec::new()));
            return;
        };
        let id = kad.kad().get_providers(record_key(&key));
        let deadline = Instant::now() + LOOKUP_TIMEOUT - LOOKUP_MARGIN;
        self.lookups.insert(id, Lookup { found: Vec::new(), limit, reply, deadline });
        self.take_held_addresses(&key);
    }

    /// Answers of our own table come without a look-up, and so do their addresses.
    fn take_held_addresses(&mut self, key: &ProviderKey) {
        let now = Instant::now();
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else { return };
        for record in kad.kad().store_mut().providers(&record_key(key)) {
            // Filtered by the reach of its provider when it came in.
            self.book.add(record.provider, record.addresses, Reach::Loopback, now);
        }
    }

    /// Answers the look-ups whose time is over with what they have found.
    pub(super) fn answer_overdue_lookups(&mut self, now: Instant) {
        let overdue: Vec<_> =
            self.lookups.iter().filter(|(_, lookup)| lookup.deadline <= now).map(|(id, _)| *id).collect();
        overdue.into_iter().for_each(|id| self.finish_lookup(id));
    }

    fn finish_lookup(&mut self, id: kad::QueryId) {
        if let Some(mut query) =
            self.swarm.behaviour_mut().kad.as_mut().and_then(|kad| kad.kad().query_mut(&id))
        {
            query.finish();
        }
        if let Some(lookup) = self.lookups.remove(&id) {
            lookup.answer();
        }
    }

    /// Kademlia's events.
    pub(super) fn on_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed { id, result, step, .. } => {
                self.on_query(id, result, step.last)
            }
            kad::Event::InboundRequest { request: InboundRequest::AddProvider { record: Some(record) } } => {
                self.on_offered_record(record);
            }
            kad::Event::RoutingUpdated { is_new_peer: true, .. } => {
                self.publisher.on_new_peer(Instant::now())
            }
            _ => {}
        }
    }

    fn on_query(&mut self, id: kad::QueryId, result: QueryResult, last: bool) {
        match result {
            QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders { providers, .. })) => {
                self.on_found(id, providers);
                if last {
                    self.finish_lookup(id);
                }
            }
            QueryResult::GetProviders(_) => self.finish_lookup(id),
            QueryResult::StartProviding(_) => self.publisher.on_done(),
            _ => {}
        }
    }

    fn on_found(&mut self, id: kad::QueryId, providers: impl IntoIterator<Item = PeerId>) {
        let now = Instant::now();
        let local = *self.swarm.local_peer_id();
        for provider in providers.into_iter().filter(|provider| *provider != local) {
            if self.swarm.behaviour().access.refusal(&provider, now).is_some() {
                continue;
            }
            let Some(lookup) = self.lookups.get_mut(&id) else { return };
            if lookup.found.len() < lookup.limit && !lookup.found.contains(&provider) {
                lookup.found.push(provider);
                // The addresses that came with the answer are gone when the query is: keep them for the dial.
                // They have been filtered by `Guarded`.
                if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
                    let addresses = kad.addresses_of(provider);
                    self.book.add(provider, addresses, Reach::Loopback, now);
                }
            }
        }
        if self.lookups.get(&id).is_some_and(|lookup| lookup.found.len() >= lookup.limit) {
            self.finish_lookup(id);
        }
    }

    /// A peer asks us to hold a record of its own for it (Kademlia refuses those of others).
    fn on_offered_record(&mut self, mut record: ProviderRecord) {
        if record.key.as_ref().len() != size_of::<ProviderKey>() {
            return;
        }
        let Some(reach) = self.peers.reach(&record.provider) else { return };
        record.addresses = filter(record.provider, std::mem::take(&mut record.addresses), reach);
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut()
            && let Err(error) = kad.kad().store_mut().add_provider(record)
        {
            tracing::debug!(%error, "provider record not held");
        }
    }
}
