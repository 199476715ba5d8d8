//! Of each sender, a connection receives in order, once each, and without a gap what was accepted for
//! it, until it ends.

use std::collections::{BTreeMap, BTreeSet};

use crate::history::Outcome;
use crate::oracle::story::{Connection, Post};
use crate::oracle::{End, Promise, Violation};

pub(super) fn check(connection: &Connection, end: End, violations: &mut Vec<Violation>) {
    let mut senders = BTreeMap::<u64, Vec<&Post>>::new();
    for post in &connection.posts {
        senders.entry(post.sender).or_default().push(post);
    }
    for (sender, posts) in senders {
        let received = connection.received.iter().filter(|(other, _)| *other == sender);
        let received: Vec<_> = received.map(|(_, sequence)| *sequence).collect();
        check_order(connection, &posts, &received, violations);
        check_refused(connection, &posts, &received, violations);
        check_prefix(connection, end, &posts, &received, violations);
    }
    check_after_the_end(connection, violations);
}

fn check_order(
    connection: &Connection,
    posts: &[&Post],
    received: &[u64],
    violations: &mut Vec<Violation>,
) {
    // A post that its sender no longer waits for may still be on its way to the node. Those behind it
    // are none of the same stream.
    let is_stray = |sequence: &u64| {
        let post = posts.iter().find(|post| post.sequence == *sequence);
        post.is_some_and(|post| matches!(post.ended, Some((_, Outcome::Silence))))
    };
    let in_turn: Vec<_> = received.iter().filter(|sequence| !is_stray(sequence)).collect();
    for pair in in_turn.windows(2).filter(|pair| pair[0] > pair[1]) {
        let what = format!("{} came behind {}", pair[1], pair[0]);
        violations.push(connection.violation(Promise::OnceAndInOrder, what));
    }
    let mut seen = BTreeSet::new();
    for sequence in received.iter().filter(|sequence| !seen.insert(**sequence)) {
        let what = format!("{sequence} came twice");
        violations.push(connection.violation(Promise::OnceAndInOrder, what));
    }
}

/// What was told not to be delivered was not.
fn check_refused(
    connection: &Connection,
    posts: &[&Post],
    received: &[u64],
    violations: &mut Vec<Violation>,
) {
    for post in posts.iter().filter(|post| received.contains(&post.sequence)) {
        match post.ended {
            Some((_, outcome @ (Outcome::Gone | Outcome::Busy | Outcome::Unavailable))) => {
                let Post { sender, sequence, .. } = post;
                let what = format!("received ({sender}, {sequence}), which was told {outcome:?}");
                violations.push(connection.violation(Promise::Prefix, what));
            }
            Some((_, Outcome::Ok | Outcome::Unknown | Outcome::Silence)) | None => (),
        }
    }
}

/// An accepted post may be missing only where the connection has ended, and then so are all behind it.
fn check_prefix(
    connection: &Connection,
    end: End,
    posts: &[&Post],
    received: &[u64],
    violations: &mut Vec<Violation>,
) {
    let arrived: BTreeSet<_> = received.iter().collect();
    let is_missing = |post: &&&Post| {
        matches!(post.ended, Some((_, Outcome::Ok))) && !arrived.contains(&post.sequence)
    };
    let Some(missing) = posts.iter().find(is_missing) else { return };
    let Post { sender, sequence, .. } = missing;
    let is_behind = |post: &&&Post| {
        post.sequence > *sequence && !matches!(post.ended, Some((_, Outcome::Silence)))
    };
    if posts.iter().filter(is_behind).any(|post| arrived.contains(&post.sequence)) {
        let what = format!("({sender}, {sequence}) was accepted and left out");
        violations.push(connection.violation(Promise::Prefix, what));
    }
    let has_ended = connection.ending_at().is_some();
    if end == End::InPeace && !has_ended {
        let what = format!("({sender}, {sequence}) was accepted and never came");
        violations.push(connection.violation(Promise::Prefix, what));
    }
}

fn check_after_the_end(connection: &Connection, violations: &mut Vec<Violation>) {
    // Without a Close frame, the owner may not know it yet.
    let closed = connection.closed.filter(|(_, code)| code.is_some()).map(|(at, _)| at);
    let told = connection.disconnects().next().map(|call| call.at);
    let Some(over_at) = closed.into_iter().chain(told).min() else { return };
    for post in connection.posts.iter().filter(|post| post.begun_at > over_at) {
        if let Some((_, Outcome::Ok)) = post.ended {
            let Post { sender, sequence, .. } = post;
            let what = format!("({sender}, {sequence}) was accepted after the end");
            violations.push(connection.violation(Promise::Prefix, what));
        }
    }
}
