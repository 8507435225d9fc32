//! gRPC's framing of the peer protocol, both ways, without copies of record bytes that can be spared.
//!
//! Written: record bytes are the last field of the message that carries them, so what precedes them goes into a
//! small buffer of its own, and they follow as they are. Read: what lies in one HTTP/2 frame is a slice of it, and the
//! rest is copied together once. Framing: <https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>.

use std::future::poll_fn;
use std::pin::Pin;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use headwater_proto::v1;
use http::HeaderMap;
use prost::Message;
use prost::encoding::{
    DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, encoded_len_varint,
    key_len, skip_field,
};
use thiserror::Error;

use crate::peer::Body;

/// Compressed flag, then the length as a big-endian `u32`.
const PREFIX_BYTES: usize = 5;
/// `LaneRequest.calls` and `LaneResponse.replies`.
const ITEM_TAG: u32 = 2;
/// `LaneRequest.hello` and `LaneResponse.hello`.
const HELLO_TAG: u32 = 1;
/// `GroupCall.body` and `Reply.body`.
const BODY_TAG: u32 = 15;
/// `Call.correlation` and `Reply.correlation`.
const CORRELATION_TAG: u32 = 1;
/// `Call.group`.
const GROUP_TAG: u32 = 2;
/// Shorter pieces are copied: a frame of their own costs more.
const COPIED_BYTES_MAX: usize = 1_024;

/// Why a stream of messages cannot be read on.
#[derive(Debug, Error)]
pub(super) enum FrameError {
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("the stream ends within a message")]
    Truncated,
    #[error("a compressed message")]
    Compressed,
    #[error("a message of {bytes} bytes, more than {max}")]
    TooLong { bytes: usize, max: usize },
    #[error("a message that cannot be read: {0}")]
    Malformed(#[from] prost::DecodeError),
}

/// One call or reply, as a field of the message that carries it.
#[derive(Debug)]
pub(super) struct Item {
    pieces: Vec<Bytes>,
    len: usize,
}

impl Item {
    pub(super) const fn len(&self) -> usize {
        self.len
    }

    /// A call of a group; `head` is without body.
    pub(super) fn group_call(correlation: u64, head: &v1::GroupCall, body: Body) -> Self {
        let body_len = if body.is_empty() { 0 } else { field_len(BODY_TAG, body.len()) };
        let group = head.encoded_len() + body_len;
        let call = correlation_len(correlation) + field_len(GROUP_TAG, group);
        let mut buffer = BytesMut::with_capacity(call - body.len() + 16);
        put_len(ITEM_TAG, call, &mut buffer);
        put_correlation(correlation, &mut buffer);
        put_len(GROUP_TAG, group, &mut buffer);
        head.encode_raw(&mut buffer);
        if !body.is_empty() {
            put_len(BODY_TAG, body.len(), &mut buffer);
        }
        Self::new(buffer, body)
    }

    /// The answer of a group.
    pub(super) fn group_reply(correlation: u64, body: Body) -> Self {
        let reply = correlation_len(correlation) + field_len(BODY_TAG, body.len());
        let mut buffer = BytesMut::with_capacity(32);
        put_len(ITEM_TAG, reply, &mut buffer);
        put_correlation(correlation, &mut buffer);
        put_len(BODY_TAG, body.len(), &mut buffer);
        Self::new(buffer, body)
    }

    /// A call or reply without record bytes.
    pub(super) fn small(message: &impl Message) -> Self {
        let mut buffer = BytesMut::with_capacity(field_len(ITEM_TAG, message.encoded_len()));
        prost::encoding::message::encode(ITEM_TAG, message, &mut buffer);
        Self::new(buffer, Body::default())
    }

    fn new(buffer: BytesMut, body: Body) -> Self {
        let len = buffer.len() + body.len();
        let mut pieces = Vec::with_capacity(1 + body.pieces().len());
        pieces.push(buffer.freeze());
        pieces.extend(body.pieces().iter().cloned());
        Self { pieces, len }
    }
}

/// One message of these items, as the frames to write.
pub(super) fn message(items: Vec<Item>) -> std::collections::VecDeque<Bytes> {
    let len: usize = items.iter().map(Item::len).sum();
    let mut frames = std::collections::VecDeque::with_capacity(items.len() + 1);
    let mut buffer = BytesMut::with_capacity(PREFIX_BYTES + len.min(COPIED_BYTES_MAX * (1 + items.len())));
    put_prefix(len, &mut buffer);
    for piece in items.into_iter().flat_map(|item| item.pieces) {
        if piece.len() <= COPIED_BYTES_MAX {
            buffer.put_slice(&piece);
        } else {
            // h2 closes a connection after its hundredth empty frame.
            if !buffer.is_empty() {
                frames.push_back(buffer.split().freeze());
            }
            frames.push_back(piece);
        }
    }
    if !buffer.is_empty() {
        frames.push_back(buffer.freeze());
    }
    frames
}

/// The first message of a stream.
pub(super) fn hello(hello: &impl Message) -> Bytes {
    let len = field_len(HELLO_TAG, hello.encoded_len());
    let mut buffer = BytesMut::with_capacity(PREFIX_BYTES + len);
    put_prefix(len, &mut buffer);
    prost::encoding::message::encode(HELLO_TAG, hello, &mut buffer);
    buffer.freeze()
}

/// The one message of a unary call.
pub(super) fn unary(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut buffer = BytesMut::with_capacity(PREFIX_BYTES + len);
    put_prefix(len, &mut buffer);
    message.encode_raw(&mut buffer);
    buffer.freeze()
}

fn put_prefix(len: usize, buffer: &mut BytesMut) {
    buffer.put_u8(0);
    // The limit on messages is far below 4 GiB.
    buffer.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
}

fn put_len(tag: u32, len: usize, buffer: &mut BytesMut) {
    encode_key(tag, WireType::LengthDelimited, buffer);
    encode_varint(len as u64, buffer);
}

fn put_correlation(correlation: u64, buffer: &mut BytesMut) {
    prost::encoding::uint64::encode(CORRELATION_TAG, &correlation, buffer);
}

fn correlation_len(correlation: u64) -> usize {
    prost::encoding::uint64::encoded_len(CORRELATION_TAG, &correlation)
}

fn field_len(tag: u32, len: usize) -> usize {
    key_len(tag) + encoded_len_varint(len as u64) + len
}

/// What a message of a lane holds, one after the other: decoded as a whole, a message of many empty items would
/// take a hundred times its length.
#[derive(Debug)]
pub(super) struct Items {
    rest: Bytes,
}

/// One field of a lane's message.
#[derive(Debug)]
pub(super) enum Field<H, I> {
    Hello(H),
    Item(I),
}

impl Items {
    pub(super) const fn of(message: Bytes) -> Self {
        Self { rest: message }
    }

    /// The next field; unknown ones are skipped.
    pub(super) fn next<H, I>(&mut self) -> Result<Option<Field<H, I>>, FrameError>
    where
        H: Message + Default,
        I: Message + Default,
    {
        while self.rest.has_remaining() {
            let (tag, wire_type) = decode_key(&mut self.rest)?;
            if wire_type != WireType::LengthDelimited || (tag != HELLO_TAG && tag != ITEM_TAG) {
                skip_field(wire_type, tag, &mut self.rest, DecodeContext::default())?;
                continue;
            }
            let len = usize::try_from(decode_varint(&mut self.rest)?).unwrap_or(usize::MAX);
            if len > self.rest.len() {
                return Err(FrameError::Truncated);
            }
            let field = self.rest.split_to(len);
            let field = if tag == HELLO_TAG {
                Field::Hello(H::decode(field)?)
            } else {
                Field::Item(I::decode(field)?)
            };
            return Ok(Some(field));
        }
        Ok(None)
    }
}

/// Cuts a body into messages.
#[derive(Debug)]
pub(super) struct Deframer<B> {
    body: B,
    /// Read and not used yet.
    chunk: Bytes,
    trailers: Option<HeaderMap>,
}

impl<B> Deframer<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::error::Error,
{
    pub(super) const fn new(body: B) -> Self {
        Self { body, chunk: Bytes::new(), trailers: None }
    }

    /// Trailers that ended the body.
    pub(super) const fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_ref()
    }

    /// The length of the next message; `None` at the end of the stream.
    pub(super) async fn next_len(&mut self, max: usize) -> Result<Option<usize>, FrameError> {
        let mut prefix = [0; PREFIX_BYTES];
        let mut filled = 0;
        while filled < PREFIX_BYTES {
            if self.chunk.is_empty() && !self.read().await? {
                return if filled == 0 { Ok(None) } else { Err(FrameError::Truncated) };
            }
            let taken = self.chunk.len().min(PREFIX_BYTES - filled);
            self.chunk.copy_to_slice(&mut prefix[filled..filled + taken]);
            filled += taken;
        }
        let [compressed, length @ ..] = prefix;
        if compressed != 0 {
            return Err(FrameError::Compressed);
        }
        let bytes = u32::from_be_bytes(length) as usize;
        if bytes > max { Err(FrameError::TooLong { bytes, max }) } else { Ok(Some(bytes)) }
    }

    /// The message whose length was read last.
    pub(super) async fn message(&mut self, len: usize) -> Result<Bytes, FrameError> {
        if self.chunk.len() >= len {
            return Ok(self.chunk.split_to(len));
        }
        let mut message = BytesMut::with_capacity(len);
        while message.len() < len {
            if self.chunk.is_empty() && !self.read().await? {
                return Err(FrameError::Truncated);
            }
            let taken = self.chunk.split_to(self.chunk.len().min(len - message.len()));
            message.put_slice(&taken);
        }
        Ok(message.freeze())
    }

    /// Reads on; `false` at the end.
    async fn read(&mut self) -> Result<bool, FrameError> {
        while self.chunk.is_empty() {
            let frame = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx)).await;
            match frame {
                None => return Ok(false),
                Some(Err(error)) => return Err(FrameError::Broken(in_words(&error))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.chunk = data,
                    Err(frame) => self.trailers = frame.into_trailers().ok(),
                },
            }
        }
        Ok(true)
    }
}

/// An error and what caused it: hyper's own text says no more than "http2 error".
pub(super) fn in_words(error: &dyn std::error::Error) -> String {
    std::iter::successors(error.source(), |cause| cause.source())
        .fold(error.to_string(), |words, cause| format!("{words}: {cause}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::convert::Infallible;
    use std::task::{Context, Poll};

    use http_body::Frame;
    use proptest::prelude::*;

    use super::*;

    /// Yields the bytes in pieces of a given length.
    struct Pieces(Bytes, usize);

    impl http_body::Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            let len = self.1.min(self.0.len());
            Poll::Ready((len > 0).then(|| Ok(Frame::data(self.0.split_to(len)))))
        }
    }

    fn read_all(sent: Bytes, piece: usize, max: usize) -> Result<Vec<Bytes>, FrameError> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut deframer = Deframer::new(Pieces(sent, piece));
            let mut messages = Vec::new();
            while let Some(len) = deframer.next_len(max).await? {
                messages.push(deframer.message(len).await?);
            }
            Ok(messages)
        })
    }

    fn calls(message: Bytes) -> Vec<v1::Call> {
        let (mut items, mut calls) = (Items::of(message), Vec::new());
        while let Some(field) = items.next::<v1::Hello, v1::Call>().unwrap() {
            let Field::Item(call) = field else { panic!("no greeting was sent") };
            calls.push(call);
        }
        calls
    }

    fn head() -> v1::GroupCall {
        v1::GroupCall {
            topic_id: Bytes::from_static(&[7; 16]),
            partition: 3,
            from: 1,
            target: 2,
            kind: 1,
            body: Bytes::new(),
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_what_prost_reads(
            bodies in prop::collection::vec(prop::collection::vec(0..3_000_usize, 0..4), 1..6),
            piece in 1..5_000_usize,
        ) {
            let mut items = Vec::new();
            let mut expected = v1::LaneRequest::default();
            for (i, lengths) in bodies.iter().enumerate() {
                let pieces: Vec<_> = lengths.iter().map(|len| Bytes::from(vec![i as u8; *len])).collect();
                let body = Body::from_pieces(pieces);
                let group = v1::GroupCall { body: body.clone().into_bytes(), ..head() };
                let correlation = 1 << (i * 9);
                let request = Some(v1::call::Request::Group(group));
                expected.calls.push(v1::Call { correlation, request });
                items.push(Item::group_call(correlation, &head(), body));
            }
            let frames = message(items);
            prop_assert!(frames.iter().all(|frame| !frame.is_empty()));
            let written: Vec<u8> = frames.into_iter().flatten().collect();
            prop_assert_eq!(&unary(&expected)[..], &written[..]);
            let messages = read_all(written.into(), piece, 1 << 20).unwrap();
            prop_assert_eq!(messages.len(), 1);
            prop_assert_eq!(calls(messages[0].clone()), expected.calls);
        }

        #[test]
        fn hostile_bytes_end_in_an_error_or_in_messages_no_longer_than_allowed(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            piece in 1..20_usize,
        ) {
            for message in read_all(bytes.into(), piece, 64).unwrap_or_default() {
                prop_assert!(message.len() <= 64);
                let mut items = Items::of(message);
                while let Ok(Some(_)) = items.next::<v1::Hello, v1::Call>() {}
            }
        }
    }

    #[test]
    fn replies_of_groups_keep_even_an_empty_body() {
        for body in [Bytes::new(), Bytes::from(vec![1; 2_000])] {
            let frames = message(vec![Item::group_reply(300, Body::from(body.clone()))]);
            let bytes: Bytes = frames.into_iter().flatten().collect();
            let response = v1::LaneResponse::decode(bytes.slice(PREFIX_BYTES..)).unwrap();
            let outcome = Some(v1::reply::Outcome::Body(body));
            assert_eq!(response.replies, [v1::Reply { correlation: 300, outcome }]);
        }
    }

    #[test]
    fn long_pieces_are_frames_of_their_own_and_short_ones_share_one() {
        let long = Bytes::from(vec![1; COPIED_BYTES_MAX + 1]);
        let body =
            Body::from_pieces(vec![Bytes::from_static(b"short"), long.clone(), Bytes::from_static(b"end")]);
        let frames = message(vec![Item::group_call(1, &head(), body)]);
        assert_eq!(frames.len(), 3);
        assert_eq!(frames[1].as_ptr(), long.as_ptr(), "not copied");
    }

    #[test]
    fn each_broken_stream_is_told_apart() {
        let read = |bytes: &'static [u8]| read_all(Bytes::from_static(bytes), 3, 64).unwrap_err();
        assert!(matches!(read(&[0, 0, 0]), FrameError::Truncated));
        assert!(matches!(read(&[0, 0, 0, 0, 2, 1]), FrameError::Truncated));
        assert!(matches!(read(&[1, 0, 0, 0, 0]), FrameError::Compressed));
        assert!(matches!(read(&[0, 0xff, 0xff, 0xff, 0xff]), FrameError::TooLong { max: 64, .. }));
        let mut items = Items::of(Bytes::from_static(&[0x12, 0x7f, 1]));
        assert!(matches!(items.next::<v1::Hello, v1::Call>(), Err(FrameError::Truncated)));
    }
}
