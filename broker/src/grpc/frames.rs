//! gRPC messages with records, written around the mapped bytes instead of copying them.
//!
//! A message is a five-byte prefix and protobuf; `records` is the last field of `PartitionRecords`, so all
//! that precedes it is encoded into one small buffer, and the records follow as they are. Framing:
//! <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

use bytes::{BufMut, Bytes, BytesMut};
use headwater_proto::v1;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::error::RequestError;
use crate::fetch::Fetched;

/// `PartitionRecords.records`.
const RECORDS_TAG: u32 = 15;
/// `ConsumeResponse.records` and `FetchResponse.partitions`.
const PARTITION_TAG: u32 = 1;
const PREFIX_BYTES: usize = 5;

/// One `ConsumeResponse`, or a `FetchResponse` of any number of partitions: both are field 1, repeated.
/// `explain` words the error of a partition.
pub fn message(fetched: Vec<Fetched>, explain: impl Fn(&str, i32, &RequestError) -> v1::Error) -> Vec<Bytes> {
    let parts: Vec<_> = fetched.into_iter().map(|one| split(one, &explain)).collect();
    let body_bytes: usize = parts.iter().map(|(head, records)| field_bytes(head, records)).sum();
    let mut frames = Vec::with_capacity(parts.len() * 2);
    let mut buffer = BytesMut::new();
    buffer.put_u8(0);
    // The broker's own bounds keep a message far below 4 GiB.
    buffer.put_u32(u32::try_from(body_bytes).unwrap_or(u32::MAX));
    for (head, records) in parts {
        encode_key(PARTITION_TAG, WireType::LengthDelimited, &mut buffer);
        encode_varint((head.encoded_len() + records_bytes(&records)) as u64, &mut buffer);
        head.encode_raw(&mut buffer);
        if !records.is_empty() {
            encode_key(RECORDS_TAG, WireType::LengthDelimited, &mut buffer);
            encode_varint(records.len() as u64, &mut buffer);
            frames.push(buffer.split().freeze());
            frames.push(records);
        }
    }
    if !buffer.is_empty() {
        frames.push(buffer.freeze());
    }
    frames
}

/// Everything but the records, and the records.
fn split(
    fetched: Fetched,
    explain: impl Fn(&str, i32, &RequestError) -> v1::Error,
) -> (v1::PartitionRecords, Bytes) {
    let mut head = v1::PartitionRecords {
        topic: fetched.topic,
        partition: fetched.partition,
        error: None,
        high_watermark: -1,
        log_start_offset: -1,
        leader_epoch: -1,
        next_offset: -1,
        records: Bytes::new(),
    };
    match fetched.outcome {
        Ok(slice) => {
            head.high_watermark = slice.high_watermark.get();
            head.log_start_offset = slice.log_start.get();
            head.leader_epoch = slice.leader_epoch;
            head.next_offset = slice.next_offset.get();
            (head, slice.records)
        }
        Err(error) => {
            if let RequestError::OffsetOutOfRange { log_start, high_watermark, .. } = error {
                (head.log_start_offset, head.high_watermark) = (log_start.get(), high_watermark.get());
            }
            head.error = Some(explain(&head.topic, head.partition, &error));
            (head, Bytes::new())
        }
    }
}

fn records_bytes(records: &Bytes) -> usize {
    if records.is_empty() {
        return 0;
    }
    key_len(RECORDS_TAG) + encoded_len_varint(records.len() as u64) + records.len()
}

fn field_bytes(head: &v1::PartitionRecords, records: &Bytes) -> usize {
    let inner = head.encoded_len() + records_bytes(records);
    key_len(PARTITION_TAG) + encoded_len_varint(inner as u64) + inner
}

/// Splits the one message of a unary request off its body.
///
/// # Errors
/// Words for a body that is not exactly one uncompressed message of this type.
pub fn decode_request<M: Message + Default>(body: Bytes) -> Result<M, String> {
    let (prefix, message) = body.split_first_chunk::<PREFIX_BYTES>().ok_or("the request has no message")?;
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 {
        return Err("compressed messages are not supported here".to_owned());
    }
    if u32::from_be_bytes(length) as usize != message.len() {
        return Err("the length of the message is not that of the request".to_owned());
    }
    M::decode(body.slice(PREFIX_BYTES..)).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use headwater_proto::types::Offset;

    use super::*;
    use crate::partition::Slice;

    fn fetched(partition: i32, records: &'static [u8]) -> Fetched {
        let slice = Slice {
            records: Bytes::from_static(records),
            next_offset: Offset(7),
            high_watermark: Offset(9),
            log_start: Offset(0),
            leader_epoch: 3,
        };
        Fetched { topic: "flights".to_owned(), partition, outcome: Ok(slice) }
    }

    #[test]
    fn frames_are_what_the_codec_would_have_written() {
        let error = RequestError::UnknownTopic { topic: "x".to_owned() };
        let failed = Fetched { topic: "x".to_owned(), partition: 0, outcome: Err(error.clone()) };
        let explain = |_: &str, _, error: &RequestError| error.to_proto();
        let beyond =
            RequestError::OffsetOutOfRange { offset: 12, log_start: Offset(3), high_watermark: Offset(9) };
        let beyond = Fetched { topic: "y".to_owned(), partition: 4, outcome: Err(beyond) };
        let all = vec![fetched(0, &[1; 300]), failed, fetched(2, &[]), fetched(3, &[2]), beyond];
        let frames = message(all, explain);
        assert_eq!(frames.len(), 5, "records are frames of their own: {frames:?}");
        let body: Bytes = frames.concat().into();
        let response: v1::FetchResponse = decode_request(body).unwrap();
        let records: Vec<_> = response.partitions.iter().map(|one| one.records.len()).collect();
        assert_eq!(records, [300, 0, 0, 1, 0]);
        assert_eq!(response.partitions[1].error, Some(error.to_proto()));
        let bounds = (response.partitions[4].log_start_offset, response.partitions[4].high_watermark);
        assert_eq!(bounds, (3, 9), "the bounds of the log come with the error");
        assert_eq!(response.partitions[3].next_offset, 7);
        assert_eq!(response.partitions[3].leader_epoch, 3);
    }

    #[test]
    fn a_request_that_is_not_one_message_is_refused() {
        let decode = |bytes: &'static [u8]| decode_request::<v1::ConsumeRequest>(Bytes::from_static(bytes));
        assert!(decode(&[]).is_err());
        assert!(decode(&[0, 0, 0, 0]).is_err());
        assert!(decode(&[0, 0, 0, 0, 1]).is_err());
        assert!(decode(&[1, 0, 0, 0, 0]).is_err());
        assert!(decode(&[0, 0, 0, 0, 1, 0xff]).is_err());
        assert_eq!(decode(&[0, 0, 0, 0, 0]), Ok(v1::ConsumeRequest::default()));
    }
}
