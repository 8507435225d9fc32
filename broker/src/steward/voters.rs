//! The members that the metadata group should have, and the commands by which its leader keeps assignments true.
//!
//! Pure. Invariants: every broker follows the metadata; a voter with which the group was founded stays until its
//! broker has registered, whatever takes it so long; what is rebuilt has others to be rebuilt from.

use std::collections::BTreeSet;

use headwater_consensus::GroupMembership;
use headwater_core::MetadataState;
use headwater_core::metadata::{BrokerState, Command, Replica};
use headwater_core::placement::{self, Move, Pool, VOTERS_MAX};
use headwater_proto::types::{BrokerId, GroupId};

use super::decide::{Wanted, member};

/// Reassignments that are begun at once; the next follow as these come to their ends.
const MOVES_AT_ONCE: usize = 64;

/// Members of the metadata group. `is_there`: the broker is alive, or has not been gone for long.
pub fn wanted(
    state: &MetadataState,
    members: &GroupMembership,
    is_there: impl Fn(BrokerId) -> bool,
) -> Wanted {
    let Some(assigned) = state.group(GroupId::METADATA) else { return Wanted::default() };
    let replica_of = |broker: BrokerId| state.metadata_replica(broker);
    let unknown = members.peers.iter().filter(|(replica, peer)| {
        let registered = state.broker(peer.broker_id).is_some();
        let known = assigned.holders().any(|holder| holder.id == **replica);
        !known && !registered && !state.is_retired(peer.broker_id, peer.incarnation)
    });
    let spared: BTreeSet<_> = unknown.map(|(replica, _)| *replica).collect();
    let voters = members.voters();
    let is_voter = |replica: &&Replica| voters.contains(&replica.id);
    let current = assigned.replicas.iter().filter(is_voter).map(|replica| replica.broker).collect();
    let chosen = placement::metadata_voters(&Pool::of_brokers(state, is_there), &current, VOTERS_MAX);
    Wanted {
        hold_voters: spared.iter().any(|replica| voters.contains(replica)),
        spared,
        voters: chosen.iter().filter_map(|broker| replica_of(*broker)).map(|r| member(&r)).collect(),
        learners: assigned.replicas.iter().filter(|r| !chosen.contains(&r.broker)).map(member).collect(),
        leaving: assigned.leaving.iter().map(|replica| replica.id).collect(),
        epoch: assigned.epoch,
    }
}

/// What the leader of the metadata group should command now. `own`: its broker.
pub fn commands(state: &MetadataState, own: BrokerId, alive: impl Fn(BrokerId) -> bool) -> Vec<Command> {
    let mut commands = rebuilds(state);
    commands.extend(departures(state, alive));
    commands.extend(farewells(state, own));
    commands
}

/// Replicas whose data directory was replaced by another one.
fn rebuilds(state: &MetadataState) -> Vec<Command> {
    let is_stale = |replica: &&Replica| {
        state.broker(replica.broker).is_some_and(|broker| broker.incarnation != replica.incarnation)
    };
    let mut commands = Vec::new();
    for (group, partition) in state.groups().filter(|(_, partition)| partition.replicas.len() > 1) {
        let GroupId { topic_id: topic, partition: number } = group;
        let stale = partition.replicas.iter().filter(is_stale);
        commands.extend(stale.map(|replica| Command::RebuildReplica {
            topic,
            partition: number,
            replica: replica.id,
        }));
    }
    commands
}

/// Moves away from brokers that are being removed.
fn departures(state: &MetadataState, alive: impl Fn(BrokerId) -> bool) -> Vec<Command> {
    if state.brokers().all(|broker| broker.state != BrokerState::Leaving) {
        return Vec::new();
    }
    let under_way = state.groups().filter(|(_, partition)| !partition.leaving.is_empty()).count();
    let (moves, stuck) = placement::leave(state, &mut Pool::of(state, alive));
    if !stuck.is_empty() {
        tracing::warn!(
            partitions = stuck.len(),
            "replicas on a broker that is being removed have nowhere to go"
        );
    }
    moves.into_iter().take(MOVES_AT_ONCE.saturating_sub(under_way)).map(Move::command).collect()
}

/// Brokers that are being removed and hold nothing any more.
fn farewells(state: &MetadataState, own: BrokerId) -> Vec<Command> {
    let done = state.brokers().filter(|broker| {
        broker.state == BrokerState::Leaving && broker.id != own && state.replicas_of(broker.id) == 0
    });
    done.map(|broker| Command::UnregisterBroker { id: broker.id }).collect()
}
