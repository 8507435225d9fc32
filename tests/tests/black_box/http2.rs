//! HTTP/2 by hand (RFC 9113): what no well-behaved library would send.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::PATIENCE;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A frame whose header may lie about its length.
pub fn frame_of(length: u32, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    frame_of(payload.len() as u32, kind, flags, stream, payload)
}

/// The header block of a gRPC call (RFC 7541: indexed names, nothing compressed, nothing remembered).
pub fn call_headers(path: &str) -> Vec<u8> {
    // :method POST and :scheme http of the static table.
    let mut block = vec![0x83, 0x86];
    literal(&mut block, &[0x04], path);
    literal(&mut block, &[0x01], "localhost");
    // content-type is number 31: 15 and 16 more.
    literal(&mut block, &[0x0f, 0x10], "application/grpc");
    literal(&mut block, &[0x00, 2, b't', b'e'], "trailers");
    block
}

/// A header without indexing, its value as it is; values here are shorter than 127 bytes.
pub fn literal(block: &mut Vec<u8>, name: &[u8], value: &str) {
    block.extend(name);
    block.push(value.len() as u8);
    block.extend(value.as_bytes());
}

/// A call of Admin.Metadata with an empty request, as a well-behaved client sends it.
pub fn metadata_call(stream: u32) -> Vec<u8> {
    let headers = frame(HEADERS, END_HEADERS, stream, &call_headers("/headwater.v1.Admin/Metadata"));
    [headers, frame(DATA, END_STREAM, stream, &[0; 5])].concat()
}

/// Everything that a client sends for one call.
pub fn conversation() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[]), &metadata_call(1)].concat()
}

/// Sends bytes, ends, and returns what comes back until the other side closes, which it must.
pub async fn exchange(addr: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let exchange = async {
        let stream = TcpStream::connect(addr).await.unwrap();
        let (mut reader, mut writer) = stream.into_split();
        let write = async {
            // The broker may close before it has taken everything.
            let _ = writer.write_all(bytes).await;
            let _ = writer.shutdown().await;
        };
        let mut answer = Vec::new();
        let read = reader.read_to_end(&mut answer);
        let _ = tokio::join!(write, read);
        answer
    };
    tokio::time::timeout(PATIENCE, exchange).await.expect("the broker closes the connection")
}

/// The error code of the GOAWAY in what a broker sent.
pub fn goaway(mut answer: &[u8]) -> Option<u32> {
    while answer.len() >= 9 {
        let length = u32::from_be_bytes([0, answer[0], answer[1], answer[2]]) as usize;
        let end = (9 + length).min(answer.len());
        if answer[3] == GOAWAY && length >= 8 {
            let code = u32::from_be_bytes(answer[13..17].try_into().unwrap());
            // The first one of a graceful end carries no error.
            if code != 0 {
                return Some(code);
            }
        }
        answer = &answer[end..];
    }
    None
}
