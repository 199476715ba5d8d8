//! A WebSocket over whatever carries bytes: frames in, frames out, nothing decided.
//!
//! It drives tungstenite's protocol context by hand instead of through an asynchronous stream: one
//! task reads and writes, so that the two halves need no wakers of their own, and an idle connection
//! costs no more than its small read buffer.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use posthorn_core::connection::{CloseCause, CloseFrame};
use posthorn_core::message::{Message, MessageKind};
use posthorn_core::outbox::Position;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::error::{CapacityError, Error, ProtocolError};
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

/// Allocated for each connection at once, so it is small; larger frames get a buffer of their own.
const READ_BUFFER_BYTES: usize = 1024;
/// Frames gather up to this before they are given to the kernel.
const WRITE_BUFFER_BYTES: usize = 8 * 1024;

pub(super) struct Socket<S> {
    stream: S,
    context: WebSocketContext,
    is_flushed: bool,
}

/// What a client may send at most.
#[derive(Debug, Clone, Copy)]
pub(super) struct FrameLimits {
    pub(super) message_bytes_max: Option<usize>,
    pub(super) frame_bytes_max: Option<usize>,
    /// Bytes that may wait to be written: a message of the largest size beside a batch.
    pub(super) unwritten_bytes_max: usize,
}

/// What came in.
#[derive(Debug)]
pub(super) enum Received {
    Message(Message),
    /// Answered already.
    Ping,
    Pong(Option<Position>),
    /// The client's Close frame: its own wish, or its answer to ours.
    Close(Option<CloseFrame>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    /// `early` is what the client sent behind its handshake.
    pub(super) fn new(stream: S, early: Vec<u8>, limits: FrameLimits) -> Socket<S> {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_write_buffer_size(WRITE_BUFFER_BYTES + limits.unwritten_bytes_max)
            .max_message_size(limits.message_bytes_max)
            .max_frame_size(limits.frame_bytes_max);
        let context = WebSocketContext::from_partially_read(early, Role::Server, Some(config));
        Socket { stream, context, is_flushed: true }
    }

    /// The next thing that the client sent, or why there will be none.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received, CloseCause>> {
        let mut bytes = Bridge { stream: &mut self.stream, cx };
        match self.context.read(&mut bytes) {
            Ok(message) => Poll::Ready(Ok(received(message))),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(error) => Poll::Ready(Err(cause_of(&error))),
        }
    }

    /// Gives everything that was queued to the kernel.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseCause>> {
        let mut bytes = Bridge { stream: &mut self.stream, cx };
        match self.context.flush(&mut bytes) {
            Ok(()) => {
                self.is_flushed = true;
                Poll::Ready(Ok(()))
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(error) => Poll::Ready(Err(cause_of(&error))),
        }
    }

    /// Whether all that was queued has been given to the kernel.
    pub(super) fn is_flushed(&self) -> bool {
        self.is_flushed
    }

    /// Queues a message behind what was queued before.
    pub(super) fn queue(
        &mut self,
        cx: &mut Context<'_>,
        message: Message,
    ) -> Result<(), CloseCause> {
        let data = match message.kind {
            MessageKind::Text => Data::Text,
            MessageKind::Binary => Data::Binary,
        };
        self.queue_frame(cx, Frame::message(message.payload, OpCode::Data(data), true))
    }

    /// Queues a Ping. One with a number asks for its Pong to carry the number back.
    pub(super) fn queue_ping(
        &mut self,
        cx: &mut Context<'_>,
        number: Option<Position>,
    ) -> Result<(), CloseCause> {
        let payload =
            number.map_or(Bytes::new(), |number| Bytes::copy_from_slice(&number.to_be_bytes()));
        self.queue_frame(cx, Frame::ping(payload))
    }

    /// Queues the Close frame, after which nothing more can be queued.
    pub(super) fn queue_close(
        &mut self,
        cx: &mut Context<'_>,
        frame: &CloseFrame,
    ) -> Result<(), CloseCause> {
        let frame = tungstenite::protocol::CloseFrame {
            code: frame.code.into(),
            reason: (&*frame.reason).into(),
        };
        self.is_flushed = false;
        let mut bytes = Bridge { stream: &mut self.stream, cx };
        unless_blocked(self.context.close(&mut bytes, Some(frame)))
    }

    /// Says to the peer's TCP that nothing more comes.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    /// Reads what the peer still sends and forgets it. Ready when it sends no more.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scrap = [0; 512];
        loop {
            let mut buffer = ReadBuf::new(&mut scrap);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => (),
                Ok(()) | Err(_) => return Poll::Ready(()),
            }
        }
    }

    fn queue_frame(&mut self, cx: &mut Context<'_>, frame: Frame) -> Result<(), CloseCause> {
        self.is_flushed = false;
        let mut bytes = Bridge { stream: &mut self.stream, cx };
        let message = tungstenite::Message::Frame(frame);
        unless_blocked(self.context.write(&mut bytes, message))
    }
}

/// That the kernel takes no more just now is no failure: the frame is queued.
fn unless_blocked(result: Result<(), Error>) -> Result<(), CloseCause> {
    match result {
        Ok(()) => Ok(()),
        Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(cause_of(&error)),
    }
}

fn received(message: tungstenite::Message) -> Received {
    match message {
        tungstenite::Message::Text(text) => {
            Received::Message(Message { kind: MessageKind::Text, payload: text.into() })
        }
        tungstenite::Message::Binary(payload) => {
            Received::Message(Message { kind: MessageKind::Binary, payload })
        }
        tungstenite::Message::Ping(_) => Received::Ping,
        tungstenite::Message::Pong(payload) => {
            let number = payload.as_ref().try_into().ok().map(u64::from_be_bytes);
            Received::Pong(number)
        }
        tungstenite::Message::Close(frame) => Received::Close(frame.map(|frame| CloseFrame {
            code: frame.code.into(),
            reason: frame.reason.as_str().into(),
        })),
        // Reading yields whole messages only.
        tungstenite::Message::Frame(_) => Received::Pong(None),
    }
}

fn cause_of(error: &Error) -> CloseCause {
    match error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => CloseCause::MessageTooBig,
        Error::Utf8(_) => CloseCause::NotUtf8,
        Error::WriteBufferFull(_) => CloseCause::TooSlow,
        Error::Protocol(
            ProtocolError::ResetWithoutClosingHandshake | ProtocolError::SendAfterClosing,
        ) => CloseCause::Lost,
        Error::Protocol(_) => CloseCause::ProtocolError,
        _ => CloseCause::Lost,
    }
}

/// An asynchronous stream as the synchronous one that the protocol context wants: what is not ready
/// would block, and wakes the task when it no longer does.
struct Bridge<'a, 'b, S> {
    stream: &'a mut S,
    cx: &'a mut Context<'b>,
}

impl<S: AsyncRead + Unpin> Read for Bridge<'_, '_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(&mut *self.stream).poll_read(self.cx, &mut buffer) {
            Poll::Ready(result) => result.map(|()| buffer.filled().len()),
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl<S: AsyncWrite + Unpin> Write for Bridge<'_, '_, S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match Pin::new(&mut *self.stream).poll_write(self.cx, bytes) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match Pin::new(&mut *self.stream).poll_flush(self.cx) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}
