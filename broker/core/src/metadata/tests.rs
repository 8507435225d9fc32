#![allow(clippy::unwrap_used)]

use headwater_proto::types::{LogIndex, Term, TimestampMs};
use proptest::prelude::*;

use super::*;

fn broker(id: i32) -> Broker {
    Broker {
        id: BrokerId(id),
        incarnation: Incarnation([id as u8; 16]),
        grpc_address: format!("h{id}:9093"),
        kafka_address: format!("h{id}:9092"),
        peer_address: format!("h{id}:9094"),
        rack: String::new(),
        version: "1".to_owned(),
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

fn cluster() -> MetadataState {
    let mut state = MetadataState::default();
    apply(&mut state, &Command::RegisterBroker(broker(1))).unwrap();
    state
}

#[test]
fn a_topic_created_again_under_its_name_is_another_one() {
    let mut state = cluster();
    assert_eq!(apply(&mut state, &create(7, "a", 2)), Ok(Effect::TopicCreated));
    assert_eq!(apply(&mut state, &create(8, "a", 2)), Err(MetadataError::TopicExists("a".to_owned())));
    let first: Vec<_> = state.topic("a").unwrap().partitions.concat();
    apply(&mut state, &Command::DeleteTopic { id: TopicId([7; 16]) }).unwrap();
    assert_eq!(state.topic("a"), None);
    apply(&mut state, &create(8, "a", 2)).unwrap();
    let second = state.topic("a").unwrap().partitions.concat();
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
    assert_eq!(code(&far), "INVALID_REPLICATION_FACTOR");
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

fn any_command() -> impl Strategy<Value = Command> {
    let id = (0_u8..4).prop_map(|seed| TopicId([seed; 16]));
    let assignments = prop::collection::vec(prop::collection::vec((1_i32..4).prop_map(BrokerId), 0..3), 0..4);
    let value = prop::option::of("[0-9]{1,4}");
    prop_oneof![
        (1_i32..4).prop_map(|id| Command::RegisterBroker(broker(id))),
        (id.clone(), "[ab._]{1,2}", assignments.clone()).prop_map(|(id, name, assignments)| {
            Command::CreateTopic { id, name, assignments, overrides: Overrides::new() }
        }),
        id.clone().prop_map(|id| Command::DeleteTopic { id }),
        (id.clone(), 0_usize..4, assignments)
            .prop_map(|(id, before, assignments)| { Command::CreatePartitions { id, before, assignments } }),
        (id, prop::collection::vec(("retention.(ms|bytes)", value), 0..3))
            .prop_map(|(id, changes)| Command::AlterConfigs { id, changes }),
        (1_u32..2_000).prop_map(|count| Command::AllocateProducerIds { count }),
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
