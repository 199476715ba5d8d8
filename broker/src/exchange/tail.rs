//! Who looks on at a connection: what it does is shown to each, and it never waits for them.
//!
//! Where nobody looks on, which is nearly always, that costs a connection 40 bytes, and each event a look at
//! a flag beside what it touches anyway.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use posthorn_core::connection::{CloseCause, CloseFrame};
use posthorn_core::feed::Feed;
use posthorn_core::message::{Message, MessageKind};
use tokio::sync::{Notify, OwnedSemaphorePermit};

use crate::clock::epoch_ms;
use crate::exchange::outcome::DeliverError;

/// Who may look on at connections of one node at once.
pub const TAILS_MAX: usize = 32;
/// More of a payload is not shown.
const PAYLOAD_BYTES_MAX: usize = 4096;
/// What an event takes beside its texts, about.
const EVENT_BYTES: usize = 64;

/// Something that a connection did.
#[derive(Debug, Clone)]
pub struct Event {
    /// Milliseconds since 1970-01-01 UTC.
    pub at_ms: u64,
    pub what: What,
}

#[derive(Debug, Clone)]
pub enum What {
    /// Somebody began to look on.
    Began,
    /// The client sent a message, which takes this route, if any.
    Received {
        message: Glimpse,
        route: Option<Box<str>>,
    },
    /// What a message of the client came to: the status, and what the client was told if that is an error.
    Handled {
        route: Option<Box<str>>,
        status: u16,
        error: Option<Box<str>>,
        latency: Duration,
    },
    /// A message was given to the client's socket.
    Sent(Glimpse),
    /// A message for the client was not accepted.
    Refused {
        message: Glimpse,
        why: DeliverError,
    },
    PingReceived,
    PongReceived,
    PingSent,
    CloseReceived(Option<CloseFrame>),
    CloseSent(CloseFrame),
    /// The connection is over. None where it was never open.
    Ended(Option<CloseCause>),
}

/// A message as it is shown.
#[derive(Debug, Clone)]
pub struct Glimpse {
    pub kind: MessageKind,
    /// Of all of its payload.
    pub bytes: usize,
    /// What it begins with, if payloads are to be shown.
    pub payload: Option<Bytes>,
}

/// Why nobody looks on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoTail {
    /// The connection is over.
    Gone,
    /// There are as many at this node as there may be.
    TooMany,
}

/// Who looks on at one connection.
#[derive(Default)]
pub struct Tails {
    /// Looked at without the lock.
    is_on: AtomicBool,
    onlookers: Mutex<Onlookers>,
}

#[derive(Default)]
enum Onlookers {
    #[default]
    None,
    Some(Vec<Weak<Tail>>),
    /// The connection is over.
    Over,
}

/// What one who looks on has yet to see. To drop it is to look away.
pub struct Tail {
    with_payloads: bool,
    feed: Mutex<Feed<Event>>,
    changed: Notify,
    _place: OwnedSemaphorePermit,
}

impl Tails {
    pub fn attach(
        &self,
        with_payloads: bool,
        place: OwnedSemaphorePermit,
    ) -> Result<Arc<Tail>, NoTail> {
        let tail =
            Tail { with_payloads, feed: Mutex::default(), changed: Notify::new(), _place: place };
        let tail = Arc::new(tail);
        let mut onlookers = self.onlookers.lock();
        match &mut *onlookers {
            Onlookers::Over => return Err(NoTail::Gone),
            Onlookers::None => *onlookers = Onlookers::Some(vec![Arc::downgrade(&tail)]),
            Onlookers::Some(tails) => {
                tails.retain(|other| other.strong_count() > 0);
                tails.push(Arc::downgrade(&tail));
            }
        }
        tail.show(Event::now(What::Began));
        self.is_on.store(true, Ordering::Relaxed);
        Ok(tail)
    }

    /// Whether anybody looks on: what is to be shown need not be made otherwise.
    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    /// Shows everybody what is made of whether payloads are to be seen.
    pub fn show(&self, make: impl Fn(bool) -> What) {
        if !self.is_on() {
            return;
        }
        let mut onlookers = self.onlookers.lock();
        let Onlookers::Some(tails) = &mut *onlookers else { return };
        tails.retain(|tail| {
            let tail = tail.upgrade();
            tail.inspect(|tail| tail.show(Event::now(make(tail.with_payloads)))).is_some()
        });
        if tails.is_empty() {
            *onlookers = Onlookers::None;
            self.is_on.store(false, Ordering::Relaxed);
        }
    }

    /// The connection is over: nothing more is shown.
    pub fn end(&self, cause: Option<&CloseCause>) {
        let onlookers = std::mem::replace(&mut *self.onlookers.lock(), Onlookers::Over);
        self.is_on.store(false, Ordering::Relaxed);
        let Onlookers::Some(tails) = onlookers else { return };
        for tail in tails.iter().filter_map(Weak::upgrade) {
            let event = Event::now(What::Ended(cause.cloned()));
            let bytes = event.bytes();
            tail.feed.lock().end(event, bytes);
            tail.changed.notify_one();
        }
    }
}

impl Tail {
    fn show(&self, event: Event) {
        let bytes = event.bytes();
        self.feed.lock().push(event, bytes);
        self.changed.notify_one();
    }

    /// Whether everything was taken, the end included.
    pub fn is_over(&self) -> bool {
        self.feed.lock().is_over()
    }

    /// Waits until there is something, and takes about so many bytes of it: each event with how many were
    /// lost before it. Empty once everything was taken, the end included. One may wait at a time.
    pub async fn next(&self, bytes_max: usize) -> Vec<(u64, Event)> {
        loop {
            {
                let mut feed = self.feed.lock();
                if !feed.is_empty() || feed.is_over() {
                    return feed.take(bytes_max);
                }
            }
            self.changed.notified().await;
        }
    }
}

impl Event {
    fn now(what: What) -> Event {
        Event { at_ms: epoch_ms(), what }
    }

    fn bytes(&self) -> usize {
        let text = |text: &Option<Box<str>>| text.as_ref().map_or(0, |text| text.len());
        let shown = |glimpse: &Glimpse| glimpse.payload.as_ref().map_or(0, Bytes::len);
        let more = match &self.what {
            What::Received { message, route } => shown(message) + text(route),
            What::Handled { route, error, .. } => text(route) + text(error),
            What::Sent(message) | What::Refused { message, .. } => shown(message),
            What::CloseSent(frame) | What::CloseReceived(Some(frame)) => frame.reason.len(),
            What::Ended(_)
            | What::CloseReceived(None)
            | What::Began
            | What::PingReceived
            | What::PongReceived
            | What::PingSent => 0,
        };
        EVENT_BYTES + more
    }
}

impl Glimpse {
    pub fn of(message: &Message, with_payload: bool) -> Glimpse {
        let bytes = message.payload.len();
        let shown = || {
            // Copied, so that what is shown keeps no larger buffer in memory.
            Bytes::copy_from_slice(&message.payload[..bytes.min(PAYLOAD_BYTES_MAX)])
        };
        Glimpse { kind: message.kind, bytes, payload: with_payload.then(shown) }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn who_is_looked_at_by_nobody_pays_little() {
        assert!(size_of::<Tails>() <= 40, "{}", size_of::<Tails>());
        let tails = Tails::default();
        tails.show(|_| unreachable!("nobody looks on"));
    }

    #[tokio::test]
    async fn who_looks_away_is_shown_nothing_more_and_leaves_no_trace() {
        let places = Arc::new(Semaphore::new(2));
        let place = || places.clone().try_acquire_owned().expect("there is room");
        let tails = Tails::default();
        let (blind, seeing) = (tails.attach(false, place()), tails.attach(true, place()));
        let (blind, seeing) = (blind.expect("it is open"), seeing.expect("it is open"));
        let message = Message::text("x".repeat(PAYLOAD_BYTES_MAX + 1));
        tails.show(|with_payload| What::Sent(Glimpse::of(&message, with_payload)));
        for (tail, shown) in [(&blind, None), (&seeing, Some(PAYLOAD_BYTES_MAX))] {
            let events = tail.next(usize::MAX).await;
            let [(0, began), (0, sent)] = &events[..] else { panic!("{events:?}") };
            assert!(matches!(began.what, What::Began));
            let What::Sent(Glimpse { bytes, payload, .. }) = &sent.what else { panic!("{sent:?}") };
            assert_eq!(*bytes, PAYLOAD_BYTES_MAX + 1);
            assert_eq!(payload.as_ref().map(Bytes::len), shown);
        }
        drop((blind, seeing));
        assert_eq!(places.available_permits(), 2);
        tails.show(|_| unreachable!("nobody looks on"));
        assert!(!tails.is_on());
    }

    #[tokio::test]
    async fn the_end_is_shown_and_nobody_begins_behind_it() {
        let places = Arc::new(Semaphore::new(2));
        let place = || places.clone().try_acquire_owned().expect("there is room");
        let tails = Tails::default();
        let tail = tails.attach(false, place()).expect("it is open");
        tails.end(Some(&CloseCause::Idle));
        tails.show(|_| What::PingSent);
        let events = tail.next(usize::MAX).await;
        let [_, (0, Event { what: What::Ended(Some(CloseCause::Idle)), .. })] = &events[..] else {
            panic!("{events:?}")
        };
        assert!(tail.is_over() && tail.next(1).await.is_empty());
        assert_eq!(tails.attach(false, place()).err(), Some(NoTail::Gone));
    }
}
