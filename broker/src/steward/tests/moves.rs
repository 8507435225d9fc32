//! Members follow the assignment.

use std::collections::BTreeSet;

use headwater_core::MetadataState;
use headwater_core::metadata::Command;
use headwater_proto::types::{BrokerId, ReplicaId};
use proptest::prelude::*;

use super::model::{Raft, settle, steward};
use super::{FIRST, TOPIC, apply, assigned, cluster, reassign, replica_ids};
use crate::steward::decide::{Step, View, Wanted, Why, member, next_step};

#[test]
fn a_move_learns_first_votes_then_and_completes_last() {
    let mut state = cluster(&[1, 2, 3]);
    let mut raft = Raft::of(&assigned(&state).replicas);
    assert_eq!(raft.next_step(&Wanted::of(assigned(&state))), Some(Step::Settled));
    reassign(&mut state, &[4, 2, 3]);
    let new = assigned(&state).replicas[0];
    let (id, peer) = member(&new);
    assert_eq!(steward(&mut state, &mut raft, false), Some(Step::AddLearner(id, peer)));
    assert_eq!(raft.next_step(&Wanted::of(assigned(&state))), Some(Step::Wait(Why::CatchUp)));
    raft.catch_up();
    assert_eq!(steward(&mut state, &mut raft, false), Some(Step::HandOver(ReplicaId(1_001))));
    let voters = replica_ids(&[1_001, 1_002, 1_003]);
    assert_eq!(steward(&mut state, &mut raft, false), Some(Step::ChangeVoters(voters)));
    let removed = vec![ReplicaId(1_000)];
    assert_eq!(steward(&mut state, &mut raft, false), Some(Step::Complete { epoch: 1, removed }));
    assert_eq!(steward(&mut state, &mut raft, false), None);
    assert_eq!(assigned(&state).leaving, []);
}

#[test]
fn a_sole_replica_moves_with_its_successor_beside_it_for_a_while() {
    let mut state = cluster(&[1]);
    let mut raft = Raft::of(&assigned(&state).replicas);
    reassign(&mut state, &[2]);
    let steps = settle(&mut state, &mut raft);
    let both = replica_ids(&[1_000, 1_001]);
    assert!(matches!(steps[0], Step::AddLearner(..)));
    assert_eq!(steps[1..3], [Step::ChangeVoters(both), Step::HandOver(ReplicaId(1_001))]);
    assert_eq!(steps[3], Step::ChangeVoters(replica_ids(&[1_001])));
    assert!(matches!(steps[4], Step::Complete { .. }));
    assert_eq!(raft.members.peers.len(), 1);
}

#[test]
fn nobody_is_removed_where_the_rest_could_not_commit() {
    let mut state = cluster(&[1, 2, 3]);
    let mut raft = Raft::of(&assigned(&state).replicas);
    raft.kill(BrokerId(2));
    reassign(&mut state, &[1, 2]);
    assert_eq!(raft.next_step(&Wanted::of(assigned(&state))), Some(Step::Wait(Why::TooFewAlive)));
    raft.dead.clear();
    settle(&mut state, &mut raft);
    assert_eq!(raft.members.voters(), replica_ids(&[1_000, 1_001]));
}

#[test]
fn a_dead_broker_is_not_made_a_learner_and_a_full_house_waits() {
    let mut state = cluster(&[1, 2, 3]);
    let mut raft = Raft::of(&assigned(&state).replicas);
    reassign(&mut state, &[1, 2, 4]);
    raft.kill(BrokerId(4));
    let wanted = Wanted::of(assigned(&state));
    assert_eq!(raft.next_step(&wanted), Some(Step::Wait(Why::Dead)));
    raft.dead.clear();
    let members = raft.members.clone();
    let view = View {
        own: ReplicaId(1_000),
        members: &members,
        followers: &raft.followers(),
        caught_up_at: None,
        alive: &|_| true,
        has_room: false,
    };
    assert_eq!(next_step(&wanted, &view), Step::Wait(Why::Room));
}

#[derive(Debug, Clone)]
enum Event {
    Reassign(Vec<i32>),
    Rebuild(usize),
    Kill(i32),
    Revive(i32),
    Elect(usize),
    CatchUp,
    Step { breaks_off: bool },
}

fn any_event() -> impl Strategy<Value = Event> {
    let on = prop::sample::subsequence(vec![1, 2, 3, 4, 5], 1..=4).prop_shuffle();
    prop_oneof![
        2 => on.prop_map(Event::Reassign),
        1 => (0_usize..4).prop_map(Event::Rebuild),
        2 => (1..6_i32).prop_map(Event::Kill),
        2 => (1..6_i32).prop_map(Event::Revive),
        1 => (0_usize..4).prop_map(Event::Elect),
        4 => Just(Event::CatchUp),
        8 => prop::bool::weighted(0.2).prop_map(|breaks_off| Event::Step { breaks_off }),
    ]
}

fn happen(event: Event, state: &mut MetadataState, raft: &mut Raft) {
    match event {
        Event::Reassign(to) => reassign(state, &to),
        Event::Rebuild(nth) => {
            let replicas = &assigned(state).replicas;
            let replica = replicas[nth % replicas.len()].id;
            // A damaged replica asks for it, which another one leads.
            if raft.leader != Some(replica) {
                let rebuild = Command::RebuildReplica { topic: TOPIC, partition: FIRST, replica };
                let _ = apply(state, &rebuild);
            }
        }
        Event::Kill(broker) => raft.kill(BrokerId(broker)),
        Event::Revive(broker) => {
            raft.dead.remove(&BrokerId(broker));
            if raft.leader.is_none() {
                raft.elect(0);
            }
        }
        Event::Elect(preference) => raft.elect(preference),
        Event::CatchUp => raft.catch_up(),
        Event::Step { breaks_off } => {
            steward(state, raft, breaks_off);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Whatever happens meanwhile, and whoever leads, a group ends up with the members that metadata asks for.
    #[test]
    fn members_follow_the_assignment_through_deaths_and_changes_of_mind(
        events in prop::collection::vec(any_event(), 0..60),
    ) {
        let mut state = cluster(&[1, 2, 3]);
        let mut raft = Raft::of(&assigned(&state).replicas);
        for event in events {
            happen(event, &mut state, &mut raft);
        }
        raft.dead.clear();
        raft.elect(0);
        settle(&mut state, &mut raft);
        let wanted = Wanted::of(assigned(&state));
        prop_assert_eq!(&raft.members.peers, &wanted.voters);
        prop_assert_eq!(&raft.members.configs, &vec![wanted.voters.keys().copied().collect::<BTreeSet<_>>()]);
        prop_assert!(assigned(&state).leaving.is_empty());
    }
}
