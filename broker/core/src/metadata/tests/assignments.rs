//! Replicas that move, are rebuilt, given up and recovered.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const TOPIC: TopicId = TopicId([7; 16]);
const FIRST: PartitionId = PartitionId(0);

/// Five brokers, and a topic whose one partition is on the first three.
fn five() -> MetadataState {
    let mut state = MetadataState::default();
    (1..=5).for_each(|id| register(&mut state, id));
    let create = Command::CreateTopic {
        id: TOPIC,
        name: "a".to_owned(),
        assignments: vec![brokers(&[1, 2, 3])],
        overrides: Overrides::new(),
    };
    apply(&mut state, &create).unwrap();
    state
}

fn brokers(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

fn reassign(epoch: u32, to: &[i32]) -> Command {
    Command::Reassign { topic: TOPIC, partition: FIRST, epoch, brokers: brokers(to) }
}

fn complete(epoch: u32, removed: &[u64]) -> Command {
    let removed = removed.iter().copied().map(ReplicaId).collect();
    Command::CompleteReassign { topic: TOPIC, partition: FIRST, epoch, removed }
}

fn assigned(state: &MetadataState) -> &Partition {
    state.partition(TOPIC, FIRST).unwrap()
}

fn ids(replicas: &[Replica]) -> Vec<u64> {
    replicas.iter().map(|replica| replica.id.get()).collect()
}

/// The disk of a broker was replaced.
fn with_new_disk(id: i32) -> Command {
    let broker = Broker { incarnation: Incarnation([id as u8 + 100; 16]), ..broker(id) };
    Command::RegisterBroker { broker, metadata_replica: None }
}

#[test]
fn who_stays_keeps_its_replica_and_who_goes_keeps_its_copy_until_the_end() {
    let mut state = five();
    assert_eq!(apply(&mut state, &reassign(0, &[4, 2, 3])), Ok(Effect::Reassigned { epoch: 1 }));
    assert_eq!(ids(&assigned(&state).replicas), [1_003, 1_001, 1_002]);
    assert_eq!(ids(&assigned(&state).leaving), [1_000]);
    assert_eq!(ids(&assigned(&state).created_with), [1_000, 1_001, 1_002]);

    let before = state.clone();
    assert!(apply(&mut state, &complete(0, &[1_000])).is_err(), "it was decided on another assignment");
    assert_eq!(apply(&mut state, &complete(1, &[])), Err(MetadataError::NotAllThatLeave));
    assert_eq!(state.groups().collect::<Vec<_>>(), before.groups().collect::<Vec<_>>());

    assert_eq!(apply(&mut state, &complete(1, &[1_000])), Ok(Effect::ReassignCompleted));
    assert_eq!(ids(&assigned(&state).leaving), [0; 0]);
    let once = assigned(&state).clone();
    assert_eq!(apply(&mut state, &complete(1, &[1_000])), Ok(Effect::ReassignCompleted));
    assert_eq!(assigned(&state), &once);
}

#[test]
fn who_comes_back_before_it_left_goes_on_with_its_copy() {
    let mut state = five();
    apply(&mut state, &reassign(0, &[4, 2, 3])).unwrap();
    apply(&mut state, &reassign(1, &[1, 2, 3])).unwrap();
    assert_eq!(ids(&assigned(&state).replicas), [1_000, 1_001, 1_002]);
    assert_eq!(ids(&assigned(&state).leaving), [1_003]);
    assert!(apply(&mut state, &complete(1, &[1_000])).is_err(), "broker 1 stays after all");
}

#[test]
fn a_reassignment_whose_answer_was_lost_can_be_sent_again() {
    let mut state = five();
    apply(&mut state, &reassign(0, &[4, 2, 3])).unwrap();
    let once = assigned(&state).clone();
    assert_eq!(apply(&mut state, &reassign(0, &[4, 2, 3])), Ok(Effect::Reassigned { epoch: 1 }));
    assert_eq!(assigned(&state), &once);
    let lost = apply(&mut state, &reassign(0, &[5, 2, 3]));
    assert_eq!(lost, Err(MetadataError::AssignmentChanged { expected: 0, found: 1 }));
    assert_eq!(assigned(&state), &once);
}

#[test]
fn a_rebuilt_replica_is_another_one_and_the_old_one_never_comes_back() {
    let mut state = five();
    let rebuild = Command::RebuildReplica { topic: TOPIC, partition: FIRST, replica: ReplicaId(1_001) };
    apply(&mut state, &rebuild).unwrap();
    assert_eq!(ids(&assigned(&state).replicas), [1_000, 1_003, 1_002]);
    assert_eq!(ids(&assigned(&state).leaving), [1_001]);
    assert_eq!(apply(&mut state, &rebuild), Err(MetadataError::UnknownReplica(ReplicaId(1_001))));
    assert_eq!(assigned(&state).on(BrokerId(2), Incarnation([2; 16])).unwrap().id, ReplicaId(1_003));

    apply(&mut state, &reassign(1, &[1, 3])).unwrap();
    assert_eq!(ids(&assigned(&state).leaving), [1_001, 1_003]);
    apply(&mut state, &reassign(2, &[1, 2, 3])).unwrap();
    assert_eq!(ids(&assigned(&state).replicas), [1_000, 1_003, 1_002], "its newest, not the damaged one");
}

#[test]
fn the_only_replica_is_not_given_up_for_an_empty_one() {
    let mut state = five();
    apply(&mut state, &reassign(0, &[1])).unwrap();
    let rebuild = Command::RebuildReplica { topic: TOPIC, partition: FIRST, replica: ReplicaId(1_000) };
    assert_eq!(apply(&mut state, &rebuild), Err(MetadataError::OnlyReplica(ReplicaId(1_000))));
}

#[test]
fn a_replaced_disk_is_another_broker_under_the_same_number() {
    let mut state = five();
    let registered = apply(&mut state, &with_new_disk(2)).unwrap();
    assert_eq!(registered, Effect::BrokerRegistered { metadata_replica: ReplicaId(1_003) });
    assert_eq!(apply(&mut state, &with_new_disk(2)), Ok(registered), "registering again changes nothing");
    let metadata = state.group(GroupId::METADATA).unwrap();
    assert_eq!(ids(&metadata.replicas), [1, 1_003, 3, 4, 5]);
    assert_eq!(ids(&metadata.leaving), [2]);

    let old = Command::RegisterBroker { broker: broker(2), metadata_replica: Some(ReplicaId(2)) };
    assert!(matches!(apply(&mut state, &old), Err(MetadataError::RetiredIncarnation { .. })));
    assert_eq!(assigned(&state).on(BrokerId(2), Incarnation([102; 16])), None, "it holds nothing yet");
    apply(&mut state, &reassign(0, &[1, 2, 3])).unwrap();
    assert_eq!(ids(&assigned(&state).replicas), [1_000, 1_004, 1_002]);
    assert_eq!(ids(&assigned(&state).leaving), [1_001]);
}

#[test]
fn a_broker_is_removed_once_it_holds_nothing() {
    let mut state = five();
    apply(&mut state, &Command::SetBrokerState { id: BrokerId(3), state: BrokerState::Leaving }).unwrap();
    let remove = Command::UnregisterBroker { id: BrokerId(3) };
    let holds = MetadataError::BrokerHoldsReplicas { broker: BrokerId(3), replicas: 1 };
    assert_eq!(apply(&mut state, &remove), Err(holds.clone()));
    apply(&mut state, &reassign(0, &[1, 2, 3])).unwrap();
    apply(&mut state, &reassign(1, &[1, 2, 4])).unwrap();
    assert_eq!(
        apply(&mut state, &reassign(2, &[3, 2, 4])),
        Ok(Effect::Reassigned { epoch: 3 }),
        "it still has its copy"
    );
    apply(&mut state, &reassign(3, &[1, 2, 4])).unwrap();
    assert_eq!(apply(&mut state, &remove), Err(holds), "it may be needed until the move is complete");
    apply(&mut state, &complete(4, &[1_002])).unwrap();
    assert_eq!(apply(&mut state, &reassign(4, &[3, 2, 4])), Err(MetadataError::BrokerLeaving(BrokerId(3))));
    assert_eq!(apply(&mut state, &remove), Ok(Effect::BrokerUnregistered));
    assert_eq!(ids(&state.group(GroupId::METADATA).unwrap().leaving), [3]);
    let again = Command::RegisterBroker { broker: broker(3), metadata_replica: None };
    assert!(matches!(apply(&mut state, &again), Err(MetadataError::RetiredIncarnation { .. })));
}

#[test]
fn a_state_set_by_the_operator_survives_a_restart_of_the_broker() {
    let mut state = five();
    apply(&mut state, &Command::SetBrokerState { id: BrokerId(3), state: BrokerState::Draining }).unwrap();
    assert!(state.is_registered(&broker(3)), "there is nothing to register again");
    apply(&mut state, &with_new_disk(3)).unwrap();
    assert_eq!(state.broker(BrokerId(3)).unwrap().state, BrokerState::Draining);
}

#[test]
fn a_recovered_partition_goes_on_with_what_survived() {
    let mut state = five();
    apply(&mut state, &reassign(0, &[4, 2, 3])).unwrap();
    let recover = |epoch, survivor| Command::RecoverPartition {
        topic: TOPIC,
        partition: FIRST,
        epoch,
        survivor,
        above: Term(9),
        others: vec![BrokerId(2), BrokerId(1)],
    };
    let by_leaving = Survivor::Replica(ReplicaId(1_000));
    assert!(apply(&mut state, &recover(0, by_leaving)).is_err());
    apply(&mut state, &recover(1, by_leaving)).unwrap();
    let recovered = assigned(&state);
    let new = recovered.replicas[1];
    assert_eq!((ids(&recovered.replicas), ids(&recovered.created_with)), (vec![1_000, 1_004], vec![1_000]));
    assert_eq!(new.broker, BrokerId(2), "and never the replica that it had");
    assert_eq!((ids(&recovered.leaving), recovered.recovered_above), (vec![], Some(Term(9))));
    apply(&mut state, &with_new_disk(1)).unwrap();
    assert!(apply(&mut state, &recover(2, by_leaving)).is_err(), "its disk is gone");
    let begun = apply(&mut state, &recover(2, Survivor::Empty(BrokerId(5)))).unwrap();
    assert!(matches!(begun, Effect::PartitionRecovered { replica } if replica.broker == BrokerId(5)));
}

#[test]
fn recovered_metadata_goes_on_with_one_replica_and_new_ones_for_all_others() {
    let mut state = five();
    let metadata = |state: &MetadataState| state.group(GroupId::METADATA).unwrap().clone();
    let before = metadata(&state);
    let recover = |survivor, above| Command::RecoverMetadata { survivor, above: Term(above) };
    assert!(apply(&mut state, &recover(ReplicaId(99), 7)).is_err());
    let survivor = before.replicas[1].id;
    apply(&mut state, &recover(survivor, 7)).unwrap();
    let after = metadata(&state);
    assert_eq!(after.created_with, before.created_with, "ids of founders stay bound");
    assert_eq!((ids(&after.leaving), after.recovered_above), (vec![], Some(Term(7))));
    assert_eq!(after.brokers().collect::<Vec<_>>(), before.brokers().collect::<Vec<_>>());
    let same: Vec<_> = after.replicas.iter().filter(|replica| before.replicas.contains(replica)).collect();
    assert_eq!(same.iter().map(|replica| replica.id).collect::<Vec<_>>(), [survivor]);
    apply(&mut state, &recover(survivor, 7)).unwrap();
    assert_eq!(metadata(&state), after, "once");
}

#[test]
fn recovered_metadata_gives_no_id_that_the_lost_part_may_have_given() {
    let mut state = five();
    let survivor = state.group(GroupId::METADATA).unwrap().replicas[1].id;
    // What the survivor has not heard of.
    let mut lost = state.clone();
    let ids = |state: &mut MetadataState| {
        apply(state, &Command::AllocateProducerIds { count: 1_000 }).unwrap();
        apply(state, &reassign(0, &[3, 4, 5])).unwrap();
        (state.next_producer_id, state.next_replica_id)
    };
    let given = ids(&mut lost);
    apply(&mut state, &Command::RecoverMetadata { survivor, above: Term(7) }).unwrap();
    let replicas = state.group(GroupId::METADATA).unwrap().replicas.clone();
    assert!(replicas.iter().all(|replica| replica.id == survivor || replica.id >= given.1));
    assert!(state.next_producer_id >= given.0);
}

#[test]
fn fewer_replicas_than_its_config_asks_for_are_refused() {
    let mut state = five();
    let two = vec![("min.insync.replicas".to_owned(), Some("2".to_owned()))];
    apply(&mut state, &Command::AlterConfigs { id: TOPIC, changes: two }).unwrap();
    let config = state.check(&reassign(0, &[1])).unwrap_err();
    assert_eq!(config.code().name(), "INVALID_CONFIG");
    assert_eq!(state.check(&reassign(0, &[1, 2])), Ok(()));
}

#[test]
fn a_config_that_one_partition_cannot_keep_is_refused() {
    let mut state = five();
    apply(&mut state, &reassign(0, &[1])).unwrap();
    let two = vec![("min.insync.replicas".to_owned(), Some("2".to_owned()))];
    let config = state.check(&Command::AlterConfigs { id: TOPIC, changes: two }).unwrap_err();
    assert_eq!(config.code().name(), "INVALID_CONFIG");
}

/// What must hold of any state.
fn check_invariants(state: &MetadataState) {
    for (group, partition) in state.groups() {
        let on: BTreeSet<_> = partition.brokers().collect();
        assert_eq!(on.len(), partition.replicas.len(), "{group}: two replicas on one broker");
        assert!(group == GroupId::METADATA || !partition.replicas.is_empty(), "{group}: nobody has it");
        let held: BTreeSet<_> = partition.holders().map(|replica| replica.id).collect();
        assert_eq!(held.len(), partition.holders().count(), "{group}: one replica twice");
        for replica in partition.holders() {
            let registered =
                state.broker(replica.broker).is_some_and(|b| b.incarnation == replica.incarnation);
            let retired = state.is_retired(replica.broker, replica.incarnation);
            assert!(registered != retired, "{group}: {replica:?} is on a data directory of nobody");
        }
    }
    for broker in state.brokers() {
        assert!(!state.is_retired(broker.id, broker.incarnation));
        assert_eq!(state.metadata_replica(broker.id).unwrap().incarnation, broker.incarnation);
    }
    assert_eq!(state.group(GroupId::METADATA).unwrap().replicas.len(), state.brokers().count());
}

proptest! {
    #[test]
    fn whatever_happens_a_replica_id_names_one_disk_and_one_group(
        commands in prop::collection::vec(any_command(), 1..80),
    ) {
        let mut state = MetadataState::default();
        let mut bound: BTreeMap<ReplicaId, (GroupId, BrokerId, Incarnation)> = BTreeMap::new();
        for command in &commands {
            let before = state.clone();
            let checked = state.check(command);
            let reply = apply(&mut state, command);
            match &reply {
                Err(_) => {
                    prop_assert!(checked.is_err());
                    prop_assert_eq!(MetadataState { log: before.log.clone(), ..state.clone() }, before);
                }
                Ok(effect) => prop_assert_eq!(&Effect::decode(&effect.encode()).unwrap(), effect),
            }
            check_invariants(&state);
            for (group, partition) in state.groups() {
                for replica in partition.holders() {
                    let now = (group, replica.broker, replica.incarnation);
                    let first = *bound.entry(replica.id).or_insert(now);
                    prop_assert_eq!(first, now, "replica {} was bound otherwise", replica.id);
                }
            }
        }
    }

    #[test]
    fn what_was_accepted_can_be_sent_again_without_effect(
        commands in prop::collection::vec(any_command(), 1..60),
    ) {
        let mut state = MetadataState::default();
        for command in &commands {
            let accepted = apply(&mut state, command).is_ok();
            let once = state.clone();
            let _ = apply(&mut state, command);
            // Ids are handed out again, partitions are added where there is still room for them: the caller's
            // epoch or count would refuse that, unless it allowed it in the first place.
            let drawn = matches!(command, Command::AllocateProducerIds { .. } | Command::RecoverPartition { .. });
            if accepted && !drawn {
                prop_assert_eq!(MetadataState { log: once.log.clone(), ..state.clone() }, once);
            }
        }
    }
}
