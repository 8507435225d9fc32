//! The messages of the wire, and what they stand for.

use bytes::Bytes;
use headwater_proto::types::{GroupId, PartitionId, ReplicaId, TopicId};
use headwater_proto::v1;

use super::node::NodeResponse;
use crate::peer::{Body, GroupRequest, Lane, Refusal, RequestKind};

/// What a call brought.
#[derive(Debug)]
pub(super) enum Answer {
    Group(Bytes),
    Node(NodeResponse),
}

pub(super) const LANES: [Lane; 3] = [Lane::Control, Lane::Append, Lane::Snapshot];

pub(super) const fn lane_number(lane: Lane) -> u32 {
    match lane {
        Lane::Control => 1,
        Lane::Append => 2,
        Lane::Snapshot => 3,
    }
}

pub(super) const fn lane_name(lane: Lane) -> &'static str {
    match lane {
        Lane::Control => "control",
        Lane::Append => "append",
        Lane::Snapshot => "snapshot",
    }
}

/// Everything of a group's call but its body.
pub(super) fn call_head(request: &GroupRequest) -> v1::GroupCall {
    v1::GroupCall {
        topic_id: Bytes::copy_from_slice(&request.group.topic_id.0),
        partition: request.group.partition.get(),
        from: request.from.get(),
        target: request.target.get(),
        kind: request.kind as u32,
        body: Bytes::new(),
    }
}

pub(super) fn group_request(call: v1::GroupCall) -> Result<GroupRequest, Refusal> {
    let malformed = |what: String| Refusal::Malformed(what);
    let topic_id = <[u8; 16]>::try_from(&call.topic_id[..])
        .map_err(|_| malformed(format!("a topic id of {} bytes", call.topic_id.len())))?;
    let kind = request_kind(call.kind)
        .ok_or_else(|| malformed(format!("requests of kind {} are not known here", call.kind)))?;
    Ok(GroupRequest {
        group: GroupId { topic_id: TopicId(topic_id), partition: PartitionId(call.partition) },
        from: ReplicaId(call.from),
        target: ReplicaId(call.target),
        kind,
        body: Body::from(call.body),
    })
}

fn request_kind(number: u32) -> Option<RequestKind> {
    const KINDS: [RequestKind; 7] = [
        RequestKind::Append,
        RequestKind::Heartbeat,
        RequestKind::Vote,
        RequestKind::PreVote,
        RequestKind::TransferLeader,
        RequestKind::Snapshot,
        RequestKind::LogEnds,
    ];
    KINDS.into_iter().find(|kind| *kind as u32 == number)
}

pub(super) fn refused(refusal: Refusal) -> v1::Refused {
    let (reason, message) = match refusal {
        Refusal::NoSuchReplica => (1, String::new()),
        Refusal::TornTail => (2, String::new()),
        Refusal::Stopped(message) => (3, message),
        Refusal::Malformed(message) => (4, message),
    };
    v1::Refused { reason, message }
}

/// The outcome of a call, as the reply says.
pub(super) fn outcome(reply: v1::Reply) -> Result<Answer, Refusal> {
    use v1::reply::Outcome;
    match reply.outcome {
        Some(Outcome::Body(body)) => Ok(Answer::Group(body)),
        Some(Outcome::Node(v1::NodeResponse { response: Some(response) })) => Ok(Answer::Node(response)),
        Some(Outcome::Refused(v1::Refused { reason, message })) => Err(match reason {
            1 => Refusal::NoSuchReplica,
            2 => Refusal::TornTail,
            4 => Refusal::Malformed(message),
            _ => Refusal::Stopped(message),
        }),
        Some(Outcome::Node(_)) | None => Err(Refusal::Malformed("an answer of an unknown kind".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn requests_and_refusals_survive_the_wire() {
        let group = GroupId { topic_id: TopicId([9; 16]), partition: PartitionId(4) };
        for number in 1..=7 {
            let kind = request_kind(number).unwrap();
            let body = Body::from(Bytes::from_static(b"body"));
            let request = GroupRequest { group, from: ReplicaId(1), target: ReplicaId(2), kind, body };
            let call = v1::GroupCall { body: Bytes::from_static(b"body"), ..call_head(&request) };
            let read = group_request(call).unwrap();
            assert_eq!((read.group, read.from, read.target), (group, ReplicaId(1), ReplicaId(2)));
            assert_eq!((read.kind, read.body), (kind, request.body));
        }
        assert!(request_kind(0).is_none() && request_kind(8).is_none());
        let refusals = [
            Refusal::NoSuchReplica,
            Refusal::TornTail,
            Refusal::Stopped("a".into()),
            Refusal::Malformed("b".into()),
        ];
        for refusal in refusals {
            let outcome_sent = v1::reply::Outcome::Refused(refused(refusal.clone()));
            let read = outcome(v1::Reply { correlation: 1, outcome: Some(outcome_sent) });
            assert_eq!(read.unwrap_err(), refusal);
        }
        assert!(outcome(v1::Reply::default()).is_err());
    }
}
