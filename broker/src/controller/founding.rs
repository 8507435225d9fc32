//! How brokers with empty data directories come to one cluster: the decision, without the asking.
//!
//! Each broker asks all that its list names what they are, and takes the next step that the answers allow.
//! Invariants: **of the brokers of one list, only the one with the lowest id ever founds a cluster**, and only when
//! each of the others has just answered that it is empty and has the same list; whoever hears of a cluster founds
//! none; a broker becomes a voter of the first hour only if the founder saw the very data directory that it has.

use std::collections::{BTreeMap, BTreeSet};

use headwater_consensus::Peer;
use headwater_proto::types::{BrokerId, ClusterId, Incarnation, ReplicaId};
use thiserror::Error;

/// A broker that belongs to no cluster yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub broker_id: BrokerId,
    pub incarnation: Incarnation,
    /// The brokers of its list, itself among them; empty where it only joins.
    pub listed: BTreeSet<BrokerId>,
}

/// What a broker says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// It belongs to no cluster.
    Empty(Candidate),
    Member(Member),
}

/// A broker that belongs to a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub broker_id: BrokerId,
    pub cluster_id: ClusterId,
    /// The voters with which the metadata group was created, as far as the broker knows them.
    pub founders: BTreeMap<ReplicaId, Peer>,
    /// The replica of the metadata group that is the asking data directory's, if the broker knows of one.
    pub yours: Option<ReplicaId>,
}

/// What a candidate does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Ask again.
    Wait(Waiting),
    /// Journal a new cluster with these voters of its metadata group, and initialize it.
    Found(BTreeMap<ReplicaId, Peer>),
    /// Journal what the founder decided: this broker is one of the voters.
    Adopt { cluster_id: ClusterId, replica_id: ReplicaId, founders: BTreeMap<ReplicaId, Peer> },
    /// Ask the cluster to be taken in.
    Join { cluster_id: ClusterId },
}

/// Why a candidate waits.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Waiting {
    #[error("no broker of the cluster to join has answered")]
    NobodyToJoin,
    #[error("waiting for {} of the cluster's list to answer", in_words(.0))]
    Silent(BTreeSet<BrokerId>),
    #[error("waiting for broker {0}, the lowest of the list, to found the cluster")]
    Founder(BrokerId),
    #[error("broker {0} was started with another list of the cluster: start all of them with the same one")]
    OtherList(BrokerId),
}

/// No step leads on: somebody has to decide which cluster is meant.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "broker {} is in cluster {} and broker {} in cluster {}: name brokers of one cluster only",
    .first.0, .first.1, .second.0, .second.1
)]
pub struct TwoClusters {
    pub first: (BrokerId, ClusterId),
    pub second: (BrokerId, ClusterId),
}

impl Candidate {
    /// The step that the answers allow: those of one round of asking, at most one of each broker, none of its own.
    ///
    /// # Errors
    /// The answers name two clusters.
    pub fn next_step(&self, answers: &[Answer]) -> Result<Step, TwoClusters> {
        let members = || answers.iter().filter_map(Answer::member);
        if let Some(first) = members().next() {
            if let Some(second) = members().find(|member| member.cluster_id != first.cluster_id) {
                let named = |member: &Member| (member.broker_id, member.cluster_id);
                return Err(TwoClusters { first: named(first), second: named(second) });
            }
            return Ok(self.enter(first.cluster_id, members()));
        }
        let Some(founder) = self.listed.first() else { return Ok(Step::Wait(Waiting::NobodyToJoin)) };
        let empty: BTreeMap<_, _> =
            answers.iter().filter_map(Answer::empty).map(|c| (c.broker_id, c)).collect();
        let silent: BTreeSet<_> = self
            .listed
            .iter()
            .filter(|id| **id != self.broker_id && !empty.contains_key(id))
            .copied()
            .collect();
        let other_list = empty.values().find(|candidate| candidate.listed != self.listed);
        Ok(if let Some(other) = other_list {
            Step::Wait(Waiting::OtherList(other.broker_id))
        } else if *founder != self.broker_id {
            Step::Wait(Waiting::Founder(*founder))
        } else if silent.is_empty() {
            Step::Found(self.founders(&empty))
        } else {
            Step::Wait(Waiting::Silent(silent))
        })
    }

    /// The way into a cluster that exists.
    fn enter<'a>(&self, cluster_id: ClusterId, members: impl Iterator<Item = &'a Member> + Clone) -> Step {
        let own = Peer { broker_id: self.broker_id, incarnation: self.incarnation };
        let adopt = |member: &Member| {
            let found = member.founders.iter().find(|(_, founder)| **founder == own);
            found.map(|(replica_id, _)| (*replica_id, member.founders.clone()))
        };
        // Registered, but not one of the founders: it was taken in, and crashed before it had noted that.
        let known = |member: &Member| member.yours.map(|replica_id| (replica_id, BTreeMap::new()));
        let entry = members.clone().find_map(adopt).or_else(|| members.clone().find_map(known));
        match entry {
            Some((replica_id, founders)) => Step::Adopt { cluster_id, replica_id, founders },
            None => Step::Join { cluster_id },
        }
    }

    /// Replica ids from 1 on, in the order of the broker ids.
    fn founders(&self, others: &BTreeMap<BrokerId, &Self>) -> BTreeMap<ReplicaId, Peer> {
        let peers = self.listed.iter().map(|id| {
            let incarnation = others.get(id).map_or(self.incarnation, |candidate| candidate.incarnation);
            Peer { broker_id: *id, incarnation }
        });
        (1..).map(ReplicaId).zip(peers).collect()
    }
}

impl Answer {
    /// Whose answer it is.
    pub const fn broker_id(&self) -> BrokerId {
        match self {
            Self::Empty(candidate) => candidate.broker_id,
            Self::Member(member) => member.broker_id,
        }
    }

    const fn member(&self) -> Option<&Member> {
        match self {
            Self::Member(member) => Some(member),
            Self::Empty(_) => None,
        }
    }

    const fn empty(&self) -> Option<&Candidate> {
        match self {
            Self::Empty(candidate) => Some(candidate),
            Self::Member(_) => None,
        }
    }
}

fn in_words(brokers: &BTreeSet<BrokerId>) -> String {
    let names: Vec<_> = brokers.iter().map(|id| format!("broker {id}")).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests;
