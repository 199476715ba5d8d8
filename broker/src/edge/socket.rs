//! A WebSocket over whatever carries bytes: frames in, frames out, nothing decided.
//!
//! It drives tungstenite's protocol context by hand instead of through an asynchronous stream: one
//! task reads and writes, so that the two halves need no wakers of their own, and an idle connection
//! costs no more than its small read buffer.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use posthorn_core::connection::{CloseCause, CloseFrame};
use posthorn_core::frames::{FrameFault, FrameGuard, FrameLimits};
use posthorn_core::message::{Message, MessageKind};
use posthorn_core::outbox::Position;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tungstenite::error::{Error, ProtocolError};
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{Data, OpCode};
use tungstenite::protocol::{Role, WebSocketConfig, WebSocketContext};

/// Allocated for each connection at once, so it is small; larger frames get a buffer of their own.
const READ_BUFFER_BYTES: usize = 640;
/// Frames gather up to this before they are given to the kernel.
const WRITE_BUFFER_BYTES: usize = 8 * 1024;
/// Pongs that wait for the kernel to take them. While there are more, nothing is read: who pings and
/// does not read must not fill our memory.
const UNWRITTEN_PONGS_MAX: u8 = 1;

pub(super) struct Socket<S> {
    stream: S,
    context: WebSocketContext,
    limits: Arc<FrameLimits>,
    /// Sees every byte before the protocol context does.
    guard: FrameGuard,
    /// Since when the client has kept us waiting for the rest of what it began.
    unfinished_since: Option<Instant>,
    unwritten_pongs: u8,
    is_flushed: bool,
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
    pub(super) fn new(stream: S, mut early: Vec<u8>, limits: Arc<FrameLimits>) -> Socket<S> {
        // The guard holds what limits there are on what comes in, and the session writes no more
        // than a batch before all of it was taken.
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(WRITE_BUFFER_BYTES)
            .max_write_buffer_size(usize::MAX)
            .max_message_size(None)
            .max_frame_size(None);
        let mut guard = FrameGuard::default();
        early.truncate(guard.on_bytes(&limits, &early));
        let context = WebSocketContext::from_partially_read(early, Role::Server, Some(config));
        let (unfinished_since, unwritten_pongs, is_flushed) = (None, 0, true);
        Socket { stream, context, limits, guard, unfinished_since, unwritten_pongs, is_flushed }
    }

    /// The next thing that the client sent, or why there will be none.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<Received, CloseCause>> {
        if self.unwritten_pongs > UNWRITTEN_PONGS_MAX
            && let Err(cause) = ready!(self.poll_flush(cx))
        {
            return Poll::Ready(Err(cause));
        }
        let (limits, guard) = (&*self.limits, &mut self.guard);
        let mut bytes = Bridge { stream: &mut self.stream, cx, guarded: Some((limits, guard)) };
        match self.context.read(&mut bytes) {
            Ok(message) => {
                match message {
                    // A message may be unfinished around them.
                    tungstenite::Message::Ping(_) => self.unwritten_pongs += 1,
                    tungstenite::Message::Pong(_) => (),
                    _ => self.unfinished_since = None,
                }
                Poll::Ready(Ok(received(message)))
            }
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                if let Some(fault) = self.guard.fault() {
                    return Poll::Ready(Err(cause_of_fault(fault)));
                }
                match self.guard.is_unfinished() {
                    true => drop(self.unfinished_since.get_or_insert_with(Instant::now)),
                    false => self.unfinished_since = None,
                }
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(cause_of(&error))),
        }
    }

    /// Since when the client has kept us waiting for the rest of a message.
    pub(super) fn unfinished_since(&self) -> Option<Instant> {
        self.unfinished_since
    }

    /// Nothing is being read: it is we who keep the client waiting.
    pub(super) fn pause(&mut self) {
        self.unfinished_since = None;
    }

    /// Gives everything that was queued to the kernel.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseCause>> {
        let mut bytes = Bridge { stream: &mut self.stream, cx, guarded: None };
        match self.context.flush(&mut bytes) {
            Ok(()) => {
                self.unwritten_pongs = 0;
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
        let mut bytes = Bridge { stream: &mut self.stream, cx, guarded: None };
        // A Pong that is still to be sent would be written behind the Close frame.
        unless_blocked(self.context.flush(&mut bytes))?;
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
        let mut bytes = Bridge { stream: &mut self.stream, cx, guarded: None };
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

fn cause_of_fault(fault: FrameFault) -> CloseCause {
    match fault {
        FrameFault::Protocol => CloseCause::ProtocolError,
        FrameFault::TooBig => CloseCause::MessageTooBig,
        FrameFault::TooManyFragments => CloseCause::TooManyFragments,
    }
}

fn cause_of(error: &Error) -> CloseCause {
    match error {
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
    /// Where something is to be read.
    guarded: Option<(&'a FrameLimits, &'a mut FrameGuard)>,
}

impl<S: AsyncRead + Unpin> Read for Bridge<'_, '_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some((limits, guard)) = &mut self.guarded else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        // What came before the fault is with the context: it says that it has nothing left, and then
        // the fault is told.
        if guard.fault().is_some() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut buffer = ReadBuf::new(buffer);
        match Pin::new(&mut *self.stream).poll_read(self.cx, &mut buffer) {
            Poll::Ready(Ok(())) if buffer.filled().is_empty() => Ok(0),
            Poll::Ready(Ok(())) => match guard.on_bytes(limits, buffer.filled()) {
                0 => Err(io::ErrorKind::WouldBlock.into()),
                passed => Ok(passed),
            },
            Poll::Ready(Err(error)) => Err(error),
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
