//! What is known of one group: who led when, what is committed, what each replica holds.

use std::collections::{BTreeMap, BTreeSet};

use headwater_broker::Observation;
use headwater_proto::types::{LogIndex, ReplicaId, Term};

use super::Report;
use super::replica::ReplicaModel;

/// What an entry is known by: its term and the checksum of its batch, which a disk that has failed does not tell.
#[derive(Debug, Clone, Copy)]
pub struct Fingerprint {
    pub term: Term,
    pub crc: Option<u32>,
}

impl Fingerprint {
    /// Whether both may be of the same entry.
    pub fn agrees(self, other: Self) -> bool {
        self.term == other.term && (self.crc == other.crc || self.crc.is_none() || other.crc.is_none())
    }
}

/// Entries by term and index: what was seen of each, in any log. Two logs with an equal pair hold the same there, and
/// before.
#[derive(Debug, Default)]
pub struct Entries(BTreeMap<(LogIndex, Term), (u32, Option<Term>)>);

impl Entries {
    /// Whether this agrees with what other logs hold under the same index and term.
    pub fn matches(&mut self, index: LogIndex, term: Term, crc: u32, before: Option<Term>) -> bool {
        let (known, known_before) = self.0.entry((index, term)).or_insert((crc, before));
        // What precedes the first entry of a purged log is not known there.
        let same_before = known_before.is_none() || before.is_none() || *known_before == before;
        *known_before = known_before.or(before);
        *known == crc && same_before
    }
}

#[derive(Debug, Default)]
pub struct GroupModel {
    leaders: BTreeMap<Term, ReplicaId>,
    entries: Entries,
    /// The committed entries, from the first on; `None` where none was seen before it was purged.
    committed: Vec<Option<Fingerprint>>,
    replicas: BTreeMap<ReplicaId, ReplicaModel>,
    /// The configurations at the last look, for what was committed before they changed.
    configs: Vec<BTreeSet<ReplicaId>>,
    voters: BTreeSet<ReplicaId>,
}

impl GroupModel {
    pub fn look(&mut self, replicas: &[(i32, Observation)], report: &mut Report<'_>) {
        for (node, seen) in replicas {
            let model = self.replicas.entry(seen.replica_id).or_default();
            model.look(*node, seen, &self.committed, &mut self.entries, report);
        }
        let seen_now: BTreeSet<_> = replicas.iter().map(|(_, seen)| seen.replica_id).collect();
        for (id, model) in &mut self.replicas {
            model.hidden = !seen_now.contains(id) && (model.hidden || report.is_on(model.node));
        }
        for (_, seen) in replicas {
            self.commit(seen, replicas, report);
        }
        for (_, seen) in replicas.iter().filter(|(_, seen)| seen.elected) {
            self.elected(seen, report);
        }
        self.serves_all(replicas, report);
        self.remember_configs(replicas, report);
    }

    pub fn ended(&mut self, node: i32) {
        self.replicas.values_mut().filter(|replica| replica.node == node).for_each(ReplicaModel::ended);
    }

    pub fn emptied(&mut self, node: i32) {
        self.replicas.values_mut().filter(|replica| replica.node == node).for_each(ReplicaModel::emptied);
    }

    pub fn rotted(&mut self, replica: ReplicaId) {
        if let Some(replica) = self.replicas.get_mut(&replica) {
            replica.rotted();
        }
    }

    pub fn digest(&self) -> u64 {
        let committed = self.committed.iter().flatten();
        committed.fold(self.leaders.len() as u64, |digest, entry| {
            digest.rotate_left(7) ^ entry.term.get() ^ (u64::from(entry.crc.unwrap_or(0)) << 16)
        })
    }

    /// Election safety and leader completeness.
    fn elected(&mut self, seen: &Observation, report: &mut Report<'_>) {
        let first = !self.leaders.contains_key(&seen.term);
        let leader = *self.leaders.entry(seen.term).or_insert(seen.replica_id);
        if leader != seen.replica_id {
            let (term, other) = (seen.term, seen.replica_id);
            report.violation(&format!("replicas {leader} and {other} both lead term {term}"));
        }
        if !first {
            return;
        }
        report.path("election");
        // What a later leader may have committed since the last look is none of its business.
        let held = self.replicas.get(&seen.replica_id);
        let missing = self.committed.iter().enumerate().rev().find_map(|(position, entry)| {
            let (index, term) = (LogIndex(position as u64 + 1), (*entry)?.term);
            (term < seen.term).then(|| (index, held.is_some_and(|held| held.holds(index, term))))
        });
        if let Some((index, false)) = missing {
            let (replica, term) = (seen.replica_id, seen.term);
            report.violation(&format!(
                "replica {replica} leads term {term} without the committed entry {index}"
            ));
        }
    }

    /// The newest leader, once it serves, has applied everything that was committed in earlier terms.
    fn serves_all(&self, replicas: &[(i32, Observation)], report: &mut Report<'_>) {
        let newest = replicas.iter().filter(|(_, seen)| seen.elected).max_by_key(|(_, seen)| seen.term);
        let Some((_, seen)) = newest.filter(|(_, seen)| seen.led_term == Some(seen.term)) else { return };
        let earlier = |entry: &Option<Fingerprint>| entry.is_some_and(|entry| entry.term < seen.term);
        let committed = self.committed.iter().rposition(earlier).map_or(0, |position| position as u64 + 1);
        let applied = seen.progress.applied.index.get();
        if applied < committed {
            let (replica, term) = (seen.replica_id, seen.term);
            report.violation(&format!(
                "replica {replica} serves in term {term} with {applied} applied, and {committed} is committed"
            ));
        }
    }

    /// State machine safety, and a quorum behind everything that is applied.
    fn commit(&mut self, seen: &Observation, replicas: &[(i32, Observation)], report: &mut Report<'_>) {
        let Some(model) = self.replicas.get(&seen.replica_id) else { return };
        let applied = seen.progress.applied;
        let from = model.compared.max(1);
        for index in from..=applied.index.get() {
            let entry = model.fingerprint(LogIndex(index));
            let position = (index - 1) as usize;
            match (self.committed.get(position).copied().flatten(), entry) {
                (Some(known), Some(entry)) if !known.agrees(entry) => {
                    let replica = seen.replica_id;
                    report.violation(&format!(
                        "replica {replica} applied {entry:?} at {index}, another {known:?}"
                    ));
                }
                (Some(_), _) | (None, None) => {}
                (None, Some(entry)) => {
                    if self.committed.len() <= position {
                        self.committed.resize(position + 1, None);
                    }
                    self.committed[position] = Some(entry);
                    self.on_quorum(LogIndex(index), entry.term, seen, replicas, report);
                }
            }
        }
        if let Some(model) = self.replicas.get_mut(&seen.replica_id) {
            model.compared = applied.index.get() + 1;
        }
    }

    /// What is committed is durable on a majority of each configuration in force: the present one or, since it may
    /// have changed after the commit, that of the last look.
    fn on_quorum(
        &self,
        index: LogIndex,
        term: Term,
        seen: &Observation,
        replicas: &[(i32, Observation)],
        report: &mut Report<'_>,
    ) {
        let durable = |replica: &ReplicaId| {
            self.replicas
                .get(replica)
                .is_some_and(|replica| replica.holds_durably(index, term) || replica.hidden)
        };
        let majority = |voters: &BTreeSet<ReplicaId>| {
            voters.iter().filter(|voter| durable(voter)).count() > voters.len() / 2
        };
        let mut candidates = replicas.iter().map(|(_, seen)| &seen.configs).chain([&self.configs]);
        let held = candidates.any(|configs| !configs.is_empty() && configs.iter().all(majority));
        if !held {
            let (replica, configs) = (seen.replica_id, &seen.configs);
            let ends: Vec<_> =
                self.replicas.iter().map(|(id, replica)| (id.get(), replica.durable)).collect();
            report.violation(&format!(
                "replica {replica} applied {index} of term {term}, which no quorum of {configs:?} holds durably: {ends:?}"
            ));
        }
    }

    fn remember_configs(&mut self, replicas: &[(i32, Observation)], report: &mut Report<'_>) {
        let newest =
            replicas.iter().filter(|(_, seen)| seen.led_term.is_some()).max_by_key(|(_, seen)| seen.term);
        let Some((_, leader)) = newest else { return };
        if let [voters] = &leader.configs[..] {
            if !self.voters.is_empty() && *voters != self.voters {
                report.path("move");
            }
            self.voters.clone_from(voters);
        }
        self.configs.clone_from(&leader.configs);
    }
}
