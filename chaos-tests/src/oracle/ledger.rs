//! What happens at some time in a history that is long enough. Where it never does, less was tried than
//! it seems.

use crate::history::{Event, Kind, Outcome, Record};
use crate::oracle::story::{Connection, Post, Story};

/// How the names of faults begin.
const FAULTS: [&str; 15] = [
    "Kill(",
    "Drain(",
    "Pause(",
    "Cut(",
    "Unplug(",
    "Loss(",
    "Play(Delay",
    "Play(Double",
    "Play(Spoil",
    "Play(Replay",
    "Play(Rebind",
    "Play(Refuse",
    "Move(",
    "Nameless",
    "Flood",
];

/// How often each of it happened.
pub fn ledger(records: &[Record]) -> Vec<(String, usize)> {
    let story = Story::of(records);
    let connections: Vec<_> = story.connections.values().collect();
    let posts: Vec<_> = connections
        .iter()
        .flat_map(|connection| connection.posts.iter().map(|post| (*connection, post)))
        .collect();
    let events = |is_meant: &dyn Fn(&Event) -> bool| {
        records.iter().filter(|record| is_meant(&record.event)).count()
    };
    let ends = |is_meant: &dyn Fn(&Connection) -> bool| {
        connections.iter().filter(|connection| is_meant(connection)).count()
    };
    let told = |outcome: Outcome, arrived: bool| {
        let is_meant = |(connection, post): &&(&Connection, &Post)| {
            let received = connection.received.contains(&(post.sender, post.sequence));
            post.ended.is_some_and(|(_, told)| told == outcome) && received == arrived
        };
        posts.iter().filter(is_meant).count()
    };
    let mut ledger = vec![
        ("a post accepted that arrived".to_owned(), told(Outcome::Ok, true)),
        ("a post accepted that was lost with its connection".to_owned(), told(Outcome::Ok, false)),
        ("a post told gone".to_owned(), told(Outcome::Gone, false)),
        ("a post told unavailable".to_owned(), told(Outcome::Unavailable, false)),
        ("a post told unknown that arrived".to_owned(), told(Outcome::Unknown, true)),
        ("a post told unknown that did not arrive".to_owned(), told(Outcome::Unknown, false)),
        (
            "a post not answered".to_owned(),
            told(Outcome::Silence, true) + told(Outcome::Silence, false),
        ),
        ("a handshake answered with 503".to_owned(), events(&refused_with_503)),
        ("a client closed with 1012".to_owned(), ends(&|one| closed_with(one, Some(1012)))),
        ("a client that saw no Close frame".to_owned(), ends(&|one| closed_with(one, None))),
        ("a $disconnect by another run".to_owned(), ends(&was_inherited)),
        ("a $disconnect told again".to_owned(), ends(&|one| one.disconnects().count() > 1)),
    ];
    ledger.extend(FAULTS.map(|name| {
        let is_meant =
            |event: &Event| matches!(event, Event::FaultBegin { fault } if fault.starts_with(name));
        (format!("a fault: {}", name.trim_end_matches('(').replace('(', " ")), events(&is_meant))
    }));
    ledger
}

fn refused_with_503(event: &Event) -> bool {
    matches!(event, Event::OpenFailed { status: Some(503), .. })
}

fn closed_with(connection: &Connection, code: Option<u16>) -> bool {
    connection.closed.is_some_and(|(_, seen)| seen == code)
}

fn was_inherited(connection: &Connection) -> bool {
    let owner = connection.calls.iter().find(|call| call.kind == Kind::Connect);
    owner.is_some_and(|owner| connection.disconnects().any(|call| call.run != owner.run))
}
