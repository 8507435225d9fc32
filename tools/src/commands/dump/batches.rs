//! Batches and records, as rows and as JSON.

use headwater_proto::record::{Limits, RecordBatch};
use headwater_storage::inspect::{IndexState, InspectedBatch};
use serde_json::{Value, json};

use super::Detail;
use crate::envelope::{Received, value_text};
use crate::position::rfc3339;

/// Bytes of the header of a batch: a control entry of Headwater's stands behind it.
const HEADER_BYTES: usize = headwater_proto::record::HEADER_BYTES;

/// One batch, ready to print.
#[derive(Debug)]
pub struct Row {
    pub data: Value,
    /// What is wrong with its records, where they were looked at.
    pub flaw: Option<String>,
    cells: Vec<String>,
    records: Vec<String>,
}

/// Headings of [`Row::lines`].
pub fn headings() -> [&'static str; 9] {
    [">POSITION", ">LOG INDEX", ">OFFSET", ">COUNT", ">TERM", ">BYTES", "TIMESTAMP", "STATE", "CONTENT"]
}

impl Row {
    pub fn of(batch: &InspectedBatch, partition: i32, detail: Detail) -> Self {
        let header = &batch.header;
        let control = control(batch);
        let compression =
            header.attributes.compression().map_or("unknown".into(), |c| format!("{c:?}").to_lowercase());
        let index = match batch.index_state {
            IndexState::Consistent => "consistent",
            IndexState::Absent => "absent",
            IndexState::Contradicts => "contradicts",
        };
        let mut data = json!({
            "position": batch.position,
            "log_index": batch.index.map(|index| index.0),
            "base_offset": header.base_offset,
            "last_offset": header.base_offset + i64::from(header.last_offset_delta),
            "offset_count": header.offset_count(),
            "records": header.record_count,
            "term": header.partition_leader_epoch,
            "size_bytes": batch.bytes.len(),
            "compression": compression,
            "base_timestamp": header.base_timestamp,
            "max_timestamp": header.max_timestamp,
            "producer_id": header.producer_id,
            "producer_epoch": header.producer_epoch,
            "base_sequence": header.base_sequence,
            "control": control,
            "crc": if batch.crc_holds { "ok" } else { "broken" },
            "index": index,
        });
        let state = if batch.crc_holds { "ok" } else { "CRC BROKEN" };
        let content = control.unwrap_or_else(|| match header.producer_id {
            -1 => compression.clone(),
            id => format!(
                "{compression}, producer {id}/{} from {}",
                header.producer_epoch, header.base_sequence
            ),
        });
        let timestamp =
            if header.max_timestamp < 0 { "-".to_string() } else { rfc3339(header.max_timestamp) };
        let cells = vec![
            batch.position.to_string(),
            batch.index.map_or_else(|| "?".to_string(), |index| index.to_string()),
            header.base_offset.to_string(),
            header.offset_count().to_string(),
            header.partition_leader_epoch.to_string(),
            batch.bytes.len().to_string(),
            timestamp,
            state.to_string(),
            content,
        ];
        let mut row = Self { data: Value::Null, flaw: None, cells, records: Vec::new() };
        if detail == Detail::Records && batch.crc_holds && !header.attributes.is_control() {
            data["record_list"] = row.add_records(batch, partition);
        }
        row.data = data;
        row
    }

    fn add_records(&mut self, batch: &InspectedBatch, partition: i32) -> Value {
        let mut list = Vec::new();
        let limits = Limits::default();
        let records = RecordBatch::trusted(batch.bytes.clone()).and_then(|batch| batch.records(&limits));
        match records {
            Err(e) => self.flaw = Some(format!("its records cannot be read: {e}")),
            Ok(records) => {
                for record in records {
                    let record = match record {
                        Ok(record) => record,
                        Err(e) => {
                            self.flaw = Some(format!("a record cannot be read: {e}"));
                            break;
                        }
                    };
                    let received = Received {
                        topic: "",
                        partition,
                        offset: record.offset,
                        timestamp: record.timestamp,
                        key: record.key.as_deref(),
                        value: record.value.as_deref(),
                        headers: record
                            .headers
                            .iter()
                            .map(|h| (h.key.as_ref(), h.value.as_deref()))
                            .collect(),
                    };
                    let key = record.key.as_deref().map_or_else(|| "-".into(), |key| value_text(Some(key)));
                    let value =
                        record.value.as_deref().map_or_else(|| "-".into(), |value| value_text(Some(value)));
                    self.records.push(
                        format!("{key}: {value}")
                            .chars()
                            .map(|c| if c.is_control() { ' ' } else { c })
                            .collect(),
                    );
                    list.push(json!(received));
                }
            }
        }
        Value::Array(list)
    }

    /// The batch, and each of its records below it.
    pub fn lines(&self) -> Vec<Vec<String>> {
        let record = |(n, text): (usize, &String)| {
            let mut cells = vec![String::new(); self.cells.len()];
            cells[2] = format!("+{n}");
            cells[8].clone_from(text);
            cells
        };
        std::iter::once(self.cells.clone()).chain(self.records.iter().enumerate().map(record)).collect()
    }
}

/// What a control batch says: one of Headwater's own has no records, and its entry behind the header.
fn control(batch: &InspectedBatch) -> Option<String> {
    if !batch.header.attributes.is_control() {
        return None;
    }
    if batch.header.record_count > 0 {
        return Some("transaction marker".to_string());
    }
    let payload = batch.bytes.get(HEADER_BYTES..).unwrap_or_default();
    let Some((kind, rest)) = payload.split_first_chunk::<2>() else { return Some("control".to_string()) };
    let body = rest.get(2..).unwrap_or_default();
    Some(match u16::from_be_bytes(*kind) {
        0 => "blank".to_string(),
        1 => format!("membership, {} bytes", body.len()),
        2 => match body.first_chunk::<8>() {
            Some(offset) => format!("log start {}", i64::from_be_bytes(*offset)),
            None => "log start".to_string(),
        },
        3 => format!("producer expiry of {}", body.len() / 8),
        4 => "void".to_string(),
        kind => format!("control entry of kind {kind}"),
    })
}
