//! What each replica holds once everything is mended: its records, and the state that it built from them.

use std::collections::BTreeMap;

use headwater_proto::record::{Limits, RecordBatch};
use headwater_proto::types::{GroupId, Offset, PartitionId, TopicId};

use super::load;
use super::nodes::Node;
use crate::history::{ReadRecord, Recorder};
use crate::sim::Result;
use crate::workload;

/// Notes the records of every replica of the load's topics, read from its own log; gives what could not be read.
pub fn note(nodes: &[Node], recorder: &Recorder) -> Vec<String> {
    let mut failures = Vec::new();
    for node in nodes {
        let topics = topics(node);
        for seen in node.observe().unwrap_or_default() {
            let GroupId { topic_id, partition: PartitionId(number) } = seen.group;
            let Some(name) = topics.get(&topic_id) else { continue };
            let (start, end) = (seen.progress.log_start, seen.progress.high_watermark);
            let replica = format!("broker {} replica {}", node.id, seen.replica_id);
            match records(&seen.log, end) {
                Ok(records) => {
                    let partition = (name.clone(), number);
                    recorder.note(|history| history.replica(&partition, &replica, start.get(), records));
                }
                Err(error) => failures.push(format!("{name}-{number}: {replica} cannot be read: {error}")),
            }
        }
    }
    failures
}

/// Whether every replica of the load's topics has applied as much as the others, the log start included: only then do
/// their states vouch for each other.
pub fn agree(nodes: &[Node]) -> bool {
    let mut known = BTreeMap::new();
    nodes.iter().all(|node| {
        let topics = topics(node);
        let seen = node.observe().unwrap_or_default();
        seen.iter()
            .filter(|seen| topics.contains_key(&seen.group.topic_id))
            .all(|seen| *known.entry(seen.group).or_insert(seen.progress) == seen.progress)
    })
}

/// The load's topics, by id, as one broker knows them.
fn topics(node: &Node) -> BTreeMap<TopicId, String> {
    let ours = load::targets();
    let known = node.with_node(|node| {
        node.controller().with_state(|state| {
            state.topics().map(|topic| (topic.id, topic.name.clone())).collect::<BTreeMap<_, _>>()
        })
    });
    let mut known = known.unwrap_or_default();
    known.retain(|_, name| ours.iter().any(|target| *target.topic == **name));
    known
}

fn records(log: &headwater_storage::log::Log, end: Offset) -> Result<Vec<ReadRecord>> {
    const READ_BYTES: usize = 1 << 20;
    let limits = Limits::default();
    let mut found = Vec::new();
    let mut next = log.bounds().first_offset;
    while next < end {
        let slice = log.read(next, end, READ_BYTES)?;
        if slice.next_offset <= next {
            return Err(format!("nothing is read at {next} of {end}").into());
        }
        let mut bytes = slice.bytes;
        while let Some(batch) = RecordBatch::split_first(&mut bytes, &limits)? {
            for record in batch.records(&limits)? {
                let record = record?;
                let value = record.value.as_deref().and_then(workload::value_of);
                found.push((record.offset, value.unwrap_or(u64::MAX)));
            }
        }
        next = slice.next_offset;
    }
    Ok(found)
}

/// Replicas that applied the same entries and are in different states (the producer window among them).
pub fn states_differ(nodes: &[Node]) -> Vec<String> {
    let mut known = BTreeMap::new();
    let mut differences = Vec::new();
    for node in nodes {
        for (group, applied, state) in node.with_node(|node| node.states()).unwrap_or_default() {
            let (first, expected) = known.entry((group, applied)).or_insert_with(|| (node.id, state.clone()));
            if *expected != state {
                let (one, other) = (*first, node.id);
                differences.push(format!(
                    "group {group}: brokers {one} and {other} differ in their state at {applied:?}"
                ));
            }
        }
    }
    differences
}
