//! Control calls: a question and its answer on a stream of its own, and uploads, whose question is
//! as long as it likes.
//!
//! ```text
//!   call      1 | method u8 | length u32 | request                       -> reply
//!   upload    2 | method u8 | length u32 | header | body to the end      -> reply
//!   reply     0 | length u32 | response
//!   refusal   1 | code u32 | length u32 | message
//! ```
//!
//! Invariants:
//!
//! * A length is checked before anything is kept of what it announces.
//! * A stream that is given up is reset: no request or body that was cut short passes for whole.

mod client;
mod server;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use quinn::{ReadError, RecvStream, SendStream, WriteError};

use super::hello::PeerIdentity;
use super::link::DialError;
use super::wire::CloseCode;

pub use client::Upload;
pub(super) use client::{call, call_on, open_upload};
pub(super) use server::serve;
pub use server::{UploadCut, UploadReader};

const CALL: u8 = 1;
const UPLOAD: u8 = 2;
const REPLY: u8 = 0;
const REFUSAL: u8 = 1;

/// Why a service said no, for people. Longer ones are cut.
const REFUSAL_BYTES_MAX: usize = 1024;

/// What is set aside for a length that was announced and whose bytes have not come.
const ROOM_BYTES: usize = 64 * 1024;

/// Answers peers' calls.
pub trait ControlService: Send + Sync + 'static {
    /// Runs to its end whether or not the caller still waits.
    fn call(
        &self,
        from: PeerIdentity,
        method: u8,
        request: Bytes,
    ) -> BoxFuture<'_, Result<Bytes, Refusal>>;

    /// The body is read as fast as the service takes it, and no faster.
    fn upload(
        &self,
        from: PeerIdentity,
        method: u8,
        header: Bytes,
        body: UploadReader,
    ) -> BoxFuture<'_, Result<Bytes, Refusal>>;
}

/// A service's no. The code is the service's own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused ({code}): {message}")]
pub struct Refusal {
    pub code: u32,
    pub message: String,
}

/// A call came to nothing.
#[derive(Debug, Clone, thiserror::Error)]
pub enum CallError {
    /// Surely not delivered.
    #[error("unreachable: {0}")]
    Unreachable(#[from] DialError),
    /// Perhaps delivered: it was lost, or the deadline passed, after something was sent.
    #[error("perhaps delivered: {0}")]
    Unknown(String),
    /// Delivered, and the answer is no.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Larger than a request or a header may be. Not sent.
    #[error("{0} bytes are more than a call may carry")]
    TooLarge(usize),
}

/// The stream ended, or what it carried made no sense.
#[derive(Debug, Clone, thiserror::Error)]
enum StreamError {
    #[error("the stream ended early")]
    Ended,
    #[error("{0}")]
    Lost(#[from] ReadError),
    #[error("a length of {0} bytes, over the limit")]
    TooLong(usize),
    #[error("neither a call nor an upload")]
    UnknownKind,
}

/// Resets the stream unless it is finished: left alone, the library would finish it.
struct Sending(Option<SendStream>);

/// Dropped before its end, it tells the peer to stop.
struct Receiving(RecvStream);

impl Sending {
    fn new(send: SendStream) -> Sending {
        Sending(Some(send))
    }

    async fn write(&mut self, pieces: &mut [Bytes]) -> Result<(), WriteError> {
        match &mut self.0 {
            Some(send) => send.write_all_chunks(pieces).await,
            None => Err(WriteError::ClosedStream),
        }
    }

    fn finish(mut self) {
        if let Some(mut send) = self.0.take() {
            // The peer may have stopped it, and then has no use for the rest.
            let _ = send.finish();
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if let Some(send) = &mut self.0 {
            // It may be over already, which is as well.
            let _ = send.reset(CloseCode::Done.into());
        }
    }
}

impl Receiving {
    async fn exact<const N: usize>(&mut self) -> Result<[u8; N], StreamError> {
        let mut bytes = [0; N];
        let mut filled = 0;
        while filled < N {
            match self.0.read(&mut bytes[filled..]).await? {
                Some(count) => filled += count,
                None => return Err(StreamError::Ended),
            }
        }
        Ok(bytes)
    }

    async fn length(&mut self, length_max: usize) -> Result<usize, StreamError> {
        let length = u32::from_be_bytes(self.exact().await?) as usize;
        if length > length_max {
            return Err(StreamError::TooLong(length));
        }
        Ok(length)
    }

    /// Room is made as the bytes come, so that an announcement alone costs little.
    async fn body(&mut self, length: usize) -> Result<Bytes, StreamError> {
        let mut body = BytesMut::with_capacity(length.min(ROOM_BYTES));
        while body.len() < length {
            let missing = length - body.len();
            match self.0.read_chunk(missing, true).await? {
                Some(chunk) => body.extend_from_slice(&chunk.bytes),
                None => return Err(StreamError::Ended),
            }
        }
        Ok(body.freeze())
    }
}

fn with_length(buffer: &mut BytesMut, length: usize) {
    // Checked against a limit below 2^32 by all callers.
    buffer.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}
