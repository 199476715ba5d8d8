//! Judges a history: did every promise hold?
//!
//! Pure, so that a history that was saved can be judged again.

mod counters;
mod delivery;
mod directory;
mod ledger;
mod lifecycle;
mod story;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::history::Record;
pub use crate::oracle::counters::Counted;
pub use crate::oracle::ledger::ledger;
use crate::oracle::story::Story;

/// A promise that was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub promise: Promise,
    /// Or the node.
    pub connection: String,
    pub what: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Promise {
    /// What a connection receives of one sender is a prefix of what was accepted for it.
    Prefix,
    /// Nothing comes twice, and everything in order.
    OnceAndInOrder,
    /// No message reaches another connection, and no ID is used twice.
    NeverToAStranger,
    /// Once a connection is over, nobody acts for it any more.
    OneOwner,
    /// `$connect` once, `$disconnect` at least once, and with the same context.
    Lifecycle,
    /// An open connection is found, and one that is gone stays gone.
    Reachable,
    /// What a node counts is what others saw of it.
    TruthInMetrics,
}

/// Whether the history ends in peace: everything that was under way has come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    InPeace,
    Midway,
}

/// All that was broken.
pub fn judge(records: &[Record], end: End) -> Vec<Violation> {
    let story = Story::of(records);
    let mut violations = Vec::new();
    violations.extend(story.invented());
    for connection in story.connections.values() {
        delivery::check(connection, end, &mut violations);
        lifecycle::check(connection, end, &mut violations);
        directory::check(connection, &mut violations);
    }
    violations
}

/// What is wrong with what a process counted, at the end of a history.
pub fn judge_counters(records: &[Record], counted: &Counted) -> Vec<Violation> {
    let mut violations = Vec::new();
    counters::check(records, counted, &mut violations);
    violations
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Violation { promise, connection, what } = self;
        write!(f, "{promise:?}: {connection}: {what}")
    }
}
