//! Places as people name them, resolved to an offset in each partition.

use std::collections::BTreeMap;

use headwater_client::{Admin, OffsetSpec, TopicPartition};

use crate::exit::{Exit, Failure};
use crate::position::{Place, now_ms, rfc3339};

/// The bounds of a partition's records: `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub start: i64,
    pub end: i64,
}

/// The bounds of the chosen partitions; of all, when none is chosen.
pub async fn bounds(admin: &Admin, topic: &str, chosen: &[i32]) -> Result<BTreeMap<i32, Bounds>, Failure> {
    let found = match admin.describe_topics([topic]).await?.pop() {
        Some((_, result)) => result?,
        None => {
            return Err(Failure::new(Exit::NotFound, format!("the broker said nothing of topic {topic}")));
        }
    };
    let there: Vec<i32> = found.partitions.iter().map(|p| p.partition).collect();
    if let Some(missing) = chosen.iter().find(|p| !there.contains(p)) {
        return Err(Failure::new(
            Exit::NotFound,
            format!("topic {topic} has no partition {missing}; it has {} of them, from 0", there.len()),
        ));
    }
    let wanted: Vec<i32> = if chosen.is_empty() { there } else { chosen.to_vec() };
    let starts = ask(admin, topic, wanted.iter().map(|p| (*p, OffsetSpec::LogStart))).await?;
    let ends = ask(admin, topic, wanted.iter().map(|p| (*p, OffsetSpec::HighWatermark))).await?;
    let mut bounds = BTreeMap::new();
    for partition in wanted {
        let start = starts.get(&partition).copied().flatten().unwrap_or(0);
        let end = ends.get(&partition).copied().flatten().unwrap_or(start).max(start);
        bounds.insert(partition, Bounds { start, end });
    }
    Ok(bounds)
}

/// The offset of a place in each partition, never outside its bounds.
pub async fn resolve(
    admin: &Admin,
    topic: &str,
    place: Place,
    bounds: &BTreeMap<i32, Bounds>,
) -> Result<BTreeMap<i32, i64>, Failure> {
    let by_time = match place.at(now_ms()) {
        Place::Time(ms) => {
            let found = ask(admin, topic, bounds.keys().map(|p| (*p, OffsetSpec::Timestamp(ms)))).await;
            found.map_err(|e| e.at(format!("looking for {}", rfc3339(ms))))?
        }
        _ => BTreeMap::new(),
    };
    Ok(bounds
        .iter()
        .map(|(partition, bounds)| {
            (*partition, offset(place, *bounds, by_time.get(partition).copied().flatten()))
        })
        .collect())
}

fn offset(place: Place, bounds: Bounds, by_time: Option<i64>) -> i64 {
    match place {
        Place::Start => bounds.start,
        Place::End => bounds.end,
        Place::BeforeEnd(records) => bounds.end.saturating_sub(records).max(bounds.start),
        Place::Offset(offset) => offset.clamp(bounds.start, bounds.end),
        // No record is that late: the end.
        Place::Time(_) | Place::Ago(_) => {
            by_time.map_or(bounds.end, |found| found.clamp(bounds.start, bounds.end))
        }
    }
}

async fn ask(
    admin: &Admin,
    topic: &str,
    asked: impl Iterator<Item = (i32, OffsetSpec)>,
) -> Result<BTreeMap<i32, Option<i64>>, Failure> {
    let asked = asked.map(|(partition, spec)| (TopicPartition::new(topic, partition), spec)).collect();
    let mut found = BTreeMap::new();
    for (partition, result) in admin.list_offsets(asked).await? {
        found.insert(partition.partition, result?.offset);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_never_leaves_the_bounds() {
        let bounds = Bounds { start: 10, end: 100 };
        let cases = [
            (Place::Start, None, 10),
            (Place::End, None, 100),
            (Place::BeforeEnd(5), None, 95),
            (Place::BeforeEnd(1_000), None, 10),
            (Place::Offset(3), None, 10),
            (Place::Offset(50), None, 50),
            (Place::Offset(500), None, 100),
            (Place::Time(7), Some(60), 60),
            (Place::Time(7), Some(500), 100),
            (Place::Ago(7), None, 100),
        ];
        for (place, by_time, expected) in cases {
            assert_eq!(offset(place, bounds, by_time), expected, "{place:?}");
        }
    }
}
