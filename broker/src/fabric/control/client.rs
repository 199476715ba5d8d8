//! The caller's side.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use quinn::Connection;
use tokio::time::{Instant, timeout, timeout_at};

use super::super::after;
use super::super::common::Common;
use super::super::link::{DialError, Link};
use super::{
    CALL, CallError, REFUSAL, REFUSAL_BYTES_MAX, REPLY, Receiving, Refusal, Sending, StreamError,
    UPLOAD, with_length,
};

/// Bulk yields to calls on the same connection: heartbeats are among them.
const UPLOAD_PRIORITY: i32 = -1;

/// A question whose body is still being told. Dropped unfinished, it is as if cut off: the service
/// never takes it for whole.
pub struct Upload {
    send: Sending,
    recv: Receiving,
    patience: Duration,
    response_bytes_max: usize,
}

pub(in crate::fabric) async fn call(
    common: &Common,
    link: &Link,
    address: &Arc<str>,
    (method, request): (u8, Bytes),
    deadline: Instant,
) -> Result<Bytes, CallError> {
    let established = link.connection(address, deadline).await?;
    call_on(common, &established.connection, (method, request), deadline).await
}

pub(in crate::fabric) async fn call_on(
    common: &Common,
    connection: &Connection,
    (method, request): (u8, Bytes),
    deadline: Instant,
) -> Result<Bytes, CallError> {
    let (send, mut recv) = open(common, connection, (CALL, method, request), deadline).await?;
    send.finish();
    let response = recv.reply(common.settings.limits.call_bytes_max);
    match timeout_at(deadline, response).await {
        Ok(response) => response,
        Err(_) => Err(CallError::Unknown("no answer before the deadline".to_owned())),
    }
}

pub(in crate::fabric) async fn open_upload(
    common: &Common,
    link: &Link,
    address: &Arc<str>,
    (method, header): (u8, Bytes),
    patience: Duration,
) -> Result<Upload, CallError> {
    let deadline = after(patience);
    let connection = link.connection(address, deadline).await?.connection;
    let (send, recv) = open(common, &connection, (UPLOAD, method, header), deadline).await?;
    let response_bytes_max = common.settings.limits.call_bytes_max;
    Ok(Upload { send, recv, patience, response_bytes_max })
}

async fn open(
    common: &Common,
    connection: &Connection,
    (kind, method, body): (u8, u8, Bytes),
    deadline: Instant,
) -> Result<(Sending, Receiving), CallError> {
    if body.len() > common.settings.limits.call_bytes_max {
        return Err(CallError::TooLarge(body.len()));
    }
    let (send, recv) = match timeout_at(deadline, connection.open_bi()).await {
        Ok(Ok(streams)) => streams,
        Ok(Err(error)) => return Err(DialError::Lost(error.to_string()).into()),
        Err(_) => return Err(DialError::Deadline.into()),
    };
    if kind == UPLOAD {
        // It was just opened, and so cannot be closed.
        let _ = send.set_priority(UPLOAD_PRIORITY);
    }
    common.stats.calls_sent.add(1);
    let mut header = BytesMut::with_capacity(6);
    header.put_u8(kind);
    header.put_u8(method);
    with_length(&mut header, body.len());
    let mut send = Sending::new(send);
    match timeout_at(deadline, send.write(&mut [header.freeze(), body])).await {
        Ok(Ok(())) => Ok((send, Receiving(recv))),
        Ok(Err(error)) => Err(CallError::Unknown(error.to_string())),
        Err(_) => Err(CallError::Unknown("not sent whole before the deadline".to_owned())),
    }
}

impl Upload {
    /// Waits for room, and no longer than the patience that the upload was opened with.
    ///
    /// After an error only the answer, if there is one, is of interest: the service may have said
    /// no in the middle.
    pub async fn write(&mut self, piece: Bytes) -> Result<(), CallError> {
        match timeout(self.patience, self.send.write(&mut [piece])).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.refusal_or(error.to_string()).await),
            Err(_) => Err(CallError::Unknown("no room before the deadline".to_owned())),
        }
    }

    /// Says that this was all, and waits for the answer, again as long as the patience.
    pub async fn finish(self) -> Result<Bytes, CallError> {
        let Upload { send, mut recv, patience, response_bytes_max } = self;
        send.finish();
        match timeout(patience, recv.reply(response_bytes_max)).await {
            Ok(response) => response,
            Err(_) => Err(CallError::Unknown("no answer before the deadline".to_owned())),
        }
    }

    async fn refusal_or(&mut self, error: String) -> CallError {
        match timeout(self.patience, self.recv.reply(self.response_bytes_max)).await {
            Ok(Err(CallError::Refused(refusal))) => CallError::Refused(refusal),
            Ok(Ok(_) | Err(_)) | Err(_) => CallError::Unknown(error),
        }
    }
}

impl Receiving {
    async fn reply(&mut self, response_bytes_max: usize) -> Result<Bytes, CallError> {
        let unknown = |error: StreamError| CallError::Unknown(error.to_string());
        let [status] = self.exact().await.map_err(unknown)?;
        match status {
            REPLY => {
                let length = self.length(response_bytes_max).await.map_err(unknown)?;
                self.body(length).await.map_err(unknown)
            }
            REFUSAL => {
                let code = u32::from_be_bytes(self.exact().await.map_err(unknown)?);
                let length = self.length(REFUSAL_BYTES_MAX).await.map_err(unknown)?;
                let message = self.body(length).await.map_err(unknown)?;
                let message = String::from_utf8_lossy(&message).into_owned();
                Err(CallError::Refused(Refusal { code, message }))
            }
            _ => Err(unknown(StreamError::UnknownKind)),
        }
    }
}
