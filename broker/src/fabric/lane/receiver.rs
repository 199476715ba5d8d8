//! The receiver's side of a lane, for one session.
//!
//! Invariants:
//!
//! * Frames are delivered in the order of their sequence numbers, without gaps, and once each.
//! * An answer is kept until the sender has said that it has seen it, and every stream that is
//!   attached gets all that are kept, in the order in which they were given.
//! * Frames received less answers seen never exceed the window, so neither do the answers kept.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Answer, LaneBroken, Record};

/// Word of what was received rides with the answers. Where those are slow, it goes out alone after
/// so many frames or bytes, so that the sender need not keep them. Part of the protocol: a sender's
/// window must be larger.
const UNTOLD_FRAMES_MAX: u64 = 256;
pub(in crate::fabric) const UNTOLD_BYTES_MAX: usize = 256 * 1024;

#[derive(Debug)]
pub(in crate::fabric) struct ReceiverLane {
    unanswered_max: u64,
    is_attached: bool,
    received: u64,
    /// What the sender was told that we have, and how many bytes came since.
    received_told: u64,
    untold_bytes: usize,
    /// How many answers the sender has seen.
    seen: u64,
    /// The answers after `seen`. Bounded by the window.
    kept: VecDeque<(u64, Answer)>,
    /// How many of the kept ones this stream was given.
    written: usize,
}

impl ReceiverLane {
    pub(in crate::fabric) fn new(unanswered_max: u64) -> ReceiverLane {
        ReceiverLane {
            unanswered_max,
            is_attached: false,
            received: 0,
            received_told: 0,
            untold_bytes: 0,
            seen: 0,
            kept: VecDeque::new(),
            written: 0,
        }
    }

    /// A new stream was attached. Returns the last frame that was received, which the sender must
    /// be told first.
    pub(in crate::fabric) fn on_attached(&mut self, seen: u64) -> Result<u64, LaneBroken> {
        self.on_seen(seen)?;
        self.written = 0;
        self.is_attached = true;
        self.told();
        Ok(self.received)
    }

    pub(in crate::fabric) fn on_detached(&mut self) {
        self.is_attached = false;
    }

    /// Returns the frame to deliver, if the record is one.
    pub(in crate::fabric) fn on_record(
        &mut self,
        record: Record,
    ) -> Result<Option<(u64, Bytes)>, LaneBroken> {
        match record {
            Record::Frame { sequence, body } => {
                if sequence != self.received + 1 {
                    return Err(LaneBroken("a frame out of sequence"));
                }
                if self.received - self.seen >= self.unanswered_max {
                    return Err(LaneBroken("a frame beyond the window"));
                }
                self.received = sequence;
                self.untold_bytes += body.len();
                Ok(Some((sequence, body)))
            }
            Record::Seen(seen) => self.on_seen(seen).map(|()| None),
            Record::Answer { .. } | Record::Received(_) => {
                Err(LaneBroken("a record the wrong way"))
            }
        }
    }

    /// The service answered a frame that was delivered to it. To be called once for each.
    pub(in crate::fabric) fn on_answer(&mut self, sequence: u64, answer: Answer) {
        debug_assert!(sequence <= self.received);
        self.kept.push_back((sequence, answer));
    }

    pub(in crate::fabric) fn poll_transmit(&mut self) -> Option<Record> {
        if !self.is_attached {
            return None;
        }
        if let Some((sequence, answer)) = self.kept.get(self.written) {
            let record = Record::Answer { sequence: *sequence, answer: answer.clone() };
            // An answer says that all frames up to its own were received.
            self.received_told = self.received_told.max(*sequence);
            if self.received_told == self.received {
                self.untold_bytes = 0;
            }
            self.written += 1;
            return Some(record);
        }
        let untold = self.received - self.received_told;
        if untold >= UNTOLD_FRAMES_MAX || self.untold_bytes >= UNTOLD_BYTES_MAX {
            self.told();
            return Some(Record::Received(self.received));
        }
        None
    }

    fn on_seen(&mut self, seen: u64) -> Result<(), LaneBroken> {
        let newly = seen.checked_sub(self.seen).and_then(|newly| usize::try_from(newly).ok());
        let Some(newly) = newly.filter(|newly| *newly <= self.kept.len()) else {
            return Err(LaneBroken("it saw answers that were not given, or forgot some"));
        };
        self.kept.drain(..newly);
        self.written = self.written.saturating_sub(newly);
        self.seen = seen;
        Ok(())
    }

    fn told(&mut self) {
        self.received_told = self.received;
        self.untold_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNANSWERED_MAX: u64 = 3;

    #[test]
    fn frames_are_delivered_in_sequence_only() {
        let mut lane = attached();
        assert_eq!(lane.on_record(frame(1)), Ok(Some((1, body(1)))));
        assert_eq!(lane.on_record(frame(1)), Err(LaneBroken("a frame out of sequence")));
        assert_eq!(lane.on_record(frame(3)), Err(LaneBroken("a frame out of sequence")));
        assert_eq!(lane.on_record(frame(2)), Ok(Some((2, body(2)))));
    }

    #[test]
    fn what_was_not_seen_is_repeated_on_the_next_stream() {
        let mut lane = attached();
        for sequence in 1..=3 {
            lane.on_record(frame(sequence)).unwrap();
        }
        lane.on_answer(2, Answer::Given(body(2)));
        lane.on_answer(1, Answer::Abandoned);
        assert_eq!(drain(&mut lane), [given(2), abandoned(1)]);

        lane.on_detached();
        lane.on_answer(3, Answer::Given(body(3)));
        assert_eq!(drain(&mut lane), []);

        assert_eq!(lane.on_attached(1), Ok(3));
        assert_eq!(drain(&mut lane), [abandoned(1), given(3)]);
        assert_eq!(lane.on_record(Record::Seen(3)), Ok(None));
        assert_eq!(lane.on_attached(3), Ok(3));
        assert_eq!(drain(&mut lane), []);
    }

    #[test]
    fn a_sender_that_overruns_the_window_is_refused() {
        let mut lane = attached();
        for sequence in 1..=UNANSWERED_MAX {
            lane.on_record(frame(sequence)).unwrap();
        }
        lane.on_answer(1, Answer::Abandoned);
        assert_eq!(lane.on_record(frame(4)), Err(LaneBroken("a frame beyond the window")));
        assert_eq!(lane.on_record(Record::Seen(1)), Ok(None));
        assert_eq!(lane.on_record(frame(4)), Ok(Some((4, body(4)))));
    }

    #[test]
    fn a_sender_that_saw_what_was_not_given_or_forgot_is_refused() {
        let mut lane = attached();
        lane.on_record(frame(1)).unwrap();
        let broken = LaneBroken("it saw answers that were not given, or forgot some");
        assert_eq!(lane.on_record(Record::Seen(1)), Err(broken));
        lane.on_answer(1, Answer::Abandoned);
        assert_eq!(lane.on_attached(1), Ok(1));
        assert_eq!(lane.on_attached(0), Err(broken));
    }

    #[test]
    fn a_record_that_only_a_receiver_sends_is_refused() {
        let broken = Err(LaneBroken("a record the wrong way"));
        assert_eq!(attached().on_record(Record::Received(1)), broken);
        assert_eq!(attached().on_record(abandoned(1)), broken);
    }

    #[test]
    fn where_answers_are_slow_the_sender_hears_alone_of_what_was_received() {
        let mut lane = ReceiverLane::new(1 << 20);
        assert_eq!(lane.on_attached(0), Ok(0));
        for sequence in 1..UNTOLD_FRAMES_MAX {
            lane.on_record(frame(sequence)).unwrap();
        }
        assert_eq!(drain(&mut lane), []);
        lane.on_record(frame(UNTOLD_FRAMES_MAX)).unwrap();
        assert_eq!(drain(&mut lane), [Record::Received(UNTOLD_FRAMES_MAX)]);

        let sequence = UNTOLD_FRAMES_MAX + 1;
        let large = Bytes::from(vec![0; UNTOLD_BYTES_MAX]);
        lane.on_record(Record::Frame { sequence, body: large }).unwrap();
        assert_eq!(drain(&mut lane), [Record::Received(sequence)]);
    }

    fn attached() -> ReceiverLane {
        let mut lane = ReceiverLane::new(UNANSWERED_MAX);
        assert_eq!(lane.on_attached(0), Ok(0));
        lane
    }

    fn drain(lane: &mut ReceiverLane) -> Vec<Record> {
        std::iter::from_fn(|| lane.poll_transmit()).collect()
    }

    fn frame(sequence: u64) -> Record {
        Record::Frame { sequence, body: body(sequence) }
    }

    fn given(sequence: u64) -> Record {
        Record::Answer { sequence, answer: Answer::Given(body(sequence)) }
    }

    fn abandoned(sequence: u64) -> Record {
        Record::Answer { sequence, answer: Answer::Abandoned }
    }

    fn body(sequence: u64) -> Bytes {
        Bytes::from(format!("body {sequence}"))
    }
}
