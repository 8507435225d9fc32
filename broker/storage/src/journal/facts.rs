//! The map that the journal keeps.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use headwater_proto::types::GroupId;

use super::Change;

/// Owner (a group, or the node) and kind of a fact.
type Key = (Option<GroupId>, u8);

/// Values by owner and kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts(BTreeMap<Key, Bytes>);

impl Facts {
    pub fn get(&self, group: Option<GroupId>, kind: u8) -> Option<&Bytes> {
        self.0.get(&(group, kind))
    }

    pub fn apply(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            match change {
                Change::Put { group, kind, value } if value.is_empty() => {
                    self.0.remove(&(group, kind));
                }
                Change::Put { group, kind, value } => {
                    self.0.insert((group, kind), value);
                }
                Change::RemoveGroup(group) => self.0.retain(|(owner, _), _| *owner != Some(group)),
            }
        }
    }

    /// The changes that make this map of an empty one.
    pub fn to_changes(&self) -> Vec<Change> {
        let put = |((group, kind), value): (&Key, &Bytes)| Change::Put {
            group: *group,
            kind: *kind,
            value: value.clone(),
        };
        self.0.iter().map(put).collect()
    }
}

/// The durable facts, as many may read and the journal alone changes.
#[derive(Debug, Clone, Default)]
pub struct SharedFacts(Arc<RwLock<Facts>>);

impl SharedFacts {
    pub(super) fn new(facts: Facts) -> Self {
        Self(Arc::new(RwLock::new(facts)))
    }

    /// A copy of all of them.
    pub fn snapshot(&self) -> Facts {
        self.read(Facts::clone)
    }

    pub fn get(&self, group: Option<GroupId>, kind: u8) -> Option<Bytes> {
        self.read(|facts| facts.get(group, kind).cloned())
    }

    /// All facts of one owner, by kind.
    pub fn of(&self, group: Option<GroupId>) -> BTreeMap<u8, Bytes> {
        let range = (group, u8::MIN)..=(group, u8::MAX);
        self.read(|facts| facts.0.range(range).map(|((_, kind), value)| (*kind, value.clone())).collect())
    }

    /// The groups that have a fact of that kind, in order.
    pub fn groups_with(&self, kind: u8) -> Vec<GroupId> {
        let of_kind = |(group, found): &Key| if *found == kind { *group } else { None };
        self.read(|facts| facts.0.keys().filter_map(of_kind).collect())
    }

    pub(super) fn apply(&self, changes: &[Change]) {
        let mut facts = self.0.write().unwrap_or_else(PoisonError::into_inner);
        facts.apply(changes.iter().cloned());
    }

    fn read<T>(&self, look: impl FnOnce(&Facts) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}
