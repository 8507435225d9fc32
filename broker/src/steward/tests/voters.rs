//! Who follows the metadata and who votes on it; rebuilds and removals.

use std::collections::{BTreeMap, BTreeSet};

use headwater_consensus::{GroupMembership, Peer};
use headwater_core::metadata::{BrokerState, Command};
use headwater_core::{MetadataState, placement};
use headwater_proto::types::{BrokerId, GroupId, ReplicaId};

use super::{FIRST, TOPIC, apply, assigned, broker, cluster, register, replica_ids, set};
use crate::steward::decide::member;
use crate::steward::voters;

fn metadata_members(voters: &[u64], learners: &[u64], state: &MetadataState) -> GroupMembership {
    let assigned = state.group(GroupId::METADATA).unwrap();
    let known = assigned.holders().map(member);
    let mut peers: BTreeMap<_, _> =
        known.filter(|(id, _)| voters.contains(&id.0) || learners.contains(&id.0)).collect();
    for id in voters {
        // Not registered yet.
        let broker = broker(*id as i32, 0);
        let peer = Peer { broker_id: broker.id, incarnation: broker.incarnation };
        peers.entry(ReplicaId(*id)).or_insert(peer);
    }
    GroupMembership { configs: vec![replica_ids(voters)], peers, committed: true }
}

#[test]
fn founders_keep_their_votes_until_they_have_registered() {
    let mut state = MetadataState::default();
    register(&mut state, 1, 0, Some(1));
    let members = metadata_members(&[1, 2, 3], &[], &state);
    let wanted = voters::wanted(&state, &members, |_| true);
    assert!(wanted.hold_voters);
    assert_eq!(wanted.spared, replica_ids(&[2, 3]));
    register(&mut state, 2, 0, Some(2));
    // The third one lost its disk before it ever registered.
    register(&mut state, 3, 1, None);
    let wanted = voters::wanted(&state, &members, |_| true);
    assert!(!wanted.hold_voters);
    assert_eq!(wanted.voters.keys().copied().collect::<BTreeSet<_>>(), replica_ids(&[1, 2, 1_000]));
}

#[test]
fn everybody_follows_the_metadata_and_an_odd_few_vote() {
    let mut state = cluster(&[1]);
    register(&mut state, 6, 0, None);
    let wanted = |state: &MetadataState, gone: i32| {
        let members = metadata_members(&[1, 2, 3, 4, 5], &[1_001], state);
        voters::wanted(state, &members, |broker| broker != BrokerId(gone))
    };
    let ids = |members: &BTreeMap<ReplicaId, _>| members.keys().copied().collect::<BTreeSet<_>>();
    assert_eq!(ids(&wanted(&state, 9).voters), replica_ids(&[1, 2, 3, 4, 5]));
    assert_eq!(ids(&wanted(&state, 9).learners), replica_ids(&[1_001]));
    assert_eq!(ids(&wanted(&state, 3).voters), replica_ids(&[1, 2, 4, 5, 1_001]), "gone for long");
    set(&mut state, 2, BrokerState::Leaving);
    assert_eq!(ids(&wanted(&state, 9).voters), replica_ids(&[1, 3, 4, 5, 1_001]));
    apply(&mut state, &Command::UnregisterBroker { id: BrokerId(2) }).unwrap();
    let without = wanted(&state, 9);
    assert_eq!(without.leaving, vec![ReplicaId(2)]);
    assert!(without.spared.is_empty() && !without.hold_voters, "it is known to be gone");
}

#[test]
fn the_leader_rebuilds_what_lay_on_a_replaced_disk_and_empties_who_leaves() {
    let mut state = cluster(&[1, 2, 3]);
    assert_eq!(voters::commands(&state, BrokerId(1), |_| true), []);
    register(&mut state, 2, 1, None);
    let commands = voters::commands(&state, BrokerId(1), |_| true);
    let rebuild = Command::RebuildReplica { topic: TOPIC, partition: FIRST, replica: ReplicaId(1_001) };
    assert_eq!(commands, [rebuild]);
    commands.iter().for_each(|command| apply(&mut state, command).unwrap());
    assert_eq!(voters::commands(&state, BrokerId(1), |_| true), [], "once");

    set(&mut state, 3, BrokerState::Leaving);
    let commands = voters::commands(&state, BrokerId(1), |_| true);
    assert!(matches!(&commands[..], [Command::Reassign { brokers, .. }] if !brokers.contains(&BrokerId(3))));
    commands.iter().for_each(|command| apply(&mut state, command).unwrap());
    assert_eq!(voters::commands(&state, BrokerId(1), |_| true), [], "its copy is kept still");
    let leaving: Vec<_> = assigned(&state).leaving.iter().map(|replica| replica.id).collect();
    let epoch = assigned(&state).epoch;
    let complete = Command::CompleteReassign { topic: TOPIC, partition: FIRST, epoch, removed: leaving };
    apply(&mut state, &complete).unwrap();
    assert_eq!(
        voters::commands(&state, BrokerId(1), |_| true),
        [Command::UnregisterBroker { id: BrokerId(3) }]
    );
    assert_eq!(voters::commands(&state, BrokerId(3), |_| true), [], "another one says farewell");
}

#[test]
fn the_only_copy_on_a_replaced_disk_is_not_replaced_by_an_empty_one() {
    let mut state = cluster(&[2]);
    register(&mut state, 2, 1, None);
    assert_eq!(voters::commands(&state, BrokerId(1), |_| true), []);
    assert!(placement::leave(&state, &mut placement::Pool::of(&state, |_| true)).0.is_empty());
}
