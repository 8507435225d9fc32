#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;

use headwater_proto::record::RecordBatch;
use headwater_proto::types::{GroupId, Incarnation, PartitionId, Term, TimestampMs, TopicId};
use proptest::prelude::*;

use super::*;
use crate::machine::{Entry, EntryBody, Machine};
use crate::metadata::{Broker, Command, Partition, command_batch};
use crate::topic_config::Overrides;

fn apply(state: &mut MetadataState, command: &Command) {
    let bytes = command_batch(command, TimestampMs(1)).unwrap();
    let batch = RecordBatch::trusted(bytes.clone()).unwrap();
    let entry = Entry {
        index: state.log.applied_index.next(),
        term: Term(1),
        base_offset: state.log.next_offset,
        header: batch.header(),
        body: EntryBody::Records(&bytes),
    };
    state.apply(entry).unwrap().unwrap();
}

/// Brokers from 1 on, in these racks.
fn cluster(racks: &[&str]) -> MetadataState {
    let mut state = MetadataState::default();
    for (id, rack) in (1..).map(BrokerId).zip(racks) {
        let broker = Broker {
            id,
            incarnation: Incarnation([id.get() as u8; 16]),
            grpc_address: String::new(),
            kafka_address: String::new(),
            peer_address: String::new(),
            rack: (*rack).to_owned(),
            version: String::new(),
            state: BrokerState::Active,
        };
        apply(&mut state, &Command::RegisterBroker { broker, metadata_replica: None });
    }
    state
}

fn pool(state: &MetadataState) -> Pool {
    Pool::of(state, |_| true)
}

fn create(state: &mut MetadataState, seed: u8, partitions: usize, replicas: usize) {
    let assignments = pool(state).place(None, partitions, replicas).unwrap();
    let id = TopicId([seed; 16]);
    let name = format!("topic{seed}");
    apply(state, &Command::CreateTopic { id, name, assignments, overrides: Overrides::new() });
}

fn set(state: &mut MetadataState, id: i32, to: BrokerState) {
    apply(state, &Command::SetBrokerState { id: BrokerId(id), state: to });
}

fn execute(state: &mut MetadataState, moves: Vec<Move>) {
    moves.into_iter().for_each(|a_move| apply(state, &a_move.command()));
}

fn assignment(partition: &Partition) -> Vec<BrokerId> {
    partition.brokers().collect()
}

fn assignments(state: &MetadataState) -> Vec<(GroupId, Vec<BrokerId>)> {
    state.groups().skip(1).map(|(group, partition)| (group, assignment(partition))).collect()
}

fn ids(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

/// The largest difference between what two of the brokers hold.
fn spread(loads: impl Iterator<Item = usize> + Clone) -> usize {
    loads.clone().max().unwrap_or(0) - loads.min().unwrap_or(0)
}

fn racks_of(state: &MetadataState, brokers: &[BrokerId]) -> usize {
    brokers.iter().map(|id| state.broker(*id).unwrap().rack.clone()).collect::<BTreeSet<_>>().len()
}

#[test]
fn twelve_partitions_of_three_replicas_are_led_by_all() {
    let mut state = cluster(&["", "", ""]);
    create(&mut state, 7, 12, 3);
    for id in 1..=3 {
        assert_eq!(pool(&state).load(BrokerId(id)), Load { replicas: 12, leaders: 4 });
    }
    let next_in_line: Vec<_> =
        assignments(&state).iter().filter(|(_, to)| to[0] == BrokerId(1)).map(|(_, to)| to[1]).collect();
    assert!(next_in_line.contains(&BrokerId(2)), "{next_in_line:?}");
}

#[test]
fn many_topics_of_one_partition_are_spread_too() {
    let mut state = cluster(&["", "", "", "", ""]);
    (0..11).for_each(|seed| create(&mut state, seed, 1, 3));
    let loads = || (1..=5).map(|id| pool(&state).load(BrokerId(id)));
    assert!(spread(loads().map(|load| load.replicas)) <= 1);
    assert!(spread(loads().map(|load| load.leaders)) <= 2);
}

#[test]
fn brokers_that_drain_or_do_not_answer_get_something_only_in_need() {
    let mut state = cluster(&["", "", "", "", ""]);
    set(&mut state, 1, BrokerState::Draining);
    set(&mut state, 2, BrokerState::Leaving);
    let alive = |id: BrokerId| id != BrokerId(3);
    let place = |replicas| {
        Pool::of(&state, alive)
            .place(None, 1, replicas)
            .map(|placed| placed[0].iter().copied().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>())
    };
    assert_eq!(place(2), Ok(ids(&[4, 5])));
    assert_eq!(place(3), Ok(ids(&[1, 4, 5])));
    assert_eq!(place(4), Ok(ids(&[1, 3, 4, 5])));
    assert_eq!(place(5), Err(NotEnoughBrokers { replicas: 5, brokers: 4 }));
    let first = Pool::of(&state, alive).place(None, 1, 4).unwrap()[0][0];
    assert!([BrokerId(4), BrokerId(5)].contains(&first), "led by one that may lead");
}

#[test]
fn what_is_added_to_a_topic_continues_its_balance() {
    let mut state = cluster(&["", "", ""]);
    create(&mut state, 7, 2, 1);
    let topic = state.topic("topic7").unwrap().clone();
    let added = pool(&state).place(Some(&topic), 1, 1).unwrap();
    let taken: Vec<_> = topic.numbered().map(|(_, p)| assignment(p)[0]).collect();
    assert!(!taken.contains(&added[0][0]));
}

#[test]
fn a_topic_of_one_broker_grows_to_three_and_back() {
    let mut state = cluster(&[""]);
    create(&mut state, 7, 6, 1);
    for id in 2..=3 {
        let broker = Broker {
            id: BrokerId(id),
            incarnation: Incarnation([id as u8; 16]),
            ..state.broker(BrokerId(1)).unwrap().clone()
        };
        apply(&mut state, &Command::RegisterBroker { broker, metadata_replica: None });
    }
    let topic = state.topic("topic7").unwrap().clone();
    assert!(alter_replication(&topic, &mut pool(&state), 4).is_err());
    let moves = alter_replication(&topic, &mut pool(&state), 3).unwrap();
    execute(&mut state, moves);
    for id in 1..=3 {
        assert_eq!(pool(&state).load(BrokerId(id)), Load { replicas: 6, leaders: 2 });
    }
    let topic = state.topic("topic7").unwrap().clone();
    assert_eq!(alter_replication(&topic, &mut pool(&state), 3), Ok(vec![]), "nothing moves that need not");
    let moves = alter_replication(&topic, &mut pool(&state), 1).unwrap();
    execute(&mut state, moves);
    for id in 1..=3 {
        assert_eq!(pool(&state).load(BrokerId(id)), Load { replicas: 2, leaders: 2 });
    }
}

#[test]
fn a_replica_too_many_goes_from_the_broker_that_does_not_answer() {
    let mut state = cluster(&["", "", "", ""]);
    create(&mut state, 7, 4, 3);
    let topic = state.topic("topic7").unwrap().clone();
    let moves = alter_replication(&topic, &mut Pool::of(&state, |id| id != BrokerId(2)), 2).unwrap();
    assert_eq!(moves.len(), 4);
    assert!(moves.iter().all(|a_move| !a_move.brokers.contains(&BrokerId(2))), "{moves:?}");
}

#[test]
fn a_replaced_broker_is_followed_by_the_other_in_every_partition() {
    let mut state = cluster(&["", "", "", ""]);
    set(&mut state, 4, BrokerState::Leaving);
    create(&mut state, 7, 6, 3);
    set(&mut state, 4, BrokerState::Active);
    let before = assignments(&state);
    let (moves, stuck) = replace(&state, &mut pool(&state), BrokerId(2), BrokerId(4));
    assert_eq!((moves.len(), stuck.len()), (6, 0));
    execute(&mut state, moves);
    for ((_, before), (_, after)) in before.iter().zip(assignments(&state)) {
        let expected: BTreeSet<_> =
            before.iter().map(|id| if *id == BrokerId(2) { BrokerId(4) } else { *id }).collect();
        assert_eq!(after.into_iter().collect::<BTreeSet<_>>(), expected);
    }
}

#[test]
fn the_last_place_is_not_left_without_another() {
    let mut state = cluster(&["", "", ""]);
    create(&mut state, 7, 2, 3);
    set(&mut state, 2, BrokerState::Leaving);
    let (moves, stuck) = leave(&state, &mut pool(&state));
    assert_eq!((moves.len(), stuck.len()), (0, 2));
}

#[test]
fn a_partition_is_led_by_the_first_replica_that_may() {
    let mut state = cluster(&["", "", ""]);
    create(&mut state, 7, 1, 3);
    let partition = state.partition(TopicId([7; 16]), PartitionId(0)).unwrap();
    assert_eq!(assignment(partition), ids(&[1, 2, 3]));
    let better = |leader, may_lead: &[i32], in_sync: &[i32]| {
        let (may_lead, in_sync) = (ids(may_lead), ids(in_sync));
        better_leader(BrokerId(leader), partition, |id| may_lead.contains(&id), |id| in_sync.contains(&id))
            .map(BrokerId::get)
    };
    assert_eq!(better(2, &[1, 2, 3], &[1, 2, 3]), Some(1));
    assert_eq!(better(1, &[1, 2, 3], &[1, 2, 3]), None);
    assert_eq!(better(2, &[1, 2, 3], &[2, 3]), None, "the preferred one is behind");
    assert_eq!(better(3, &[2, 3], &[1, 2, 3]), None, "one that is not preferred is as good as another");
    assert_eq!(better(1, &[2, 3], &[1, 2, 3]), Some(2), "its broker drains");
    assert_eq!(better(1, &[3], &[1, 2, 3]), Some(3));
    assert_eq!(better(1, &[], &[1, 2, 3]), None, "better led by a broker that drains than by nobody");
    assert_eq!(better(9, &[2, 3], &[2, 3]), Some(2), "a leader that leaves");
}

#[test]
fn the_metadata_has_an_odd_number_of_voters_that_rarely_change() {
    let voters = |count: usize, now: &[i32], dead: &[i32], max| {
        let state = cluster(&vec![""; count]);
        let pool = Pool::of(&state, |id| !dead.contains(&id.get()));
        let now = ids(now).into_iter().collect();
        metadata_voters(&pool, &now, max).into_iter().map(BrokerId::get).collect::<Vec<_>>()
    };
    assert_eq!(voters(1, &[1], &[], 5), [1]);
    assert_eq!(voters(2, &[1], &[], 5), [1]);
    assert_eq!(voters(3, &[1], &[], 5), [1, 2, 3]);
    assert_eq!(voters(4, &[2, 3, 4], &[], 5), [2, 3, 4]);
    assert_eq!(voters(4, &[2, 3, 4], &[3], 5), [1, 2, 4]);
    assert_eq!(voters(3, &[1, 2, 3], &[3], 5), [1, 2, 3], "nobody else could vote");
    assert_eq!(voters(9, &[7, 8, 9], &[], 5), [1, 2, 7, 8, 9]);
    assert_eq!(voters(9, &[7, 8, 9], &[], 3), [7, 8, 9]);
    let state = cluster(&["a", "a", "b", "b", "c"]);
    assert_eq!(metadata_voters(&pool(&state), &BTreeSet::new(), 3), ids(&[1, 3, 5]).into_iter().collect());
}

/// The same number of brokers in each of several racks.
fn any_even_racks() -> impl Strategy<Value = Vec<&'static str>> {
    (1_usize..4, 1_usize..5).prop_map(|(racks, each)| ["a", "b", "c"][..racks].repeat(each))
}

fn any_racks() -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(prop::sample::select(vec!["", "a", "b", "c"]), 2..9)
}

proptest! {
    #[test]
    fn a_new_topic_is_spread_over_racks_and_brokers(
        racks in any_even_racks(),
        partitions in 1_usize..40,
        replicas in 1_usize..5,
    ) {
        let mut state = cluster(&racks);
        let replicas = replicas.min(racks.len());
        create(&mut state, 7, partitions, replicas);
        let loads = || (1..).map(BrokerId).take(racks.len()).map(|id| pool(&state).load(id));
        prop_assert!(spread(loads().map(|load| load.replicas)) <= 1, "{:?}", assignments(&state));
        prop_assert!(spread(loads().map(|load| load.leaders)) <= 2, "{:?}", assignments(&state));
        let rack_count = racks.iter().collect::<BTreeSet<_>>().len();
        for (_, brokers) in assignments(&state) {
            prop_assert_eq!(racks_of(&state, &brokers), rack_count.min(replicas));
        }
    }

    #[test]
    fn no_broker_has_two_replicas_of_a_partition_whatever_the_racks(
        racks in any_racks(),
        topics in prop::collection::vec((1_usize..8, 1_usize..4), 1..4),
    ) {
        let mut state = cluster(&racks);
        for (seed, (partitions, replicas)) in (0..).zip(topics) {
            create(&mut state, seed, partitions, replicas.min(racks.len()));
        }
        let rack_count = racks.iter().collect::<BTreeSet<_>>().len();
        for (_, brokers) in assignments(&state) {
            prop_assert_eq!(brokers.iter().collect::<BTreeSet<_>>().len(), brokers.len());
            prop_assert_eq!(racks_of(&state, &brokers), rack_count.min(brokers.len()));
        }
    }

    #[test]
    fn a_broker_that_leaves_moves_what_it_has_and_nothing_else(
        racks in any_racks(),
        partitions in 1_usize..20,
        replicas in 1_usize..4,
        leaving in 1_usize..9,
    ) {
        let mut state = cluster(&racks);
        create(&mut state, 7, partitions, replicas.min(racks.len() - 1));
        let leaving = BrokerId((leaving % racks.len() + 1) as i32);
        set(&mut state, leaving.get(), BrokerState::Leaving);
        let before = assignments(&state);
        let mut pool = pool(&state);
        let (moves, stuck) = leave(&state, &mut pool);
        prop_assert_eq!(&stuck, &vec![]);
        let moved: BTreeSet<_> = moves.iter().map(|a_move| a_move.group).collect();
        execute(&mut state, moves);
        prop_assert_eq!(Pool::of(&state, |_| true), pool, "what was planned is what is counted");
        for ((group, before), (_, after)) in before.iter().zip(assignments(&state)) {
            prop_assert!(!after.contains(&leaving));
            let kept = before.iter().filter(|id| after.contains(id)).count();
            prop_assert_eq!(kept, before.iter().filter(|id| **id != leaving).count());
            prop_assert_eq!(moved.contains(group), before.contains(&leaving));
        }
        prop_assert_eq!(leave(&state, &mut Pool::of(&state, |_| true)), (vec![], vec![]));
    }

    #[test]
    fn voters_are_odd_known_and_change_only_where_they_must(
        racks in any_racks(),
        now in prop::collection::btree_set((1_i32..9).prop_map(BrokerId), 0..6),
        dead in prop::collection::btree_set((1_i32..9).prop_map(BrokerId), 0..4),
    ) {
        let state = cluster(&racks);
        let pool = Pool::of(&state, |id| !dead.contains(&id));
        let chosen = metadata_voters(&pool, &now, VOTERS_MAX);
        prop_assert!([1, 3, 5].contains(&chosen.len()));
        prop_assert!(chosen.iter().all(|id| state.broker(*id).is_some()));
        prop_assert_eq!(&metadata_voters(&pool, &chosen, VOTERS_MAX), &chosen, "and then they stay");
        let kept = now.iter().filter(|id| state.broker(**id).is_some() && !dead.contains(id)).count();
        prop_assert!(chosen.intersection(&now).count() >= kept.min(chosen.len()));
    }
}
