//! Provider records, ours and those held for others, each with its own bounds.

use std::{borrow::Cow, collections::HashMap, iter, time::Instant};

use libp2p::{
    PeerId,
    kad::{
        ProviderRecord, Record, RecordKey,
        store::{Error, RecordStore, Result},
    },
};

use super::MAX_ADVERTISED_KEYS;

/// Records held for others, in all; each takes up to about 1 KiB.
pub(crate) const MAX_HELD_RECORDS: usize = 50_000;
/// Records held for one provider, so that none can fill the table.
pub(crate) const MAX_HELD_RECORDS_PER_PROVIDER: usize = 5_000;
/// Providers held for one key.
pub(crate) const MAX_PROVIDERS_PER_KEY: usize = 20;

/// The record store under Kademlia. Values are never stored: this directory holds provider records only.
pub(crate) struct ProviderStore {
    local: PeerId,
    own: HashMap<RecordKey, ProviderRecord>,
    held: HashMap<RecordKey, Vec<ProviderRecord>>,
    held_records: usize,
    held_by_provider: HashMap<PeerId, usize>,
}

impl ProviderStore {
    pub(crate) fn new(local: PeerId) -> Self {
        Self {
            local,
            own: HashMap::new(),
            held: HashMap::new(),
            held_records: 0,
            held_by_provider: HashMap::new(),
        }
    }

    /// Drops every record whose time is over.
    pub(crate) fn remove_expired(&mut self, now: Instant) {
        let (total, counts) = (&mut self.held_records, &mut self.held_by_provider);
        self.held.retain(|_, records| {
            records.retain(|record| {
                let keep = !record.is_expired(now);
                if !keep {
                    *total -= 1;
                    uncount(counts, &record.provider);
                }
                keep
            });
            !records.is_empty()
        });
    }

    fn add_held(&mut self, record: ProviderRecord) -> Result<()> {
        if let Some(known) = self
            .held
            .get_mut(&record.key)
            .and_then(|all| all.iter_mut().find(|r| r.provider == record.provider))
        {
            *known = record;
            return Ok(());
        }
        if self.held_records >= MAX_HELD_RECORDS {
            self.remove_expired(Instant::now());
        }
        let of_provider = self.held_by_provider.get(&record.provider).copied().unwrap_or(0);
        if self.held_records >= MAX_HELD_RECORDS || of_provider >= MAX_HELD_RECORDS_PER_PROVIDER {
            return Err(Error::MaxProvidedKeys);
        }
        let (key, provider) = (record.key.clone(), record.provider);
        let records = self.held.entry(key).or_default();
        let displaced = if records.len() < MAX_PROVIDERS_PER_KEY {
            records.push(record);
            None
        } else {
            // The one that ends first gives way: newcomers are let in, and a live provider renews itself.
            records
                .iter_mut()
                .min_by_key(|known| known.expires)
                .map(|oldest| std::mem::replace(oldest, record).provider)
        };
        match displaced {
            Some(gone) => uncount(&mut self.held_by_provider, &gone),
            None => self.held_records += 1,
        }
        *self.held_by_provider.entry(provider).or_default() += 1;
        Ok(())
    }
}

fn uncount(counts: &mut HashMap<PeerId, usize>, provider: &PeerId) {
    if let Some(count) = counts.get_mut(provider) {
        *count -= 1;
        if *count == 0 {
            counts.remove(provider);
        }
    }
}

type Borrowed<'a, K> = iter::Map<
    std::collections::hash_map::Values<'a, K, ProviderRecord>,
    fn(&'a ProviderRecord) -> Cow<'a, ProviderRecord>,
>;

impl RecordStore for ProviderStore {
    type RecordsIter<'a> = iter::Empty<Cow<'a, Record>>;
    type ProvidedIter<'a> = Borrowed<'a, RecordKey>;

    fn get(&self, _: &RecordKey) -> Option<Cow<'_, Record>> {
        None
    }

    fn put(&mut self, _: Record) -> Result<()> {
        Err(Error::MaxRecords)
    }

    fn remove(&mut self, _: &RecordKey) {}

    fn records(&self) -> Self::RecordsIter<'_> {
        iter::empty()
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        if record.provider != self.local {
            return self.add_held(record);
        }
        if self.own.len() >= MAX_ADVERTISED_KEYS && !self.own.contains_key(&record.key) {
            return Err(Error::MaxProvidedKeys);
        }
        self.own.insert(record.key.clone(), record);
        Ok(())
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let held = self.held.get(key).map_or(&[][..], Vec::as_slice);
        // Ourselves first: of all we know best that it is true.
        self.own.get(key).into_iter().chain(held).cloned().collect()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        self.own.values().map(Cow::Borrowed)
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        if *provider == self.local {
            self.own.remove(key);
            return;
        }
        let Some(records) = self.held.get_mut(key) else { return };
        let before = records.len();
        records.retain(|record| record.provider != *provider);
        if records.len() < before {
            self.held_records -= 1;
            uncount(&mut self.held_by_provider, provider);
        }
        if records.is_empty() {
            self.held.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn record(key: u32, provider: PeerId, lives: Duration) -> ProviderRecord {
        let mut record = ProviderRecord::new(RecordKey::new(&key.to_be_bytes()), provider, Vec::new());
        record.expires = Some(Instant::now() + lives);
        record
    }

    const LONG: Duration = Duration::from_secs(3600);

    #[test]
    fn one_provider_cannot_fill_the_table() {
        let mut store = ProviderStore::new(PeerId::random());
        let greedy = PeerId::random();
        let refused = (0..2 * MAX_HELD_RECORDS_PER_PROVIDER as u32)
            .filter(|key| store.add_provider(record(*key, greedy, LONG)).is_err());
        assert_eq!(refused.count(), MAX_HELD_RECORDS_PER_PROVIDER);
        store.add_provider(record(0, PeerId::random(), LONG)).unwrap();
        assert_eq!(store.held_records, MAX_HELD_RECORDS_PER_PROVIDER + 1);
    }

    #[test]
    fn a_newcomer_replaces_the_record_that_ends_first() {
        let mut store = ProviderStore::new(PeerId::random());
        let oldest = PeerId::random();
        store.add_provider(record(1, oldest, Duration::from_secs(10))).unwrap();
        for _ in 0..MAX_PROVIDERS_PER_KEY {
            store.add_provider(record(1, PeerId::random(), LONG)).unwrap();
        }
        let providers = store.providers(&RecordKey::new(&1u32.to_be_bytes()));
        assert_eq!(providers.len(), MAX_PROVIDERS_PER_KEY);
        assert!(providers.iter().all(|record| record.provider != oldest));
        assert_eq!(store.held_by_provider.values().sum::<usize>(), store.held_records);
    }

    #[test]
    fn expired_records_make_room() {
        let mut store = ProviderStore::new(PeerId::random());
        for key in 0..100 {
            store.add_provider(record(key, PeerId::random(), Duration::ZERO)).unwrap();
        }
        store.remove_expired(Instant::now() + Duration::from_millis(1));
        assert_eq!((store.held_records, store.held.len(), store.held_by_provider.len()), (0, 0, 0));
    }

    #[test]
    fn own_records_do_not_compete_with_those_of_others() {
        let local = PeerId::random();
        let mut store = ProviderStore::new(local);
        store.add_provider(record(7, PeerId::random(), LONG)).unwrap();
        store.add_provider(record(7, local, LONG)).unwrap();
        store.add_provider(record(7, local, LONG)).unwrap();
        assert_eq!(store.provided().count(), 1);
        assert_eq!(store.providers(&RecordKey::new(&7u32.to_be_bytes()))[0].provider, local);
        store.remove_provider(&RecordKey::new(&7u32.to_be_bytes()), &local);
        assert_eq!((store.provided().count(), store.held_records), (0, 1));
    }
}
