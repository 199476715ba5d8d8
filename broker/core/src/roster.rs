//! What this run has yet to tell the directory.
//!
//! Opens and closes gather here while an update is on its way, and leave together in the next one:
//! one log entry carries as many connections as arrived during the last. At most one update is on
//! its way at a time, so they cannot overtake each other.

use std::collections::VecDeque;

use crate::directory::Context;
use crate::ids::ConnectionId;

/// Changes an update may carry: enough for one commit to serve a storm of connects, few enough that
/// replicating one does not hold up heartbeats.
const CHANGES_MAX: usize = 1024;
/// Bytes of context an update may carry. An update always carries at least one change.
const CONTEXT_BYTES_MAX: usize = 256 * 1024;

#[derive(Debug, Default)]
pub struct Roster {
    /// The number of the update on its way, or of the last one that arrived.
    number: u64,
    in_flight: Option<Update>,
    /// Grows by the connections that are being opened and closed, which admission limits.
    waiting: VecDeque<Change>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Update {
    pub number: u64,
    pub opened: Vec<(ConnectionId, Context)>,
    pub closed: Vec<ConnectionId>,
}

#[derive(Debug)]
enum Change {
    Opened(ConnectionId, Context),
    Closed(ConnectionId),
}

impl Roster {
    pub fn on_open(&mut self, connection: ConnectionId, context: Context) {
        self.waiting.push_back(Change::Opened(connection, context));
    }

    /// One of ours is over, or we settled a debt.
    pub fn on_close(&mut self, connection: ConnectionId) {
        self.waiting.push_back(Change::Closed(connection));
    }

    /// The update to propose now, if none is on its way and there is anything to tell.
    pub fn poll_update(&mut self) -> Option<&Update> {
        if self.in_flight.is_some() || self.waiting.is_empty() {
            return None;
        }
        self.number += 1;
        let update = self.take_changes();
        Some(self.in_flight.insert(update))
    }

    /// The update on its way. While its fate is unknown, it is to be proposed again as it is, under
    /// its own number.
    pub fn in_flight(&self) -> Option<&Update> {
        self.in_flight.as_ref()
    }

    /// The update on its way was committed.
    pub fn on_committed(&mut self) -> Option<Update> {
        self.in_flight.take()
    }

    /// How many changes wait for the next update.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn take_changes(&mut self) -> Update {
        let mut update = Update { number: self.number, ..Update::default() };
        let mut context_bytes = 0;
        while update.opened.len() + update.closed.len() < CHANGES_MAX
            && context_bytes < CONTEXT_BYTES_MAX
        {
            match self.waiting.pop_front() {
                Some(Change::Opened(connection, context)) => {
                    context_bytes += context.len();
                    update.opened.push((connection, context));
                }
                Some(Change::Closed(connection)) => update.closed.push(connection),
                None => break,
            }
        }
        update
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_gathers_while_an_update_travels_leaves_in_the_next() {
        let mut roster = Roster::default();
        assert_eq!(roster.poll_update(), None, "nothing to tell");
        roster.on_open(id(1), context());
        assert_eq!(roster.poll_update(), Some(&update(1, &[1], &[])));

        roster.on_open(id(2), context());
        roster.on_close(id(1));
        assert_eq!(roster.poll_update(), None, "one is on its way");
        assert_eq!(roster.in_flight(), Some(&update(1, &[1], &[])), "the same, not a new one");

        assert_eq!(roster.on_committed(), Some(update(1, &[1], &[])));
        assert_eq!(roster.poll_update(), Some(&update(2, &[2], &[1])));
    }

    #[test]
    fn an_update_carries_no_more_than_it_may() {
        let mut roster = Roster::default();
        for _ in 0..=CHANGES_MAX {
            roster.on_close(id(1));
        }
        assert_eq!(roster.poll_update().map(|update| update.closed.len()), Some(CHANGES_MAX));
        roster.on_committed();
        assert_eq!(roster.poll_update().map(|update| update.closed.len()), Some(1));
        roster.on_committed();

        for number in 0..3 {
            roster.on_open(id(number), Context::from(vec![0; CONTEXT_BYTES_MAX / 2]));
        }
        assert_eq!(roster.poll_update().map(|update| update.opened.len()), Some(2));
    }

    fn update(number: u64, opened: &[u8], closed: &[u8]) -> Update {
        let opened = opened.iter().map(|number| (id(*number), context())).collect();
        Update { number, opened, closed: closed.iter().copied().map(id).collect() }
    }

    fn id(number: u8) -> ConnectionId {
        ConnectionId::from_random([number; 16])
    }

    fn context() -> Context {
        Context::from(*b"context")
    }
}
