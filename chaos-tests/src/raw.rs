//! A client that says whatever it is bid, byte by byte.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::within;

/// A handshake that is good, to be made bad one thing at a time.
pub const HANDSHAKE: &str = "GET /dev HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// Opens a WebSocket and leaves its frames to the caller.
pub async fn open(address: SocketAddr) -> TcpStream {
    shake_hands(TcpStream::connect(address).await.expect("somebody listens")).await
}

/// The same, with as small a receive buffer as the system has.
pub async fn open_narrow(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(1).expect("a size");
    shake_hands(socket.connect(address).await.expect("somebody listens")).await
}

async fn shake_hands(mut stream: TcpStream) -> TcpStream {
    let (status, answer) = ask(&mut stream, HANDSHAKE.as_bytes()).await;
    assert_eq!(status, 101, "{answer}");
    stream
}

/// Sends a request and reads the head of its answer: its status, 0 if there is none, and the head. The
/// node may answer, and close, before all was sent.
pub async fn ask(stream: &mut TcpStream, request: &[u8]) -> (u16, String) {
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let read = async {
        while !answer.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => answer.push(byte),
                Err(_) => break,
            }
        }
    };
    within("an answer", read).await;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    (status.unwrap_or_default(), answer)
}

/// A masked frame. The mask is zero, so that the payload can be read. `first` is its first byte: the
/// final bit, reserved bits and the opcode.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length => {
            frame.push(0x80 | 126);
            frame.extend(u16::try_from(length).expect("it is short").to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}

/// A Close frame.
pub fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(0x88, &[&code.to_be_bytes(), reason].concat())
}

/// The next frame that the node sends: its first byte and its payload. None at the end.
pub async fn next_frame(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let read = async {
        let first = stream.read_u8().await.ok()?;
        let length = match stream.read_u8().await.ok()? {
            126 => usize::from(stream.read_u16().await.ok()?),
            127 => usize::try_from(stream.read_u64().await.ok()?).ok()?,
            length => usize::from(length),
        };
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.ok()?;
        Some((first, payload))
    };
    within("a frame", read).await
}

/// The code and reason of the node's Close frame, once nothing follows it. Frames before it are passed
/// over. None if there is no Close frame.
pub async fn closed(stream: &mut TcpStream) -> Option<(u16, String)> {
    let payload = loop {
        match next_frame(stream).await? {
            (0x88, payload) => break payload,
            _ => continue,
        }
    };
    assert_eq!(next_frame(stream).await, None, "nothing follows a Close frame");
    let (code, reason) = payload.split_first_chunk()?;
    Some((u16::from_be_bytes(*code), String::from_utf8_lossy(reason).into_owned()))
}
