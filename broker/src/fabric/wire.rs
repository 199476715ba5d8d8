//! Messages on streams: a length of two bytes, then protocol buffers.
//!
//! Only introductions are spoken so. They are short, so a long one is a mistake.

use bytes::{BufMut as _, BytesMut};
use prost::Message;
use quinn::{ReadExactError, RecvStream, SendStream, VarInt, WriteError};

/// An introduction. Larger ones are refused before they are read.
const MESSAGE_BYTES_MAX: usize = 1024;

/// Why we close a connection or a stream, for the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CloseCode {
    /// We are going, or no longer want it.
    Done = 0,
    /// We do not work with this peer. The reason is in words.
    Refused = 1,
    /// The same: no protocol version in common.
    RefusedVersion = 5,
    /// The same: it is of another cluster.
    RefusedCluster = 6,
    /// The peer broke the protocol.
    Broken = 2,
    /// A later one takes its place.
    Superseded = 3,
    /// Someone asked for it.
    Dropped = 4,
}

/// No message came.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum MessageError {
    #[error("the stream was lost: {0}")]
    Lost(#[from] ReadExactError),
    #[error("the stream was lost: {0}")]
    Unwritten(#[from] WriteError),
    #[error("a message of {0} bytes")]
    TooLong(usize),
    #[error("not the message expected: {0}")]
    Malformed(#[from] prost::DecodeError),
}

impl From<CloseCode> for VarInt {
    fn from(code: CloseCode) -> VarInt {
        VarInt::from_u32(code as u32)
    }
}

pub(super) async fn write_message(
    send: &mut SendStream,
    message: &impl Message,
) -> Result<(), MessageError> {
    let mut buffer = BytesMut::new();
    let length = message.encoded_len();
    let Some(short) = u16::try_from(length).ok().filter(|_| length <= MESSAGE_BYTES_MAX) else {
        return Err(MessageError::TooLong(length));
    };
    buffer.put_u16(short);
    buffer.extend_from_slice(&message.encode_to_vec());
    Ok(send.write_all(&buffer).await?)
}

pub(super) async fn read_message<M: Message + Default>(
    recv: &mut RecvStream,
) -> Result<M, MessageError> {
    let mut length = [0; 2];
    recv.read_exact(&mut length).await?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > MESSAGE_BYTES_MAX {
        return Err(MessageError::TooLong(length));
    }
    let mut message = vec![0; length];
    recv.read_exact(&mut message).await?;
    Ok(M::decode(message.as_slice())?)
}
