//! What brokers wrote before they knew one another must be read for ever: bytes kept as they wrote them.

use super::*;

/// A lone broker registers, creates two topics, adds a partition, alters configs, deletes a topic and takes
/// producer ids.
const COMMANDS: [&str; 7] = [
    "0801123608011210010101010101010101010101010101011a0768313a39303933220768313a393039322a0768313a39\
     303934320272313a0131",
    "08011a3a0a100707070707070707070707070707070712066f72646572731a030a01011a030a010122140a0c72657465\
     6e74696f6e2e6d73120431303030",
    "08011a1d0a10080808080808080808080808080808081204676f6e651a030a0101",
    "08012a190a100707070707070707070707070707070710021a030a0101",
    "0801323a0a1007070707070707070707070707070707120e0a0c726574656e74696f6e2e6d7312160a0d7365676d656e\
     742e627974657312053230303030",
    "0801221008080808080808080808080808080808",
    "080138e807",
];

/// The tables after them.
const STATE: &str = "0801120c0807100118072a04080118011a3608011210010101010101010101010101010101011a0768313a3930393322\
     0768313a393039322a0768313a39303934320272313a01312283010a100707070707070707070707070707070712066f\
     72646572731a190a1708e80710011a10010101010101010101010101010101011a190a1708e90710011a100101010101\
     01010101010101010101011a190a1708eb0710011a100101010101010101010101010101010122160a0d7365676d656e\
     742e62797465731205323030303028ec0730e807";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex.chars().map(|digit| digit.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect()
}

/// Applies encoded commands as they lie in an old log.
fn replayed() -> MetadataState {
    let mut state = MetadataState::default();
    for command in COMMANDS {
        let command = Command::decode(&bytes(command)).unwrap();
        apply(&mut state, &command).unwrap();
    }
    state
}

#[test]
fn an_old_log_replays_to_what_its_tables_say() {
    assert_eq!(MetadataState::decode(&bytes(STATE)), Ok(replayed()));
}

#[test]
fn old_tables_hold_what_was_written() {
    let state = MetadataState::decode(&bytes(STATE)).unwrap();
    let known = state.broker(BrokerId(1)).unwrap();
    assert_eq!(known, &Broker { rack: "r1".to_owned(), ..broker(1) });
    assert_eq!(state.topics().count(), 1);
    let topic = state.topic("orders").unwrap();
    assert_eq!(topic.overrides, Overrides::from([("segment.bytes".to_owned(), "20000".to_owned())]));
    let replica = |id| Replica { id: ReplicaId(id), broker: BrokerId(1), incarnation: Incarnation([1; 16]) };
    let expected = [1_000, 1_001, 1_003].map(|id| Partition::created(vec![replica(id)]));
    assert_eq!(topic.partitions, expected, "the ids with which its partitions are journalled");
    assert_eq!(state.metadata_replica(BrokerId(1)), Some(replica(1)));
    assert_eq!((state.next_replica_id, state.next_producer_id), (ReplicaId(1_004), ProducerId(1_000)));
    assert_eq!(MetadataState::decode(&state.encode()), Ok(state));
}

#[test]
fn the_broker_of_old_tables_can_be_joined_by_others() {
    let mut state = replayed();
    let restarted = Command::RegisterBroker { broker: broker(1), metadata_replica: Some(FIRST_REPLICA_ID) };
    let registered = Effect::BrokerRegistered { metadata_replica: FIRST_REPLICA_ID };
    assert_eq!(apply(&mut state, &restarted), Ok(registered));
    let joins = Command::RegisterBroker { broker: broker(2), metadata_replica: None };
    let registered = Effect::BrokerRegistered { metadata_replica: ReplicaId(1_004) };
    assert_eq!(apply(&mut state, &joins), Ok(registered));
}
