//! The server's half of the WebSocket framing, as far as a load generator needs it.
//!
//! It is cheaper than a library by design: generator and nodes share the machine, and what the one
//! spends the others lack.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

pub const TEXT: u8 = 1;
pub const CLOSE: u8 = 8;
pub const PING: u8 = 9;
pub const PONG: u8 = 10;

/// A frame from a server: whole, and not masked (RFC 6455 section 5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub opcode: u8,
    pub payload: Bytes,
}

/// Takes the next frame out of what was received, once all of it is there.
pub fn take(received: &mut BytesMut) -> Option<Frame> {
    let [first, second, ..] = received[..] else { return None };
    let (head, payload) = match second & 0x7f {
        126 => (4, u16::from_be_bytes(received.get(2..4)?.try_into().ok()?).into()),
        127 => {
            let length = u64::from_be_bytes(received.get(2..10)?.try_into().ok()?);
            (10, usize::try_from(length).ok()?)
        }
        length => (2, length.into()),
    };
    if received.len() < head + payload {
        return None;
    }
    received.advance(head);
    Some(Frame { opcode: first & 0x0f, payload: received.split_to(payload).freeze() })
}

/// A client's frame of at most 125 bytes, masked with zeros: the same bytes, and as good to whoever
/// unmasks them.
pub fn masked(opcode: u8, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(6 + payload.len());
    frame.put_u8(0x80 | opcode);
    frame.put_u8(0x80 | payload.len().min(125) as u8);
    frame.put_u32(0);
    frame.put_slice(&payload[..payload.len().min(125)]);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_each_length_are_taken_once_they_are_whole() {
        for length in [0, 1, 125, 126, 127, 65_535, 65_536] {
            let payload = Bytes::from(vec![b'x'; length]);
            let bytes = server_frame(&payload);
            let mut received = BytesMut::new();
            for cut in [0, 1, bytes.len() / 2, bytes.len() - 1] {
                received.clear();
                received.extend_from_slice(&bytes[..cut]);
                assert_eq!(take(&mut received), None, "{cut} of {length}");
                assert_eq!(received.len(), cut, "what is not whole is left");
            }
            received.clear();
            received.extend_from_slice(&bytes);
            received.extend_from_slice(b"\x89");
            assert_eq!(take(&mut received), Some(Frame { opcode: TEXT, payload }));
            assert_eq!(received, &b"\x89"[..]);
        }
    }

    #[test]
    fn a_client_masks_what_it_sends() {
        assert_eq!(masked(PONG, b"hi"), &b"\x8a\x82\0\0\0\0hi"[..]);
    }

    fn server_frame(payload: &[u8]) -> BytesMut {
        let mut frame = BytesMut::new();
        frame.put_u8(0x80 | TEXT);
        match payload.len() {
            length @ ..126 => frame.put_u8(length as u8),
            length @ 126..65_536 => {
                frame.put_u8(126);
                frame.put_u16(length as u16);
            }
            length => {
                frame.put_u8(127);
                frame.put_u64(length as u64);
            }
        }
        frame.put_slice(payload);
        frame
    }
}
