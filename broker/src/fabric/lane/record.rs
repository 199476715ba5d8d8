//! What is said on a lane's stream once it is attached: records, back to back.
//!
//! ```text
//!   frame     1 | sequence u64 | length u32 | body           sender to receiver
//!   seen      2 | answers u64
//!   answer    3 | sequence u64 | length u32 | body           receiver to sender
//!   abandoned 4 | sequence u64
//!   received  5 | sequence u64
//! ```
//!
//! Invariants:
//!
//! * A length is checked before a byte of its body is kept.
//! * A body owns its memory and no more: one that is kept for long pins nothing else.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::{Answer, LaneBroken};

const FRAME: u8 = 1;
const SEEN: u8 = 2;
const ANSWER: u8 = 3;
const ABANDONED: u8 = 4;
const RECEIVED: u8 = 5;

const SHORT_BYTES: usize = 1 + 8;
const LONG_BYTES: usize = 1 + 8 + 4;

/// A decoder that has held more than this gives the memory back when it runs empty.
const BUFFER_KEPT_BYTES: usize = 64 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::fabric) enum Record {
    Frame {
        sequence: u64,
        body: Bytes,
    },
    /// The sender has this many of the session's answers.
    Seen(u64),
    Answer {
        sequence: u64,
        answer: Answer,
    },
    /// The receiver has all frames up to this one.
    Received(u64),
}

/// Cuts what arrives into records.
#[derive(Debug)]
pub(in crate::fabric) struct RecordDecoder {
    /// Bounded: less than one record, and what was pushed since the last one was taken.
    buffer: BytesMut,
    body_bytes_max: usize,
}

impl Record {
    pub(in crate::fabric) fn encode(&self, buffer: &mut BytesMut) {
        match self {
            Record::Frame { sequence, body } => encode_long(buffer, FRAME, *sequence, body),
            Record::Seen(answers) => encode_short(buffer, SEEN, *answers),
            Record::Answer { sequence, answer: Answer::Given(body) } => {
                encode_long(buffer, ANSWER, *sequence, body);
            }
            Record::Answer { sequence, answer: Answer::Abandoned } => {
                encode_short(buffer, ABANDONED, *sequence);
            }
            Record::Received(sequence) => encode_short(buffer, RECEIVED, *sequence),
        }
    }
}

impl RecordDecoder {
    pub(in crate::fabric) fn new(body_bytes_max: usize) -> RecordDecoder {
        RecordDecoder { buffer: BytesMut::new(), body_bytes_max }
    }

    pub(in crate::fabric) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole record, if it has arrived.
    pub(in crate::fabric) fn next_record(&mut self) -> Result<Option<Record>, LaneBroken> {
        let Some(kind) = self.buffer.first() else {
            if self.buffer.capacity() > BUFFER_KEPT_BYTES {
                self.buffer = BytesMut::new();
            }
            return Ok(None);
        };
        match *kind {
            FRAME => {
                let frame = |sequence, body| Record::Frame { sequence, body };
                Ok(self.long()?.map(|(sequence, body)| frame(sequence, body)))
            }
            ANSWER => {
                let answer =
                    |sequence, body| Record::Answer { sequence, answer: Answer::Given(body) };
                Ok(self.long()?.map(|(sequence, body)| answer(sequence, body)))
            }
            SEEN => Ok(self.short().map(Record::Seen)),
            RECEIVED => Ok(self.short().map(Record::Received)),
            ABANDONED => Ok(self
                .short()
                .map(|sequence| Record::Answer { sequence, answer: Answer::Abandoned })),
            _ => Err(LaneBroken("a record of unknown kind")),
        }
    }

    fn short(&mut self) -> Option<u64> {
        let mut header = self.buffer.get(1..SHORT_BYTES)?;
        let number = header.get_u64();
        self.buffer.advance(SHORT_BYTES);
        Some(number)
    }

    fn long(&mut self) -> Result<Option<(u64, Bytes)>, LaneBroken> {
        let Some(mut header) = self.buffer.get(1..LONG_BYTES) else { return Ok(None) };
        let sequence = header.get_u64();
        let length = header.get_u32() as usize;
        if length > self.body_bytes_max {
            return Err(LaneBroken("a body over the limit"));
        }
        let Some(body) = self.buffer.get(LONG_BYTES..LONG_BYTES + length) else {
            return Ok(None);
        };
        let body = Bytes::copy_from_slice(body);
        self.buffer.advance(LONG_BYTES + length);
        Ok(Some((sequence, body)))
    }
}

fn encode_short(buffer: &mut BytesMut, kind: u8, number: u64) {
    buffer.put_u8(kind);
    buffer.put_u64(number);
}

fn encode_long(buffer: &mut BytesMut, kind: u8, sequence: u64, body: &Bytes) {
    // Bodies over the limit are refused where they come from; four bytes hold any that pass.
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
    buffer.reserve(LONG_BYTES + body.len());
    buffer.put_u8(kind);
    buffer.put_u64(sequence);
    buffer.put_u32(length);
    buffer.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn records() -> impl Strategy<Value = Vec<Record>> {
        let body = || proptest::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
        let record = prop_oneof![
            (any::<u64>(), body()).prop_map(|(sequence, body)| Record::Frame { sequence, body }),
            any::<u64>().prop_map(Record::Seen),
            (any::<u64>(), body()).prop_map(|(sequence, body)| Record::Answer {
                sequence,
                answer: Answer::Given(body)
            }),
            any::<u64>()
                .prop_map(|sequence| Record::Answer { sequence, answer: Answer::Abandoned }),
            any::<u64>().prop_map(Record::Received),
        ];
        proptest::collection::vec(record, 0..20)
    }

    proptest! {
        #[test]
        fn records_survive_the_wire_however_it_cuts_them(records in records(), cut in 1_usize..50) {
            let mut wire = BytesMut::new();
            for record in &records {
                record.encode(&mut wire);
            }
            let mut decoder = RecordDecoder::new(40);
            let mut decoded = Vec::new();
            for piece in wire.chunks(cut) {
                decoder.push(piece);
                while let Some(record) = decoder.next_record().unwrap() {
                    decoded.push(record);
                }
            }
            prop_assert_eq!(decoded, records);
        }

        #[test]
        fn any_bytes_are_records_or_are_refused(bytes: Vec<u8>) {
            let mut decoder = RecordDecoder::new(40);
            decoder.push(&bytes);
            while let Ok(Some(_)) = decoder.next_record() {}
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_body_comes() {
        let mut decoder = RecordDecoder::new(40);
        decoder.push(&[FRAME, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 41]);
        assert_eq!(decoder.next_record(), Err(LaneBroken("a body over the limit")));
    }

    #[test]
    fn an_unknown_kind_is_refused() {
        let mut decoder = RecordDecoder::new(40);
        decoder.push(&[9]);
        assert_eq!(decoder.next_record(), Err(LaneBroken("a record of unknown kind")));
    }
}
