//! A lane: frames to one peer in order, over connections that come and go.
//!
//! ```text
//!            post                                        on_frame
//!   callers ------> queue -> window ==== frames ====> receiver -----> service
//!           <------            ^  <===== answers ====    ^    <------
//!            told              |                         |     reply
//!                         SenderLane               ReceiverLane
//! ```
//!
//! Both directions of a session are numbered from 1 without gaps: frames by the sender, answers, in
//! the order in which they were given, by the receiver. Each side keeps what the other has not said
//! it has. When a connection is lost and both processes live, both say on the next one how far
//! they got and go on from there, so that a lost connection alone loses, doubles and reorders
//! nothing. Where the receiver no longer knows the session, all that was sent and not answered is
//! told as unknown.
//!
//! What is here is pure: no sockets, no clock, no chance.

mod receiver;
mod record;
mod sender;
#[cfg(test)]
mod simulation;

use bytes::Bytes;

pub(super) use receiver::{ReceiverLane, UNTOLD_BYTES_MAX};
pub(super) use record::{Record, RecordDecoder};
pub(super) use sender::{Held, SenderLane};

/// How many lanes lead to each peer. Both sides must agree: it is part of the protocol.
pub(super) const LANES: usize = 4;

/// One history of a lane, from its first frame. Another process is another session, and so is the
/// same process once it has forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) process: u64,
    pub(super) number: u64,
}

/// What a receiver asks of who sends to it. Nodes may be configured differently, if only while the
/// configuration is changed on one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    /// Frames sent whose answers were not seen.
    pub(super) unanswered_max: u64,
    pub(super) frame_bytes_max: usize,
}

/// How much of a lane may be under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    /// Frames sent whose answers were not seen: at the limit, later frames wait in the queue.
    pub(super) unanswered_max: u64,
    /// Bytes of frames that the receiver has not said it has: at the limit, later frames wait in
    /// the queue. One frame may always be sent, however large.
    pub(super) unreceived_bytes_max: usize,
}

/// What the receiving service said to a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    Given(Bytes),
    /// It dropped the question.
    Abandoned,
}

/// What became of a frame that was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// Not delivered, and never will be.
    #[error("not sent")]
    NotSent,
    /// Perhaps delivered, and perhaps it will be.
    #[error("perhaps delivered")]
    Unknown,
}

/// The other side did what the protocol does not allow. The session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer broke the lane's protocol: {0}")]
pub(super) struct LaneBroken(pub(super) &'static str);
