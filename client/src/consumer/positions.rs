//! From a position in words to an offset.

use std::collections::BTreeMap;

use super::config::Position;
use crate::admin::{OffsetSpec, list_offsets};
use crate::{Client, ClientError, TopicPartition};

/// Where a partition begins for a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StartAt {
    pub offset: i64,
    pub high_watermark: i64,
}

/// Resolves positions at the leaders, and learns the partitions' ends on the way.
pub async fn resolve(
    client: &Client,
    wanted: Vec<(TopicPartition, Position)>,
) -> Result<BTreeMap<TopicPartition, StartAt>, ClientError> {
    let ends = wanted.iter().map(|(partition, _)| (partition.clone(), OffsetSpec::HighWatermark)).collect();
    let ends = offsets(client, ends).await?;
    let end = |partition: &TopicPartition| ends.get(partition).copied().flatten().unwrap_or(0);
    let asked = wanted.iter().filter_map(|(partition, position)| {
        let spec = match position {
            Position::Start => OffsetSpec::LogStart,
            Position::Timestamp(timestamp_ms) => OffsetSpec::Timestamp(*timestamp_ms),
            Position::End | Position::Offset(_) => return None,
        };
        Some((partition.clone(), spec))
    });
    let asked: Vec<_> = asked.collect();
    let found = if asked.is_empty() { BTreeMap::new() } else { offsets(client, asked).await? };
    let start = |(partition, position): (TopicPartition, Position)| {
        let high_watermark = end(&partition);
        let offset = match position {
            Position::Offset(offset) => offset,
            Position::End => high_watermark,
            // No record of that time or later: the next to come is the first.
            Position::Start | Position::Timestamp(_) => {
                found.get(&partition).copied().flatten().unwrap_or(high_watermark)
            }
        };
        (partition, StartAt { offset, high_watermark })
    };
    Ok(wanted.into_iter().map(start).collect())
}

async fn offsets(
    client: &Client,
    asked: Vec<(TopicPartition, OffsetSpec)>,
) -> Result<BTreeMap<TopicPartition, Option<i64>>, ClientError> {
    let listed = list_offsets(client, asked).await?;
    listed.into_iter().map(|(partition, result)| Ok((partition, result?.offset))).collect()
}
