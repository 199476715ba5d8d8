//! What others want one client to read, in order, and who waits for how far it got.
//!
//! Every accepted message has a *position*, counted from 1. Writing and answering move through the
//! positions in order, so that "how far did it get" is a comparison of two numbers:
//!
//! ```text
//! answered <= pinged <= written <= taken <= accepted
//! ```

use std::collections::VecDeque;

use crate::message::Message;

/// `T` is whatever tells a waiter the outcome.
#[derive(Debug)]
pub struct Outbox<T> {
    queue: VecDeque<Message>,
    bytes: usize,
    accepted: Position,
    taken: Position,
    written: Position,
    pinged: Position,
    answered: Position,
    /// Bounded by the limits of the calls that wait.
    waiters: Vec<Waiter<T>>,
}

/// The place of a message among all that its connection has accepted.
pub type Position = u64;

/// How far a message has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Progress {
    /// In the outbox.
    #[default]
    Accepted,
    /// Given to the kernel.
    Written,
    /// A Ping that was sent right behind it was answered by its Pong: the client's WebSocket stack
    /// has read past it (RFC 6455 section 5.5.3: a Pong answers the newest Ping at least).
    Answered,
}

/// What an outbox holds at most. Who would exceed it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutboxLimits {
    pub bytes_max: usize,
    pub messages_max: usize,
}

/// The client reads too slowly: the message was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// What the end of a connection means to one who waited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unfinished {
    /// The message never left the outbox.
    NotSent,
    /// It may have reached the client.
    PerhapsSent,
}

#[derive(Debug)]
struct Waiter<T> {
    position: Position,
    progress: Progress,
    token: T,
}

impl<T> Default for Outbox<T> {
    fn default() -> Outbox<T> {
        Outbox {
            queue: VecDeque::new(),
            bytes: 0,
            accepted: 0,
            taken: 0,
            written: 0,
            pinged: 0,
            answered: 0,
            waiters: Vec::new(),
        }
    }
}

impl<T> Outbox<T> {
    /// Whether a message of so many bytes would be taken.
    pub fn has_room(&self, limits: OutboxLimits, payload_bytes: usize) -> bool {
        // A message larger than the whole budget is taken when nothing else waits: the limit on
        // messages is another one's to hold.
        let fits = self.bytes + payload_bytes <= limits.bytes_max || self.queue.is_empty();
        fits && self.queue.len() < limits.messages_max
    }

    pub fn push(&mut self, limits: OutboxLimits, message: Message) -> Result<Position, Full> {
        if !self.has_room(limits, message.payload.len()) {
            return Err(Full);
        }
        self.bytes += message.payload.len();
        self.queue.push_back(message);
        self.accepted += 1;
        Ok(self.accepted)
    }

    /// Waits until the message at `position` has come as far as `progress`. Gives the token back at
    /// once if it has.
    pub fn wait(&mut self, position: Position, progress: Progress, token: T) -> Option<T> {
        if self.reached(progress) >= position {
            return Some(token);
        }
        self.waiters.push(Waiter { position, progress, token });
        None
    }

    /// The next message to write. It counts as written only once [`Outbox::on_written`] says so.
    pub fn take(&mut self) -> Option<Message> {
        let message = self.queue.pop_front()?;
        self.bytes -= message.payload.len();
        self.taken += 1;
        if self.queue.is_empty() {
            // An idle connection is to cost as little as one that never received anything.
            self.queue = VecDeque::new();
        }
        Some(message)
    }

    /// Everything taken so far was given to the kernel. Returns who waited for just that.
    pub fn on_written(&mut self) -> Vec<T> {
        self.written = self.taken;
        self.release()
    }

    /// The number that the next Ping should carry, if someone waits for its Pong.
    pub fn poll_ping(&mut self) -> Option<Position> {
        let awaited = |waiter: &Waiter<T>| {
            waiter.progress == Progress::Answered
                && waiter.position > self.pinged
                && waiter.position <= self.taken
        };
        if !self.waiters.iter().any(awaited) {
            return None;
        }
        self.pinged = self.taken;
        Some(self.pinged)
    }

    /// A Pong carried this number. None if we never sent it, or it was answered before.
    pub fn on_pong(&mut self, position: Position) -> Option<Vec<T>> {
        if position > self.pinged || position <= self.answered {
            return None;
        }
        self.answered = position;
        Some(self.release())
    }

    /// The connection is over. Returns who still waits, and what that means to each.
    pub fn close(&mut self) -> impl Iterator<Item = (T, Unfinished)> {
        self.queue = VecDeque::new();
        self.bytes = 0;
        let taken = self.taken;
        std::mem::take(&mut self.waiters).into_iter().map(move |waiter| {
            let sent = waiter.position <= taken;
            (waiter.token, if sent { Unfinished::PerhapsSent } else { Unfinished::NotSent })
        })
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many messages wait.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Bytes of payload that wait.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn reached(&self, progress: Progress) -> Position {
        match progress {
            Progress::Accepted => self.accepted,
            Progress::Written => self.written,
            Progress::Answered => self.answered,
        }
    }

    fn release(&mut self) -> Vec<T> {
        if self.waiters.is_empty() {
            return Vec::new();
        }
        let (written, answered) = (self.written, self.answered);
        let is_done = |waiter: &mut Waiter<T>| match waiter.progress {
            Progress::Accepted => true,
            Progress::Written => waiter.position <= written,
            Progress::Answered => waiter.position <= answered,
        };
        self.waiters.extract_if(.., is_done).map(|waiter| waiter.token).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: OutboxLimits = OutboxLimits { bytes_max: 10, messages_max: 3 };

    #[test]
    fn who_waits_learns_how_far_the_message_got() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.push(LIMITS, Message::text("one")), Ok(1));
        assert_eq!(outbox.wait(1, Progress::Accepted, "accepted"), Some("accepted"));
        assert_eq!(outbox.wait(1, Progress::Written, "written"), None);
        assert_eq!(outbox.wait(1, Progress::Answered, "answered"), None);
        assert_eq!(outbox.poll_ping(), None, "nothing was taken yet");

        assert_eq!(outbox.take(), Some(Message::text("one")));
        assert_eq!(outbox.poll_ping(), Some(1));
        assert_eq!(outbox.poll_ping(), None, "one is enough");
        assert_eq!(outbox.on_written(), ["written"]);

        assert_eq!(outbox.on_pong(7), None, "a number that we never sent");
        assert_eq!(outbox.on_pong(1), Some(vec!["answered"]));
        assert_eq!(outbox.on_pong(1), None, "it was answered before");
        assert_eq!(outbox.wait(1, Progress::Answered, "again"), Some("again"));
    }

    #[test]
    fn a_pong_answers_for_everything_before_its_ping() {
        let mut outbox = Outbox::default();
        for position in 1..=2 {
            assert_eq!(outbox.push(LIMITS, Message::text("x")), Ok(position));
            assert_eq!(outbox.wait(position, Progress::Answered, position), None);
            outbox.take();
        }
        assert_eq!(outbox.poll_ping(), Some(2));
        assert!(outbox.on_written().is_empty());
        assert_eq!(outbox.on_pong(2), Some(vec![1, 2]));
    }

    #[test]
    fn a_full_outbox_refuses_and_room_is_made_by_taking() {
        let mut outbox = Outbox::<()>::default();
        assert_eq!(outbox.push(LIMITS, Message::text("123456789")), Ok(1));
        assert_eq!(outbox.push(LIMITS, Message::text("12")), Err(Full), "too many bytes");
        assert_eq!(outbox.push(LIMITS, Message::text("1")), Ok(2));
        assert_eq!(outbox.push(LIMITS, Message::text("")), Ok(3));
        assert_eq!(outbox.push(LIMITS, Message::text("")), Err(Full), "too many messages");

        while outbox.take().is_some() {}
        let large = "larger than the budget";
        assert_eq!(outbox.push(LIMITS, Message::text(large)), Ok(4), "alone, it is taken");
        assert_eq!(outbox.push(LIMITS, Message::text("1")), Err(Full));
    }

    #[test]
    fn the_end_tells_what_was_surely_not_sent() {
        let mut outbox = Outbox::default();
        for position in 1..=2 {
            assert_eq!(outbox.push(LIMITS, Message::text("x")), Ok(position));
            assert_eq!(outbox.wait(position, Progress::Written, position), None);
        }
        outbox.take();
        let ended: Vec<_> = outbox.close().collect();
        assert_eq!(ended, [(1, Unfinished::PerhapsSent), (2, Unfinished::NotSent)]);
        assert!(outbox.is_empty());
    }
}
