//! The sender's side of a lane.
//!
//! ```text
//!   posted -> Queued --poll_transmit--> Sent --received--> body let go --answered--> told
//!               |                         |
//!            deadline: NotSent         deadline: Unknown, and the frame stays
//! ```
//!
//! Invariants:
//!
//! * `received <= written <= sent` while attached: what the receiver has, what this stream was
//!   given, what any stream was given.
//! * Every frame posted is told exactly once: its answer, `NotSent` or `Unknown`.
//! * What is told `NotSent` was never given to a stream.
//! * What was once given to a stream is given to the next one too until the receiver has it, even
//!   when its caller no longer waits: a gap would break the order of those behind it.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Answer, LaneBroken, PostError, Record, Session, Terms, Window};

/// Passed deadlines are looked for at most this often, since each look goes over all frames.
const DEADLINE_RESOLUTION: Duration = Duration::from_millis(5);

/// `T` is whom to tell.
#[derive(Debug)]
pub(in crate::fabric) struct SenderLane<T> {
    window: Window,
    session: Option<Session>,
    /// The receiver's, once we are attached.
    terms: Terms,
    is_attached: bool,
    /// Never given to a stream. Bounded by who posts.
    queue: VecDeque<Queued<T>>,
    queue_bytes: usize,
    /// The frames after `received` up to `sent`. Bounded by the window.
    unreceived: VecDeque<Bytes>,
    unreceived_bytes: usize,
    /// Whom to tell of the frames up to `sent`. Bounded by the window.
    unanswered: BTreeMap<u64, Unanswered<T>>,
    sent: u64,
    written: u64,
    received: u64,
    /// How many answers we have, and how many the receiver was told that we have.
    seen: u64,
    seen_told: u64,
    /// No deadline is earlier than this one.
    earliest: Option<Instant>,
    looked_at: Option<Instant>,
    told: VecDeque<(T, Result<Bytes, PostError>)>,
}

#[derive(Debug)]
struct Queued<T> {
    frame: Bytes,
    deadline: Instant,
    teller: T,
}

#[derive(Debug)]
struct Unanswered<T> {
    deadline: Instant,
    teller: T,
}

/// How much a lane holds of what was posted to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::fabric) struct Held {
    pub(in crate::fabric) frames: usize,
    pub(in crate::fabric) bytes: usize,
}

impl<T> SenderLane<T> {
    pub(in crate::fabric) fn new(window: Window) -> SenderLane<T> {
        SenderLane {
            window,
            session: None,
            terms: Terms { unanswered_max: 0, frame_bytes_max: 0 },
            is_attached: false,
            queue: VecDeque::new(),
            queue_bytes: 0,
            unreceived: VecDeque::new(),
            unreceived_bytes: 0,
            unanswered: BTreeMap::new(),
            sent: 0,
            written: 0,
            received: 0,
            seen: 0,
            seen_told: 0,
            earliest: None,
            looked_at: None,
            told: VecDeque::new(),
        }
    }

    pub(in crate::fabric) fn session(&self) -> Option<Session> {
        self.session
    }

    /// How many of the session's answers we have: what to say when attaching.
    pub(in crate::fabric) fn seen(&self) -> u64 {
        self.seen
    }

    /// Nothing waits to be sent, received or answered: a stream is of no use.
    pub(in crate::fabric) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.outstanding() == 0
    }

    pub(in crate::fabric) fn held(&self) -> Held {
        // What is outstanding is at most the window, which is far below 2^32.
        let outstanding = usize::try_from(self.outstanding()).unwrap_or(usize::MAX);
        Held {
            frames: self.queue.len() + outstanding,
            bytes: self.queue_bytes + self.unreceived_bytes,
        }
    }

    pub(in crate::fabric) fn post(&mut self, frame: Bytes, deadline: Instant, teller: T) {
        self.queue_bytes += frame.len();
        self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
        self.queue.push_back(Queued { frame, deadline, teller });
    }

    /// A new stream was attached, and the receiver said which session it is and how far it got.
    pub(in crate::fabric) fn on_attached(
        &mut self,
        session: Session,
        received: u64,
        terms: Terms,
    ) -> Result<(), LaneBroken> {
        if self.session != Some(session) {
            if self.session.is_some() {
                self.lose_session();
            }
            self.session = Some(session);
        }
        if received < self.received || received > self.sent {
            return Err(LaneBroken("it received what was not sent, or lost what it had"));
        }
        self.terms =
            Terms { unanswered_max: terms.unanswered_max.min(self.window.unanswered_max), ..terms };
        self.release(received);
        self.written = received;
        self.seen_told = self.seen;
        self.is_attached = true;
        Ok(())
    }

    pub(in crate::fabric) fn on_detached(&mut self) {
        self.is_attached = false;
    }

    pub(in crate::fabric) fn on_record(&mut self, record: Record) -> Result<(), LaneBroken> {
        match record {
            Record::Answer { sequence, answer } => self.on_answer(sequence, answer),
            Record::Received(sequence) => {
                if sequence > self.written {
                    return Err(LaneBroken("it received what was not sent"));
                }
                self.release(sequence);
                Ok(())
            }
            Record::Frame { .. } | Record::Seen(_) => Err(LaneBroken("a record the wrong way")),
        }
    }

    /// The session cannot go on: the receiver is another process or has forgotten it, it broke the
    /// protocol, or it was away for too long.
    ///
    /// What was posted to the session's other end is not sent to its successor: who posts decides
    /// anew whether it should be.
    pub(in crate::fabric) fn lose_session(&mut self) {
        for Unanswered { teller, deadline: _ } in std::mem::take(&mut self.unanswered).into_values()
        {
            self.told.push_back((teller, Err(PostError::Unknown)));
        }
        for Queued { teller, frame: _, deadline: _ } in std::mem::take(&mut self.queue) {
            self.told.push_back((teller, Err(PostError::NotSent)));
        }
        self.unreceived = VecDeque::new();
        (self.queue_bytes, self.unreceived_bytes) = (0, 0);
        (self.sent, self.written, self.received) = (0, 0, 0);
        (self.seen, self.seen_told) = (0, 0);
        self.earliest = None;
        self.session = None;
        self.is_attached = false;
    }

    pub(in crate::fabric) fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|timeout| now < timeout) {
            return;
        }
        self.looked_at = Some(now);
        for (_, Unanswered { teller, deadline: _ }) in
            self.unanswered.extract_if(.., |_, unanswered| unanswered.deadline <= now)
        {
            self.told.push_back((teller, Err(PostError::Unknown)));
        }
        if self.queue.iter().any(|queued| queued.deadline <= now) {
            self.drop_late(now);
        }
        let sent = self.unanswered.values().map(|unanswered| unanswered.deadline);
        self.earliest = sent.chain(self.queue.iter().map(|queued| queued.deadline)).min();
    }

    pub(in crate::fabric) fn poll_timeout(&self) -> Option<Instant> {
        let earliest = self.earliest?;
        Some(self.looked_at.map_or(earliest, |at| earliest.max(at + DEADLINE_RESOLUTION)))
    }

    /// The next record for the stream. A frame that leaves here counts as sent, whether or not the
    /// stream lives long enough to take it.
    pub(in crate::fabric) fn poll_transmit(&mut self) -> Option<Record> {
        if !self.is_attached {
            return None;
        }
        self.drop_large();
        let has_frame = self.written < self.sent || self.may_send();
        // The receiver holds us to the window by what it was told: tell it before the next frame.
        let untold = self.seen - self.seen_told;
        if (has_frame && untold > 0) || untold >= (self.terms.unanswered_max / 4).max(1) {
            self.seen_told = self.seen;
            return Some(Record::Seen(self.seen));
        }
        if !has_frame {
            return None;
        }
        if self.written == self.sent {
            self.take_from_queue();
        }
        self.written += 1;
        let index = usize::try_from(self.written - self.received - 1).ok()?;
        let body = self.unreceived.get(index)?.clone();
        Some(Record::Frame { sequence: self.written, body })
    }

    /// Whom to tell what.
    pub(in crate::fabric) fn poll_told(&mut self) -> Option<(T, Result<Bytes, PostError>)> {
        self.told.pop_front()
    }

    fn outstanding(&self) -> u64 {
        self.sent - self.seen
    }

    fn may_send(&self) -> bool {
        let Some(next) = self.queue.front() else { return false };
        let bytes = self.unreceived_bytes + next.frame.len();
        self.outstanding() < self.terms.unanswered_max
            && (self.unreceived.is_empty() || bytes <= self.window.unreceived_bytes_max)
    }

    /// The receiver would not take them, and would break off because of them.
    fn drop_large(&mut self) {
        let bytes_max = self.terms.frame_bytes_max;
        while let Some(large) = self.queue.pop_front_if(|next| next.frame.len() > bytes_max) {
            self.queue_bytes -= large.frame.len();
            self.told.push_back((large.teller, Err(PostError::NotSent)));
        }
    }

    fn take_from_queue(&mut self) {
        let Some(Queued { frame, deadline, teller }) = self.queue.pop_front() else { return };
        self.queue_bytes -= frame.len();
        self.sent += 1;
        self.unreceived_bytes += frame.len();
        self.unreceived.push_back(frame);
        self.unanswered.insert(self.sent, Unanswered { deadline, teller });
    }

    fn on_answer(&mut self, sequence: u64, answer: Answer) -> Result<(), LaneBroken> {
        if sequence > self.written || self.seen >= self.written {
            return Err(LaneBroken("it answered what was not sent"));
        }
        self.seen += 1;
        // Lanes are in order: who answers a frame has all before it.
        self.release(sequence);
        // Whose deadline has passed was told so already.
        if let Some(Unanswered { teller, deadline: _ }) = self.unanswered.remove(&sequence) {
            let outcome = match answer {
                Answer::Given(body) => Ok(body),
                Answer::Abandoned => Err(PostError::Unknown),
            };
            self.told.push_back((teller, outcome));
        }
        Ok(())
    }

    /// Lets go of what the receiver has.
    fn release(&mut self, received: u64) {
        while self.received < received {
            self.received += 1;
            if let Some(frame) = self.unreceived.pop_front() {
                self.unreceived_bytes -= frame.len();
            }
        }
    }

    fn drop_late(&mut self, now: Instant) {
        for queued in std::mem::take(&mut self.queue) {
            if now < queued.deadline {
                self.queue.push_back(queued);
                continue;
            }
            self.queue_bytes -= queued.frame.len();
            self.told.push_back((queued.teller, Err(PostError::NotSent)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Window = Window { unanswered_max: 3, unreceived_bytes_max: 20 };
    const SESSION: Session = Session { process: 7, number: 1 };
    const TERMS: Terms = Terms { unanswered_max: 9, frame_bytes_max: 100 };

    type Told = (u32, Result<Bytes, PostError>);

    #[test]
    fn frames_wait_for_a_stream_and_then_go_in_order() {
        let mut story = Story::new();
        story.post(1, 9);
        story.post(2, 9);
        assert_eq!(story.sent(), []);
        story.lane.on_attached(SESSION, 0, TERMS).unwrap();
        assert_eq!(story.sent(), [frame(1, 1), frame(2, 2)]);
        story.lane.on_record(given(2)).unwrap();
        story.lane.on_record(given(1)).unwrap();
        assert_eq!(story.told(), [(2, Ok(body(2))), (1, Ok(body(1)))]);
        assert!(story.lane.is_idle());
        assert_eq!(story.lane.held(), Held::default());
    }

    #[test]
    fn a_full_window_holds_frames_back_until_answers_come_and_the_receiver_knows() {
        let mut story = Story::attached();
        for post in 1..=5 {
            story.post(post, 9);
        }
        assert_eq!(story.sent(), [frame(1, 1), frame(2, 2), frame(3, 3)]);
        story.lane.on_record(given(2)).unwrap();
        assert_eq!(story.sent(), [Record::Seen(1), frame(4, 4)]);
        assert_eq!(story.lane.held(), Held { frames: 4, bytes: 18 });
    }

    #[test]
    fn large_frames_wait_until_the_receiver_has_what_went_before() {
        let mut story = Story::attached();
        let large = Bytes::from(vec![0; 100]);
        for post in 1..=2 {
            story.lane.post(large.clone(), story.at(9), post);
        }
        let sent = |sequence| Record::Frame { sequence, body: large.clone() };
        assert_eq!(story.sent(), [sent(1)]);
        story.lane.on_record(Record::Received(1)).unwrap();
        assert_eq!(story.sent(), [sent(2)]);
    }

    #[test]
    fn a_resumed_session_sends_again_what_was_not_received_and_nothing_else() {
        let mut story = Story::attached();
        for post in 1..=4 {
            story.post(post, 9);
        }
        assert_eq!(story.sent(), [frame(1, 1), frame(2, 2), frame(3, 3)]);
        story.lane.on_detached();
        assert_eq!(story.sent(), []);
        story.lane.on_attached(SESSION, 1, TERMS).unwrap();
        assert_eq!(story.sent(), [frame(2, 2), frame(3, 3)]);
        story.lane.on_record(given(1)).unwrap();
        assert_eq!(story.sent(), [Record::Seen(1), frame(4, 4)]);
        assert_eq!(story.told(), [(1, Ok(body(1)))]);
    }

    #[test]
    fn where_another_process_answers_what_was_sent_is_unknown_and_what_was_not_is_not_sent() {
        let mut story = Story::attached();
        for post in 1..=4 {
            story.post(post, 9);
        }
        assert_eq!(story.sent().len(), 3);
        story.lane.on_detached();
        story.lane.on_attached(Session { process: 8, number: 1 }, 0, TERMS).unwrap();
        let unknown = |post| (post, Err(PostError::Unknown));
        assert_eq!(
            story.told(),
            [unknown(1), unknown(2), unknown(3), (4, Err(PostError::NotSent))]
        );
        story.post(5, 9);
        assert_eq!(story.sent(), [frame(1, 5)]);
    }

    #[test]
    fn a_deadline_that_passes_is_told_by_how_far_the_frame_got() {
        let mut story = Story::attached();
        for post in 1..=3 {
            story.post(post, 2);
        }
        assert_eq!(story.sent().len(), 3);
        story.post(4, 2);
        story.post(5, 3);
        assert_eq!(story.lane.poll_timeout(), Some(story.at(2)));

        story.lane.handle_timeout(story.at(1));
        assert_eq!(story.told(), []);
        story.lane.handle_timeout(story.at(2));
        let unknown = |post| (post, Err(PostError::Unknown));
        assert_eq!(
            story.told(),
            [unknown(1), unknown(2), unknown(3), (4, Err(PostError::NotSent))]
        );
        assert_eq!(story.lane.poll_timeout(), Some(story.at(3)));

        // The frames whose callers have gone still go before the next.
        story.lane.on_detached();
        story.lane.on_attached(SESSION, 2, TERMS).unwrap();
        assert_eq!(story.sent(), [frame(3, 3)]);
        story.lane.on_record(given(1)).unwrap();
        assert_eq!(story.sent(), [Record::Seen(1), frame(4, 5)]);
        assert_eq!(story.told(), []);
    }

    #[test]
    fn a_dropped_question_is_unknown() {
        let mut story = Story::attached();
        story.post(1, 9);
        assert_eq!(story.sent().len(), 1);
        let abandoned = Record::Answer { sequence: 1, answer: Answer::Abandoned };
        story.lane.on_record(abandoned).unwrap();
        assert_eq!(story.told(), [(1, Err(PostError::Unknown))]);
    }

    #[test]
    fn the_receivers_terms_hold_where_they_are_narrower() {
        let mut story = Story::new();
        for post in 1..=2 {
            story.post(post, 9);
        }
        story.lane.post(Bytes::from(vec![0; 9]), story.at(9), 3);
        story.post(4, 9);
        let narrow = Terms { unanswered_max: 1, frame_bytes_max: 8 };
        story.lane.on_attached(SESSION, 0, narrow).unwrap();
        assert_eq!(story.sent(), [frame(1, 1)]);
        story.lane.on_record(given(1)).unwrap();
        assert_eq!(story.sent(), [Record::Seen(1), frame(2, 2)]);
        story.lane.on_record(given(2)).unwrap();
        assert_eq!(story.sent(), [Record::Seen(2), frame(3, 4)]);
        let told = [(1, Ok(body(1))), (3, Err(PostError::NotSent)), (2, Ok(body(2)))];
        assert_eq!(story.told(), told);
    }

    #[test]
    fn a_receiver_that_lies_is_refused() {
        for lie in [Record::Received(2), given(2), Record::Seen(1), frame(1, 1)] {
            let mut story = Story::attached();
            story.post(1, 9);
            assert_eq!(story.sent().len(), 1);
            assert!(story.lane.on_record(lie.clone()).is_err(), "{lie:?}");
        }
        let mut story = Story::attached();
        assert!(story.lane.on_attached(SESSION, 1, TERMS).is_err());
    }

    struct Story {
        lane: SenderLane<u32>,
        start: Instant,
    }

    impl Story {
        fn new() -> Story {
            Story { lane: SenderLane::new(WINDOW), start: Instant::now() }
        }

        fn attached() -> Story {
            let mut story = Story::new();
            story.lane.on_attached(SESSION, 0, TERMS).unwrap();
            story
        }

        fn post(&mut self, post: u32, deadline_s: u64) {
            self.lane.post(body(u64::from(post)), self.at(deadline_s), post);
        }

        fn at(&self, second: u64) -> Instant {
            self.start + Duration::from_secs(second)
        }

        fn sent(&mut self) -> Vec<Record> {
            std::iter::from_fn(|| self.lane.poll_transmit()).collect()
        }

        fn told(&mut self) -> Vec<Told> {
            std::iter::from_fn(|| self.lane.poll_told()).collect()
        }
    }

    fn frame(sequence: u64, post: u64) -> Record {
        Record::Frame { sequence, body: body(post) }
    }

    fn given(sequence: u64) -> Record {
        Record::Answer { sequence, answer: Answer::Given(body(sequence)) }
    }

    fn body(post: u64) -> Bytes {
        Bytes::from(format!("body {post}"))
    }
}
