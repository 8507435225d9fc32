#![allow(clippy::unwrap_used)]

mod assignments;
mod old_bytes;

use headwater_proto::types::{LogIndex, Term, TimestampMs};
use proptest::prelude::*;

use super::*;
use crate::topic_config::Overrides;

fn broker(id: i32) -> Broker {
    Broker {
        id: BrokerId(id),
        incarnation: Incarnation([id as u8; 16]),
        grpc_address: format!("h{id}:9093"),
        kafka_address: format!("h{id}:9092"),
        peer_address: format!("h{id}:9094"),
        rack: String::new(),
        version: "1".to_owned(),
        state: BrokerState::Active,
    }
}

fn create(seed: u8, name: &str, partitions: usize) -> Command {
    Command::CreateTopic {
        id: TopicId([seed; 16]),
        name: name.to_owned(),
        assignments: vec![vec![BrokerId(1)]; partitions],
        overrides: Overrides::new(),
    }
}

fn apply(state: &mut MetadataState, command: &Command) -> Result<Effect, MetadataError> {
    let bytes = command_batch(command, TimestampMs(1)).unwrap();
    let batch = RecordBatch::trusted(bytes.clone()).unwrap();
    state
        .apply(Entry {
            index: state.log.applied_index.next(),
            term: Term(1),
            base_offset: state.log.next_offset,
            header: batch.header(),
            body: EntryBody::Records(&bytes),
        })
        .unwrap()
}

fn register(state: &mut MetadataState, id: i32) {
    let metadata_replica = Some(ReplicaId(id as u64));
    apply(state, &Command::RegisterBroker { broker: broker(id), metadata_replica }).unwrap();
}

fn cluster() -> MetadataState {
    let mut state = MetadataState::default();
    register(&mut state, 1);
    state
}

fn replicas_of(state: &MetadataState, topic: &str) -> Vec<Replica> {
    state.topic(topic).unwrap().partitions.iter().flat_map(|p| p.replicas.clone()).collect()
}

#[test]
fn a_topic_created_again_under_its_name_is_another_one() {
    let mut state = cluster();
    assert_eq!(apply(&mut state, &create(7, "a", 2)), Ok(Effect::TopicCreated));
    assert_eq!(apply(&mut state, &create(8, "a", 2)), Err(MetadataError::TopicExists("a".to_owned())));
    let first = replicas_of(&state, "a");
    apply(&mut state, &Command::DeleteTopic { id: TopicId([7; 16]) }).unwrap();
    assert_eq!(state.topic("a"), None);
    apply(&mut state, &create(8, "a", 2)).unwrap();
    let second = replicas_of(&state, "a");
    assert!(
        first.iter().all(|old| second.iter().all(|new| new.id != old.id)),
        "replica ids are never reused"
    );
    assert!(second.iter().all(|replica| replica.incarnation == Incarnation([1; 16])));
}

#[test]
fn the_controller_refuses_what_kafka_refuses() {
    let mut state = cluster();
    apply(&mut state, &create(7, "a.b", 2)).unwrap();
    let code = |command: &Command| state.check(command).unwrap_err().code().name();
    assert_eq!(code(&create(8, "a_b", 1)), "INVALID_TOPIC_EXCEPTION");
    assert_eq!(code(&create(8, "a/b", 1)), "INVALID_TOPIC_EXCEPTION");
    assert_eq!(code(&create(8, "a.b", 1)), "TOPIC_ALREADY_EXISTS");
    assert_eq!(code(&create(8, "c", 0)), "INVALID_PARTITIONS");
    assert_eq!(code(&create(8, "c", PARTITIONS_PER_TOPIC_MAX + 1)), "INVALID_PARTITIONS");
    let far = Command::CreateTopic {
        id: TopicId([8; 16]),
        name: "c".to_owned(),
        assignments: vec![vec![BrokerId(1), BrokerId(2)]],
        overrides: Overrides::new(),
    };
    assert_eq!(code(&far), "INVALID_REPLICA_ASSIGNMENT");
    let alter = |name: &str, value: &str| Command::AlterConfigs {
        id: TopicId([7; 16]),
        changes: vec![(name.to_owned(), Some(value.to_owned()))],
    };
    assert_eq!(code(&alter("cleanup.policy", "compact")), "INVALID_CONFIG");
    assert_eq!(state.check(&alter("retention.ms", "5")), Ok(()));
    let add = |before| Command::CreatePartitions {
        id: TopicId([7; 16]),
        before,
        assignments: vec![vec![BrokerId(1)]],
    };
    assert_eq!(code(&add(1)), "INVALID_PARTITIONS");
    assert_eq!(state.check(&add(2)), Ok(()));
    assert_eq!(code(&Command::DeleteTopic { id: TopicId([9; 16]) }), "UNKNOWN_TOPIC_OR_PARTITION");
}

#[test]
fn blocks_of_producer_ids_do_not_overlap() {
    let mut state = cluster();
    let block = Command::AllocateProducerIds { count: 1_000 };
    assert_eq!(apply(&mut state, &block), Ok(Effect::ProducerIds { first: ProducerId(0), count: 1_000 }));
    assert_eq!(apply(&mut state, &block), Ok(Effect::ProducerIds { first: ProducerId(1_000), count: 1_000 }));
}

fn any_group() -> impl Strategy<Value = (TopicId, PartitionId)> {
    let topic =
        prop_oneof![4 => (0_u8..3).prop_map(|seed| TopicId([seed; 16])), 1 => Just(TopicId::METADATA)];
    (topic, (0_i32..3).prop_map(PartitionId))
}

fn any_broker() -> impl Strategy<Value = BrokerId> + Clone {
    (1_i32..5).prop_map(BrokerId)
}

fn any_replica() -> impl Strategy<Value = ReplicaId> + Clone {
    prop_oneof![(1_u64..5), (1_000_u64..1_020)].prop_map(ReplicaId)
}

fn any_registration() -> impl Strategy<Value = Command> {
    let state = prop_oneof![Just(BrokerState::Active), Just(BrokerState::Leaving)];
    (any_broker(), 0_u8..3, state, prop::option::weighted(0.2, (1_u64..4).prop_map(ReplicaId))).prop_map(
        |(id, disk, state, metadata_replica)| {
            let incarnation = Incarnation([disk * 16 + id.get() as u8; 16]);
            let broker = Broker { incarnation, state, ..broker(id.get()) };
            Command::RegisterBroker { broker, metadata_replica }
        },
    )
}

fn any_topic_command() -> impl Strategy<Value = Command> {
    let id = (0_u8..3).prop_map(|seed| TopicId([seed; 16]));
    let assignments = prop::collection::vec(prop::collection::vec(any_broker(), 0..4), 0..4);
    let value = prop::option::of("[0-9]{1,4}");
    prop_oneof![
        4 => (id.clone(), "[ab._]{1,2}", assignments.clone()).prop_map(|(id, name, assignments)| {
            Command::CreateTopic { id, name, assignments, overrides: Overrides::new() }
        }),
        1 => id.clone().prop_map(|id| Command::DeleteTopic { id }),
        1 => (id.clone(), 0_usize..4, assignments)
            .prop_map(|(id, before, assignments)| { Command::CreatePartitions { id, before, assignments } }),
        1 => (id, prop::collection::vec(("retention.(ms|bytes)", value), 0..3))
            .prop_map(|(id, changes)| Command::AlterConfigs { id, changes }),
    ]
}

fn any_assignment_command() -> impl Strategy<Value = Command> {
    let survivor =
        prop_oneof![any_replica().prop_map(Survivor::Replica), any_broker().prop_map(Survivor::Empty),];
    let epoch = 0_u32..4;
    prop_oneof![
        4 => (any_group(), epoch.clone(), prop::collection::vec(any_broker(), 0..4)).prop_map(
            |((topic, partition), epoch, brokers)| Command::Reassign { topic, partition, epoch, brokers }),
        2 => (any_group(), any_replica()).prop_map(
            |((topic, partition), replica)| Command::RebuildReplica { topic, partition, replica }),
        2 => (any_group(), epoch.clone(), prop::collection::vec(any_replica(), 0..3)).prop_map(
            |((topic, partition), epoch, removed)| Command::CompleteReassign { topic, partition, epoch, removed }),
        1 => (any_group(), epoch, survivor, 0_u64..9, prop::collection::vec(any_broker(), 0..3)).prop_map(
            |((topic, partition), epoch, survivor, above, others)| {
                let above = Term(above);
                Command::RecoverPartition { topic, partition, epoch, survivor, above, others }
            }),
        1 => (any_replica(), 0_u64..9).prop_map(
            |(survivor, above)| Command::RecoverMetadata { survivor, above: Term(above) }),
    ]
}

fn any_command() -> impl Strategy<Value = Command> {
    let state =
        prop_oneof![Just(BrokerState::Active), Just(BrokerState::Draining), Just(BrokerState::Leaving)];
    prop_oneof![
        4 => any_registration(),
        1 => (any_broker(), state).prop_map(|(id, state)| Command::SetBrokerState { id, state }),
        1 => any_broker().prop_map(|id| Command::UnregisterBroker { id }),
        4 => any_topic_command(),
        6 => any_assignment_command(),
        1 => (1_u32..2_000).prop_map(|count| Command::AllocateProducerIds { count }),
    ]
}

proptest! {
    #[test]
    fn commands_survive_their_encoding(command in any_command()) {
        prop_assert_eq!(Command::decode(&command.encode()), Ok(command));
    }

    #[test]
    fn a_state_restored_at_any_point_goes_on_as_the_original(
        commands in prop::collection::vec(any_command(), 1..40),
        at in any::<prop::sample::Index>(),
    ) {
        let mut original = MetadataState::default();
        let at = at.index(commands.len());
        for command in &commands[..at] {
            let _ = apply(&mut original, command);
        }
        let mut restored = MetadataState::decode(&original.encode()).unwrap();
        prop_assert_eq!(&restored, &original);
        for command in &commands[at..] {
            let checked = original.check(command);
            let reply = apply(&mut original, command);
            prop_assert_eq!(&reply, &apply(&mut restored, command));
            if checked.is_ok() {
                prop_assert!(reply.is_ok(), "what the controller lets pass is accepted: {:?}", reply);
            }
        }
        prop_assert_eq!(restored.encode(), original.encode());
    }

    #[test]
    fn garbage_never_panics(bytes in any::<Vec<u8>>()) {
        let _ = Command::decode(&bytes);
        let _ = MetadataState::decode(&bytes);
    }
}

#[test]
fn an_unreadable_command_stops_the_replica_and_changes_nothing() {
    let mut state = cluster();
    let before = state.clone();
    let mut builder = headwater_proto::record::RecordBatchBuilder::new(Default::default(), None);
    builder.append(0, None, Some(b"\xff"), &[]).unwrap();
    let bytes = builder.build().unwrap();
    let batch = RecordBatch::trusted(bytes.clone()).unwrap();
    let entry = Entry {
        index: LogIndex(2),
        term: Term(1),
        base_offset: Offset(1),
        header: batch.header(),
        body: EntryBody::Records(&bytes),
    };
    assert!(matches!(state.apply(entry), Err(ApplyError::Command { .. })));
    assert_eq!(state, before);
}
