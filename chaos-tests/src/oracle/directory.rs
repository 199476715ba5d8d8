//! A connection is found from its 101 on until it begins to end, and never again once it was gone.

use crate::history::Outcome;
use crate::oracle::story::Connection;
use crate::oracle::{Promise, Violation};

/// From the answer "gone" until the client has seen the end: longer than a Close frame may take to be
/// answered, and a client to notice that nobody is there.
const SEEN_WITHIN: u64 = 15_000_000;

pub(super) fn check(connection: &Connection, violations: &mut Vec<Violation>) {
    let ended = |asked: Outcome| {
        let posts = connection.posts.iter();
        posts.filter_map(move |post| match post.ended {
            Some((at, outcome)) if outcome == asked => Some((post, at)),
            Some(_) | None => None,
        })
    };
    let gone_at = ended(Outcome::Gone).map(|(_, at)| at).min();
    let Some(gone_at) = gone_at else { return };
    let is_premature = match connection.ending_at() {
        // Only who was open can be gone too soon.
        None => connection.opened_at.is_some(),
        Some(ending_at) => ending_at > gone_at + SEEN_WITHIN,
    };
    if is_premature {
        violations.push(connection.violation(Promise::Reachable, "gone while it was open"));
    }
    for (post, _) in ended(Outcome::Ok).filter(|(post, _)| post.begun_at > gone_at) {
        let what = format!("({}, {}) was accepted after it was gone", post.sender, post.sequence);
        violations.push(connection.violation(Promise::Reachable, what));
    }
}
