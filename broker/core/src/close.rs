//! Why a connection ended, and what its client and its backend are told of that.

use std::sync::Arc;

/// A status code and a reason (RFC 6455 section 7.1.5 and 7.1.6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseFrame {
    pub code: u16,
    /// At most [`CloseFrame::REASON_BYTES_MAX`].
    pub reason: Arc<str>,
}

impl CloseFrame {
    /// RFC 6455 section 5.5: a control frame has 125 bytes, of which the code takes 2.
    pub const REASON_BYTES_MAX: usize = 123;

    /// Whether a server may send that code (RFC 6455 section 7.4, and what was registered since).
    pub fn is_code_for_servers(code: u16) -> bool {
        matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

/// Why a connection ended. The whole table of causes: there is no "other".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseCause {
    /// The client sent a Close frame, perhaps without a code.
    ByClient(Option<CloseFrame>),
    ByBackend(CloseFrame),
    /// No message in either direction for too long.
    Idle,
    /// It has lived as long as it may.
    Lifetime,
    /// It did not answer our Ping.
    Unresponsive,
    /// It read too slowly, and the stage closes such clients.
    TooSlow,
    /// The socket ended without a Close frame.
    Lost,
    /// The client broke the WebSocket protocol.
    ProtocolError,
    NotUtf8,
    MessageTooBig,
    /// It cut a message into too many frames.
    TooManyFragments,
    /// It began a message and did not end it in time.
    Unfinished,
    /// It sent too many Pings, or Pongs that nobody asked for.
    TooManyControlFrames,
    /// It sent a binary message where the stage takes none.
    BinaryRefused,
    /// It went on sending although its messages were refused as too many.
    Throttled,
    /// The token that let it in has expired.
    Expired,
    /// The node is being shut down.
    Drained(CloseFrame),
    /// The node lost its lease: another may speak for it soon.
    Fenced,
}

impl CloseCause {
    /// RFC 6455 section 7.4.1. 1005 and 1006 are for the books: no frame may carry them.
    pub fn code(&self) -> u16 {
        match self {
            CloseCause::ByClient(None) => 1005,
            CloseCause::ByClient(Some(frame))
            | CloseCause::ByBackend(frame)
            | CloseCause::Drained(frame) => frame.code,
            CloseCause::Idle | CloseCause::Lifetime => 1001,
            CloseCause::Unresponsive | CloseCause::Lost => 1006,
            CloseCause::TooSlow => 1013,
            CloseCause::ProtocolError => 1002,
            CloseCause::NotUtf8 => 1007,
            CloseCause::MessageTooBig => 1009,
            CloseCause::TooManyFragments
            | CloseCause::Unfinished
            | CloseCause::TooManyControlFrames => 1008,
            CloseCause::BinaryRefused => 1003,
            CloseCause::Throttled | CloseCause::Expired => 1008,
            CloseCause::Fenced => 1012,
        }
    }

    /// As API Gateway words it in `disconnectReason`, where that is known.
    pub fn reason(&self) -> &str {
        match self {
            CloseCause::ByClient(None) => "Client-side close frame status not set",
            CloseCause::ByClient(Some(frame))
            | CloseCause::ByBackend(frame)
            | CloseCause::Drained(frame) => &frame.reason,
            CloseCause::Idle | CloseCause::Lifetime => "Going away",
            CloseCause::Unresponsive | CloseCause::Lost => "Connection closed abnormally",
            CloseCause::TooSlow => "Client reads too slowly",
            CloseCause::ProtocolError => "Protocol error",
            CloseCause::NotUtf8 => "Invalid UTF-8",
            CloseCause::MessageTooBig => "Message too big",
            CloseCause::TooManyFragments => "Too many fragments",
            CloseCause::Unfinished => "Message not finished in time",
            CloseCause::TooManyControlFrames => "Too many control frames",
            CloseCause::BinaryRefused => "Binary is not supported",
            CloseCause::Throttled => "Too Many Requests",
            CloseCause::Expired => "Token expired",
            CloseCause::Fenced => "Service restart",
        }
    }

    pub(crate) fn frame(&self) -> CloseFrame {
        CloseFrame { code: self.code(), reason: self.reason().into() }
    }
}
