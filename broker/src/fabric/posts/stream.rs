//! A lane's stream: whole batches out, whatever has come in.

use bytes::{Bytes, BytesMut};
use quinn::{ReadError, RecvStream, SendStream, WriteError};

use super::super::lane::{LaneBroken, Record, RecordDecoder};
use super::super::wire::CloseCode;

/// A batch is closed once it has so many bytes: large enough that a record costs little, small
/// enough that lanes take turns.
const BATCH_BYTES: usize = 64 * 1024;

/// Pieces taken from the stream at once. A piece is at most a datagram.
const PIECES_MAX: usize = 64;

pub(super) struct LaneStream {
    send: SendStream,
    recv: RecvStream,
    /// Written in full before the next batch is made.
    outgoing: Bytes,
    batch: BytesMut,
    pieces: Box<[Bytes; PIECES_MAX]>,
    pieces_count: usize,
    decoder: RecordDecoder,
}

/// What happened on a stream.
pub(super) enum StreamEvent {
    /// Records may have come: take them.
    Read,
    /// Something was written: there may be room for more.
    Written(usize),
    Lost(StreamLost),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum StreamLost {
    #[error("ended by the peer")]
    Ended,
    #[error("{0}")]
    Read(#[from] ReadError),
    #[error("{0}")]
    Write(#[from] WriteError),
    #[error("{0}")]
    Broken(#[from] LaneBroken),
}

impl LaneStream {
    pub(super) fn new(send: SendStream, recv: RecvStream, body_bytes_max: usize) -> LaneStream {
        LaneStream {
            send,
            recv,
            outgoing: Bytes::new(),
            batch: BytesMut::new(),
            pieces: Box::new([const { Bytes::new() }; PIECES_MAX]),
            pieces_count: 0,
            decoder: RecordDecoder::new(body_bytes_max),
        }
    }

    /// Waits until something happens. To drop the wait loses nothing.
    pub(super) async fn event(&mut self) -> StreamEvent {
        let outgoing = std::slice::from_mut(&mut self.outgoing);
        let is_writing = !outgoing[0].is_empty();
        tokio::select! {
            read = self.recv.read_chunks(&mut self.pieces[..]) => match read {
                Ok(Some(count)) => {
                    self.pieces_count = count;
                    StreamEvent::Read
                }
                Ok(None) => StreamEvent::Lost(StreamLost::Ended),
                Err(error) => StreamEvent::Lost(error.into()),
            },
            written = self.send.write_chunks(outgoing), if is_writing => match written {
                Ok(written) => StreamEvent::Written(written.bytes),
                Err(error) => StreamEvent::Lost(error.into()),
            },
        }
    }

    /// Hands what has been read to the decoder. Returns how many bytes.
    pub(super) fn take_read(&mut self) -> usize {
        let mut bytes = 0;
        for piece in &mut self.pieces[..self.pieces_count] {
            bytes += piece.len();
            self.decoder.push(piece);
            *piece = Bytes::new();
        }
        self.pieces_count = 0;
        bytes
    }

    pub(super) fn next_record(&mut self) -> Result<Option<Record>, LaneBroken> {
        self.decoder.next_record()
    }

    /// Makes the next batch of what there is to say, unless the last one is still under way.
    /// Returns the counts of records by what the caller makes of them.
    pub(super) fn fill(&mut self, mut next: impl FnMut() -> Option<Record>) {
        if !self.outgoing.is_empty() {
            return;
        }
        while self.batch.len() < BATCH_BYTES
            && let Some(record) = next()
        {
            record.encode(&mut self.batch);
        }
        self.outgoing = self.batch.split().freeze();
    }

    /// Ends the stream for the other side too.
    pub(super) fn close(mut self, code: CloseCode) {
        // It may be over already, which is as well.
        let _ = self.send.reset(code.into());
        let _ = self.recv.stop(code.into());
    }
}
