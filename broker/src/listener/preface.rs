//! The first bytes of a gRPC connection: HTTP/2 with prior knowledge, or a clear refusal.
//!
//! Looking first costs nothing, bounds the wait for a silent peer, and lets a wrong client be told what
//! it is talking to.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::ConnectionError;
use crate::env::BoxedStream;

/// RFC 9113, section 3.4.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const HTTP1_ANSWER: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\
    content-length: 78\r\n\r\nThis is Headwater's gRPC listener; it speaks HTTP/2 with prior knowledge only\n";

/// Reads the preface and hands back the stream as if nothing had been read; `Ok(None)` when the peer
/// closed without a word, as port probes do.
pub async fn expect_preface(
    mut stream: BoxedStream,
    within: Duration,
) -> Result<Option<Rewound>, ConnectionError> {
    let mut first = [0; PREFACE.len()];
    let mut len = 0;
    let read = async {
        while len < first.len() && first[..len] == PREFACE[..len] {
            match stream.read(&mut first[len..]).await? {
                0 => break,
                n => len += n,
            }
        }
        io::Result::Ok(())
    };
    match tokio::time::timeout(within, read).await {
        Err(_) => return Err(ConnectionError::new("handshake_timeout", "no HTTP/2 preface in time")),
        Ok(Err(_)) => return Ok(None),
        Ok(Ok(())) => {}
    }
    if first == *PREFACE {
        return Ok(Some(Rewound { first: Bytes::copy_from_slice(&first), stream }));
    }
    if len == 0 {
        return Ok(None);
    }
    Err(refuse(stream, &first[..len]).await)
}

/// Names what the peer speaks, to the peer where it would understand.
async fn refuse(mut stream: BoxedStream, first: &[u8]) -> ConnectionError {
    const METHODS: [&[u8]; 5] = [b"GET ", b"HEAD", b"POST", b"PUT ", b"OPTI"];
    if METHODS.iter().any(|method| first.starts_with(method)) {
        // Best effort, and no longer than a moment: the answer fits any socket buffer.
        let answer = async {
            stream.write_all(HTTP1_ANSWER).await?;
            stream.shutdown().await
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), answer).await;
        return ConnectionError::new("http1", "an HTTP/1 request on the gRPC listener");
    }
    // RFC 8446, section 5.1: content type 22, a legacy version 3.x.
    if first.starts_with(&[22, 3]) {
        return ConnectionError::new("tls", "a TLS client on the gRPC listener, which is plaintext");
    }
    ConnectionError::new("not_http2", "bytes that are not HTTP/2 on the gRPC listener")
}

/// A stream whose first bytes were read already.
pub struct Rewound {
    first: Bytes,
    stream: BoxedStream,
}

impl AsyncRead for Rewound {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.first.has_remaining() {
            let len = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first.split_to(len));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Rewound {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    async fn check(sent: &[u8]) -> Result<Option<Rewound>, ConnectionError> {
        let (mut peer, ours) = tokio::io::duplex(4_096);
        peer.write_all(sent).await.unwrap();
        peer.shutdown().await.unwrap();
        expect_preface(Box::new(ours), Duration::from_secs(1)).await
    }

    #[tokio::test]
    async fn http2_passes_and_is_read_again_from_its_first_byte() {
        let sent = [PREFACE.as_slice(), b"rest"].concat();
        let mut stream = check(&sent).await.unwrap().unwrap();
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await.unwrap();
        assert_eq!(read, sent);
    }

    #[tokio::test]
    async fn each_wrong_client_is_told_apart() {
        let cases: [(&[u8], &str); 6] = [
            (b"GET / HTTP/1.1\r\n\r\n", "http1"),
            (&[22, 3, 1, 2, 0, 1], "tls"),
            (&[0xff; 64], "not_http2"),
            (b"\0\0\0\x10\0\x12\0\x03", "not_http2"),
            (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "not_http2"),
            (b"PRI * HT", "not_http2"),
        ];
        for (sent, reason) in cases {
            let error = check(sent).await.err().unwrap();
            assert_eq!(error.reason, reason, "{sent:?}");
        }
        assert!(check(b"").await.unwrap().is_none(), "a port probe is no error");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_given_up() {
        let (_peer, ours) = tokio::io::duplex(64);
        let error = expect_preface(Box::new(ours), Duration::from_secs(10)).await.err().unwrap();
        assert_eq!(error.reason, "handshake_timeout");
    }

    #[test]
    fn the_answer_has_the_length_it_declares() {
        let (_, body) =
            HTTP1_ANSWER.split_at(HTTP1_ANSWER.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4);
        let declared = format!("content-length: {}\r\n", body.len());
        assert!(HTTP1_ANSWER.windows(declared.len()).any(|w| w == declared.as_bytes()), "{}", body.len());
    }
}
