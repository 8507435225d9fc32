//! Where brokers are reached.
//!
//! Two sources: what was written down (seeds of the configuration, then the metadata), and what a broker said
//! itself when it called. Its own word is newer after a move, until the metadata changes; so both are tried,
//! its own word first.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use headwater_proto::types::{BrokerId, Incarnation};

/// Peer addresses, `HOST:PORT`, by broker. Shared by whoever learns and whoever dials.
#[derive(Debug, Default)]
pub struct AddressBook(Mutex<BTreeMap<BrokerId, Entry>>);

#[derive(Debug, Clone, Default)]
struct Entry {
    heard: Option<String>,
    registered: Option<String>,
    incarnation: Option<Incarnation>,
}

impl AddressBook {
    /// From the configuration, or from another broker: not sure, and no metadata is overwritten.
    pub fn suggest(&self, broker: BrokerId, address: &str) {
        let mut book = self.book();
        let entry = book.entry(broker).or_default();
        if entry.registered.is_none() {
            entry.registered = Some(address.to_owned());
        }
    }

    /// From the metadata: the broker's registered address and data directory. Connections are then made to that
    /// data directory only. The metadata's word counts once it changes: repeating it does not undo what the
    /// broker said since.
    pub fn register(&self, broker: BrokerId, incarnation: Incarnation, address: &str) {
        let mut book = self.book();
        let entry = book.entry(broker).or_default();
        if entry.registered.as_deref() != Some(address) || entry.incarnation != Some(incarnation) {
            *entry =
                Entry { heard: None, registered: Some(address.to_owned()), incarnation: Some(incarnation) };
        }
    }

    /// From the broker itself, when it called.
    pub(super) fn heard(&self, broker: BrokerId, address: &str) {
        if !address.is_empty() {
            self.book().entry(broker).or_default().heard = Some(address.to_owned());
        }
    }

    /// The broker is no longer one.
    pub fn remove(&self, broker: BrokerId) {
        self.book().remove(&broker);
    }

    /// Addresses to try, the likeliest first.
    #[must_use]
    pub fn addresses(&self, broker: BrokerId) -> Vec<String> {
        let entry = self.book().get(&broker).cloned().unwrap_or_default();
        let mut addresses: Vec<_> = [entry.heard, entry.registered].into_iter().flatten().collect();
        addresses.dedup();
        addresses
    }

    /// The registered data directory of a broker.
    #[must_use]
    pub fn incarnation(&self, broker: BrokerId) -> Option<Incarnation> {
        self.book().get(&broker)?.incarnation
    }

    /// Every broker with an address.
    #[must_use]
    pub fn brokers(&self) -> Vec<BrokerId> {
        self.book().keys().copied().collect()
    }

    fn book(&self) -> MutexGuard<'_, BTreeMap<BrokerId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_brokers_own_word_goes_first_until_the_metadata_changes() {
        let (book, broker, first) = (AddressBook::default(), BrokerId(2), Incarnation([1; 16]));
        book.suggest(broker, "seed:1");
        assert_eq!(book.addresses(broker), ["seed:1"]);
        book.register(broker, first, "old:1");
        book.suggest(broker, "seed:1");
        book.heard(broker, "new:1");
        book.register(broker, first, "old:1");
        assert_eq!(book.addresses(broker), ["new:1", "old:1"]);
        book.register(broker, first, "new:1");
        assert_eq!(book.addresses(broker), ["new:1"]);
        book.register(broker, Incarnation([2; 16]), "new:1");
        assert_eq!(book.incarnation(broker), Some(Incarnation([2; 16])));
        book.remove(broker);
        assert!(book.addresses(broker).is_empty() && book.brokers().is_empty());
    }
}
