//! Figures of the partitions for `/metrics`, computed when they are asked for.

use std::sync::Arc;

use super::{Description, Partition};
use crate::metrics::Exposition;

/// Name, help, and the figure of one family.
type Family = (&'static str, &'static str, fn(&Description) -> i64);

const FAMILIES: &[Family] = &[
    ("headwater_partition_high_watermark", "Next offset to be committed.", |d| {
        d.progress.high_watermark.get()
    }),
    ("headwater_partition_log_start_offset", "First readable offset.", |d| d.progress.log_start.get()),
    ("headwater_partition_size_bytes", "Bytes of all segments.", |d| {
        i64::try_from(d.size_bytes()).unwrap_or(i64::MAX)
    }),
    ("headwater_partition_segments", "Segments.", |d| i64::try_from(d.segments.len()).unwrap_or(i64::MAX)),
    ("headwater_partition_leader_epoch", "Leader epoch; -1 while this broker does not lead.", |d| {
        d.leader_epoch.into()
    }),
    (
        "headwater_partition_damaged",
        "1 while part of the partition cannot be read or written, else 0.",
        |d| i64::from(!d.damage.is_empty()),
    ),
];

/// Every figure of every partition.
pub fn scrape(partitions: &[Arc<Partition>], out: &mut Exposition) {
    let described: Vec<_> = partitions.iter().map(|partition| (partition, partition.describe())).collect();
    for (name, help, figure) in FAMILIES {
        out.gauge(name, help);
        for (partition, description) in &described {
            let labels: [(&str, &dyn std::fmt::Display); 2] =
                [("topic", &partition.topic()), ("partition", &partition.id().partition)];
            out.sample(name, &labels, figure(description));
        }
    }
}
