//! What a client and a backend say to each other.

use bytes::Bytes;

/// One WebSocket message (RFC 6455 section 5.6). Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub kind: MessageKind,
    /// UTF-8 where `kind` is `Text`: whoever makes a message from outside has checked that.
    pub payload: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageKind {
    Text,
    Binary,
}

impl Message {
    pub fn text(text: impl Into<String>) -> Message {
        Message { kind: MessageKind::Text, payload: Bytes::from(text.into()) }
    }

    pub fn binary(payload: impl Into<Bytes>) -> Message {
        Message { kind: MessageKind::Binary, payload: payload.into() }
    }
}
