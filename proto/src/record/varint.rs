//! Zigzag variable-length integers, as protobuf and Kafka's records write them.
//!
//! Source: <https://protobuf.dev/programming-guides/encoding/#signed-ints>. Non-canonical encodings
//! (padded with zero groups) are read, as Kafka reads them; bits beyond the type's width are refused.

use super::RecordError;

/// Bytes of the longest encoding of an `i64`.
pub const VARLONG_BYTES_MAX: usize = 10;

/// Bytes of the longest encoding of an `i32`.
const VARINT_BYTES_MAX: usize = 5;

/// Bytes that `value` takes; the same for an `i32` of equal value.
#[must_use]
pub const fn size(value: i64) -> usize {
    let bits = 64 - (zigzag(value) | 1).leading_zeros() as usize;
    bits.div_ceil(7)
}

/// Writes `value` at `at`, and returns where it ends.
///
/// The caller has [`VARLONG_BYTES_MAX`] bytes of room; fewer are a slice-index panic.
#[inline]
pub fn write(out: &mut [u8], mut at: usize, value: i64) -> usize {
    let mut rest = zigzag(value);
    while rest >= 0x80 {
        out[at] = rest as u8 | 0x80;
        rest >>= 7;
        at += 1;
    }
    out[at] = rest as u8;
    at + 1
}

/// Takes an `i32` off the front of `bytes`.
///
/// # Errors
/// [`RecordError::Varint`] when it runs past the end of `bytes`, five bytes or 32 bits.
#[inline]
pub fn take_i32(bytes: &mut &[u8]) -> Result<i32, RecordError> {
    if let [byte @ 0..0x80, rest @ ..] = bytes {
        let value = u32::from(*byte);
        *bytes = rest;
        return Ok((value >> 1) as i32 ^ -((value & 1) as i32));
    }
    let raw = take_unsigned(bytes, VARINT_BYTES_MAX)?;
    let raw = u32::try_from(raw).map_err(|_| RecordError::Varint)?;
    Ok((raw >> 1) as i32 ^ -((raw & 1) as i32))
}

/// Takes an `i64` off the front of `bytes`.
///
/// # Errors
/// [`RecordError::Varint`] when it runs past the end of `bytes`, ten bytes or 64 bits.
#[inline]
pub fn take_i64(bytes: &mut &[u8]) -> Result<i64, RecordError> {
    let raw = take_unsigned(bytes, VARLONG_BYTES_MAX)?;
    Ok((raw >> 1) as i64 ^ -((raw & 1) as i64))
}

const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

#[inline]
fn take_unsigned(bytes: &mut &[u8], longest: usize) -> Result<u64, RecordError> {
    let mut raw = 0;
    for (n, byte) in bytes.iter().take(longest).enumerate() {
        let group = u64::from(byte & 0x7f);
        // The tenth group holds bit 63 alone.
        if n == VARLONG_BYTES_MAX - 1 && group > 1 {
            return Err(RecordError::Varint);
        }
        raw |= group << (7 * n);
        if byte & 0x80 == 0 {
            *bytes = &bytes[n + 1..];
            return Ok(raw);
        }
    }
    Err(RecordError::Varint)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn encode(value: i64) -> Vec<u8> {
        let mut out = [0; VARLONG_BYTES_MAX];
        let end = write(&mut out, 0, value);
        out[..end].to_vec()
    }

    #[test]
    fn known_encodings() {
        for (value, bytes) in [
            (0, &[0x00][..]),
            (-1, &[0x01]),
            (1, &[0x02]),
            (63, &[0x7e]),
            (-64, &[0x7f]),
            (64, &[0x80, 0x01]),
            (i64::from(i32::MAX), &[0xfe, 0xff, 0xff, 0xff, 0x0f]),
            (i64::from(i32::MIN), &[0xff, 0xff, 0xff, 0xff, 0x0f]),
            (i64::MIN, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ] {
            assert_eq!(encode(value), bytes, "{value}");
        }
    }

    #[test]
    fn what_runs_over_its_width_is_refused() {
        let over_i32 = encode(i64::from(i32::MAX) + 1);
        assert_eq!(take_i32(&mut over_i32.as_slice()), Err(RecordError::Varint));
        assert_eq!(take_i32(&mut &[0x80; 5][..]), Err(RecordError::Varint));
        assert_eq!(take_i64(&mut &[0xff; 10][..]), Err(RecordError::Varint));
        let mut over_i64 = [0x80; 10];
        over_i64[9] = 0x02;
        assert_eq!(take_i64(&mut &over_i64[..]), Err(RecordError::Varint));
    }

    #[test]
    fn zero_padding_is_read_as_kafka_reads_it() {
        assert_eq!(take_i32(&mut &[0x82, 0x80, 0x00][..]), Ok(1));
    }

    proptest! {
        #[test]
        fn every_value_reads_back(value: i64, tail: Vec<u8>) {
            let mut bytes = encode(value);
            prop_assert_eq!(bytes.len(), size(value));
            bytes.extend(&tail);
            let mut rest = bytes.as_slice();
            prop_assert_eq!(take_i64(&mut rest), Ok(value));
            prop_assert_eq!(rest, tail.as_slice());
        }

        #[test]
        fn every_truncation_is_an_error(value: i64) {
            let bytes = encode(value);
            for end in 0..bytes.len() {
                prop_assert_eq!(take_i64(&mut &bytes[..end]), Err(RecordError::Varint));
            }
        }

        #[test]
        fn narrow_values_read_back(value: i32) {
            prop_assert_eq!(take_i32(&mut encode(i64::from(value)).as_slice()), Ok(value));
        }
    }
}
