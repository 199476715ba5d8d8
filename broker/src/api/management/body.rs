//! Bodies of requests: never more of them in memory than is allowed, and none waited for without end.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody as _};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::sync::Semaphore;

use crate::api::management::answer::Refusal;

/// How long a body may take to come.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Bodies that are being read at once. Further ones wait for their turn.
const READING_MAX: usize = 1024;
/// How much of a body that is too large is read and dropped, so that whoever sends all of it before he
/// looks for the answer finds one.
const DROPPED_BYTES_MAX: u64 = 1024 * 1024;

pub(super) struct Bodies {
    bytes_max: usize,
    reading: Semaphore,
}

impl Bodies {
    pub(super) fn new(bytes_max: usize) -> Bodies {
        Bodies { bytes_max, reading: Semaphore::new(READING_MAX) }
    }

    pub(super) async fn read(&self, body: Body) -> Result<Bytes, Refusal> {
        if body.is_end_stream() {
            return Ok(Bytes::new());
        }
        let read = async {
            let Ok(_turn) = self.reading.acquire().await else { return Err(Refusal::Busy) };
            self.read_in_turn(body).await
        };
        tokio::time::timeout(TIMEOUT, read).await.unwrap_or(Err(Refusal::Slow))
    }

    async fn read_in_turn(&self, mut body: Body) -> Result<Bytes, Refusal> {
        if body.size_hint().lower() > self.bytes_max as u64 {
            drop_some(&mut body).await;
            return Err(Refusal::TooLarge);
        }
        let mut limited = Limited::new(&mut body, self.bytes_max);
        match (&mut limited).collect().await {
            Ok(collected) => Ok(collected.to_bytes()),
            Err(error) if error.is::<LengthLimitError>() => {
                drop_some(&mut body).await;
                Err(Refusal::TooLarge)
            }
            Err(_) => Err(Refusal::Broken),
        }
    }
}

async fn drop_some(body: &mut Body) {
    if body.size_hint().lower() > DROPPED_BYTES_MAX {
        return;
    }
    let mut dropped = 0;
    while dropped < DROPPED_BYTES_MAX
        && let Some(Ok(frame)) = body.frame().await
    {
        dropped += frame.data_ref().map_or(0, |data| data.len() as u64);
    }
}
