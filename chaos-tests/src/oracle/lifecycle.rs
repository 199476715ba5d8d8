//! A backend hears of a connection's beginning once, of its end at least once, and of nothing behind
//! that.

use crate::history::Kind;
use crate::oracle::story::Connection;
use crate::oracle::{End, Promise, Violation};

pub(super) fn check(connection: &Connection, end: End, violations: &mut Vec<Violation>) {
    check_owner(connection, violations);
    if connection.calls.is_empty() && connection.opened_at.is_none() {
        return;
    }
    let connects = || connection.calls.iter().filter(|call| call.kind == Kind::Connect);
    let accepted: Vec<_> = connects().filter(|call| (200..300).contains(&call.status)).collect();
    // A node that dies between registering a connection and telling of it leaves a debt: nobody can know
    // that nothing was told.
    let is_untold = connects().next().is_none() && connection.opened_at.is_none();
    if connects().count() != 1 && !is_untold {
        let what = format!("$connect was called {} times", connects().count());
        violations.push(connection.violation(Promise::Lifecycle, what));
    }
    if connection.opened_at.is_some() && accepted.is_empty() {
        violations.push(connection.violation(Promise::Lifecycle, "opened although refused"));
    }
    let is_refused = accepted.is_empty() && connects().next().is_some();
    if is_refused && connection.disconnects().next().is_some() {
        violations.push(connection.violation(Promise::Lifecycle, "refused and told as ended"));
    }
    for call in &connection.calls {
        if let Some(connect) = connects().next()
            && call.context != connect.context
        {
            let what =
                format!("{:?} says {:?}, not {:?}", call.kind, call.context, connect.context);
            violations.push(connection.violation(Promise::Lifecycle, what));
        }
    }
    // Who was accepted and never opened has ended as well.
    let has_ended = connection.ending_at().is_some() || connection.opened_at.is_none();
    let is_told = connection.disconnects().any(|call| (200..300).contains(&call.status));
    if end == End::InPeace && !accepted.is_empty() && has_ended && !is_told {
        violations.push(connection.violation(Promise::Lifecycle, "$disconnect was not called"));
    }
}

/// Once an heir has acted, the owner does no more, and none but further `$disconnect`s follows a
/// `$disconnect`.
fn check_owner(connection: &Connection, violations: &mut Vec<Violation>) {
    let owner = connection.calls.first().map(|call| &call.run);
    let (mut is_inherited, mut is_over) = (false, false);
    for call in &connection.calls {
        if is_inherited && Some(&call.run) == owner {
            let what = format!("{} acted again after an heir had", call.run);
            violations.push(connection.violation(Promise::OneOwner, what));
        }
        is_inherited |= Some(&call.run) != owner;
        if is_over && call.kind != Kind::Disconnect {
            let what = format!("{} sent {:?} after the end", call.run, call.kind);
            violations.push(connection.violation(Promise::OneOwner, what));
        }
        is_over |= call.kind == Kind::Disconnect;
    }
}
