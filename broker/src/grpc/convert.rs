//! Small translations that several calls share.

use headwater_proto::{ErrorCode, v1};
use tonic::Status;

use crate::error::RequestError;
use crate::fetch::Position;
use crate::node::Node;

/// The error field of an answer: absent where nothing went wrong.
pub fn error_of<T>(outcome: &Result<T, RequestError>) -> Option<v1::Error> {
    outcome.as_ref().err().map(RequestError::to_proto)
}

/// The error field of one partition's answer, with the leader where that is what the client needs.
pub fn error_at<T>(
    node: &Node,
    topic: &str,
    partition: i32,
    outcome: &Result<T, RequestError>,
) -> Option<v1::Error> {
    outcome.as_ref().err().map(|error| explain(node, topic, partition, error))
}

/// As [`error_at`], of an error.
pub fn explain(node: &Node, topic: &str, partition: i32, error: &RequestError) -> v1::Error {
    let asks_for_the_leader = matches!(
        error.code(),
        ErrorCode::NotLeaderOrFollower
            | ErrorCode::LeaderNotAvailable
            | ErrorCode::FencedLeaderEpoch
            | ErrorCode::UnknownLeaderEpoch
            | ErrorCode::OffsetNotAvailable
    );
    let leader = asks_for_the_leader.then(|| node.leader_hint(topic, partition)).flatten();
    let leader = leader.map(|leader| v1::LeaderHint {
        leader_id: leader.broker.get(),
        leader_epoch: leader.epoch,
        leader_address: leader.address,
    });
    v1::Error { leader, ..error.to_proto() }
}

/// Refuses a request that names too many topics.
pub fn check_topics(node: &Node, found: usize) -> Result<(), Status> {
    check("topics", found, node.config().requests.topics_max)
}

/// Refuses a request that names too many partitions.
pub fn check_partitions(node: &Node, found: usize) -> Result<(), Status> {
    check("partitions", found, node.config().requests.partitions_max)
}

fn check(what: &'static str, found: usize, limit: usize) -> Result<(), Status> {
    if found > limit { Err(RequestError::TooMany { what, found, limit }.to_status()) } else { Ok(()) }
}

pub fn positions(partitions: Vec<v1::FetchPartition>, allow_follower: bool) -> Vec<Position> {
    let position = |wanted: v1::FetchPartition| Position {
        topic: wanted.topic,
        partition: wanted.partition,
        offset: wanted.offset,
        leader_epoch: wanted.leader_epoch,
        allow_follower,
    };
    partitions.into_iter().map(position).collect()
}

/// The bound that a request asks for, within the broker's; 0 asks for the default.
pub fn bound(asked: u32, default: usize, max: usize) -> usize {
    match asked {
        0 => default.min(max),
        asked => (asked as usize).min(max),
    }
}

/// The time-out that a request asks for, within the broker's; 0 asks for the longest.
pub fn timeout_ms(node: &Node, asked: u32) -> u64 {
    let max = node.config().requests.timeout_ms_max;
    if asked == 0 { max } else { u64::from(asked).min(max) }
}
