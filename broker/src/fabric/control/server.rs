//! The answering side.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use quinn::{RecvStream, SendStream};
use tokio::sync::Semaphore;

use super::super::common::Common;
use super::super::hello::PeerIdentity;
use super::super::wire::CloseCode;
use super::{
    CALL, ControlService, REFUSAL, REFUSAL_BYTES_MAX, REPLY, Receiving, Refusal, Sending,
    StreamError, UPLOAD, with_length,
};

/// The most that is handed out at once of an upload's body.
const PIECE_BYTES_MAX: usize = 256 * 1024;

/// An upload's body, as it comes.
pub struct UploadReader(Receiving);

/// The body was cut off: what came of it is not the whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the upload was cut off: {0}")]
pub struct UploadCut(String);

impl UploadReader {
    /// The next piece, or none at the end of a whole body. To drop the wait loses nothing.
    pub async fn read(&mut self) -> Result<Option<Bytes>, UploadCut> {
        match self.0.0.read_chunk(PIECE_BYTES_MAX, true).await {
            Ok(chunk) => Ok(chunk.map(|chunk| chunk.bytes)),
            Err(error) => Err(UploadCut(error.to_string())),
        }
    }
}

/// Answers one stream of a peer's control connection.
pub(in crate::fabric) async fn serve(
    common: Arc<Common>,
    service: Arc<dyn ControlService>,
    room: Arc<Semaphore>,
    from: PeerIdentity,
    (send, recv): (SendStream, RecvStream),
) {
    let node = from.node;
    match answer(&common, &*service, &room, from, recv).await {
        Ok(outcome) => write(send, outcome, common.settings.limits.call_bytes_max).await,
        Err(error) => {
            tracing::debug!(%node, %error, "a control stream came to nothing");
            let mut send = send;
            // It may be over already, which is as well.
            let _ = send.reset(CloseCode::Broken.into());
        }
    }
}

async fn answer(
    common: &Common,
    service: &dyn ControlService,
    room: &Semaphore,
    from: PeerIdentity,
    recv: RecvStream,
) -> Result<Result<Bytes, Refusal>, StreamError> {
    let mut recv = Receiving(recv);
    let [kind, method] = recv.exact().await?;
    let length = recv.length(common.settings.limits.call_bytes_max).await?;
    // Held until the service has answered: what it was given counts as long as it may keep it.
    let _room = reserve(room, length).await;
    let body = recv.body(length).await?;
    match kind {
        CALL => {
            common.stats.calls_received.add(1);
            Ok(service.call(from, method, body).await)
        }
        UPLOAD => {
            common.stats.calls_received.add(1);
            Ok(service.upload(from, method, body, UploadReader(recv)).await)
        }
        _ => Err(StreamError::UnknownKind),
    }
}

async fn reserve(room: &Semaphore, length: usize) -> Option<tokio::sync::SemaphorePermit<'_>> {
    // The limits hold a call far below 2^32 bytes. The semaphore is never closed.
    room.acquire_many(u32::try_from(length).unwrap_or(u32::MAX)).await.ok()
}

async fn write(send: SendStream, outcome: Result<Bytes, Refusal>, response_bytes_max: usize) {
    let mut header = BytesMut::with_capacity(9);
    let body = match outcome {
        Ok(body) if body.len() > response_bytes_max => {
            tracing::error!(bytes = body.len(), "a response over the limit");
            return;
        }
        Ok(body) => {
            header.put_u8(REPLY);
            body
        }
        Err(Refusal { code, mut message }) => {
            header.put_u8(REFUSAL);
            header.put_u32(code);
            message.truncate(message.floor_char_boundary(REFUSAL_BYTES_MAX));
            Bytes::from(message)
        }
    };
    with_length(&mut header, body.len());
    let mut send = Sending::new(send);
    // A caller who no longer waits has stopped the stream.
    if send.write(&mut [header.freeze(), body]).await.is_ok() {
        send.finish();
    }
}
